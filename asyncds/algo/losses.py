"""Policy losses, per token. A loss is a frozen set of options that can be called.

``uses_ratio`` says whether a loss reads ``log_ratio``, that is, whether it needs to be told
against which policy the ratio is taken.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from asyncds.algo.ratios import clamped


@dataclass(frozen=True, kw_only=True)
class LossInputs:
    """What a loss may read, each [T].

    logprob: log π_θ, the one that carries the gradient. log_ratio: log π_θ − log of the policy the
    ratio is taken against, not yet clamped. advantage: constant.
    """

    logprob: Tensor
    log_ratio: Tensor
    advantage: Tensor


@dataclass(frozen=True, kw_only=True)
class LossOutputs:
    """loss [T]; clipped bool [T]: tokens whose gradient the loss cut to zero."""

    loss: Tensor
    clipped: Tensor


@dataclass(frozen=True, kw_only=True)
class Clip:
    """PPO's clipped surrogate (arXiv 1707.06347, eq. 7) at token level.

    ``max(−A ρ, −A clip(ρ, 1 − eps_low, 1 + eps_high))``; eps_high > eps_low is clip-higher
    (DAPO, arXiv 2503.14476). For A < 0 nothing in it bounds a large ρ: ``dual_clip`` = c does, by
    ``min(·, −c A)`` (arXiv 1912.09729, eq. 5).

    Raises ValueError for bounds that don't enclose a ratio of 1.
    """

    uses_ratio: ClassVar[bool] = True

    eps_low: float = 0.2
    eps_high: float = 0.28
    dual_clip: float | None = 3.0

    def __post_init__(self) -> None:
        if not 0 <= self.eps_low <= 1:
            raise ValueError(f"eps_low = {self.eps_low}: choose 0 ≤ eps_low ≤ 1.")
        if not self.eps_high >= 0:
            raise ValueError(f"eps_high = {self.eps_high}: choose eps_high ≥ 0.")
        if self.dual_clip is not None and not self.dual_clip > 1:
            raise ValueError(
                f"dual_clip = {self.dual_clip} would cut on-policy tokens: "
                "choose it above 1, or none."
            )

    def __call__(self, inputs: LossInputs) -> LossOutputs:
        advantage = inputs.advantage
        ratio = clamped(inputs.log_ratio).exp()
        inside = ratio.clamp(1 - self.eps_low, 1 + self.eps_high)
        loss = torch.maximum(-advantage * ratio, -advantage * inside)
        clipped = torch.where(
            advantage > 0, ratio > 1 + self.eps_high, (advantage < 0) & (ratio < 1 - self.eps_low)
        )
        if self.dual_clip is not None:
            ceiling = torch.where(advantage < 0, -self.dual_clip * advantage, torch.inf)
            loss = torch.minimum(loss, ceiling)
            clipped |= (advantage < 0) & (ratio > self.dual_clip)
        return LossOutputs(loss=loss, clipped=clipped)


@dataclass(frozen=True, kw_only=True)
class Reinforce:
    """``−A log π_θ`` (Williams, 1992): no ratio, no bound on the step."""

    uses_ratio: ClassVar[bool] = False

    def __call__(self, inputs: LossInputs) -> LossOutputs:
        return LossOutputs(
            loss=-inputs.advantage * inputs.logprob,
            clipped=torch.zeros_like(inputs.advantage, dtype=torch.bool),
        )


PolicyLoss = Clip | Reinforce
