"""Deliveries: groups that generators bring, or say they can't."""

import logging
from collections.abc import Callable

from asyncds.fleet.membership import Member
from asyncds.protocol.codec import ProtocolError, encode
from asyncds.protocol.wire import Ack, Cancel, Delivered, LeaseFailed
from asyncds.rollout.curriculum import Curriculum, Visit
from asyncds.rollout.journal import Journal
from asyncds.rollout.lifecycle import AttemptOutcome, DropReason, LeaseEvent, Purpose
from asyncds.rollout.scheduler import Scheduler
from services.coordinator.dynamic_sampling import DynamicSampling, Verdict
from services.coordinator.group_checks import GroupChecks
from services.coordinator.leases import LeaseBook

log = logging.getLogger(__name__)


class Deliveries:
    """Takes a group once, if it is what its lease asked for and from who had that lease.

    reject: gets (peer, what is wrong, now) of every delivery that is not taken.
    """

    def __init__(
        self,
        *,
        leases: LeaseBook,
        scheduler: Scheduler,
        journal: Journal,
        checks: GroupChecks,
        dynamic_sampling: DynamicSampling,
        curriculum: Curriculum,
        reject: Callable[[bytes, str, float], None],
    ) -> None:
        self._leases = leases
        self._scheduler = scheduler
        self._journal = journal
        self._checks = checks
        self._dynamic_sampling = dynamic_sampling
        self._curriculum = curriculum
        self._reject = reject

    def delivered(
        self, member: Member, message: Delivered, now: float, *, unverified: int | None = None
    ) -> Ack | Cancel | None:
        """Journal a group; the acknowledgement must leave after the journal's commit only.

        None: it has tokens by the weights `unverified`; nothing was done, deliver it again later.
        """
        leases = self._leases
        entry = leases.open.undelivered(message.lease)
        if entry is None:
            if leases.open.existed(message.lease):
                leases.counts.events[LeaseEvent.DUPLICATE] += 1
            else:
                self._reject(member.peer, f"delivers lease {message.lease}, which never was", now)
            return Ack(leases=[message.lease])
        present = entry.in_work(member.name, message.attempt)
        if not present and not self._journal.was_granted(entry.id, member.name):
            self._reject(member.peer, f"delivers lease {entry.id}, which it never had", now)
            return Cancel(leases=[entry.id])
        outcome = None if present else self._journal.attempt_outcome(entry.id, message.attempt)
        if outcome == AttemptOutcome.DISTRUSTED:
            self._reject(member.peer, f"delivers lease {entry.id}, made by other weights", now)
            return Cancel(leases=[entry.id])
        try:
            group = self._checks.checked(message.group, entry, leases.round)
        except ProtocolError as error:
            self._reject(member.peer, f"delivers a bad group for lease {entry.id}: {error}", now)
            if present:
                leases.retry(entry, f"malformed: {error}", now=now)
            return Ack(leases=[message.lease])
        if int(group.versions.max()) == unverified:
            return None
        payload = encode(message.group)
        leases.deliver(entry, group, payload=payload, by=member, attempt=message.attempt)
        leases.failures.delivered(entry, message, completions=len(group.lengths), now=now)
        if entry.purpose == Purpose.TRAIN:
            right = group.correct
            self._curriculum.visited(entry.row, Visit(entry.id, len(right), int(right.sum())))
            # What dynamic sampling drops leaves room for another.
            verdict = self._dynamic_sampling.judge(group, step=self._scheduler.step)
            if verdict is Verdict.DROP:
                leases.evict(entry, DropReason.ZERO_SIGNAL)
            elif verdict is Verdict.EXCUSED:
                leases.counts.events[LeaseEvent.KEPT_WITHOUT_SIGNAL] += 1
        return Ack(leases=[message.lease])

    def failed(self, member: Member, message: LeaseFailed, now: float) -> Ack:
        """A generator could not fulfil a lease.

        Of an earlier attempt that is old news: it was counted when the lease was taken back.
        """
        entry = self._leases.open.get(message.lease)
        if entry is not None and entry.in_work(member.name, message.attempt):
            log.warning("%s: lease %d failed: %s", member.name, entry.id, message.reason)
            self._leases.retry(entry, message.reason, permanent=message.permanent, now=now)
        return Ack(leases=[message.lease])
