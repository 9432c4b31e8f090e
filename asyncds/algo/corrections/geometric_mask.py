"""A mask of rollouts by the geometric mean of their weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from asyncds.algo.corrections.base import Band, TokenWeights, masked
from asyncds.algo.ratios import clamped
from asyncds.algo.segments import mean_over_segment

if TYPE_CHECKING:
    from torch import Tensor


class GeometricMask(Band):
    """Rollouts are left out whose geometric mean of π_old/μ over tokens lies outside low … high.

    The mean doesn't depend on length, so that its bounds can be narrow. It bounds how far apart
    π_old and μ are, per token of the rollout, and corrects nothing within the bounds.
    """

    kind: Literal["geometric_mask"] = "geometric_mask"
    low: float = Field(0.99, ge=0, le=1)
    """The smallest mean that is kept."""
    high: float = Field(1.01, ge=1)
    """The largest mean that is kept."""

    def __call__(self, log_mu: Tensor, log_proximal: Tensor, sequence: Tensor) -> TokenWeights:
        mean = clamped(mean_over_segment((log_proximal - log_mu).detach(), sequence)).exp()
        return masked(mean.new_ones(len(mean)), self.inside(mean))
