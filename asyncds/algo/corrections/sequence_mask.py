"""A mask of rollouts by the product of their weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from asyncds.algo.corrections.base import Band, TokenWeights, masked
from asyncds.algo.ratios import clamped
from asyncds.algo.segments import sum_over_segment

if TYPE_CHECKING:
    from torch import Tensor


class SequenceMask(Band):
    """Rollouts are left out whose product of π_old/μ over tokens lies outside low … high.

    Those that are kept have weight 1.
    """

    kind: Literal["sequence_mask"] = "sequence_mask"
    low: float = Field(0.5, ge=0, le=1)
    """The smallest product that is kept."""
    high: float = Field(2.0, ge=1)
    """The largest product that is kept."""

    def __call__(self, log_mu: Tensor, log_proximal: Tensor, sequence: Tensor) -> TokenWeights:
        product = clamped(sum_over_segment((log_proximal - log_mu).detach(), sequence)).exp()
        return masked(product.new_ones(len(product)), self.inside(product))
