"""Truncated importance sampling of whole rollouts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from asyncds.algo.corrections.base import Correction, TokenWeights, truncated
from asyncds.algo.ratios import clamped
from asyncds.algo.segments import sum_over_segment

if TYPE_CHECKING:
    from torch import Tensor


class SequenceTis(Correction):
    """All tokens of a rollout are weighted by min(∏ π_old/μ, cap).

    The product is the importance weight of the rollout, unbiased where ``tis`` is not, and of a
    variance that grows with length.
    """

    kind: Literal["sequence"] = "sequence"
    cap: float = Field(5.0, ge=1)
    """The largest weight."""

    def __call__(self, log_mu: Tensor, log_proximal: Tensor, sequence: Tensor) -> TokenWeights:
        log_w = sum_over_segment((log_proximal - log_mu).detach(), sequence)
        return truncated(clamped(log_w).exp(), self.cap)
