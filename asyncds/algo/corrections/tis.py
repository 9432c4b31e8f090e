"""Truncated importance sampling, token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from asyncds.algo.corrections.base import Correction, TokenWeights, truncated
from asyncds.algo.ratios import clamped

if TYPE_CHECKING:
    from torch import Tensor


class Tis(Correction):
    """Truncated importance sampling: tokens are weighted by min(π_old/μ, cap).

    Yao et al., 2025, "Your efficient RL framework secretly brings you off-policy RL training";
    IMPALA's ρ̄, arXiv 1802.01561.
    """

    kind: Literal["tis"] = "tis"
    cap: float = Field(2.0, ge=1)
    """The largest weight."""

    def __call__(self, log_mu: Tensor, log_proximal: Tensor, sequence: Tensor) -> TokenWeights:
        return truncated(clamped(log_proximal - log_mu).detach().exp(), self.cap)
