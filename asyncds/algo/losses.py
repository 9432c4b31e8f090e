"""Policy losses, per token. A loss is a frozen set of options that can be called.

``uses_ratio`` says whether a loss reads ``log_ratio``, that is, whether it needs to be told
against which policy the ratio is taken.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from asyncds.algo.ratios import clamped
from asyncds.algo.segments import mean_over_segment


@dataclass(frozen=True, kw_only=True)
class LossInputs:
    """What a loss may read, each [T].

    logprob: log π_θ, the one that carries the gradient. log_ratio: log π_θ − log of the policy the
    ratio is taken against, not yet clamped. advantage: constant. sequence int64: which sequence of
    the micro-batch a token belongs to, 0..n-1; all tokens of a sequence are there.
    """

    logprob: Tensor
    log_ratio: Tensor
    advantage: Tensor
    sequence: Tensor


@dataclass(frozen=True, kw_only=True)
class LossOutputs:
    """loss [T]; clipped bool [T]: tokens whose gradient the loss cut (to zero, but for cispo)."""

    loss: Tensor
    clipped: Tensor


@dataclass(frozen=True, kw_only=True)
class Clip:
    """PPO's clipped surrogate (arXiv 1707.06347, eq. 7) at token level.

    ``max(−A ρ, −A clip(ρ, 1 − eps_low, 1 + eps_high))``; eps_high > eps_low is clip-higher
    (DAPO, arXiv 2503.14476). For A < 0 nothing in it bounds a large ρ: ``dual_clip`` = c does, by
    ``min(·, −c A)`` (arXiv 1912.09729, eq. 5).

    Raises ValueError for bounds that don't enclose a ratio of 1.
    """

    uses_ratio: ClassVar[bool] = True

    eps_low: float = 0.2
    eps_high: float = 0.28
    dual_clip: float | None = 3.0

    def __post_init__(self) -> None:
        _check_range(self.eps_low, self.eps_high)
        if self.dual_clip is not None and not self.dual_clip > 1:
            raise ValueError(
                f"dual_clip = {self.dual_clip} would cut on-policy tokens: "
                "choose it above 1, or none."
            )

    def __call__(self, inputs: LossInputs) -> LossOutputs:
        advantage = inputs.advantage
        ratio = clamped(inputs.log_ratio).exp()
        loss, clipped = _surrogate(advantage, ratio, 1 - self.eps_low, 1 + self.eps_high)
        if self.dual_clip is not None:
            ceiling = torch.where(advantage < 0, -self.dual_clip * advantage, torch.inf)
            loss = torch.minimum(loss, ceiling)
            clipped |= (advantage < 0) & (ratio > self.dual_clip)
        return LossOutputs(loss=loss, clipped=clipped)


@dataclass(frozen=True, kw_only=True)
class Cispo:
    """``−sg(min(ρ, cap)) A log π_θ`` (MiniMax-M1, arXiv 2506.13585).

    The policy gradient with a truncated importance weight: no token is left without gradient, which
    PPO's clip does to the rare ones that change most. It is no trust region.

    ``clipped`` are the tokens whose weight is truncated. Raises ValueError for a cap below 1.
    """

    uses_ratio: ClassVar[bool] = True

    cap: float = 5.0

    def __post_init__(self) -> None:
        _check_cap("cispo", self.cap)

    def __call__(self, inputs: LossInputs) -> LossOutputs:
        ratio = clamped(inputs.log_ratio).detach().exp()
        return LossOutputs(
            loss=-ratio.clamp(max=self.cap) * inputs.advantage * inputs.logprob,
            clipped=(ratio > self.cap) & (inputs.advantage != 0),
        )


@dataclass(frozen=True, kw_only=True)
class Gspo:
    """PPO's clip on the ratio of whole sequences (arXiv 2507.18071).

    ``s_i = exp(mean_t log ρ_t)`` stands for ρ in all tokens of sequence i, so that a sequence is
    clipped as a whole. A token's gradient is that of ``s_i`` through its own log-prob
    (``sg(s_i) π_θ/sg(π_θ)``, the paper's GSPO-token), which makes tokens with advantages of their
    own possible; where a sequence has one advantage, it is the gradient of ``|y_i|`` times the loss
    of the sequence. Since s_i is a mean, it stays nearer to 1 than ρ_t, and its bounds are narrow.

    Raises ValueError for bounds that don't enclose a ratio of 1.
    """

    uses_ratio: ClassVar[bool] = True

    eps_low: float = 3e-4
    eps_high: float = 4e-4

    def __post_init__(self) -> None:
        _check_range(self.eps_low, self.eps_high)

    def __call__(self, inputs: LossInputs) -> LossOutputs:
        mean = clamped(mean_over_segment(inputs.log_ratio.detach(), inputs.sequence))
        ratio = (mean + inputs.logprob - inputs.logprob.detach()).exp()
        loss, clipped = _surrogate(inputs.advantage, ratio, 1 - self.eps_low, 1 + self.eps_high)
        return LossOutputs(loss=loss, clipped=clipped)


@dataclass(frozen=True, kw_only=True)
class Dppo:
    """A trust region in probabilities instead of ratios, around μ (arXiv 2602.04879).

    A token is masked when A > 0 and ``π_θ − μ > bound``, or A < 0 and ``π_θ − μ < −bound``: then it
    has moved far enough. So a rare token may change its ratio much, and a frequent one only little.
    ``−keep · A · min(ρ, cap) + penalty · (log ρ)²``: the cap bounds what rare tokens contribute.

    The ratio must be that to μ. ``clipped`` are the masked and the capped tokens.
    Raises ValueError for a bound outside 0..1, a cap below 1, or a penalty below 0.
    """

    uses_ratio: ClassVar[bool] = True

    bound: float = 0.2
    cap: float = 3.0
    penalty: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 < self.bound <= 1:
            raise ValueError(f"dppo bound = {self.bound} is no probability: choose 0 < bound ≤ 1.")
        _check_cap("dppo", self.cap)
        if not self.penalty >= 0:
            raise ValueError(f"dppo penalty = {self.penalty} rewards drift: choose penalty ≥ 0.")

    def __call__(self, inputs: LossInputs) -> LossOutputs:
        advantage, log_ratio = inputs.advantage, clamped(inputs.log_ratio)
        ratio = log_ratio.exp()
        moved = (inputs.logprob.exp() - (inputs.logprob - inputs.log_ratio).exp()).detach()
        masked = torch.where(
            advantage > 0, moved > self.bound, (advantage < 0) & (moved < -self.bound)
        )
        gain = torch.where(masked, 0, advantage * ratio.clamp(max=self.cap))
        return LossOutputs(
            loss=-gain + self.penalty * log_ratio.square(),
            clipped=masked | ((ratio > self.cap) & (advantage != 0)),
        )


@dataclass(frozen=True, kw_only=True)
class Reinforce:
    """``−A log π_θ`` (Williams, 1992): no ratio, no bound on the step."""

    uses_ratio: ClassVar[bool] = False

    def __call__(self, inputs: LossInputs) -> LossOutputs:
        return LossOutputs(
            loss=-inputs.advantage * inputs.logprob,
            clipped=torch.zeros_like(inputs.advantage, dtype=torch.bool),
        )


PolicyLoss = Clip | Cispo | Gspo | Dppo | Reinforce


def _surrogate(advantage: Tensor, ratio: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """PPO's pessimistic loss [T], and where it has no gradient, bool [T]."""
    loss = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(low, high))
    clipped = torch.where(advantage > 0, ratio > high, (advantage < 0) & (ratio < low))
    return loss, clipped


def _check_range(eps_low: float, eps_high: float) -> None:
    if not 0 <= eps_low <= 1:
        raise ValueError(f"eps_low = {eps_low}: choose 0 ≤ eps_low ≤ 1.")
    if not eps_high >= 0:
        raise ValueError(f"eps_high = {eps_high}: choose eps_high ≥ 0.")


def _check_cap(name: str, cap: float) -> None:
    if not cap >= 1:
        raise ValueError(f"{name} cap = {cap} truncates on-policy tokens: choose a cap ≥ 1.")
