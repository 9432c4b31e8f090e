"""Which group is trained when: the scheduler and the journal."""
