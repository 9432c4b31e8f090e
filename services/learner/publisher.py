"""Publishing weights while training goes on: rank 0's side of a weight sync."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from asyncds.protocol.batch import Float32
from asyncds.protocol.wire import (
    FromCoordinator,
    Go,
    Message,
    Prepare,
    Prepared,
    Sent,
    SyncAborted,
    SyncFailed,
)
from asyncds.telemetry.traces.traces import Traces
from asyncds.weights.communicator import TransferFailed
from asyncds.weights.layout import fingerprint
from asyncds.weights.sender import WeightSender
from asyncds.weights.staging import StagedWeights

log = logging.getLogger(__name__)

NO_EPOCH = (-1, "")
"""An epoch and the rendezvous of its group, before the first and after a failure."""


@dataclass(frozen=True)
class _Copied:
    """A version that lies in the staged region, and is to be sealed."""

    version: int
    probe: Float32


class PublisherDiedError(Exception):
    """The publisher's thread ended by surprise; the message says of what."""


class Publisher:
    """Sends the staged weights whenever the coordinator has gathered who needs them.

    A thread of its own seals what was copied, and takes `Prepare`, `Go` and `SyncAborted`. From the
    moment it agrees to a weight sync until that is over, what is staged is held: `hold` (which
    staging takes) waits.
    """

    def __init__(
        self,
        *,
        staged: StagedWeights,
        sender: WeightSender,
        go_seconds: float,
        send: Callable[[Message], None],
        staged_new: Callable[[], None],
        traces: Traces,
    ) -> None:
        """go_seconds: how long after agreeing the others may take to agree too."""
        self._staged = staged
        self._sender = sender
        self._go_seconds = go_seconds
        self._send = send
        self._staged_new = staged_new
        self._traces = traces
        self._inbox: queue.Queue[Prepare | Go | SyncAborted | _Copied | None] = queue.Queue()
        self._epoch: tuple[int, str] = NO_EPOCH
        self.hold = threading.Lock()
        """A lock that is held while a weight sync is agreed to or under way."""
        self._probe: Float32 = np.empty(0, np.float32)
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._failure: BaseException | None = None
        self._thread.start()

    def check(self) -> None:
        """Raise PublisherDiedError if the thread has ended by surprise."""
        if self._failure is not None:
            raise PublisherDiedError(
                f"the publisher's thread died of {self._failure!r}: nobody would get new weights"
            ) from self._failure

    def copied(self, version: int, *, probe: Float32) -> None:
        """Take note that a version lies in the staged region. probe: its log-probabilities."""
        self._inbox.put(_Copied(version, probe))

    def receive(self, message: FromCoordinator) -> None:
        """Hand in a message, from any thread."""
        if isinstance(message, Prepare | Go | SyncAborted):
            self._inbox.put(message)

    def close(self) -> None:
        """Leave the group, once a transfer under way is over (it has a deadline)."""
        self._inbox.put(None)
        self._thread.join()
        self._sender.close()

    def _run(self) -> None:
        try:
            message = self._inbox.get()
            while message is not None:
                if isinstance(message, Prepare):
                    message = self._agree(message)
                    continue
                if isinstance(message, _Copied):
                    self._seal(message)
                message = self._inbox.get()
        except BaseException as error:
            log.exception("the publisher's thread died")
            self._failure = error

    def _seal(self, copied: _Copied) -> None:
        self._staged.seal(copied.version)
        if self._staged.version == copied.version:
            self._probe = copied.probe
            self._staged_new()

    def _agree(self, prepare: Prepare) -> Prepare | Go | SyncAborted | _Copied | None:
        """Answer one `Prepare`; returns the next message to deal with."""
        with self.hold:
            if prepare.epoch != self._epoch[0]:
                self._epoch = prepare.epoch, self._sender.new_rendezvous()
            version = self._staged.version
            if version is None:
                self._send(SyncFailed(sync=prepare.sync, reason="has no weights staged"))
                return self._inbox.get()
            tensors = self._staged.layout.pack()
            layout = fingerprint(tensors)
            self._send(
                Prepared(
                    sync=prepare.sync,
                    layout=layout,
                    version=version,
                    rendezvous=self._epoch[1],
                    tensors=b"" if prepare.layout == layout else tensors,
                    checksums=list(self._staged.checksums),
                )
            )
            deadline = time.monotonic() + self._go_seconds
            while True:
                try:
                    message = self._inbox.get(timeout=max(0.0, deadline - time.monotonic()))
                except queue.Empty:
                    log.warning("weight sync %d: no word after agreeing to it", prepare.sync)
                    break
                if isinstance(message, Go) and message.sync == prepare.sync:
                    self._transfer(prepare, version)
                    break
                if isinstance(message, SyncAborted) and message.sync == prepare.sync:
                    break
                if message is None or isinstance(message, Prepare | _Copied):
                    return message
        return self._inbox.get()

    def _transfer(self, prepare: Prepare, version: int) -> None:
        trace, began = self._traces.broadcast(prepare.sync), time.time_ns()
        try:
            result = self._sender.send(
                self._staged,
                rendezvous=self._epoch[1],
                world_size=prepare.world_size,
                timeout=prepare.deadline,
            )
        except (TransferFailed, RuntimeError, OSError) as error:
            log.warning("weight sync %d of version %d failed: %s", prepare.sync, version, error)
            self._epoch = NO_EPOCH
            if trace is not None:
                trace.span("send", start=began, end=time.time_ns(), error=str(error))
            self._send(SyncFailed(sync=prepare.sync, reason=f"could not send: {error}"))
            return
        if trace is not None:
            trace.span("send", start=began, end=time.time_ns(), version=version)
        log.info("version %d sent in %.3f s", version, result.seconds)
        self._send(
            Sent(
                sync=prepare.sync,
                checksums=list(self._staged.checksums),
                probe=self._probe.astype("<f4").tobytes() if prepare.probe else b"",
                seconds=result.seconds,
            )
        )
