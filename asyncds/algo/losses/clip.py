"""PPO's loss."""

from typing import Literal

from pydantic import Field

from asyncds.algo.losses.base import Loss, LossInputs, LossOutputs, Policy, surrogate
from asyncds.algo.ratios import clamped


class Clip(Loss):
    """PPO's clipped loss, with separate bounds (clip-higher) and dual clip.

    ``max(−A ρ, −A clip(ρ, 1 − low, 1 + high))`` per token (arXiv 1707.06347, eq. 7); high > low is
    clip-higher (DAPO, arXiv 2503.14476). For A < 0 nothing in it bounds a large ρ: ``dual`` = c
    does, by ``min(·, −c A)`` (arXiv 1912.09729, eq. 5).
    """

    kind: Literal["clip"] = "clip"
    ratio: Policy = "behaviour"
    """What the current policy is compared with: the one that sampled (a correction and a trust
    region at once), or the learner's at the start of the batch."""
    low: float = Field(0.2, ge=0, le=1)
    """Ratios below 1 − low earn nothing more."""
    high: float = Field(0.28, ge=0)
    """Ratios above 1 + high earn nothing more."""
    dual: float | None = Field(3.0, gt=1)
    """Bound on the ratio where the advantage is negative; null: none."""

    def __call__(self, inputs: LossInputs) -> LossOutputs:
        advantage = inputs.advantage
        ratio = clamped(inputs.log_ratio).exp()
        loss, clipped = surrogate(advantage, ratio, low=self.low, high=self.high)
        if self.dual is not None:
            negative = advantage < 0
            loss = loss.minimum(-self.dual * advantage).where(negative, loss)
            clipped = clipped | (negative & (ratio > self.dual))
        return LossOutputs(loss=loss, clipped=clipped)
