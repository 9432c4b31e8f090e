"""What the coordinator says to a learner rank, sorted: batches wait here for the training loop."""

import queue
import time
from collections.abc import Callable

from asyncds.rollout.batch import Shard
from asyncds.rollout.codec import unpack_shard
from asyncds.rollout.wire import Batch, Drain, Finish, FromCoordinator

ASK_AGAIN_SECONDS = 2.0
"""How often an unanswered request for a batch is repeated."""


class BatchLateError(Exception):
    """No batch came within the deadline."""


class DrainedError(Exception):
    """The coordinator wants this process to leave; the message says why."""


class Inbox:
    """Thread-safe: filled by the link's thread, emptied by the training loop."""

    def __init__(self) -> None:
        self._messages: queue.Queue[Batch | Finish | Drain] = queue.Queue()

    def receive(self, message: FromCoordinator) -> None:
        """Hand in a message; those that are not for the training loop are left alone."""
        if isinstance(message, Batch | Finish | Drain):
            self._messages.put(message)

    def wait_batch(
        self, step: int, *, ask: Callable[[], None], check: Callable[[], None], timeout: float
    ) -> Shard | None:
        """The shard of batch `step`; None if there are no more batches.

        ask: sends the request; repeated until there is an answer. check: raises what ended the
        link. Raises BatchLateError after `timeout` seconds, DrainedError if told to leave.
        """
        deadline = time.monotonic() + timeout
        ask()
        while True:
            message = self._next()
            match message:
                case Batch() if message.step == step:
                    return unpack_shard(message)
                case Finish():
                    return None
                case Drain(reason=reason):
                    raise DrainedError(reason)
                case None:
                    ask()
            check()
            if time.monotonic() > deadline:
                raise BatchLateError(
                    f"batch {step} did not come within {timeout:g} s (learner.batch_seconds): see "
                    "the coordinator's log for who waits for whom"
                )

    def wait_drain(self, *, check: Callable[[], None], timeout: float) -> str:
        """Wait to be told to leave; returns the reason. Raises BatchLateError."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            message = self._next()
            if isinstance(message, Drain):
                return message.reason
            check()
        raise BatchLateError(f"the run did not end within {timeout:g} s after the last batch")

    def _next(self) -> Batch | Finish | Drain | None:
        try:
            return self._messages.get(timeout=ASK_AGAIN_SECONDS)
        except queue.Empty:
            return None
