"""The order of prompts: which row of which task comes next, from the run's seed and the place."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def most_behind(counts: Mapping[T, int], weights: Mapping[T, float]) -> T:
    """Choose who comes next, so that shares stay those of the weights (Webster's method).

    The first of those that are equally far behind. Depends on nothing but the counts, and these on
    how many came: no share is ever far from its weight.
    """
    return min(counts, key=lambda one: (counts[one] + 0.5) / weights[one])


def apportioned(weights: Mapping[T, float], n: int) -> dict[T, int]:
    """`n` places, shared out by weight.

    Of whole numbers that add up to n or more, none gets more than itself.
    """
    counts = dict.fromkeys(weights, 0)
    for _ in range(n):
        counts[most_behind(counts, weights)] += 1
    return counts


class Walk:
    """An endless, seeded walk over rows: every one once per epoch, in a new order each time."""

    def __init__(self, *, seed: int, name: str, rows: int) -> None:
        self._seed, self._name, self.rows = seed, name, rows
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)

    def at(self, place: int) -> int:
        """The row at a place of the walk, from 0."""
        epoch, place = divmod(place, self.rows)
        if epoch != self._epoch:
            entropy = [self._seed, epoch, *self._name.encode()]
            self._order = np.random.default_rng(entropy).permutation(self.rows)
            self._epoch = epoch
        return int(self._order[place])


class PromptOrder:
    """A walk over the rows of each of several tasks, which take turns by their weights.

    sets: (name, rows) of each task, one after the other in the rows of all; without weights it is
    one walk over the rows of all. position: how many prompts were drawn. passed: how many rows of
    each task were passed over by then. These two are all there is to keep.
    """

    def __init__(
        self,
        *,
        seed: int,
        sets: Sequence[tuple[str, int]],
        weights: Mapping[str, float],
        position: int = 0,
        passed: Mapping[str, int] | None = None,
    ) -> None:
        if not weights:
            sets, weights = [("", sum(n for _, n in sets))], {"": 1.0}
        self._walks: dict[str, tuple[int, Walk]] = {}
        first = 0
        for name, rows in sets:
            self._walks[name] = (first, Walk(seed=seed, name=name, rows=rows))
            first += rows
        self._weights = {name: weights[name] for name, _ in sets}
        self._counts = apportioned(self._weights, position)
        self.position = position
        self.passed = {name: (passed or {}).get(name, 0) for name, _ in sets}

    def next(self, wanted: Callable[[int, int], bool] | None = None) -> int:
        """The next row.

        wanted: says of a row, and how often it came before, whether it is to be drawn; the rest is
        passed over. Once every row of a task was, the next one is drawn all the same.
        """
        name = most_behind(self._counts, self._weights)
        first, walk = self._walks[name]
        for tried in range(walk.rows + 1):
            place = self._counts[name] + self.passed[name]
            row = first + walk.at(place)
            if wanted is None or tried == walk.rows or wanted(row, place // walk.rows):
                break
            self.passed[name] += 1
        self._counts[name] += 1
        self.position += 1
        return row
