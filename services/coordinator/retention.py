"""Keeps the journal within `coordinator.journal_gb`, a little at every turn."""

import logging

from asyncds.rollout.journal import Journal
from asyncds.rollout.retention import to_delete

log = logging.getLogger(__name__)

LOOKED_AT = 500
"""Groups that are looked at in a turn."""
DELETED_BYTES = 8 << 20
"""Samples that are deleted in a turn, and a group more."""


class Retention:
    """Goes through the groups from the oldest to the youngest, and then from the oldest again.

    deleted: groups whose samples were deleted since this process started. exceeded: the journal is
    over the limit, and the last time that all of it was looked at nothing could be deleted.
    """

    def __init__(self, *, journal: Journal, limit_bytes: int) -> None:
        self._journal = journal
        self._limit = limit_bytes
        self._after = 0
        self._found = False
        self.deleted = 0
        self.exceeded = False

    def turn(self) -> None:
        """Delete what is too much, as far as that can be done in a moment; within a transaction."""
        excess = self._journal.used_bytes() - self._limit
        if excess <= 0:
            self.exceeded = False
            return
        groups = self._journal.stored_groups(after=self._after, most=LOOKED_AT)
        oldest = self._journal.oldest_checkpoint()
        doomed = to_delete(groups, oldest_checkpoint=oldest, n_bytes=min(excess, DELETED_BYTES))
        if doomed:
            self._journal.delete_samples(group.lease for group in doomed)
            self.deleted += len(doomed)
            self.exceeded, self._found = False, True
            self._after = doomed[-1].lease
        elif len(groups) == LOOKED_AT:
            self._after = groups[-1].lease
        else:
            self._begin_again(oldest)

    def _begin_again(self, oldest: int) -> None:
        """All of it was looked at."""
        if not self._found and not self.exceeded:
            self.exceeded = True
            log.warning(
                "the journal is %.1f MB over coordinator.journal_gb, and a restart may need all "
                "samples that are in it: those trained since the oldest checkpoint that is kept "
                "(step %d), and those not trained yet. Make checkpoints more often "
                "(checkpoint.every), keep fewer (checkpoint.keep_last, keep_best), or raise "
                "coordinator.journal_gb",
                (self._journal.used_bytes() - self._limit) / 1e6,
                oldest,
            )
        self._after, self._found = 0, False
