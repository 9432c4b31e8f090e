"""The best rollout of a group alone."""

from typing import Literal

import numpy as np

from asyncds.algo.advantages.base import Advantage, Float, Sequences
from asyncds.algo.advantages.group_relative import STD_EPSILON, deviation


class BestOfGroup(Advantage):
    """The best rollout of a group alone learns, by its lead over the second.

    ``(r_max − r_second) / (std + 1e-6)`` for the one with the largest reward, 0 for the others
    (arXiv 2503.19595). Where two share the largest reward there is no lead, and so no advantage;
    nor is there for a group of one.
    """

    kind: Literal["best_of_group"] = "best_of_group"
    scale: Literal["std", "none"] = "std"
    """Divide by the group's standard deviation, or not."""

    def __call__(self, sequences: Sequences) -> Float:
        reward = sequences.reward
        is_best = reward == sequences.largest(reward)
        second = sequences.largest(np.where(is_best, -np.inf, reward))
        leads = is_best & (sequences.total(is_best) == 1) & np.isfinite(second)
        lead = reward - np.where(leads, second, reward)
        if self.scale == "std":
            std = np.sqrt(sequences.mean(np.square(deviation(sequences, reward))))
            lead = lead / (std + STD_EPSILON)
        return lead
