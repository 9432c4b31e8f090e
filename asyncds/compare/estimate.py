"""A mean over runs and how well it is known."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, stdev

import mpmath

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """mean ± half of n values: Student's t-interval of 95 %.

    half is None for a single value, which says nothing about its own spread.
    """

    mean: float
    half: float | None
    n: int

    @property
    def known_sign(self) -> bool:
        """Whether the interval excludes 0."""
        return self.half is not None and abs(self.mean) > self.half


def estimate(values: Sequence[float]) -> Estimate:
    """The mean and interval of at least one value, taken as independent draws."""
    n = len(values)
    half = t_quantile(n - 1) * stdev(values) / math.sqrt(n) if n > 1 else None
    return Estimate(mean=fmean(values), half=half, n=n)


@cache
def t_quantile(degrees: int) -> float:
    """The t beyond which, on both sides, Student's distribution has the rest to `CONFIDENCE`."""

    def excess(t: float) -> mpmath.mpf:
        # Abramowitz and Stegun 26.7.1: the tails as a regularised incomplete beta function.
        x = degrees / (degrees + t * t)
        return mpmath.betainc(degrees / 2, 0.5, 0, x, regularized=True) - (1 - CONFIDENCE)

    # Between the normal distribution's 1.96 and the 12.7 of one degree of freedom.
    return float(mpmath.findroot(excess, (1.9, 13), solver="ridder"))
