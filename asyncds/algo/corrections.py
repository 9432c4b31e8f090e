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
from asyncds.algo.segments import mean_over_segment, sum_over_segment


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


@dataclass(frozen=True, kw_only=True)
class IcePop:
    """``w_t`` within [low, high]; a token outside is not kept (Ling team, 2025, "Small leak can
    sink a great ship: boost RL training on MoE with IcePop").

    Raises ValueError for bounds that don't enclose 1.
    """

    low: float = 0.5
    high: float = 5.0

    def __post_init__(self) -> None:
        _check_band("icepop", self.low, self.high)

    def __call__(self, log_mu: Tensor, log_proximal: Tensor, sequence: Tensor) -> TokenWeights:
        w = clamped(log_proximal - log_mu).detach().exp()
        keep = (w >= self.low) & (w <= self.high)
        return TokenWeights(weight=w, keep=keep, truncated=torch.zeros_like(keep))


@dataclass(frozen=True, kw_only=True)
class SequenceTis:
    """``min(Π_t w_t, cap)``: every token of a sequence gets the truncated weight of the whole.

    The product is the importance weight of the sequence, unbiased where ``tis`` is not, and of a
    variance that grows with length.

    Raises ValueError for a cap below 1.
    """

    cap: float = 5.0

    def __post_init__(self) -> None:
        if not self.cap >= 1:
            raise ValueError(
                f"sequence cap = {self.cap} truncates on-policy sequences: choose a cap ≥ 1."
            )

    def __call__(self, log_mu: Tensor, log_proximal: Tensor, sequence: Tensor) -> TokenWeights:
        w = clamped(sum_over_segment((log_proximal - log_mu).detach(), sequence)).exp()
        return TokenWeights(
            weight=w.clamp(max=self.cap),
            keep=torch.ones_like(w, dtype=torch.bool),
            truncated=w > self.cap,
        )


@dataclass(frozen=True, kw_only=True)
class GeometricMask:
    """Keeps the sequences with ``exp(mean_t log w_t)`` in [low, high], with weight 1.

    The geometric mean doesn't depend on length, so that its bounds can be narrow. It bounds how far
    apart π_old and μ are, per token of the sequence, and corrects nothing within the bounds.

    Raises ValueError for bounds that don't enclose 1.
    """

    low: float = 0.99
    high: float = 1.01

    def __post_init__(self) -> None:
        _check_band("geometric_mask", self.low, self.high)

    def __call__(self, log_mu: Tensor, log_proximal: Tensor, sequence: Tensor) -> TokenWeights:
        log_w = mean_over_segment((log_proximal - log_mu).detach(), sequence)
        return _kept_within(log_w, self.low, self.high)


@dataclass(frozen=True, kw_only=True)
class SequenceMask:
    """Keeps the sequences with ``Π_t w_t`` in [low, high], with weight 1.

    Raises ValueError for bounds that don't enclose 1.
    """

    low: float = 0.5
    high: float = 2.0

    def __post_init__(self) -> None:
        _check_band("sequence_mask", self.low, self.high)

    def __call__(self, log_mu: Tensor, log_proximal: Tensor, sequence: Tensor) -> TokenWeights:
        log_w = sum_over_segment((log_proximal - log_mu).detach(), sequence)
        return _kept_within(log_w, self.low, self.high)


Correction = NoCorrection | Tis | IcePop | SequenceTis | GeometricMask | SequenceMask


def _kept_within(log_w: Tensor, low: float, high: float) -> TokenWeights:
    w = clamped(log_w).exp()
    keep = (w >= low) & (w <= high)
    return TokenWeights(weight=torch.ones_like(w), keep=keep, truncated=torch.zeros_like(keep))


def _check_band(name: str, low: float, high: float) -> None:
    if not 0 <= low <= 1 <= high:
        raise ValueError(
            f"{name} keeps {low} … {high}, which leaves out on-policy tokens: "
            "choose 0 ≤ low ≤ 1 ≤ high."
        )
