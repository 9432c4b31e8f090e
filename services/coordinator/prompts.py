"""Which row comes next: every training row once per epoch, in a new order each time."""

import zlib

import numpy as np


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


def sampling_seed(seed: int, purpose: str, key: int | str) -> int:
    """The seed of a lease's first sample, the same in every run with this seed; int32 ≥ 0.

    key: the lease's id for training; the row and the temperature for evaluation, so that
    evaluations of one run share their random numbers and differ less by chance.
    """
    return zlib.crc32(f"{seed}/{purpose}/{key}".encode()) & 0x3FFFFFFF
