"""How many ways of being right a policy still has. No torch: the coordinator uses it.

An answer key is a string that is equal for answers that count as the same; what counts as the same
is the task's to say.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Diversity:
    """Averages over problems of what was seen in ``n_samples`` samples of each.

    distinct_correct: number of distinct correct answers, 0 where none is correct.
    top_share: share of the correct samples that give the most frequent correct answer, averaged
    over the ``n_solved`` problems that have one; None where no problem has.
    """

    distinct_correct: float
    top_share: float | None
    n_problems: int
    n_solved: int
    n_samples: int


def correct_answers(answers: Sequence[str], correct: Sequence[bool]) -> Counter[str]:
    """How often each correct answer of one group occurs."""
    return Counter(key for key, right in zip(answers, correct, strict=True) if right)


def diversity(
    groups: Iterable[tuple[Sequence[str], Sequence[bool]]], *, n_samples: int
) -> Diversity:
    """From (answer keys, correct flags) of each problem's samples.

    The number of distinct answers grows with the number of samples, so that all problems are judged
    by their first ``n_samples``.
    Raises ValueError where there is no problem, or one has fewer samples than that, or that is < 1.
    """
    if n_samples < 1:
        raise ValueError(f"n_samples = {n_samples}: choose at least 1.")
    distinct: list[int] = []
    shares: list[float] = []
    for answers, correct in groups:
        if len(answers) < n_samples:
            raise ValueError(f"a problem has {len(answers)} samples, fewer than {n_samples}")
        counts = correct_answers(answers[:n_samples], correct[:n_samples])
        distinct.append(len(counts))
        if counts:
            shares.append(max(counts.values()) / counts.total())
    if not distinct:
        raise ValueError("no problem to average over")
    return Diversity(
        distinct_correct=sum(distinct) / len(distinct),
        top_share=sum(shares) / len(shares) if shares else None,
        n_problems=len(distinct),
        n_solved=len(shares),
        n_samples=n_samples,
    )
