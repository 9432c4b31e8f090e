"""Log-ratios of two policies, bounded so that their exponentials stay finite."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LOG_RATIO_LIMIT = 20.0


def clamped(log_ratio: Tensor) -> Tensor:
    """``log_ratio`` limited to ±20 nats (e²⁰ ≈ 4.9e8); beyond it the gradient is zero."""
    return log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
