"""The coordinator's side of generators: their messages, and what follows from them."""

import logging
from collections.abc import Callable

from asyncds.fleet.membership import Health, Member
from asyncds.protocol import wire
from asyncds.rollout.lifecycle import AttemptOutcome, LeaseEvent, Purpose
from services.coordinator.events import Event, TextsCame
from services.coordinator.introductions import Introductions
from services.coordinator.parts import BASE_VERSION, Parts
from services.coordinator.rejected_frames import RejectedFrames
from services.coordinator.unverified import UnverifiedGroups

log = logging.getLogger(__name__)


class GeneratorService:
    """Lets generators in, takes their messages, and notices when they are gone."""

    def __init__(
        self,
        *,
        parts: Parts,
        introductions: Introductions,
        rejected: RejectedFrames,
        welcome: wire.Welcome,
        send: Callable[[bytes, wire.Message], None],
        tell: Callable[[Event], None],
    ) -> None:
        self._parts = parts
        self._introductions = introductions
        self._rejected = rejected
        self._welcome = welcome
        self._send = send
        self._tell = tell
        self._unverified = UnverifiedGroups(fleet=parts.fleet, unverified=parts.weights.unverified)

    def introduced(self, peer: bytes, hello: wire.GeneratorHello, now: float) -> None:
        """Answer a generator that says hello: welcome, refusal, or that it was given up."""
        fleet = self._parts.fleet
        self._parts.arrivals.joined(hello.name)
        if problem := self._introductions.generator_problem(hello):
            self._rejected.add(peer, f"{hello.name[:40]} is refused: {problem}", now)
            self._send(peer, wire.Refused(reason=problem))
            return
        if fleet.buried(hello.incarnation):
            silent = "its silence was taken for its death, and its leases went to others"
            self._send(peer, wire.GivenUp(reason=silent))
            return
        known = fleet.get(hello.name)
        if known is None or known.incarnation != hello.incarnation:
            if known is not None and known.health is not Health.DEAD:
                self._forget(known, "was replaced by a new process", AttemptOutcome.DIED, now)
            self._join(peer, hello, now)
        else:
            fleet.reached(known.name, peer)
            fleet.seen(known.name, now)
        self._send(peer, self._welcome)

    def handle(self, member: Member, message: wire.ToCoordinator, now: float) -> None:
        """Handle a message of a member."""
        parts = self._parts
        weights = parts.weights
        parts.fleet.seen(member.name, now)
        match message:
            case wire.GeneratorHeartbeat(leases=held, stats=stats):
                member.stats = stats
                parts.grants.mentioned(member, held, now)
                self._send(member.peer, wire.Ack(leases=[]))
            case wire.Delivered():
                self._delivered(member, message, now)
            case wire.LeaseFailed():
                self._send(member.peer, parts.deliveries.failed(member, message, now))
            case wire.Prepared():
                weights.prepared(member.name, message, now)
            case wire.Applied():
                weights.applied(member.name, message, now)
            case wire.SyncFailed():
                weights.failed(member.name, message, now)
            case wire.Bye(reason=reason):
                log.info("%s leaves: %s", member.name, reason)
                self._forget(member, f"left ({reason})", AttemptOutcome.LEFT, now)
            case _:
                said = f"a generator said {type(message).__name__}"
                self._rejected.add(member.peer, said, now)

    def bury_the_silent(self, now: float) -> None:
        """Give up generators that have been silent for too long."""
        for member in self._parts.fleet.tick(now):
            log.warning("%s is dead: silent for %.0f s", member.name, now - member.last_seen)
            self._parts.leases.reclaim(member, AttemptOutcome.DIED)
            self._parts.weights.lost(member, "died", now)

    def take_verified(self, now: float) -> None:
        """Take the groups whose weights were judged since they came."""
        for member, message in self._unverified.take():
            self._delivered(member, message, now)

    def _join(self, peer: bytes, hello: wire.GeneratorHello, now: float) -> None:
        fleet = self._parts.fleet
        self._introductions.admit(hello)
        if hello.rows != self._parts.task.rows:
            self._parts.leases.failures.expect(Purpose.TRAIN, hello.rows["train"])
        self._parts.task.told_by_generator(hello)
        self._parts.journal.set_row_sets(train=hello.training_sets, evaluated=hello.sets)
        member = Member(
            name=hello.name,
            incarnation=hello.incarnation,
            peer=peer,
            workers=hello.workers,
            capacity=hello.capacity,
            joined=now,
            last_seen=now,
        )
        fleet.join(member)
        if not self._parts.config.trains:
            fleet.verified(member.name, BASE_VERSION)
        self._parts.grants.adopt(member, hello.leases, now)
        log.info("%s joined", hello.name)

    def _delivered(self, member: Member, message: wire.Delivered, now: float) -> None:
        events = self._parts.leases.counts.events
        before = events[LeaseEvent.DELIVERED]
        unverified = self._parts.weights.unverified(member.name)
        answer = self._parts.deliveries.delivered(member, message, now, unverified=unverified)
        if answer is None:
            self._unverified.add(member, message)
            return
        self._send(member.peer, answer)
        if events[LeaseEvent.DELIVERED] > before:
            self._parts.watchdog.moved(now)
            if len(message.texts) == 1 + len(message.group.lengths) // 4:
                self._tell(TextsCame(lease=message.lease, texts=message.texts))

    def _forget(self, member: Member, reason: str, outcome: AttemptOutcome, now: float) -> None:
        self._parts.fleet.leave(member.name)
        self._parts.leases.reclaim(member, outcome)
        self._parts.weights.lost(member, reason, now)
