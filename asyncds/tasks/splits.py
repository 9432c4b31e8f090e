"""Splits: which problems of a task belong to which, and splits seen as rows."""

import random
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, overload

from asyncds.tasks.base import Row, Split

P = TypeVar("P")


def hold_out(problems: list[P], n: int, *, seed: int) -> tuple[list[P], list[P]]:
    """Shuffle and hold out: (the others, held out), disjoint, the latter of length ``n``.

    Depends on nothing but its arguments, and what is held out begins with what a smaller ``n``
    holds out. Raises ValueError where nothing is left to train on.
    """
    if not 0 <= n < len(problems):
        raise ValueError(f"cannot hold out {n} of {len(problems)} problems")
    shuffled = random.Random(seed).sample(problems, len(problems))
    return shuffled[n:], shuffled[:n]


def splits(train: list[P], held_out: list[P], *, n_eval: int) -> dict[Split, list[P]]:
    """The held-out problems are those of "eval", then those of "validation"."""
    return {"train": train, "validation": held_out[n_eval:], "eval": held_out[:n_eval]}


class Rows(Sequence[Row], Generic[P]):
    """Problems seen as rows, made when they are looked at. fields: of the row of a problem."""

    def __init__(self, problems: list[P], fields: Callable[[P], dict[str, Any]]) -> None:
        self._problems = problems
        self._fields = fields

    def __len__(self) -> int:
        return len(self._problems)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = range(len(self))[index]
        return Row(i, self._fields(self._problems[i]))
