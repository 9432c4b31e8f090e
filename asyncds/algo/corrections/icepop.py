"""IcePop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from asyncds.algo.corrections.base import Band, TokenWeights, masked
from asyncds.algo.ratios import clamped

if TYPE_CHECKING:
    from torch import Tensor


class IcePop(Band):
    """Tokens are weighted by π_old/μ, and left out where it lies outside low … high.

    Ling team, 2025, "Small leak can sink a great ship: boost RL training on MoE with IcePop".
    """

    kind: Literal["icepop"] = "icepop"
    low: float = Field(0.5, ge=0, le=1)
    """The smallest weight that is kept."""
    high: float = Field(5.0, ge=1)
    """The largest weight that is kept."""

    def __call__(self, log_mu: Tensor, log_proximal: Tensor, sequence: Tensor) -> TokenWeights:
        w = clamped(log_proximal - log_mu).detach().exp()
        return masked(w, self.inside(w))
