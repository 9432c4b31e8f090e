"""Single-sample estimators of the KL divergence (Schulman, "Approximating KL divergence", 2020).

Each takes the log-probs of tokens that were sampled from ``p`` and estimates KL(p ‖ q) per token,
in nats, shape [T] -> [T]. With r = q/p: k1 is unbiased and may be negative; k2 is biased and ≥ 0;
k3 is unbiased and ≥ 0.

As a *loss term* (p the policy being trained) the gradients differ from the values: that of k1 is
∇log p, whose expectation is zero; that of k2 is the gradient of KL(p ‖ q); that of k3 is the
gradient of the reverse, KL(q ‖ p).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from asyncds.algo.ratios import clamped
from asyncds.choices.choice import Choice
from asyncds.choices.schedule import Strength

if TYPE_CHECKING:
    from torch import Tensor

KlEstimator = Literal["k1", "k2", "k3"]


def k1(log_p: Tensor, log_q: Tensor) -> Tensor:
    """−log r."""
    return -clamped(log_q - log_p)


def k2(log_p: Tensor, log_q: Tensor) -> Tensor:
    """(log r)² / 2."""
    return clamped(log_q - log_p).square() / 2


def k3(log_p: Tensor, log_q: Tensor) -> Tensor:
    """R − log r − 1."""
    d = clamped(log_q - log_p)
    return d.expm1() - d


KL_ESTIMATORS: Mapping[KlEstimator, Callable[[Tensor, Tensor], Tensor]] = {
    "k1": k1,
    "k2": k2,
    "k3": k3,
}


class KlPenalty(Choice):
    """Penalty for leaving the base model."""

    coef: Strength = 0.0
    """Its weight in the loss, a number or a schedule; 0: no penalty, and no reference model is
    loaded."""
    estimator: KlEstimator = "k3"
    """How the divergence is estimated from sampled tokens."""
    max_per_token: float | None = Field(10.0, gt=0)
    """Largest estimate of a token that counts, in either direction; beyond it the token has no
    gradient of this term. k3 grows with exp(14) where a token is 14 nats off; null: no bound."""

    def __call__(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """The divergence of the trained policy p from the base model q, per token [T]."""
        estimate = KL_ESTIMATORS[self.estimator](log_p, log_q)
        bound = self.max_per_token
        return estimate if bound is None else estimate.clamp(-bound, bound)
