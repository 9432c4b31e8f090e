"""Plans: a run's needs and pace, from its configuration and the model's shape alone."""
