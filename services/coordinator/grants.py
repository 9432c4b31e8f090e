"""Grants: which generator gets which lease, and that it knows."""

import heapq
from collections import deque
from collections.abc import Callable, Collection

from asyncds.fleet.membership import Fleet, Health, Member
from asyncds.protocol.wire import Cancel, Grant, Lease, Message
from asyncds.rollout.lifecycle import OpenState, Purpose
from asyncds.rollout.open_leases import OpenLease
from asyncds.rollout.scheduler import Scheduler
from services.coordinator.leases import LeaseBook
from services.coordinator.prompts import TrainingPrompts
from services.coordinator.task_facts import TaskFacts

REGRANT_SECONDS = 5.0
"""A grant that a generator still does not mention after this long was lost on the way."""


class Grants:
    """Hands work out: evaluations first, then what waits for another attempt, then new prompts."""

    def __init__(
        self,
        *,
        leases: LeaseBook,
        scheduler: Scheduler,
        prompts: TrainingPrompts,
        task: TaskFacts,
        fleet: Fleet,
        send: Callable[[bytes, Message], None],
    ) -> None:
        self._leases = leases
        self._open = leases.open
        self._scheduler = scheduler
        self._prompts = prompts
        self._task = task
        self._fleet = fleet
        self._send = send

    def grant(self, now: float) -> None:
        """Hand out as much work as the fleet can take and the scheduler admits."""
        if not self._leases.accepting or not self._task.rows:
            return
        healthy = self._fleet.healthy()
        evaluation = deque(self._open.waiting(Purpose.EVAL))
        training = deque(self._open.waiting(Purpose.TRAIN))
        versions = {member.version for member in healthy}
        if not evaluation and not any(self._has_work(v, training) for v in versions):
            return
        grants: dict[str, list[Lease]] = {}
        free = [(self._open.load(m.name) / m.capacity, i) for i, m in enumerate(healthy)]
        heapq.heapify(free)
        while free and free[0][0] < 1:
            _, i = heapq.heappop(free)
            member = healthy[i]
            entry = self._next_for(member, evaluation, training, now)
            if entry is not None:
                lease = self._leases.hand(entry, member, version=member.version, now=now)
                heapq.heappush(free, (self._open.load(member.name) / member.capacity, i))
                grants.setdefault(member.name, []).append(lease)
        for member in healthy:
            if member.name in grants:
                self._send(member.peer, Grant(leases=grants[member.name]))

    def mentioned(self, member: Member, leases: Collection[int], now: float) -> None:
        """Compare what a generator says it holds with the table; mend lost grants and cancels."""
        held = self._open.held_by(member.name)
        said = set(leases)
        lost = [o for o in held if o.id not in said and now - o.sent > REGRANT_SECONDS]
        if lost and member.health is Health.HEALTHY:
            for entry in lost:
                self._open.sent_again(entry, now)
            self._send(member.peer, Grant(leases=[o.wire for o in lost if o.wire]))
        foreign = sorted(said - {entry.id for entry in held})
        if foreign:
            self._send(member.peer, Cancel(leases=foreign))

    def adopt(self, member: Member, leases: Collection[int], now: float) -> None:
        """Let a generator go on with what it holds, after a restart of the coordinator."""
        if not self._leases.accepting:
            return
        for entry in map(self._open.get, leases):
            if (
                entry is not None
                and entry.state is OpenState.WAITING
                and entry.purpose == Purpose.TRAIN
            ):
                self._leases.hand(entry, member, version=self._scheduler.version, now=now)

    def _has_work(self, version: int, training: deque[OpenLease]) -> bool:
        """Whether there may be anything to train on for a generator with these weights."""
        restart = bool(training) and self._scheduler.restartable(version)
        return restart or self._scheduler.admissible(version) > 0

    def _next_for(
        self,
        member: Member,
        evaluation: deque[OpenLease],
        training: deque[OpenLease],
        now: float,
    ) -> OpenLease | None:
        """The lease that a generator should work on next.

        evaluation, training: the leases that wait, the next one first; what is handed out is taken
        from them.
        """
        failures = self._leases.failures
        if evaluation and failures.may_begin(Purpose.EVAL, now):
            return evaluation.popleft()
        round = self._leases.round
        if round is not None and round.version != member.version:
            return None
        if not failures.may_begin(Purpose.TRAIN, now):
            return None
        if training and self._scheduler.restartable(member.version):
            return training.popleft()
        if self._scheduler.admissible(member.version) <= 0:
            return None
        row, attempt = self._prompts.next()
        return self._leases.make(row, attempt=attempt)
