"""Evaluation rounds: every held-out problem, n samples each, on weights that stay put."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from asyncds.algo.diversity import correct_answers
from asyncds.algo.passk import pass_at_k
from asyncds.rollout.codec import GroupArrays


@dataclass(frozen=True, kw_only=True)
class Due:
    """An evaluation to be made once the weights after `step` batches are published."""

    step: int
    n_samples: int


class EvaluationPlan:
    """When to evaluate: the base model, every `every` steps, and the result."""

    def __init__(self, *, every: int, n_samples: int, interim_samples: int, steps: int) -> None:
        interim = range(every, steps, every) if every else ()
        self._due = deque(
            [
                Due(step=0, n_samples=n_samples),
                *(Due(step=s, n_samples=interim_samples) for s in interim),
                Due(step=steps, n_samples=n_samples),
            ]
        )

    def skip_done(self, steps: Sequence[int]) -> None:
        """Leave out evaluations made before the run was resumed, given the steps they saw."""
        self._due = deque(d for d in self._due if d.step > max(steps, default=-1))

    def due(self, published_step: int, *, base: bool) -> Due | None:
        """The next evaluation, if weights as new as it asks for are published. Older ones that
        were overtaken are left out, but the base model's only if its weights are not the published
        ones any more (base False)."""
        while len(self._due) > 1 and self._due[1].step <= published_step:
            if base and self._due[0].step == 0:
                break
            self._due.popleft()
        return self._due[0] if self._due and self._due[0].step <= published_step else None

    def done(self) -> None:
        """The one that was due is finished."""
        self._due.popleft()

    @property
    def finished(self) -> bool:
        """Nothing is left to evaluate."""
        return not self._due


class EvaluationRound:
    """One evaluation under way. While it is open no weights are sent."""

    def __init__(self, *, id: int, version: int, step: int, n_samples: int, leases: set[int]):
        self.id = id
        self.version = version
        self.step = step
        self.n_samples = n_samples
        self._open = set(leases)
        self.total = len(leases)
        self._correct: list[int] = []
        self._sampled: list[int] = []
        self._distinct: list[int] = []

    def owns(self, lease: int) -> bool:
        """Whether the lease is part of this round and open."""
        return lease in self._open

    def add(self, lease: int, group: GroupArrays) -> None:
        """A problem's samples arrived."""
        self._open.discard(lease)
        self._correct.append(int(group.correct.sum()))
        self._sampled.append(len(group.lengths))
        self._distinct.append(len(correct_answers(group.answers, group.correct.tolist())))

    def give_up(self, lease: int) -> None:
        """A problem can't be evaluated."""
        self._open.discard(lease)

    @property
    def done(self) -> int:
        """Problems finished."""
        return self.total - len(self._open)

    @property
    def complete(self) -> bool:
        """All problems finished."""
        return not self._open

    def result(
        self, *, pass_at: Sequence[int], temperature: float, multiplicity: float | None
    ) -> dict[str, object]:
        """Pass@k and diversity, averaged over problems; k above the samples taken are left out.

        multiplicity: distinct correct answers that exist per problem, if the task can tell.
        """
        fewest = min(self._sampled, default=0)
        return {
            "version": self.version,
            "step": self.step,
            "pass@k": {
                str(k): float(
                    np.mean(
                        [
                            pass_at_k(n, c, k)
                            for n, c in zip(self._sampled, self._correct, strict=True)
                        ]
                    )
                )
                for k in pass_at
                if k <= fewest
            },
            "distinct_correct": float(np.mean(self._distinct)) if self._distinct else 0.0,
            "solution_multiplicity": multiplicity,
            "n_problems": len(self._correct),
            "n_samples": self.n_samples,
            "temperature": temperature,
        }
