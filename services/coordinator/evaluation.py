"""Evaluation rounds: every held-out problem, n samples each, on weights that stay put."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from typing import Any

from asyncds.protocol.codec import GroupArrays, decode_group, unpack_group
from asyncds.protocol.records import EvaluationNumbers, EvaluationRecord
from asyncds.rollout.journal_reader import GroupRow
from asyncds.rollout.open_leases import OpenLease, OpenLeases
from asyncds.rollout.prompt_order import apportioned
from services.coordinator.evaluation_numbers import Multiplicity, Problem, numbers

PART_TOKENS = 1_000_000
"""Tokens that a lease's samples may have together: some 8 MB in a message."""
PART_SAMPLES = 4_096
"""Samples of a lease: what a generator that is lost had in work is sampled again."""


def parts(n_samples: int, *, max_tokens: int) -> list[range]:
    """The samples of a problem, by number, in parts of about the same size for a lease each."""
    most = max(1, min(PART_SAMPLES, PART_TOKENS // max_tokens))
    several = -(-n_samples // most)
    ends = [i * n_samples // several for i in range(several + 1)]
    return [range(a, b) for a, b in pairwise(ends)]


@dataclass(frozen=True, kw_only=True)
class Due:
    """An evaluation to be made once the weights after `step` batches are published."""

    step: int
    n_samples: int


class EvaluationPlan:
    """The evaluations to be made.

    Of the base model, every `every` steps, and of the result, if anything is trained.
    """

    def __init__(self, *, every: int, n_samples: int, interim_samples: int, steps: int) -> None:
        interim = range(every, steps, every) if every else ()
        self._due = deque(
            [
                Due(step=0, n_samples=n_samples),
                *(Due(step=s, n_samples=interim_samples) for s in interim),
                *([Due(step=steps, n_samples=n_samples)] if steps else []),
            ]
        )

    def skip_done(self, steps: Sequence[int]) -> None:
        """Leave out evaluations made before the run was resumed, given the steps they saw."""
        self._due = deque(d for d in self._due if d.step > max(steps, default=-1))

    def due(self, published_step: int, *, base: bool) -> Due | None:
        """The next evaluation, if weights as new as it asks for are published.

        Older ones that were overtaken are left out, but the base model's only if its weights are
        not the published ones any more (base False).
        """
        while len(self._due) > 1 and self._due[1].step <= published_step:
            if base and self._due[0].step == 0:
                break
            self._due.popleft()
        return self._due[0] if self._due and self._due[0].step <= published_step else None

    def done(self) -> None:
        """The one that was due is finished."""
        self._due.popleft()

    @property
    def base_is_due(self) -> bool:
        """The base model was not evaluated yet, nor overtaken."""
        return bool(self._due) and self._due[0].step == 0

    @property
    def next_step(self) -> int | None:
        """The step of the next evaluation, None if nothing is left."""
        return self._due[0].step if self._due else None

    @property
    def finished(self) -> bool:
        """Nothing is left to evaluate."""
        return not self._due


def best_step(results: Sequence[EvaluationRecord], *, temperature: float, k: int) -> int | None:
    """The step with the highest Pass@k at a temperature.

    The newest if several share it; None if no result has it.
    """
    found = [
        (result.pass_at_k[str(k)], result.step)
        for result in results
        if result.temperature == temperature and str(k) in result.pass_at_k
    ]
    return max(found)[1] if found else None


class EvaluationRound:
    """One evaluation at each of some temperatures, under way. While it is open no weights are sent.

    rows: of the problems. temperatures: of each evaluation, by its id. leases: the table in which
    its leases are open.
    """

    def __init__(
        self,
        *,
        version: int,
        step: int,
        n_samples: int,
        rows: Sequence[int],
        temperatures: dict[int, float],
        leases: OpenLeases,
    ) -> None:
        self.version = version
        self.step = step
        self.total = leases.evaluating
        self._n_samples = n_samples
        self._rows = rows
        self._temperatures = temperatures
        self._leases = leases
        self._failure = ""
        self._problems: dict[int, dict[int, Problem]] = {id: {} for id in temperatures}

    def add(self, lease: OpenLease, group: GroupArrays) -> None:
        """Samples of a problem arrived."""
        assert lease.evaluation is not None
        self._add(lease.evaluation, lease.row, group)

    def keep(self, group: GroupRow) -> None:
        """Samples of a problem were in the journal when the round was taken up again."""
        assert group.evaluation is not None
        self.total += 1
        self._add(group.evaluation, group.row, unpack_group(decode_group(group.payload)))

    def _add(self, evaluation: int, row: int, group: GroupArrays) -> None:
        self._problems[evaluation].setdefault(row, Problem(row=row)).add(group)

    def failed(self, reason: str) -> None:
        """Samples of a problem will not come."""
        self._failure = reason

    @property
    def evaluated(self) -> int:
        """Problems of which samples arrived, at all temperatures together."""
        return sum(len(problems) for problems in self._problems.values())

    @property
    def done(self) -> int:
        """Leases finished."""
        return self.total - self._leases.evaluating

    @property
    def complete(self) -> bool:
        """All leases finished."""
        return not self._leases.evaluating

    def results(
        self,
        *,
        split: str,
        pass_at: Sequence[int],
        multiplicity: Multiplicity,
        sets: Sequence[tuple[str, int]] = (),
    ) -> list[EvaluationRecord]:
        """The result of each evaluation.

        multiplicity: as in `numbers`. sets: (name, rows) of the parts of the split in order; parts
        of one name are one set.
        """
        return [
            EvaluationRecord(
                id=id,
                version=self.version,
                step=self.step,
                split=split,
                temperature=temperature,
                n_samples=self._n_samples,
                failure=self._failure,
                sets={
                    name: EvaluationNumbers(**self._numbers(id, rows, pass_at, multiplicity))
                    for name, rows in set_rows(sets, self._rows).items()
                },
                **self._numbers(id, self._rows, pass_at, multiplicity),
            )
            for id, temperature in self._temperatures.items()
        ]

    def _numbers(
        self, id: int, rows: Sequence[int], pass_at: Sequence[int], multiplicity: Multiplicity
    ) -> dict[str, Any]:
        there = self._problems[id]
        problems = [there[row] for row in rows if row in there]
        return numbers(problems, rows=rows, pass_at=pass_at, multiplicity=multiplicity)


def evaluated_rows(
    held_out: int, sets: Sequence[tuple[str, int]], most: int | None
) -> Sequence[int]:
    """The rows that are evaluated, if at most so many are: of each set the first, by its size."""
    if most is None or most >= held_out:
        return range(held_out)
    sizes = [n for _, n in sets] or [held_out]
    shares = apportioned({i: n for i, n in enumerate(sizes) if n}, most)
    firsts = accumulate(sizes, initial=0)
    return [row for i, first in enumerate(firsts) for row in range(first, first + shares.get(i, 0))]


def set_rows(sets: Sequence[tuple[str, int]], rows: Sequence[int]) -> dict[str, list[int]]:
    """The rows of each set among these; sets without any are left out."""
    names = [*chain.from_iterable([name] * n for name, n in sets)]
    found: dict[str, list[int]] = {}
    for row in rows[: len(names)]:
        found.setdefault(names[row], []).append(row)
    return found
