"""Off-policy corrections: the tokens came from μ, the surrogate is written for π_old."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyncds.choices.choice import Choice

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class TokenWeights:
    """Factors and masks of each token's policy loss.

    Weights are constants: no gradient flows through. weight [T] ≥ 0. keep bool [T]: a token that is
    not kept contributes nothing, and still counts in the number of tokens the loss is divided by.
    truncated bool [T]: where the weight is less than ``π_old / μ``.
    """

    weight: Tensor
    keep: Tensor
    truncated: Tensor

    def apply(self, loss: Tensor) -> Tensor:
        """The corrected per-token loss: [T] -> [T]."""
        return (self.weight * loss).masked_fill(~self.keep, 0)


class Correction(Choice):
    """The options of a correction, and the correction: from log-probs to weights of tokens.

    Every correction leaves on-policy tokens alone: weight 1, kept.
    """

    kind: str = ""

    def __call__(self, log_mu: Tensor, log_proximal: Tensor, sequence: Tensor) -> TokenWeights:
        """Factors and masks from log μ [T] and log π_old [T].

        The sequence of each token is int64 [T] in 0..n-1; all tokens of a sequence are there. ``w_t
        = π_old / μ``.
        """
        raise NotImplementedError


class Band(Correction):
    """A correction that leaves out what lies outside ``low … high``."""

    low: float
    high: float

    def inside(self, weight: Tensor) -> Tensor:
        """bool, of the shape of ``weight``."""
        return (weight >= self.low) & (weight <= self.high)


def truncated(weight: Tensor, cap: float) -> TokenWeights:
    """``min(w, cap)``, every token kept: [T] -> weights."""
    above = weight > cap
    return TokenWeights(weight=weight.clamp(max=cap), keep=weight >= 0, truncated=above)


def masked(weight: Tensor, keep: Tensor) -> TokenWeights:
    """The weights as they are, where they are kept: [T], bool [T] -> weights."""
    return TokenWeights(weight=weight, keep=keep, truncated=weight < 0)
