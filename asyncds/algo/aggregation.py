"""How the losses of tokens become the loss of an update, as a weight for each sequence's tokens.

The sum of an update's weighted token losses is divided by its number of completion tokens T,
whatever the aggregation. So each says by which weight a token's loss must be multiplied for that
quotient to be the mean it stands for. An update has N sequences, i with L_i tokens; tokens that a
correction left out, and empty sequences, count like all others.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from asyncds.algo.segments import sum_over_segment


@dataclass(frozen=True, kw_only=True)
class TokenMean:
    """``(1/T) Σ_i Σ_t loss``: every token counts the same, a long sequence more (DAPO, arXiv
    2503.14476). Weight 1."""

    def __call__(self, length: Tensor, update: Tensor) -> Tensor:
        """length int [N], update int64 [N] (which update, 0..m-1) -> float64 [N]."""
        return torch.ones_like(length, dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class SequenceMean:
    """``(1/N) Σ_i (1/L_i) Σ_t loss``: every sequence counts the same (GRPO, arXiv 2402.03300)."""

    def __call__(self, length: Tensor, update: Tensor) -> Tensor:
        """As ``TokenMean``."""
        return _tokens_per_sequence(length, update) / length.clamp(min=1)


@dataclass(frozen=True, kw_only=True)
class ConstantLength:
    """``(1/N) Σ_i (1/M) Σ_t loss``, M constant (Dr. GRPO, arXiv 2503.20783): sums over sequences,
    so that neither a sequence's own length nor that of the others scales its gradient.

    tokens: M, such as the largest length of a completion. Raises ValueError for M < 1.
    """

    tokens: int

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise ValueError(f"constant_length tokens = {self.tokens}: choose at least 1.")

    def __call__(self, length: Tensor, update: Tensor) -> Tensor:
        """As ``TokenMean``."""
        return _tokens_per_sequence(length, update) / self.tokens


Aggregation = TokenMean | SequenceMean | ConstantLength


def class_mean_weights(weight: Tensor, correct: Tensor, length: Tensor, update: Tensor) -> Tensor:
    """Weights that make the mean a mean over the sequence's own class, correct or incorrect.

    weight float64 [N]: of an aggregation. -> float64 [N]. In each update the tokens of a class then
    weigh T together, in the proportions of ``weight``.
    """
    part = 2 * update + correct.long()
    total = sum_over_segment(weight * length, part)
    tokens = sum_over_segment(length.double(), update)
    return torch.where(total > 0, weight * tokens / total, 0)


def _tokens_per_sequence(length: Tensor, update: Tensor) -> Tensor:
    return sum_over_segment(length.double(), update) / sum_over_segment(
        torch.ones_like(length, dtype=torch.float64), update
    )
