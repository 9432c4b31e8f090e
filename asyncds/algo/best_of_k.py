"""Advantages for the best of several samples, rather than for each one by itself.

With n rollouts of a prompt, c of them correct, those of PKPO and GR-PKPO are a function of n and c:
one number for the correct rollouts and one for the incorrect. Binomials are exact integers, and
their quotients correctly rounded, for groups of any size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import comb, sqrt
from typing import Literal

import torch
from torch import Tensor

from asyncds.algo.advantages import STD_EPSILON, AdvantageInputs
from asyncds.algo.segments import segment_mean


@dataclass(frozen=True, kw_only=True)
class Pkpo:
    """Pass@k policy optimisation (arXiv 2505.15201): Σ_i A_i ∇log π(y_i) climbs pass@k.

    With ``ρ(n, c, k) = 1 − C(n−c, k)/C(n, k)``, baseline

    - ``none``: ``k/n`` if correct, ``(k/n) ρ(n−1, c, k−1)`` otherwise. The sum over the group is an
      unbiased estimate of the gradient of pass@k.
    - ``leave_one_out``: each k-set counts for i by how much i improves on the others in it,
      ``C(n−c, k−1)/C(n−1, k−1)`` if correct, 0 otherwise. The sum is n/k times an unbiased estimate
      of the same gradient, of less variance.

    Whether a rollout is correct is the verifier's verdict; the reward is not read. A group with
    fewer than k rollouts is taken as if k were its size.

    Raises ValueError for k < 1.
    """

    k: int
    baseline: Literal["none", "leave_one_out"] = "leave_one_out"

    def __post_init__(self) -> None:
        _check_k("pkpo", self.k)

    def __call__(self, inputs: AdvantageInputs) -> Tensor:
        """-> float32 [N]."""
        return _by_counts(inputs, self._advantages)

    def _advantages(self, n: int, c: int) -> tuple[float, float]:
        k = min(self.k, n)
        none_correct = comb(n - c, k - 1) / comb(n - 1, k - 1)
        if self.baseline == "leave_one_out":
            return none_correct, 0.0
        others_fail = comb(max(n - 1 - c, 0), k - 1) / comb(n - 1, k - 1)
        return k / n, k / n * (1 - others_fail)


@dataclass(frozen=True, kw_only=True)
class GrPkpo:
    """Pass@k training with the group-relative advantage in closed form (arXiv 2508.10751).

    All k-sets of the n rollouts are groups, rewarded by whether one in them is correct; a rollout's
    advantage is the mean standardised reward of the sets it is in. With N⁻ incorrect ones,
    ``R = 1 − C(N⁻, k)/C(n, k)`` and ``s = sqrt(R (1 − R))``:
    ``(1 − R)/s`` if correct, ``(1 − R − C(N⁻−1, k−1)/C(n−1, k−1))/s`` otherwise. Where no set
    fails, or every one does, the group has no advantage.

    The reward is not read. A group with fewer than k rollouts is taken as if k were its size.

    Raises ValueError for k < 1.
    """

    k: int

    def __post_init__(self) -> None:
        _check_k("gr_pkpo", self.k)

    def __call__(self, inputs: AdvantageInputs) -> Tensor:
        """-> float32 [N]."""
        return _by_counts(inputs, self._advantages)

    def _advantages(self, n: int, c: int) -> tuple[float, float]:
        k, wrong = min(self.k, n), n - c
        failure = comb(wrong, k) / comb(n, k)
        if failure in (0, 1):
            return 0.0, 0.0
        s = sqrt((1 - failure) * failure)
        return failure / s, (failure - comb(wrong - 1, k - 1) / comb(n - 1, k - 1)) / s


@dataclass(frozen=True, kw_only=True)
class BestOfGroup:
    """Only the best rollout of a group learns, by its lead (arXiv 2503.19595).

    ``(r_max − r_second) / (std + 1e-6)`` for the one with the largest reward, 0 for the others;
    population std of the group. Where two share the largest reward there is no lead, and so no
    advantage; nor is there for a group of one.

    scale: ``none`` leaves the division out.
    """

    scale: Literal["std", "none"] = "std"

    def __call__(self, inputs: AdvantageInputs) -> Tensor:
        """From rewards and groups -> float32 [N]."""
        labels, index = torch.unique(inputs.group, return_inverse=True)
        n, reward = len(labels), inputs.reward.double()
        lowest = reward.new_full((n,), -torch.inf)
        best = lowest.scatter_reduce(0, index, reward, "amax")[index]
        is_best = reward == best
        second = lowest.scatter_reduce(0, index, torch.where(is_best, -torch.inf, reward), "amax")[
            index
        ]
        n_best = torch.zeros_like(lowest).index_add_(0, index, is_best.double())[index]
        leads = is_best & (n_best == 1) & second.isfinite()
        lead = torch.where(leads, reward - second, 0)
        if self.scale == "std":
            deviation = reward - segment_mean(reward, index, n)[index]
            lead /= segment_mean(deviation.square(), index, n).sqrt()[index] + STD_EPSILON
        return lead.float()


def _by_counts(
    inputs: AdvantageInputs, advantages: Callable[[int, int], tuple[float, float]]
) -> Tensor:
    """advantages: (n, c) of a group -> that of its correct and that of its incorrect rollouts."""
    labels, index = torch.unique(inputs.group, return_inverse=True)
    n = torch.bincount(index, minlength=len(labels)).tolist()
    c = torch.bincount(index[inputs.correct], minlength=len(labels)).tolist()
    pairs = [advantages(*counts) for counts in zip(n, c, strict=True)]
    table = torch.tensor(pairs, dtype=torch.float64, device=index.device).reshape(-1, 2)
    return table[index, (~inputs.correct).long()].float()


def _check_k(name: str, k: int) -> None:
    if k < 1:
        raise ValueError(f"{name} k = {k}: choose at least 1.")
