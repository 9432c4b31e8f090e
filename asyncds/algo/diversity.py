"""How many ways of being right a policy still has. No torch: the coordinator uses it.

An answer key is a string that is equal for answers that count as the same; what counts as the same
is the task's to say.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Diversity:
    """Diversity of the correct samples of one problem.

    distinct: different correct answers, 0 where none is correct; it grows with the number of
    samples, so that only equal numbers of samples compare.
    top_share: share of the correct samples that give the most frequent answer; None without one.
    self_overlap: the chance that two correct samples give the same answer, see ``self_overlap``.
    """

    distinct: int
    top_share: float | None
    self_overlap: float | None


def correct_answers(answers: Sequence[str], correct: Sequence[bool]) -> Counter[str]:
    """How often each correct answer of one problem's samples occurs."""
    return Counter(key for key, right in zip(answers, correct, strict=True) if right)


def diversity(answers: Sequence[str], correct: Sequence[bool]) -> Diversity:
    """The diversity of one problem's samples, from their answer keys and correct flags."""
    return diversity_of(correct_answers(answers, correct))


def diversity_of(counts: Counter[str]) -> Diversity:
    """The same from how often each correct answer occurs."""
    return Diversity(
        distinct=len(counts),
        top_share=max(counts.values()) / counts.total() if counts else None,
        self_overlap=self_overlap(counts),
    )


def self_overlap(counts: Counter[str]) -> float | None:
    """The collision probability of two independent correct samples, ``Σ_a (π(a) / C)²``.

    C = Σ_a π(a) over the correct answers a.

    counts: c_a correct samples gave the answer a, c in all. ``Σ_a c_a (c_a − 1) / (c (c − 1))`` is
    the share of pairs that agree and, given c, unbiased (Simpson's index, Nature 163, 688, 1949).
    None where c < 2: there is no pair.
    """
    c = counts.total()
    return sum(n * (n - 1) for n in counts.values()) / (c * (c - 1)) if c > 1 else None


def normalised_variance(self_overlap: float, multiplicity: int) -> float:
    """``σ(π) = Var_{τ ~ Unif(correct)} π(τ) / C(π)²`` (arXiv 2511.19942, definition 3.3).

    From the collision probability and the number M of correct answers that exist: 0 for a policy
    that is uniform on them, ``1/M − 1/M²`` for one that knows a single one.

    The mean of π over the M answers is C / M, so that σ = Σ_τ (π(τ) / C)² / M − 1 / M². Linear in
    the collision probability, so unbiased where that is; an estimate may be below 0.
    """
    return self_overlap / multiplicity - 1 / multiplicity**2
