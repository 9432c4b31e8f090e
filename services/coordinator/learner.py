"""The coordinator's side of the learner: its ranks' messages, and what follows from them."""

import json
import logging
from collections.abc import Callable

from asyncds.protocol import wire
from services.coordinator.events import Event, Rewound
from services.coordinator.introductions import Introductions
from services.coordinator.parts import Parts
from services.coordinator.rejected_frames import RejectedFrames
from services.coordinator.weight_syncs import LEARNER

log = logging.getLogger(__name__)


class LearnerService:
    """Lets the ranks of a learner in, takes their messages, and notices when they are gone.

    on_new: called when a learner begins that is not the one before, at a checkpoint.
    """

    def __init__(
        self,
        *,
        parts: Parts,
        introductions: Introductions,
        rejected: RejectedFrames,
        welcome: wire.Welcome,
        send: Callable[[bytes, wire.Message], None],
        tell: Callable[[Event], None],
        on_new: Callable[[], None],
    ) -> None:
        self._parts = parts
        self._introductions = introductions
        self._rejected = rejected
        self._welcome = welcome
        self._send = send
        self._tell = tell
        self._on_new = on_new

    def introduced(self, peer: bytes, hello: wire.LearnerHello, now: float) -> None:
        """Answer a rank that says hello: it is welcomed, refused, or has to wait for rank 0."""
        group = self._parts.learner
        self._parts.arrivals.joined(hello.name)
        earlier: list[str] = json.loads(self._parts.journal.meta("learners") or "[]")
        if problem := self._introductions.learner_problem(hello, earlier):
            self._rejected.add(peer, f"{hello.name[:40]} is refused: {problem}", now)
            self._send(peer, wire.Refused(reason=problem))
            return
        group.spoke(now)
        if hello.rank == 0 and group.incarnation != hello.incarnation:
            self._begin(hello, earlier, now)
        elif hello.incarnation != group.incarnation:
            return  # rank 0 introduces the worker group; this rank will ask again
        self._introductions.admit(hello)
        group.join(hello.rank, peer)
        if hello.rank == 0:
            self._parts.weights.learner_here(peer)
        self._send(peer, self._welcome)

    def handle(self, peer: bytes, message: wire.ToCoordinator, now: float) -> None:
        """Handle a message of a rank that is here."""
        parts = self._parts
        parts.learner.spoke(now)
        match message:
            case wire.LearnerHeartbeat():
                self._send(peer, self._answer())
                if message.rank == 0:
                    parts.weights.learner_has(message.staged)
                    parts.learner.phase_is(message.phase)
                    got_on = parts.learner.has_saved(message.saving)
                    if parts.checkpoints.saved(message.checkpoint) or got_on:
                        parts.watchdog.moved(now)
            case wire.BatchRequest():
                self._batch_request(peer, message, now)
            case wire.Prepared():
                parts.weights.prepared(LEARNER, message, now)
            case wire.Sent():
                parts.weights.sent(message, now)
            case wire.SyncFailed():
                parts.weights.failed(LEARNER, message, now)
            case wire.Bye(reason=reason):
                log.info("a learner rank leaves: %s", reason)
                self.left(peer, now)
            case _:
                self._rejected.add(peer, f"a learner said {type(message).__name__}", now)

    def left(self, peer: bytes, now: float) -> None:
        """Take note that a rank is gone."""
        self._parts.learner.leave(peer)
        if 0 not in self._parts.learner.peers:
            self._parts.weights.learner_lost(now)

    def bury_the_silent(self, now: float) -> None:
        """Give up a learner that has been silent for too long."""
        group = self._parts.learner
        silent = group.silent(now)
        if group.here and silent > self._parts.config.coordinator.dead_seconds:
            log.warning("the learner has been silent for %.0f s", silent)
            group.replace("")
            self._parts.weights.learner_lost(now)

    def _begin(self, hello: wire.LearnerHello, earlier: list[str], now: float) -> None:
        """Begin with a learner's incarnation.

        One that is known goes on where the journal stands: it has the batch that was selected last
        or will ask for it, and will report the one it trained last. Another starts from a
        checkpoint; what was trained after that is available again.
        """
        parts = self._parts
        if hello.incarnation in earlier:
            trained, selected = parts.journal.progress()
        else:
            self._rewind(hello, earlier, now)
            trained = selected = hello.step
        parts.task.told_by_learner(vocab_size=hello.vocab_size)
        parts.leases.restore(selected)
        parts.batches.restore(trained, hello.ranks)
        parts.learner.replace(hello.incarnation)
        self._tell(Rewound())
        log.info("the learner joined at step %d with %d ranks", hello.step, hello.ranks)

    def _rewind(self, hello: wire.LearnerHello, earlier: list[str], now: float) -> None:
        parts = self._parts
        if hello.step < parts.checkpoints.newest:
            log.warning(
                "the learner starts at step %d although step %d was saved: that checkpoint is "
                "damaged or gone, and what came after is trained again",
                hello.step,
                parts.checkpoints.newest,
            )
        parts.journal.set_meta("learners", json.dumps([*earlier, hello.incarnation]))
        parts.weights.learner_replaced(now)
        parts.evaluations.drop()
        parts.leases.rewind(hello.step)
        parts.journal.drop_evaluations(from_step=hello.step)
        parts.checkpoints.restarted(hello.step)
        parts.evaluations.plan_again()
        self._on_new()

    def _batch_request(self, peer: bytes, message: wire.BatchRequest, now: float) -> None:
        parts = self._parts
        if parts.learner.peers.get(message.rank) != peer:
            said = f"asks for the batch of rank {message.rank}, which it is not"
            self._rejected.add(peer, said, now)
            return
        trained = parts.batches.request(peer, message)
        if trained is not None:
            parts.watchdog.moved(now)
            parts.steps.trained(trained, now)

    def _answer(self) -> wire.LearnerAck:
        parts = self._parts
        round = parts.leases.round
        keep = parts.checkpoints.keep(
            [parts.evaluations.plan.next_step, round.step if round else None]
        )
        return wire.LearnerAck(
            keep=keep if parts.config.checkpoint.keep_best else [], evaluating=round is not None
        )
