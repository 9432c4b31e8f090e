"""GSPO."""

from typing import Literal

from pydantic import Field

from asyncds.algo.losses.base import Loss, LossInputs, LossOutputs, Policy, surrogate
from asyncds.algo.ratios import clamped
from asyncds.algo.segments import mean_over_segment


class Gspo(Loss):
    """The clipped loss on the ratio of whole rollouts, the geometric mean over their tokens.

    ``s_i = exp(mean_t log ρ_t)`` stands for ρ in all tokens of rollout i, so that it is clipped as
    a whole (arXiv 2507.18071). A token's gradient is that of ``s_i`` through its own log-prob
    (``sg(s_i) π_θ/sg(π_θ)``, the paper's GSPO-token), which makes tokens with advantages of their
    own possible; where a rollout has one advantage, it is the gradient of ``|y_i|`` times the loss
    of the rollout. Since s_i is a mean, it stays nearer to 1 than ρ_t, and its bounds are narrow.
    """

    kind: Literal["gspo"] = "gspo"
    ratio: Policy = "behaviour"
    """As in clip."""
    low: float = Field(3e-4, ge=0, le=1)
    """Ratios below 1 − low earn nothing more."""
    high: float = Field(4e-4, ge=0)
    """Ratios above 1 + high earn nothing more."""

    def __call__(self, inputs: LossInputs) -> LossOutputs:
        mean = clamped(mean_over_segment(inputs.log_ratio.detach(), inputs.sequence))
        ratio = (mean + inputs.logprob - inputs.logprob.detach()).exp()
        loss, clipped = surrogate(inputs.advantage, ratio, low=self.low, high=self.high)
        return LossOutputs(loss=loss, clipped=clipped)
