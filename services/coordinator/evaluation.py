"""Evaluation rounds: every held-out problem, n samples each, on weights that stay put."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from asyncds.algo.diversity import Diversity, diversity, normalised_variance
from asyncds.algo.passk import Estimate, bootstrap, mean_pass_at_k
from asyncds.protocol.codec import GroupArrays, decode_group, unpack_group
from asyncds.protocol.records import EvaluationRecord
from asyncds.rollout.journal_reader import GroupRow
from asyncds.rollout.open_leases import OpenLease, OpenLeases


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


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """A problem's samples: n of them, of which c are correct.

    entropy: mean −log μ of their tokens, nats. diversity: by equivalence, the primary one first.
    """

    row: int
    n: int
    c: int
    entropy: float
    diversity: dict[str, Diversity]


class EvaluationRound:
    """One evaluation at each of some temperatures, under way. While it is open no weights are sent.

    temperatures: of each evaluation, by its id. leases: the table in which its leases are open.
    """

    def __init__(
        self,
        *,
        version: int,
        step: int,
        n_samples: int,
        temperatures: dict[int, float],
        leases: OpenLeases,
    ) -> None:
        self.version = version
        self.step = step
        self.n_samples = n_samples
        self.total = leases.evaluating
        self._temperatures = temperatures
        self._leases = leases
        self._problems: dict[int, list[Evaluated]] = {id: [] for id in temperatures}

    def add(self, lease: OpenLease, group: GroupArrays) -> None:
        """A problem's samples arrived."""
        assert lease.evaluation is not None
        self._add(lease.evaluation, lease.row, group)

    def keep(self, group: GroupRow) -> None:
        """A problem's samples were in the journal when the round was taken up again."""
        assert group.evaluation is not None
        self.total += 1
        self._add(group.evaluation, group.row, unpack_group(decode_group(group.payload)))

    def _add(self, evaluation: int, row: int, group: GroupArrays) -> None:
        right = group.correct.tolist()
        self._problems[evaluation].append(
            Evaluated(
                row=row,
                n=len(right),
                c=sum(right),
                entropy=-float(group.logprobs.mean(dtype=np.float64)),
                diversity={name: diversity(keys, right) for name, keys in group.answers.items()},
            )
        )

    @property
    def evaluated(self) -> int:
        """Leases whose samples arrived."""
        return sum(len(problems) for problems in self._problems.values())

    @property
    def done(self) -> int:
        """Leases finished, one per problem and temperature."""
        return self.total - self._leases.evaluating

    @property
    def complete(self) -> bool:
        """All leases finished."""
        return not self._leases.evaluating

    def results(
        self, *, split: str, pass_at: Sequence[int], multiplicity: Mapping[str, Sequence[int]]
    ) -> list[EvaluationRecord]:
        """The result of each evaluation.

        k above the samples taken are left out. multiplicity: by equivalence, how many distinct
        correct answers the first problems have, 0 where that is not known.
        """
        return [
            EvaluationRecord(
                id=id,
                version=self.version,
                step=self.step,
                split=split,
                temperature=temperature,
                n_samples=self.n_samples,
                **_averages(
                    sorted(self._problems[id], key=lambda problem: problem.row),
                    pass_at=pass_at,
                    multiplicity=multiplicity,
                ),
            )
            for id, temperature in self._temperatures.items()
        ]


def _averages(
    problems: Sequence[Evaluated],
    *,
    pass_at: Sequence[int],
    multiplicity: Mapping[str, Sequence[int]],
) -> dict[str, Any]:
    """Everything that is averaged over problems."""
    exist = {name: _mean([m for m in counts if m])[0] for name, counts in multiplicity.items()}
    primary = next(iter(problems[0].diversity), "") if problems else ""
    chances = [k for k in pass_at if k <= min((p.n for p in problems), default=0)]
    passed = (
        mean_pass_at_k([p.n for p in problems], [p.c for p in problems], chances)
        if problems
        else {}
    )
    seen = [p.diversity[primary] for p in problems]
    known = multiplicity.get(primary, ())
    averaged = {
        "top_share": _mean([d.top_share for d in seen]),
        "self_overlap": _mean([d.self_overlap for d in seen]),
        "normalised_variance": _mean(
            [
                normalised_variance(d.self_overlap, known[p.row])
                for p, d in zip(problems, seen, strict=True)
                if d.self_overlap is not None and p.row < len(known) and known[p.row]
            ]
        ),
        "entropy": _mean([p.entropy for p in problems]),
    }
    counts = [d.distinct for d in seen]
    # A problem that was not drawn may have one more than any of these.
    distinct = (
        bootstrap(counts, seed=0, most=max(counts) + 1) if counts else Estimate(0.0, 0.0, 0.0)
    )
    return {
        "n_problems": len(problems),
        "pass_at_k": {str(k): estimate.mean for k, estimate in passed.items()},
        "pass_at_k_interval": {str(k): [e.low, e.high] for k, e in passed.items()},
        "equivalence": primary,
        "distinct_correct": distinct.mean,
        "distinct_correct_interval": [distinct.low, distinct.high],
        "distinct": {
            name: _mean([p.diversity[name].distinct for p in problems])[0]
            for name in (problems[0].diversity if problems else ())
        },
        "solution_multiplicity": exist.get(primary),
        "multiplicity": exist,
        **{name: mean for name, (mean, _) in averaged.items()},
        "n_defined": {name: n for name, (_, n) in averaged.items()},
    }


def _mean(values: Sequence[float | None]) -> tuple[float | None, int]:
    """The mean of the values there are, None without one, and their number."""
    known = [v for v in values if v is not None]
    return (float(np.mean(known)) if known else None), len(known)
