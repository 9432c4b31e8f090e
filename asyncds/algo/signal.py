"""Which sequences of a group have a shaped advantage that is not zero. NumPy only: the coordinator,
which has no torch, uses it to tell which groups are worth training on.

Every function takes the n sequences of one group and returns bool [n]. It says of the advantage in
the module of that name, or in ``best_of_k``, whether it differs from zero, without its size.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

ROUNDING = 1e-9
"""Rewards that are this near to each other, relative to the largest, are the same."""


def grpo(reward: Float) -> Bool:
    """``Grpo``, whatever its scale and baseline: a reward that is not its group's mean."""
    deviation = np.abs(reward - reward.mean())
    return np.asarray(deviation > ROUNDING * np.abs(reward).max())


def smoothing(logprob_sum: Float, correct: Bool, *, gamma_p: float, gamma_n: float) -> Bool:
    """The token-wise and sequence-wise shifts of ``DifferentialSmoothing``: γ of the sequence's
    class is positive, and not every token of it was certain.

    logprob_sum: Σ_t log π over the completion, ≤ 0.
    """
    gamma = np.where(correct, gamma_p, gamma_n)
    return np.asarray((gamma > 0) & (logprob_sum < 0))


def smoothed_reward(
    reward: Float, mean_logprob: Float, correct: Bool, *, gamma_p: float, gamma_n: float
) -> Bool:
    """``Grpo`` on rewards shifted by ``DifferentialSmoothing`` of the form ``reward_mean``."""
    return grpo(reward + np.where(correct, -gamma_p, gamma_n) * mean_logprob)


def unlikeliness(reward: Float, mean_logprob: Float, *, strength: float) -> Bool:
    """``Unlikeliness``: ``Grpo`` on rewards that are worth less the likelier the sequence."""
    below = (mean_logprob[:, None] > mean_logprob).sum(axis=1)
    equal = (mean_logprob[:, None] == mean_logprob).sum(axis=1)
    rank = below + (equal - 1) / 2
    return grpo(reward * (1 - strength * rank / len(reward)))


def pkpo(correct: Bool, *, k: int, baseline: Literal["none", "leave_one_out"]) -> Bool:
    """``Pkpo``. leave_one_out: a correct sequence that some set of k needs. none: a sequence that
    is in some set of k that holds a correct one."""
    n, c = len(correct), int(correct.sum())
    k = min(k, n)
    if baseline == "leave_one_out":
        return correct & (n - c >= k - 1)
    return correct | ((c > 0) & (k > 1))


def gr_pkpo(correct: Bool, *, k: int) -> Bool:
    """``GrPkpo``: some set of k fails and some does not; incorrect sequences are below the mean."""
    n, c = len(correct), int(correct.sum())
    return np.full(n, 0 < c <= n - min(k, n))


def best_of_group(reward: Float) -> Bool:
    """``BestOfGroup``: the one sequence with the largest reward, if there is one."""
    best = reward == reward.max()
    return np.asarray(best & (best.sum() == 1) & (len(reward) > 1))
