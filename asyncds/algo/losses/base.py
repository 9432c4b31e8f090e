"""The interface of policy losses: what they read and return, per token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyncds.choices.choice import Choice, Policy

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class LossInputs:
    """Inputs that a loss may read, each [T].

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
    """loss [T]; clipped bool [T]: tokens whose loss was cut (without gradient, or by a cap)."""

    loss: Tensor
    clipped: Tensor


class Loss(Choice):
    """The options of a policy loss, and the loss: it is called with the tokens of a micro-batch.

    One that reads ``log_ratio`` says by ``ratio``, a field or a class variable of type ``Policy``,
    which policy its ratio is taken against. Without it, it reads no ratio.
    """

    kind: str = ""

    def __call__(self, inputs: LossInputs) -> LossOutputs:
        """The loss of each token, before it is averaged."""
        raise NotImplementedError

    @property
    def against(self) -> Policy | None:
        """The policy below the ratio, None if the loss reads no ratio."""
        return getattr(self, "ratio", None)


def surrogate(
    advantage: Tensor, ratio: Tensor, *, low: float, high: float
) -> tuple[Tensor, Tensor]:
    """PPO's pessimistic loss [T], and where it has no gradient, bool [T].

    ``max(−A ρ, −A clip(ρ, 1 − low, 1 + high))`` (arXiv 1707.06347, eq. 7).
    """
    loss = (-advantage * ratio).maximum(-advantage * ratio.clamp(1 - low, 1 + high))
    clipped = ((advantage > 0) & (ratio > 1 + high)) | ((advantage < 0) & (ratio < 1 - low))
    return loss, clipped
