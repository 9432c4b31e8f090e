"""Off-policy corrections: the tokens came from μ, the surrogate is written for π_old.

A correction is a frozen set of options, called with log μ [T], log π_old [T] and the sequence that
each token belongs to (int64 [T], 0..n-1). It knows ``w_t = π_old / μ`` and answers with a weight
for each token's policy loss. Weights are constants: no gradient flows through them. A token that is
not kept contributes nothing, and still counts in the number of tokens the loss is divided by.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from asyncds.algo.ratios import clamped


@dataclass(frozen=True, kw_only=True)
class TokenWeights:
    """weight [T] ≥ 0; keep bool [T]; truncated bool [T]: where the weight is less than w_t."""

    weight: Tensor
    keep: Tensor
    truncated: Tensor

    def apply(self, loss: Tensor) -> Tensor:
        """The corrected per-token loss: [T] -> [T]."""
        return torch.where(self.keep, self.weight * loss, 0)


@dataclass(frozen=True, kw_only=True)
class NoCorrection:
    """Weight 1 for every token."""

    def __call__(self, log_mu: Tensor, log_proximal: Tensor, sequence: Tensor) -> TokenWeights:
        nowhere = torch.zeros_like(log_mu, dtype=torch.bool)
        return TokenWeights(weight=torch.ones_like(log_mu), keep=~nowhere, truncated=nowhere)


@dataclass(frozen=True, kw_only=True)
class Tis:
    """Truncated importance sampling, ``min(w_t, cap)`` per token (Yao et al., 2025, "Your efficient
    RL framework secretly brings you off-policy RL training"; IMPALA's ρ̄, arXiv 1802.01561).

    Raises ValueError for a cap below 1, which would scale down on-policy tokens too.
    """

    cap: float = 2.0

    def __post_init__(self) -> None:
        if not self.cap >= 1:
            raise ValueError(f"tis cap = {self.cap} truncates on-policy tokens: choose a cap ≥ 1.")

    def __call__(self, log_mu: Tensor, log_proximal: Tensor, sequence: Tensor) -> TokenWeights:
        w = clamped(log_proximal - log_mu).detach().exp()
        return TokenWeights(
            weight=w.clamp(max=self.cap),
            keep=torch.ones_like(w, dtype=torch.bool),
            truncated=w > self.cap,
        )


Correction = NoCorrection | Tis
