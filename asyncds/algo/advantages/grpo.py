"""GRPO."""

from typing import Literal

from asyncds.algo.advantages.base import Float, Sequences
from asyncds.algo.advantages.group_relative import GroupRelative


class Grpo(GroupRelative):
    """Group-relative advantage: reward minus the group's mean, over its standard deviation.

    DeepSeekMath, arXiv 2402.03300, section 4.1. scale ``none``: Dr. GRPO, arXiv 2503.20783;
    baseline ``leave_one_out``: RLOO, arXiv 2402.14740.
    """

    kind: Literal["grpo"] = "grpo"

    def __call__(self, sequences: Sequences) -> Float:
        return self.relative(sequences, sequences.reward)
