"""Common parts of the advantages that depend only on how many of a group are correct."""

from typing import ClassVar

import numpy as np
from pydantic import Field

from asyncds.algo.advantages.base import Advantage, Float, Sequences


class ByCounts(Advantage):
    """One number for the correct rollouts of a group and one for the others.

    The reward is not read. A group with fewer than k rollouts is taken as if k were its size.
    """

    reads_reward: ClassVar[bool] = False

    k: int = Field(4, ge=1)
    """Samples of which one must be correct; at most the rollouts of a group."""

    def __call__(self, sequences: Sequences) -> Float:
        n = np.bincount(sequences.index)
        c = np.bincount(sequences.index, weights=sequences.correct).astype(np.int64)
        pairs = [self.advantages(*counts) for counts in zip(n.tolist(), c.tolist(), strict=True)]
        table = np.array(pairs, dtype=np.float64).reshape(-1, 2)
        return table[sequences.index, np.where(sequences.correct, 0, 1)]

    def advantages(self, n: int, c: int) -> tuple[float, float]:
        """(advantage of the correct rollouts, of the incorrect ones) where c of n are correct.

        Binomials are exact integers, and their quotients correctly rounded, for any n.
        """
        raise NotImplementedError
