"""Checks of delivered groups: whether one can be what it claims to be."""

from asyncds.config.sampling import RolloutConfig
from asyncds.protocol.codec import GroupArrays, ProtocolError, unpack_group
from asyncds.protocol.wire import Group
from asyncds.rollout.journal import Journal
from asyncds.rollout.lifecycle import Purpose
from asyncds.rollout.open_leases import OpenLease
from services.coordinator.evaluation import EvaluationRound
from services.coordinator.task_facts import TaskFacts


class GroupChecks:
    """Compares groups with their leases, the task, and the versions that were ever sent."""

    def __init__(self, *, rollout: RolloutConfig, journal: Journal, task: TaskFacts) -> None:
        self._rollout = rollout
        self._journal = journal
        self._task = task
        self._newest = int(journal.meta("newest_version") or -1)

    def expect_version(self, version: int) -> None:
        """Generators may have these weights from now on.

        Of a learner that went back to a checkpoint the versions are lower, while groups of the one
        before are still on their way.
        """
        if version > self._newest:
            self._newest = version
            self._journal.set_meta("newest_version", str(version))

    def checked(self, group: Group, lease: OpenLease, round: EvaluationRound | None) -> GroupArrays:
        """The arrays of a group for a lease. Raises ProtocolError with what is wrong.

        round: the evaluation round that is open; every token of one of its leases must be by its
        version.
        """
        arrays = unpack_group(group)
        least, most = self._rollout.resolved_min_group, self._rollout.group_size
        if lease.purpose == Purpose.EVAL:
            least, most = 1, lease.samples or 0
        n = len(arrays.lengths)
        if not least <= n <= most:
            raise ProtocolError(f"{n} completions instead of {least} to {most}")
        # A task of several may have some of the names only.
        if unnamed := set(arrays.answers) - set(self._task.multiplicity):
            raise ProtocolError(f"answers under {', '.join(unnamed)}, which it did not name")
        highest = int(max(arrays.completion_ids.max(), arrays.prompt_ids.max()))
        vocab_size = self._task.vocab_size
        if vocab_size is not None and highest >= vocab_size:
            raise ProtocolError(f"token id {highest} outside the vocabulary of {vocab_size}")
        seen = set(arrays.versions.tolist())
        if lease.purpose == Purpose.EVAL and round is not None and seen != {round.version}:
            raise ProtocolError(f"versions {seen} in an evaluation of {round.version}")
        newest = int(arrays.versions.max())
        if newest > self._newest:
            raise ProtocolError(f"weights {newest}, newer than any that were sent ({self._newest})")
        return arrays
