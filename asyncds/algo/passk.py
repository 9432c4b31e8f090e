"""Unbiased Pass@k and its uncertainty. NumPy only: the coordinator, which has no torch, uses it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Estimate:
    """A mean over problems and its bootstrap interval, each in 0..1."""

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


def mean_pass_at_k(
    n: Sequence[int], c: Sequence[int], ks: Sequence[int], *, seed: int = 0
) -> dict[int, Estimate]:
    """Pass@k averaged over problems, for each k, with a 95 % bootstrap interval over problems.

    n, c: samples and correct samples of each problem.
    Raises ValueError where there is no problem, or a problem has fewer samples than a k.
    """
    return {
        k: bootstrap([pass_at_k(ni, ci, k) for ni, ci in zip(n, c, strict=True)], seed=seed)
        for k in ks
    }


def bootstrap(
    values: Sequence[float] | npt.NDArray[np.float64],
    *,
    seed: int,
    confidence: float = 0.95,
    resamples: int = 1000,
) -> Estimate:
    """Mean of ``values`` and its percentile interval over resamples with replacement (Efron, 1979).

    Raises ValueError where there is no value.
    """
    x = np.asarray(values, dtype=np.float64)
    if not len(x):
        raise ValueError("no problem to average over")
    rng = np.random.default_rng(seed)
    means = [x[rng.integers(len(x), size=len(x))].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(mean=float(x.mean()), low=float(low), high=float(high))
