"""The interface of advantages: what they read and what they return.

NumPy only: the coordinator judges groups by it.

An advantage arises in two steps, since the learner works in micro-batches. Whatever compares the
sequences of a group is computed once, from the table of the whole batch, one number per sequence
[N]. What needs the log-probs of single tokens is a coefficient [N], by which they are multiplied
when the micro-batch that holds them is evaluated.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from asyncds.choices.choice import Choice, Policy

Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]
Pooling = Literal["token", "mean", "sum"]


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """The table of a batch: what is known of each of its N sequences, arrays [N].

    reward float64. correct bool: the verifier's verdict, which is not ``reward > 0``. group int,
    any labels: sequences of one prompt have the same. length int: sampled tokens of the completion.
    logprob_sum float64: of the completion, in nats, by the policy that the advantage asks for.
    """

    reward: Float
    correct: Bool
    group: npt.NDArray[np.int64]
    length: npt.NDArray[np.int64]
    logprob_sum: Float

    @cached_property
    def mean_logprob(self) -> Float:
        """Log-prob of a sequence divided by its number of tokens, [N]; 0 for an empty one."""
        return self.logprob_sum / np.maximum(self.length, 1)

    @cached_property
    def index(self) -> npt.NDArray[np.int64]:
        """The group of each sequence as a number 0, 1, …, [N]."""
        return np.unique(self.group, return_inverse=True)[1].reshape(-1)

    @cached_property
    def size(self) -> Float:
        """How many sequences the own group has, [N]."""
        return self.total(np.ones(len(self.index)))

    def total(self, values: Float | Bool) -> Float:
        """Sum of ``values`` over the own group: [N] -> [N]."""
        return np.bincount(self.index, weights=values).astype(np.float64)[self.index]

    def mean(self, values: Float | Bool) -> Float:
        """Mean of ``values`` over the own group: [N] -> [N]."""
        return self.total(values) / self.size

    def largest(self, values: Float) -> Float:
        """Largest of ``values`` in the own group: [N] -> [N]."""
        best = np.full(int(self.index.max(initial=-1)) + 1, -np.inf)
        np.maximum.at(best, self.index, values)
        return best[self.index]

    def rank(self, values: Float) -> Float:
        """How many values of the own group each value exceeds: [N] -> [N].

        Equal values get the mean of the ranks that they fill together.
        """
        level = np.unique(values, return_inverse=True)[1].reshape(-1)
        key = self.index * (level.max(initial=0) + 1) + level
        _, tie, n = np.unique(key, return_inverse=True, return_counts=True)
        lower = np.cumsum(n) - n
        members = np.bincount(self.index, minlength=1)
        before = (np.cumsum(members) - members)[self.index]
        return lower[tie.reshape(-1)] - before + (n[tie.reshape(-1)] - 1) / 2


class Advantage(Choice):
    """The options of an advantage, and the advantage: it is called with the table of a batch.

    A subclass has a docstring with its source, its options as fields, and ``__call__``. One that
    reads log-probs of whole sequences, or adds those of tokens, has a field ``logprob_source`` of
    type ``Policy``. Everything else has a default that is right for most.
    """

    kind: str = ""
    reads_reward: ClassVar[bool] = True
    """Whether the reward matters; if not, only the verifier's verdict does."""

    def __call__(self, sequences: Sequences) -> Float:
        """The advantage of each sequence, by its reward: [N] float64."""
        raise NotImplementedError

    def sequence_shift(self, sequences: Sequences) -> Float:
        """The part added to the advantages of whole sequences, and logged apart: [N]."""
        return np.zeros(len(sequences.reward))

    def token_coefficient(self, sequences: Sequences) -> Float:
        """The factor of each token's log-prob, which is then added to its advantage, [N].

        ``pooling`` says whose log-prob it is.
        """
        return np.zeros(len(sequences.reward))

    @property
    def pooling(self) -> Pooling:
        """The log-prob that a token's shift is made of.

        Its own, or the mean or the sum over its sequence.
        """
        return "token"

    @property
    def sequence_policy(self) -> Policy | None:
        """The policy that ``logprob_sum`` must be of, None where that is not read."""
        return None

    @property
    def token_policy(self) -> Policy | None:
        """The policy whose log-probs of tokens are added, None where none are."""
        return None

    def signal(self, sequences: Sequences, *, weight: Float | float = 1.0) -> Bool:
        """Whether each sequence has a shaped advantage that is not zero, [N].

        Dynamic sampling
        keeps groups for. The coordinator asks, with log-probs of the behaviour policy. weight:
        by which the advantages are multiplied, [N] or one number.
        """
        whole = weight * np.asarray(self(sequences)) + self.sequence_shift(sequences)
        shifted = (self.token_coefficient(sequences) != 0) & (sequences.logprob_sum < 0)
        return np.asarray((whole != 0) | shifted)
