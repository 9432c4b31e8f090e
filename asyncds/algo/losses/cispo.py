"""CISPO."""

from typing import Literal

from pydantic import Field

from asyncds.algo.losses.base import Loss, LossInputs, LossOutputs, Policy
from asyncds.algo.ratios import clamped


class Cispo(Loss):
    """Policy gradient weighted by the truncated ratio: no token loses its gradient.

    ``−sg(min(ρ, cap)) A log π_θ`` (MiniMax-M1, arXiv 2506.13585). PPO's clip takes the gradient
    from the rare tokens that change most; this does not, and is no trust region. ``clipped`` are
    the tokens whose weight is truncated.
    """

    kind: Literal["cispo"] = "cispo"
    ratio: Policy = "behaviour"
    """As in clip."""
    cap: float = Field(5.0, ge=1)
    """The largest ratio that counts."""
    floor: float = Field(0.0, ge=0, le=1)
    """The smallest ratio that counts: a smaller one counts as this."""

    def __call__(self, inputs: LossInputs) -> LossOutputs:
        ratio = clamped(inputs.log_ratio).detach().exp()
        return LossOutputs(
            loss=-ratio.clamp(self.floor, self.cap) * inputs.advantage * inputs.logprob,
            clipped=((ratio > self.cap) | (ratio < self.floor)) & (inputs.advantage != 0),
        )
