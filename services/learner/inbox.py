"""The inbox of a learner rank: batches wait here for the training loop."""

import logging
import queue
import time
from collections.abc import Callable

from asyncds.protocol.batch import Shard
from asyncds.protocol.codec import unpack_shard
from asyncds.protocol.wire import Batch, Drain, Finish, FromCoordinator, LearnerAck

log = logging.getLogger(__name__)

ASK_AGAIN_SECONDS = 2.0
"""How often an unanswered request for a batch is repeated."""


class BatchLateError(Exception):
    """No batch came within the deadline."""


class DrainedError(Exception):
    """The coordinator wants this process to leave; the message says why."""


class PreemptedError(Exception):
    """A signal wants this process to leave; the message says which."""


class Inbox:
    """Thread-safe: filled by the link's thread, emptied by the training loop."""

    def __init__(self) -> None:
        # Unlike a Queue it may be put into by a signal handler that interrupts `get`.
        self._messages: queue.SimpleQueue[Batch | Finish | Drain | PreemptedError] = (
            queue.SimpleQueue()
        )
        self._evaluating = 0.0

    def receive(self, message: FromCoordinator) -> None:
        """Hand in a message; those that are not for the training loop are left alone."""
        if isinstance(message, Batch | Finish | Drain):
            self._messages.put(message)
        elif isinstance(message, LearnerAck) and message.evaluating:
            self._evaluating = time.monotonic()

    def leave(self, signal: str) -> None:
        """Have the training loop leave when it next waits; may be called by a signal handler."""
        self._messages.put(PreemptedError(f"told to leave by {signal}"))

    def wait_batch(
        self, step: int, *, ask: Callable[[], None], check: Callable[[], None], timeout: float
    ) -> Shard | None:
        """The shard of batch `step`; None if there are no more batches.

        ask: sends the request; repeated until there is an answer. check: raises what ended the
        link. Raises BatchLateError after `timeout` seconds, not counting those until the end of an
        evaluation; DrainedError or PreemptedError if told to leave.
        """
        began = time.monotonic()
        ask()
        while True:
            message = self._next()
            match message:
                case Batch() if message.step == step:
                    return unpack_shard(message)
                case Finish(reason=reason):
                    log.info("there are no more batches: %s", reason)
                    return None
                case Drain(reason=reason):
                    raise DrainedError(reason)
                case PreemptedError():
                    raise message
                case None:
                    ask()
            check()
            if self._waited(began) > timeout:
                raise BatchLateError(
                    f"batch {step} did not come within {timeout:g} s (learner.batch_seconds): see "
                    "the coordinator's log for who waits for whom"
                )

    def wait_drain(self, *, check: Callable[[], None], timeout: float) -> str:
        """Wait to be told to leave; returns the reason.

        Raises BatchLateError, as `wait_batch`, and PreemptedError.
        """
        began = time.monotonic()
        while self._waited(began) <= timeout:
            message = self._next()
            if isinstance(message, Drain):
                return message.reason
            if isinstance(message, PreemptedError):
                raise message
            check()
        raise BatchLateError(f"the run did not end within {timeout:g} s after the last batch")

    def _waited(self, began: float) -> float:
        """Seconds since `began`, or since it was last heard that an evaluation is under way."""
        return time.monotonic() - max(began, self._evaluating)

    def _next(self) -> Batch | Finish | Drain | PreemptedError | None:
        try:
            return self._messages.get(timeout=ASK_AGAIN_SECONDS)
        except queue.Empty:
            return None
