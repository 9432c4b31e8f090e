"""Advantages of sampled sequences: what each token's log-prob is to be multiplied by.

They arise in two steps, since the learner works in micro-batches. Whatever compares sequences of a
group is computed once, from the table of the whole batch, one number per sequence [N]. What needs
the log-probs of single tokens is added when the micro-batch that holds them is evaluated [T].
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from asyncds.algo.segments import rank_within, segment_mean, segment_sum

Policy = Literal["proximal", "behaviour"]
STD_EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class AdvantageInputs:
    """What is known of all sequences of a batch, each [N].

    reward float. correct bool: the verifier's verdict. group int, any labels. mean_logprob float:
    the log-prob of a sequence divided by its number of tokens, in nats; 0 for an empty one.
    """

    reward: Tensor
    correct: Tensor
    group: Tensor
    mean_logprob: Tensor


@dataclass(frozen=True, kw_only=True)
class Grpo:
    """Reward relative to its group (DeepSeekMath, arXiv 2402.03300, section 4.1).

    ``A_i = (r_i − baseline) / (std + 1e-6)``, std over the population of the group.

    scale: ``none`` leaves the division out (Dr. GRPO, arXiv 2503.20783).
    baseline: ``leave_one_out`` is the mean of the *other* rewards (RLOO, arXiv 2402.14740).
    """

    scale: Literal["std", "none"] = "std"
    baseline: Literal["mean", "leave_one_out"] = "mean"

    def __call__(self, inputs: AdvantageInputs) -> Tensor:
        """From rewards and groups -> float32 [N]; a group of one gets 0."""
        labels, index = torch.unique(inputs.group, return_inverse=True)
        n = len(labels)
        # In float32 the mean of equal rewards is off by an ulp, which a division by 1e-6 would
        # turn into an advantage of some percent.
        reward = inputs.reward.double()
        advantage = reward - segment_mean(reward, index, n)[index]
        scale = torch.ones_like(advantage)
        if self.scale == "std":
            variance = segment_mean(advantage.square(), index, n)
            scale /= variance.sqrt()[index] + STD_EPSILON
        if self.baseline == "leave_one_out":
            size = segment_sum(torch.ones_like(reward), index, n)[index]
            scale *= size / (size - 1).clamp(min=1)
        return (advantage * scale).float()


@dataclass(frozen=True, kw_only=True)
class Unlikeliness:
    """GRPO on rewards that are worth less the likelier the sequence (arXiv 2506.02355).

    ``r'_i = r_i (1 − b · a_i / G)``, a_i the rank of sequence i by mean log-prob among the G of its
    group, 0 the least likely; sequences of equal log-prob share the mean of their ranks, so that
    their order doesn't matter. Only the order of the log-probs counts. A reward of 0 stays 0.

    b: ``strength``. source: which policy ranks. scale, baseline: as in ``Grpo``.
    Raises ValueError for a strength outside 0..1: beyond, a reward would change its sign.
    """

    strength: float = 0.25
    source: Policy = "proximal"
    scale: Literal["std", "none"] = "std"
    baseline: Literal["mean", "leave_one_out"] = "mean"

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise ValueError(
                f"unlikeliness strength = {self.strength} could turn a reward into a penalty: "
                "choose 0 ≤ strength ≤ 1."
            )

    def __call__(self, inputs: AdvantageInputs) -> Tensor:
        """-> float32 [N]."""
        labels, index = torch.unique(inputs.group, return_inverse=True)
        size = torch.bincount(index, minlength=len(labels))[index]
        rank = rank_within(inputs.mean_logprob, index, len(labels))
        reward = inputs.reward.double() * (1 - self.strength * rank / size)
        return Grpo(scale=self.scale, baseline=self.baseline)(replace(inputs, reward=reward))


@dataclass(frozen=True, kw_only=True)
class DifferentialSmoothing:
    """DS-GRPO (arXiv 2511.19942, eq. 6): smooth what is correct, sharpen what is not.

    ``− γ_p · log π`` for a correct sequence, which is ≥ 0 and largest for the unlikely;
    ``+ γ_n · log π`` for an incorrect one. DS-Positive is γ_n = 0, DS-Negative γ_p = 0. The
    log-probs are constants here: no gradient flows through a shift.

    The equation doesn't say how the log-prob of a sequence is normalised, so ``form`` chooses:

    - ``token``: each token's advantage is shifted by its own log-prob;
    - ``seq_mean``, ``seq_sum``: every token by the mean, or the sum, over its sequence;
    - ``reward_mean``: the *reward* is shifted by the sequence's mean, before the group baseline.

    source: which policy's log-prob it is, ``proximal`` (the learner at the start of the update)
    or ``behaviour`` (the one that sampled).

    Raises ValueError for a negative γ.
    """

    gamma_p: float
    gamma_n: float
    form: Literal["token", "seq_mean", "seq_sum", "reward_mean"] = "token"
    source: Policy = "proximal"

    def __post_init__(self) -> None:
        for name, gamma in (("gamma_p", self.gamma_p), ("gamma_n", self.gamma_n)):
            if not gamma >= 0:
                raise ValueError(
                    f"{name} = {gamma} would reverse the smoothing: choose {name} ≥ 0."
                )

    def reward_shift(self, mean_logprob: Tensor, correct: Tensor) -> Tensor:
        """What is added to the rewards: mean_logprob [N], correct bool [N] -> [N].

        Zero for every form but ``reward_mean``.
        """
        if self.form != "reward_mean":
            return torch.zeros_like(mean_logprob)
        return self._signed(mean_logprob, correct)

    def token_shift(self, logprob: Tensor, sequence: Tensor, correct: Tensor) -> Tensor:
        """What is added to the advantages of the tokens of whole sequences.

        logprob [T], sequence int64 [T] in 0..n-1, correct bool [n] -> [T].
        Zero for the form ``reward_mean``.
        """
        logprob = logprob.detach()
        if self.form == "reward_mean":
            return torch.zeros_like(logprob)
        n = len(correct)
        if self.form == "seq_mean":
            logprob = segment_mean(logprob, sequence, n)[sequence]
        elif self.form == "seq_sum":
            logprob = segment_sum(logprob, sequence, n)[sequence]
        return self._signed(logprob, correct[sequence])

    def _signed(self, logprob: Tensor, correct: Tensor) -> Tensor:
        return torch.where(correct, -self.gamma_p * logprob, self.gamma_n * logprob)
