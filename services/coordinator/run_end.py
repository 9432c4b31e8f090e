"""The end of a run: when it is over, how it ends, and who is told."""

import logging
from collections.abc import Callable

from asyncds.fleet.membership import Health
from asyncds.protocol import wire
from asyncds.protocol.state import State
from services.coordinator.parts import Parts
from services.coordinator.status import waiting_for

log = logging.getLogger(__name__)

DRAIN_SECONDS = 30.0
"""How long processes may take to leave at the end."""


class RunEnd:
    """Where the run stands: STARTING → RUNNING → FINISHING → a final state.

    message: what people should know of the end, or "".
    """

    def __init__(self, *, parts: Parts, send: Callable[[bytes, wire.Message], None]) -> None:
        self._parts = parts
        self._send = send
        self.state = State.STARTING
        self.message = ""
        self._result = State.FINISHED
        self._reason = ""
        self._recalled = False
        self._drained_at: float | None = None
        if (reason := parts.journal.stop_reason()) is not None:
            self._recall_stop(reason)

    def stop(self, reason: str, *, failed: bool = False) -> None:
        """End in good order before all steps are done.

        A coordinator that dies before `ended` still knows it. failed: the run can't go on;
        otherwise it was interrupted.
        """
        result = State.FAILED if failed else State.INTERRUPTED
        if not self.state.final:
            self._parts.journal.remember_stop(reason)
        if not self._parts.learner.here:
            self.conclude(result, reason)
        elif self.state in (State.STARTING, State.RUNNING):
            self._finish(reason, result)
            self._cancel_work()
        elif self.state is State.FINISHING and self._result is State.FINISHED:
            self._result, self.message = result, reason
            self._cancel_work()

    def learner_began(self) -> None:
        """Go on if a learner has gone back to a checkpoint: what it lost is trained again."""
        if self.state is State.FINISHING and self._result is State.FINISHED:
            self.state = State.RUNNING

    def begin_or_finish(self) -> None:
        """Go on to RUNNING when everybody is there, and to FINISHING when all steps are done."""
        parts = self._parts
        complete = parts.learner.here or not parts.config.trains
        if self.state is State.STARTING and complete and parts.fleet.healthy():
            self.state = State.RUNNING
        begun = self.state is State.RUNNING or (
            self.state is State.STARTING and not parts.evaluations.plan.base_is_due
        )
        if begun and parts.batches.trained >= parts.config.steps:
            self._finish("all steps are done", State.FINISHED)
            parts.leases.end_surplus()
        if self.state is State.FINISHING:
            # A rank in a step asks again later.
            for peer in parts.batches.dismiss():
                self._send(peer, wire.Finish(reason=self._reason))

    def turn(self, now: float) -> None:
        """Conclude the run if nothing is left to wait for, or nothing has moved for too long."""
        parts = self._parts
        limit = parts.config.coordinator.stall_seconds
        if parts.watchdog.still(now) > limit:
            waits = waiting_for(parts, self.state)
            self.conclude(State.FAILED, f"no progress for {limit:g} s: {waits}")
        elif self.state is State.FINISHING:
            stopped, here = self._result is not State.FINISHED, parts.learner.here
            silent = parts.learner.silent(now)
            dead = not here and silent > parts.config.coordinator.dead_seconds
            saved = parts.checkpoints.newest >= parts.batches.trained or not parts.config.trains
            if stopped and dead:
                # Nobody has steps to save any more, like in `stop`.
                self.conclude(self._result, self.message)
            elif self._recalled and not here:
                pass  # it may be there, and has to be told
            elif saved and (stopped or parts.evaluations.plan.finished):
                self.conclude(self._result, self.message)

    def conclude(self, state: State, message: str) -> None:
        """End the run; everybody is told to leave."""
        if self.state.final:
            return
        parts = self._parts
        parts.evaluations.drop()
        self.state, self.message = state, message
        for peer in [*parts.learner.peers.values(), *(m.peer for m in parts.fleet)]:
            self._send(peer, self.drain())

    def drain(self) -> wire.Drain:
        """The message to whoever is still there when the run is over."""
        return wire.Drain(reason=self.message or "the run is finished")

    def over(self, now: float) -> bool:
        """Whether the run is over and everybody has left, or had time enough to."""
        if not self.state.final:
            return False
        if self._drained_at is None:
            self._drained_at = now
        gone = all(m.health is Health.DEAD for m in self._parts.fleet)
        left = not self._parts.learner.here and gone
        return left or now - self._drained_at > DRAIN_SECONDS

    def ended(self, now: float) -> None:
        """Record that the run is over: who starts the coordinator again resumes it."""
        self._parts.journal.forget_stop()
        if not self.found_finished:
            self._parts.pace.keep(now)

    @property
    def found_finished(self) -> bool:
        """Whether the run was finished before this coordinator started."""
        heard = self._parts.learner.heard or self._parts.evaluations.any_finished
        return self.state is State.FINISHED and not heard

    def _recall_stop(self, reason: str) -> None:
        """The coordinator before this one was told to stop and died before it had."""
        log.warning("the run was told to stop (%s) before this coordinator started", reason)
        self._recalled = True
        self._finish(reason, State.INTERRUPTED)
        self._parts.leases.cancel_all()

    def _finish(self, reason: str, result: State) -> None:
        self.state, self._result, self._reason = State.FINISHING, result, reason
        self.message = "" if result is State.FINISHED else reason

    def _cancel_work(self) -> None:
        self._parts.evaluations.drop()
        self._parts.leases.cancel_all()
