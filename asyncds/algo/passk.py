"""Unbiased Pass@k and its uncertainty. NumPy only: the coordinator, which has no torch, uses it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Counts = Sequence[int] | npt.NDArray[np.int64]


@dataclass(frozen=True)
class Estimate:
    """A mean over problems and its interval, low ≤ mean ≤ high."""

    mean: float
    low: float
    high: float


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that k of n samples, drawn without replacement, hold one of the c correct.

    ``1 − C(n−c, k) / C(n, k)`` (Codex, arXiv 2107.03374, eq. 1): unbiased for 1 − (1 − p)^k.
    The quotient is taken as a product of min(c, k) factors in 0..1, which can't overflow.

    Raises ValueError unless 0 ≤ c ≤ n and 1 ≤ k ≤ n.
    """
    if not 0 <= c <= n:
        raise ValueError(f"{c} correct of {n} samples")
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs at least {max(k, 1)} samples and k ≥ 1; there are {n}.")
    # C(n−c, k) / C(n, k) is symmetric in c and k: both count the disjoint pairs of a c-set and a
    # k-set. The shorter product is faster and rounds less.
    few, many = sorted((c, k))
    left = np.arange(n, n - few, -1, dtype=np.float64)
    return float(1 - np.prod((left - many).clip(min=0) / left))


def pass_at_ks(n: Counts, c: Counts, ks: Sequence[int]) -> Float64:
    """``pass_at_k`` of P problems for K values of k: float64 [K, P].

    n, c [P]: samples and correct samples of each problem. ``C(n−c, k) / C(n, k)`` for all c at once
    is a running product of ``(n − k − i) / (n − i)``, i < c.
    Raises ValueError as ``pass_at_k`` does.
    """
    n, c = np.asarray(n, dtype=np.int64), np.asarray(c, dtype=np.int64)
    chances = np.empty((len(ks), len(n)))
    for samples in np.unique(n):
        mine = n == samples
        pass_at_k(int(samples), int(c[mine].min()), min(ks, default=1))
        pass_at_k(int(samples), int(c[mine].max()), max(ks, default=1))
        left = np.arange(samples, 0, -1, dtype=np.float64)
        for i, k in enumerate(ks):
            missed = np.cumprod((left - k).clip(min=0) / left)
            chances[i, mine] = 1 - np.concatenate([[1.0], missed])[c[mine]]
    return chances


def mean_pass_at_k(
    n: Counts, c: Counts, ks: Sequence[int], *, seed: int = 0
) -> dict[int, Estimate]:
    """Pass@k averaged over problems, for each k, with the 95 % interval of ``bootstrap``.

    n, c [P]: samples and correct samples of each problem. All k see the same resamples.
    Raises ValueError where there is no problem, or a problem has fewer samples than a k.
    """
    return dict(zip(ks, _bootstrap(pass_at_ks(n, c, ks), seed=seed, most=1.0), strict=True))


def bootstrap(
    values: Sequence[float] | Float64,
    *,
    seed: int,
    most: float = 1.0,
    confidence: float = 0.95,
    resamples: int = 1000,
) -> Estimate:
    """Mean of ``values``, which lie in 0..most, and its interval for other problems like these.

    The interval is a Bayesian bootstrap's (Rubin, 1981) whose ends are each moved outwards by half
    a problem that nobody has seen: at the lower end its value is 0, at the upper end ``most``. So
    it has a width also where all values are equal, and covers where the problem that would tell was
    not drawn. For values of 0 and 1 the ends are the quantiles of Beta(c, P − c + ½) and
    Beta(c + ½, P − c), between those of Jeffreys and of Clopper and Pearson.

    Raises ValueError where there is no value.
    """
    row = np.asarray(values, dtype=np.float64)[None]
    return _bootstrap(row, seed=seed, most=most, confidence=confidence, resamples=resamples)[0]


def _bootstrap(
    rows: Float64, *, seed: int, most: float, confidence: float = 0.95, resamples: int = 1000
) -> list[Estimate]:
    """One estimate for each of rows [K, P], over the same resamples of the P problems."""
    problems = rows.shape[1]
    if not problems:
        raise ValueError("no problem to average over")
    rng = np.random.default_rng(seed)
    weights = rng.standard_exponential((problems, resamples), dtype=np.float32)
    unseen = rng.standard_gamma(0.5, resamples)
    total = weights.sum(axis=0, dtype=np.float64) + unseen
    lower = rows.astype(np.float32) @ weights / total
    upper = lower + most * unseen / total
    tail = (1 - confidence) / 2
    lows, highs = np.quantile(lower, tail, axis=1), np.quantile(upper, 1 - tail, axis=1)
    return [
        Estimate(mean=float(mean), low=float(low), high=float(min(high, most)))
        for mean, low, high in zip(rows.mean(axis=1), lows, highs, strict=True)
    ]
