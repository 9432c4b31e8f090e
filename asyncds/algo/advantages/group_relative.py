"""Common parts of the advantages that compare a reward with its group's."""

from typing import Literal

import numpy as np

from asyncds.algo.advantages.base import Advantage, Float, Sequences

STD_EPSILON = 1e-6
ROUNDING = 1e-9
"""A reward that is this near to its group's mean, relative to the group's largest, is the mean."""


class GroupRelative(Advantage):
    """``A_i = (r_i − baseline) / (std + 1e-6)`` over the rollouts of one prompt.

    In a group of one, or of equal rewards, it is exactly 0.
    """

    scale: Literal["std", "none"] = "std"
    """Divide by the group's standard deviation, or not (Dr. GRPO)."""
    std: Literal["population", "sample"] = "population"
    """The standard deviation, of G rollouts over G or over G − 1, as other trainers have it: by
    sqrt(G/(G − 1)) larger, so that advantages are smaller, and γ is more beside them."""
    baseline: Literal["mean", "leave_one_out"] = "mean"
    """The baseline that is subtracted: the group's mean, or the mean of the others."""

    def relative(self, sequences: Sequences, reward: Float) -> Float:
        """Rewards, or what stands for them, relative to their group: [N] -> [N]."""
        advantage = deviation(sequences, reward)
        if self.scale == "std":
            std = np.sqrt(sequences.mean(np.square(advantage)))
            if self.std == "sample":
                std = std * np.sqrt(sequences.size / np.maximum(sequences.size - 1, 1))
            advantage = advantage / (std + STD_EPSILON)
        if self.baseline == "leave_one_out":
            advantage = advantage * sequences.size / np.maximum(sequences.size - 1, 1)
        return advantage


def deviation(sequences: Sequences, values: Float) -> Float:
    """Values [N] minus the mean of their group, [N]; a difference by rounding alone is 0."""
    above = values - sequences.mean(values)
    return np.where(np.abs(above) > ROUNDING * sequences.largest(np.abs(values)), above, 0.0)
