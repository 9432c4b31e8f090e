"""No correction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from asyncds.algo.corrections.base import Correction, TokenWeights, masked

if TYPE_CHECKING:
    from torch import Tensor


class NoCorrection(Correction):
    """No importance weight."""

    kind: Literal["none"] = "none"

    def __call__(self, log_mu: Tensor, log_proximal: Tensor, sequence: Tensor) -> TokenWeights:
        one = log_mu.new_ones(len(log_mu))
        return masked(one, one > 0)
