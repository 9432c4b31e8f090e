"""Kinds of the proximal policy π_old, where something reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from asyncds.choices.choice import Choice

if TYPE_CHECKING:
    from torch import Tensor


class Recomputed(Choice):
    """Takes the learner at the start of the batch as π_old.

    That is a forward pass more where a batch is split into several updates.
    """

    kind: Literal["recomputed"] = "recomputed"


class LogLinear(Choice):
    """π_old lies between the behaviour policy and the current one, at no cost.

    π_θ is held constant. The ratio is ``(π_θ/μ)^(1−λ)`` and the weight ``π_old/μ = (π_θ/μ)^λ``, so
    that the trust region reaches μ even when a batch is one update. A proximal policy for the
    decoupled loss (arXiv 2505.24298); AReaL's approximation, with λ = d/(d + 1) for tokens d
    versions old.
    """

    kind: Literal["log_linear"] = "log_linear"
    current: float = Field(0.5, gt=0, lt=1)
    """Share λ of the current policy: log π_old = (1 − λ)·log μ + λ·log π_θ."""

    def __call__(self, log_mu: Tensor, log_current: Tensor) -> Tensor:
        """Log-probs of the tokens, [T], [T] -> [T], constant."""
        return log_mu.to(log_current.dtype).lerp(log_current.detach(), self.current)


Proximal = Annotated[Recomputed | LogLinear, Field(discriminator="kind")]
