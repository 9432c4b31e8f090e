"""DPPO."""

from typing import ClassVar, Literal

from pydantic import Field

from asyncds.algo.losses.base import Loss, LossInputs, LossOutputs, Policy
from asyncds.algo.ratios import clamped


class Dppo(Loss):
    """A trust region in probabilities around the policy that sampled.

    A token is masked when A > 0 and ``π_θ − μ > bound``, or A < 0 and ``π_θ − μ < −bound``: then it
    has moved far enough (arXiv 2602.04879, and its authors' loss in verl). So a rare token may
    change its ratio much, and a frequent one only little. The loss is
    ``−keep · A · sg(min(ρ, cap)) · log π_θ``: the truncated ratio is a constant, so that a capped
    token keeps its gradient. ``clipped`` are the masked tokens, which have none.
    """

    ratio: ClassVar[Policy] = "behaviour"

    kind: Literal["dppo"] = "dppo"
    bound: float = Field(0.2, gt=0, le=1)
    """How far a token's probability may move, in the direction its advantage asks for."""
    cap: float = Field(20.0, ge=1)
    """The largest ratio that counts. A small one would make of it the ratio clip that this loss is
    there to avoid."""
    penalty: float = Field(0.0, ge=0)
    """Weight of the squared log-ratio, which is no part of the paper's loss."""

    def __call__(self, inputs: LossInputs) -> LossOutputs:
        advantage, log_ratio = inputs.advantage, clamped(inputs.log_ratio)
        ratio = log_ratio.exp()
        moved = (inputs.logprob.exp() - (inputs.logprob - inputs.log_ratio).exp()).detach()
        masked = ((advantage > 0) & (moved > self.bound)) | (
            (advantage < 0) & (moved < -self.bound)
        )
        weight = ratio.detach().clamp(max=self.cap).masked_fill(masked, 0)
        loss = -weight * advantage * inputs.logprob
        return LossOutputs(loss=loss + self.penalty * log_ratio.square(), clipped=masked)
