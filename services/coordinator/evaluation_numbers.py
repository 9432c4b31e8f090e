"""Counts of a problem in an evaluation, and the numbers over problems that are made of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from asyncds.algo.diversity import correct_answers, diversity_of, normalised_variance
from asyncds.algo.passk import Estimate, bootstrap, mean_pass_at_k
from asyncds.protocol.codec import GroupArrays

Multiplicity = Mapping[str, Sequence[int]]


@dataclass(kw_only=True)
class Problem:
    """The samples of a problem so far: n of them, of which c are correct.

    logprob: sum of log μ over their `tokens`, nats. answers: by equivalence, the primary one first,
    how often each correct answer occurs.
    """

    row: int
    n: int = 0
    c: int = 0
    logprob: float = 0.0
    tokens: int = 0
    answers: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, group: GroupArrays) -> None:
        """More samples of it."""
        right = group.correct.tolist()
        self.n += len(right)
        self.c += sum(right)
        self.logprob += float(group.logprobs.sum(dtype=np.float64))
        self.tokens += len(group.logprobs)
        for name, keys in group.answers.items():
            self.answers.setdefault(name, Counter()).update(correct_answers(keys, right))


def numbers(
    problems: Sequence[Problem],
    *,
    rows: Sequence[int],
    pass_at: Sequence[int],
    multiplicity: Multiplicity,
) -> dict[str, Any]:
    """The fields of `EvaluationNumbers` over problems, by row, which have samples.

    rows: of all problems that were to be evaluated. k above the samples taken are left out.
    multiplicity: by equivalence, how many distinct correct answers the first rows have, 0 where
    that is not known.
    """
    names = dict.fromkeys(name for p in problems for name in p.answers)
    diversities = [{name: diversity_of(c) for name, c in p.answers.items()} for p in problems]
    # Problems of different tasks may differ in what counts as the same.
    primaries = [next(iter(p.answers)) for p in problems]
    primary = primaries[0] if len(set(primaries)) == 1 else ""
    exist = {
        name: _mean([counts[row] or None for row in rows if row < len(counts)])[0]
        for name, counts in multiplicity.items()
    }
    chances = [k for k in pass_at if k <= min((p.n for p in problems), default=0)]
    passed = (
        mean_pass_at_k([p.n for p in problems], [p.c for p in problems], chances)
        if problems
        else {}
    )
    seen = [found[name] for found, name in zip(diversities, primaries, strict=True)]
    known = [
        counts[p.row] if p.row < len(counts := multiplicity.get(name, ())) else 0
        for p, name in zip(problems, primaries, strict=True)
    ]
    averaged = {
        "top_share": _mean([d.top_share for d in seen]),
        "self_overlap": _mean([d.self_overlap for d in seen]),
        "normalised_variance": _mean(
            [
                normalised_variance(d.self_overlap, n)
                for d, n in zip(seen, known, strict=True)
                if d.self_overlap is not None and n
            ]
        ),
        "entropy": _mean([-p.logprob / p.tokens for p in problems]),
    }
    counts = [d.distinct for d in seen]
    # A problem that was not drawn may have one more than any of these.
    distinct = (
        bootstrap(counts, seed=0, most=max(counts) + 1) if counts else Estimate(0.0, 0.0, 0.0)
    )
    return {
        "n_problems": len(problems),
        "n_failed": len(rows) - len(problems),
        "pass_at_k": {str(k): estimate.mean for k, estimate in passed.items()},
        "pass_at_k_interval": {str(k): [e.low, e.high] for k, e in passed.items()},
        "equivalence": primary,
        "distinct_correct": distinct.mean,
        "distinct_correct_interval": [distinct.low, distinct.high],
        "distinct": {
            name: _mean([d[name].distinct for d in diversities if name in d])[0] for name in names
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
