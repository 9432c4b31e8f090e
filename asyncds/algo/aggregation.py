"""How the losses of tokens become the loss of an update, as a weight for each sequence's tokens.

The sum of an update's weighted token losses is divided by its number of completion tokens T,
whatever the aggregation. So each says by which weight a token's loss must be multiplied for that
quotient to be the mean it stands for. An update has N sequences, i with L_i tokens; tokens that a
correction left out, and empty sequences, count like all others.
"""

from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from asyncds.choices.choice import Choice

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]


class TokenMean(Choice):
    """The mean over all tokens: a long rollout weighs more than a short one.

    ``(1/T) Σ_i Σ_t loss`` (DAPO, arXiv 2503.14476).
    """

    kind: Literal["token_mean"] = "token_mean"

    def __call__(self, length: Int, update: Int, *, max_tokens: int) -> Float:
        """Weights of the tokens of each sequence, [N].

        From length int [N] and update int [N] (which of the batch's updates, 0..m-1). max_tokens:
        where completions are cut off.
        """
        return np.ones(len(length))


class SequenceMean(Choice):
    """The mean over rollouts of their mean over tokens: every rollout weighs the same.

    ``(1/N) Σ_i (1/L_i) Σ_t loss`` (GRPO, arXiv 2402.03300).
    """

    kind: Literal["sequence_mean"] = "sequence_mean"

    def __call__(self, length: Int, update: Int, *, max_tokens: int) -> Float:
        """Weights of the tokens, as ``TokenMean`` has them."""
        return _tokens_per_sequence(length, update) / np.maximum(length, 1)


class ConstantLength(Choice):
    """The mean over rollouts of their sum over tokens, divided by a constant (Dr. GRPO).

    ``(1/N) Σ_i (1/M) Σ_t loss``, M constant (arXiv 2503.20783): neither a rollout's own length nor
    that of the others scales its gradient.
    """

    kind: Literal["constant_length"] = "constant_length"
    tokens: int | None = Field(None, ge=1)
    """The constant, which sets the scale only; default: sampling.max_tokens."""

    def __call__(self, length: Int, update: Int, *, max_tokens: int) -> Float:
        """Weights of the tokens, as ``TokenMean`` has them."""
        return _tokens_per_sequence(length, update) / (self.tokens or max_tokens)


Aggregation = Annotated[TokenMean | SequenceMean | ConstantLength, Field(discriminator="kind")]


def class_mean_weights(
    weight: Float, correct: npt.NDArray[np.bool_], length: Int, update: Int
) -> Float:
    """Weights that make the mean a mean over the sequence's own class, correct or incorrect.

    weight [N]: of an aggregation. -> [N]. In each update the tokens of a class then weigh T
    together, in the proportions of ``weight``.
    """
    total = _sum_over(2 * update + correct, weight * length)
    tokens = _sum_over(update, length)
    return np.divide(weight * tokens, total, out=np.zeros(len(weight)), where=total > 0)


def _tokens_per_sequence(length: Int, update: Int) -> Float:
    return _sum_over(update, length) / _sum_over(update, np.ones(len(length)))


def _sum_over(segment: Int, values: Float | Int) -> Float:
    """The sum over its segment for each value: [N] -> [N]."""
    return np.bincount(segment, weights=values).astype(np.float64)[segment]
