"""DS-GRPO, differential smoothing."""

from typing import Literal

import numpy as np
from pydantic import model_validator

from asyncds.algo.advantages.base import Float, Policy, Pooling, Sequences
from asyncds.algo.advantages.group_relative import GroupRelative
from asyncds.choices.schedule import Strength

POOLING: dict[str, Pooling] = {"token": "token", "seq_mean": "mean", "seq_sum": "sum"}


class DsGrpo(GroupRelative):
    """GRPO with differential smoothing of the advantages.

    −γ_p·log π is added to those of correct rollouts, +γ_n·log π to those of incorrect ones. γ_n 0
    is DS-Positive, γ_p 0 is DS-Negative.

    arXiv 2511.19942, eq. 6. The first term is ≥ 0 and largest for the unlikely, the second ≤ 0. The
    log-probs are constants here: no gradient flows through a shift. The equation doesn't say how
    the log-prob of a sequence is normalised, so ``form`` chooses.
    """

    kind: Literal["ds_grpo"] = "ds_grpo"
    form: Literal["token", "seq_mean", "seq_sum", "reward_mean"] = "token"
    """Whose log-probability: each token's own, the sequence's mean or sum, or the mean added to
    the reward before the group's mean is subtracted (needs scale none)."""
    gamma_p: Strength = 0.02
    """Strength on correct rollouts: a number, or a schedule."""
    gamma_n: Strength = 0.002
    """Strength on incorrect rollouts: a number, or a schedule."""
    logprob_source: Policy = "proximal"
    """The learner's own log-probability, or the one recorded by the generator."""

    @model_validator(mode="after")
    def _reward_mean_is_not_divided(self) -> "DsGrpo":
        if self.form == "reward_mean" and self.scale == "std":
            raise ValueError(
                "form reward_mean shifts the rewards, and dividing by their standard deviation "
                "would undo gamma: set scale to none"
            )
        return self

    def __call__(self, sequences: Sequences) -> Float:
        return self.relative(sequences, sequences.reward)

    def sequence_shift(self, sequences: Sequences) -> Float:
        """The shift of the form ``reward_mean``; zero otherwise."""
        if self.form != "reward_mean":
            return super().sequence_shift(sequences)
        shifted = sequences.reward + self._gamma(sequences) * sequences.mean_logprob
        return self.relative(sequences, shifted) - self(sequences)

    def token_coefficient(self, sequences: Sequences) -> Float:
        """Zero for the form ``reward_mean``."""
        if self.form == "reward_mean":
            return super().token_coefficient(sequences)
        return self._gamma(sequences)

    @property
    def pooling(self) -> Pooling:
        return POOLING.get(self.form, "token")

    @property
    def sequence_policy(self) -> Policy | None:
        return self.logprob_source if self.form == "reward_mean" else None

    @property
    def token_policy(self) -> Policy | None:
        return None if self.form == "reward_mean" else self.logprob_source

    def _gamma(self, sequences: Sequences) -> Float:
        return np.where(sequences.correct, -self.gamma_p, self.gamma_n)
