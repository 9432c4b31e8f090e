"""The coordinator of a run: routes messages to who answers them, and makes time pass for all.

No sockets and no clock in here: `handle` and `tick` get the time, `send` is given. Whatever is sent
must leave only after the journal's commit, and only then may `take_events` be told to others; the
caller sees to both.
"""

import logging
from collections.abc import Callable

from asyncds.config.schema import RunConfig
from asyncds.protocol import wire
from asyncds.protocol.records import RunStatus
from asyncds.protocol.state import State
from asyncds.rollout.journal import Journal
from services.coordinator.events import Event, Stalled
from services.coordinator.generators import GeneratorService
from services.coordinator.introductions import Introductions
from services.coordinator.learner import LearnerService
from services.coordinator.parts import BASE_VERSION, make_parts
from services.coordinator.rejected_frames import RejectedFrames
from services.coordinator.run_end import RunEnd
from services.coordinator.status import missing, status, waiting_for

log = logging.getLogger(__name__)


class Coordinator:
    """One run, from the journal's state on."""

    def __init__(
        self,
        *,
        config: RunConfig,
        journal: Journal,
        send: Callable[[bytes, wire.Message], None],
        now: float,
    ) -> None:
        self._send = send
        self._events: list[Event] = []
        self.rejected = RejectedFrames()
        self._welcome = wire.Welcome(id=journal.run_id())
        self.parts = make_parts(
            config=config,
            journal=journal,
            rejected=self.rejected,
            send=send,
            tell=self._events.append,
            now=now,
        )
        self.end = RunEnd(parts=self.parts, send=send)
        introductions = Introductions(config=config, fleet=self.parts.fleet)
        self._generators = GeneratorService(
            parts=self.parts,
            introductions=introductions,
            rejected=self.rejected,
            welcome=self._welcome,
            send=send,
            tell=self._events.append,
        )
        self._learner = LearnerService(
            parts=self.parts,
            introductions=introductions,
            rejected=self.rejected,
            welcome=self._welcome,
            send=send,
            tell=self._events.append,
            on_new=self.end.learner_began,
        )
        if not config.trains:
            # What the engines have loaded is what there is.
            self.parts.weights.serve_without_learner(BASE_VERSION)

    @property
    def state(self) -> State:
        """Where the run stands."""
        return self.end.state

    @property
    def message(self) -> str:
        """The sentence that people should know of the end, or ""."""
        return self.end.message

    def take_events(self) -> list[Event]:
        """Events since the last call."""
        events = [*self._events]
        self._events.clear()
        return events

    def handle(self, peer: bytes, message: wire.ToCoordinator, now: float) -> None:
        """Handle one message from `peer`."""
        if self.state.final:
            self._see_off(peer, message, now)
            return
        match message:
            case wire.Starting(name=name, doing=doing):
                self.parts.arrivals.said(name, doing, now)
            case wire.GeneratorHello():
                self._generators.introduced(peer, message, now)
            case wire.LearnerHello():
                self._learner.introduced(peer, message, now)
            case wire.Stop(reason=reason, failed=failed):
                self.end.stop(reason, failed=failed)
            case _:
                if self.parts.learner.has(peer):
                    self._learner.handle(peer, message, now)
                elif member := self.parts.fleet.by_peer(peer):
                    self._generators.handle(member, message, now)
                else:
                    self._send(peer, wire.Identify())

    def tick(self, now: float) -> None:
        """Do everything that follows from what is known, and from time passing."""
        parts = self.parts
        self._generators.bury_the_silent(now)
        self._learner.bury_the_silent(now)
        self.end.begin_or_finish()
        if self.state.final:
            return
        if self.state is State.STARTING and missing(parts):
            parts.watchdog.moved(now)  # a run waits for its GPUs as long as it takes
        self._watch(now)
        self._generators.take_verified(now)
        parts.leases.expire(now)
        if why := parts.leases.failures.hopeless(now, parts.leases.round):
            self.end.stop(why, failed=True)
        parts.evaluations.turn(now)
        if parts.leases.round is None:
            parts.weights.reconcile(now)
        parts.grants.grant(now)
        # Until the base model is evaluated the learner keeps its weights, so that they can be
        # sent again, whoever dies meanwhile.
        if not (parts.evaluations.plan.base_is_due and parts.batches.trained == 0):
            parts.batches.fill()
        parts.retention.turn()
        self.end.turn(now)

    def status(self, now: float) -> RunStatus:
        """The run at a glance, as far as it is known here."""
        return status(self.parts, state=self.state, message=self.message, now=now)

    def waiting_for(self) -> str:
        """A sentence that says who waits for whom."""
        return waiting_for(self.parts, self.state)

    def _see_off(self, peer: bytes, message: wire.ToCoordinator, now: float) -> None:
        """The run is over: whoever says a word, the first `Drain` may be lost, is told to leave."""
        member = self.parts.fleet.by_peer(peer)
        match message:
            case wire.Bye() if member is not None:
                self.parts.fleet.leave(member.name)
            case wire.Bye():
                self._learner.left(peer, now)
            case wire.Starting():
                pass  # it hears that the run is over when it introduces itself
            case wire.GeneratorHello() | wire.LearnerHello():
                self._send(peer, self._welcome)
                self._send(peer, self.end.drain())
            case _:
                self._send(peer, self.end.drain())

    def _watch(self, now: float) -> None:
        parts = self.parts
        if not parts.watchdog.barks(now):
            return
        reason = f"no progress for {parts.watchdog.still(now):.0f} s: {self.waiting_for()}"
        log.error("%s", reason)
        for peer in [*parts.learner.peers.values(), *(m.peer for m in parts.fleet.alive())]:
            self._send(peer, wire.Dump(reason=reason))
        self._events.append(Stalled(reason=reason))
