"""The unlikeliness reward."""

from typing import Literal

import numpy as np
from pydantic import Field

from asyncds.algo.advantages.base import Float, Policy, Sequences
from asyncds.algo.advantages.group_relative import GroupRelative


class Unlikeliness(GroupRelative):
    """GRPO on rewards that, of correct rollouts, are worth less the likelier they are.

    ``r'_i = r_i (1 − b · a_i / G)`` if correct, ``r_i`` otherwise: what a wrong answer gets for its
    form is not shaped, or unlikely wrong answers would be reinforced. a_i is the rank of rollout i
    by mean log-prob among the G of its group, 0 the least likely (arXiv 2506.02355). Rollouts of
    equal log-prob share the mean of their ranks, so that their order doesn't matter. Only the order
    of the log-probs counts.
    """

    kind: Literal["unlikeliness"] = "unlikeliness"
    strength: float = Field(0.25, ge=0, le=1)
    """What the likeliest rollout of a large group loses of its reward, as a fraction."""
    logprob_source: Policy = "proximal"
    """Who ranks them: the learner, at the price of a forward pass more, or the generator."""

    def __call__(self, sequences: Sequences) -> Float:
        loses = self.strength * sequences.rank(sequences.mean_logprob) / sequences.size
        worth = np.where(sequences.correct, 1 - loses, 1.0)
        return self.relative(sequences, sequences.reward * worth)

    @property
    def sequence_policy(self) -> Policy | None:
        return self.logprob_source
