"""Dynamic sampling (DAPO, arXiv 2503.14476, section 3.2): groups that teach nothing are dropped.

The judgement is on the shaped advantage, the one that the learner will compute. Where that reads
log-probs of a policy that only the learner has, those of the behaviour policy stand in for it. Of
a coefficient with a schedule the value counts that it has in the next batch.
"""

import json
import logging
from enum import Enum

import numpy as np

from asyncds.algo.advantages.base import Sequences
from asyncds.algo.algorithm import AlgorithmConfig
from asyncds.config.schema import RunConfig
from asyncds.protocol.codec import GroupArrays
from asyncds.rollout.journal import Journal

log = logging.getLogger(__name__)


class Verdict(Enum):
    """The judgement of a delivered group.

    EXCUSED: kept without signal, since too many were dropped.
    """

    KEEP = "keep"
    DROP = "drop"
    EXCUSED = "excused"


class Signal:
    """Says of groups whether anything can be learnt from them, by the algorithm of the run."""

    def __init__(self, config: RunConfig) -> None:
        self._algorithm = config.algorithm.resolved() if config.trains else config.algorithm
        self._max_tokens = config.sampling.max_tokens

    def carried_by(self, group: GroupArrays, *, step: int) -> bool:
        """Whether a group has an advantage in training batch `step`."""
        return carries_signal(self._algorithm.at(step), group, max_tokens=self._max_tokens)


class DynamicSampling:
    """Judges one group after the other; its two numbers are kept in the journal.

    For every `groups_per_step` groups that are kept, at most `max_dropped` times as many are
    dropped, however the deliveries fall between batches.
    """

    def __init__(self, *, config: RunConfig, signal: Signal, journal: Journal) -> None:
        self._config = config
        self._signal = signal
        self._journal = journal
        self._kept, self._dropped = json.loads(journal.meta("dynamic_sampling") or "[0, 0]")
        self._logged = False

    def judge(self, group: GroupArrays, *, step: int) -> Verdict:
        """The verdict on this training group, delivered while batch `step` is the next.

        KEEP for all if the configuration says so.
        """
        rollout = self._config.rollout
        if not rollout.dynamic_sampling.enabled:
            return Verdict.KEEP
        limit = rollout.dynamic_sampling.max_dropped * rollout.groups_per_step
        verdict = Verdict.KEEP
        if not self._signal.carried_by(group, step=step):
            verdict = Verdict.DROP if self._dropped < limit else Verdict.EXCUSED
        if verdict is Verdict.DROP:
            self._dropped += 1
        else:
            self._kept += 1
        if self._kept == rollout.groups_per_step:
            self._kept = self._dropped = 0
        self._journal.set_meta("dynamic_sampling", json.dumps([self._kept, self._dropped]))
        if verdict is Verdict.EXCUSED and not self._logged:
            self._logged = True
            log.warning(
                "%d groups were dropped for one batch because they carry no signal: the task is "
                "solved or too hard for this model; from here on such groups are trained on once "
                "rollout.dynamic_sampling.max_dropped is reached",
                limit,
            )
        return verdict


def carries_signal(algorithm: AlgorithmConfig, group: GroupArrays, *, max_tokens: int) -> bool:
    """Whether a sequence of the group that is not masked has a shaped advantage other than zero.

    Of the loss only the policy term is judged: those of KL and entropy act on any group.
    """
    length = group.sampled_lengths
    added = algorithm.overlong.added_reward(length.astype(np.float64), max_tokens=max_tokens)
    signal = algorithm.advantage.signal(
        Sequences(
            reward=group.rewards.astype(np.float64) + added,
            correct=group.correct,
            group=np.zeros(len(length), dtype=np.int64),
            length=length.astype(np.int64),
            logprob_sum=group.logprob_sums().astype(np.float64),
        ),
        weight=algorithm.class_weights(group.correct),
    )
    return bool((signal & algorithm.overlong.teaches(group.finished)).any())
