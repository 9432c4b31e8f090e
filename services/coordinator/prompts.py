"""The order of prompts: every training row once per epoch, in a new order each time."""

import json
import zlib
from collections import deque

import numpy as np

from asyncds.rollout.journal import Journal


class PromptCursor:
    """An endless, seeded walk over the rows of a split; `position` is all there is to keep."""

    def __init__(self, *, seed: int, position: int = 0) -> None:
        self._seed = seed
        self.position = position
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)

    def next(self, rows: int) -> int:
        """The next of `rows` rows."""
        epoch, place = divmod(self.position, rows)
        if epoch != self._epoch or len(self._order) != rows:
            self._order = np.random.default_rng([self._seed, epoch]).permutation(rows)
            self._epoch = epoch
        self.position += 1
        return int(self._order[place])


class TrainingPrompts:
    """Chooses the row of the next training lease, and keeps in the journal how far it is.

    A row whose group became too old to train on comes again, once, before any other: its lease
    begins with attempt 2, so that a prompt that is too slow for the policy is not sampled for ever.
    """

    def __init__(self, *, seed: int, journal: Journal) -> None:
        self._journal = journal
        self._cursor = PromptCursor(seed=seed, position=int(journal.meta("cursor") or 0))
        self._again: deque[int] = deque(json.loads(journal.meta("refills") or "[]"))

    def next(self, rows: int) -> tuple[int, int]:
        """A row of the `rows` there are, and the attempt that its lease begins with."""
        if self._again:
            row = self._again.popleft()
            self._keep_again()
            return row, 2
        row = self._cursor.next(rows)
        self._journal.set_meta("cursor", str(self._cursor.position))
        return row, 1

    def once_more(self, row: int) -> None:
        """Have this row come again: its group was not trained on."""
        self._again.append(row)
        self._keep_again()

    def _keep_again(self) -> None:
        self._journal.set_meta("refills", json.dumps([*self._again]))


def sampling_seed(seed: int, purpose: str, key: int | str) -> int:
    """The seed of a lease's first sample, the same in every run with this seed; int32 ≥ 0.

    key: the lease's id for training; the row and the temperature for evaluation, so that
    evaluations of one run share their random numbers and differ less by chance.
    """
    return zlib.crc32(f"{seed}/{purpose}/{key}".encode()) & 0x3FFFFFFF
