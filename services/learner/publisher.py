"""Publishing weights while training goes on: rank 0's side of the two-phase broadcast."""

import json
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import asdict

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
from asyncds.weights.sender import WeightSender
from asyncds.weights.staging import StagedWeights

log = logging.getLogger(__name__)


class Publisher:
    """Sends the staged weights whenever the coordinator has gathered who needs them.

    A thread of its own takes `Prepare`, `Go` and `SyncAborted`. From the moment it agrees to a
    broadcast until that is over, what is staged is held: `hold` (which staging takes) waits.
    """

    def __init__(
        self,
        *,
        staged: StagedWeights,
        sender: WeightSender,
        go_seconds: float,
        send: Callable[[Message], None],
        traces: Traces,
    ) -> None:
        """go_seconds: how long after agreeing the others may take to agree too."""
        self._staged = staged
        self._sender = sender
        self._go_seconds = go_seconds
        self._send = send
        self._traces = traces
        self._inbox: queue.Queue[Prepare | Go | SyncAborted | None] = queue.Queue()
        self._epoch = -1
        self._rendezvous = ""
        self._layout = {
            "bucket_bytes": staged.bucket_bytes,
            "specs": [asdict(s) for s in staged.specs],
        }
        self.hold = threading.Lock()
        """Held while a broadcast is agreed or under way."""
        self.probe: Float32 = np.empty(0, np.float32)
        """Log-probabilities of the probe under the staged weights; set together with them."""
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._thread.start()

    def receive(self, message: FromCoordinator) -> None:
        """Hand in a message, from any thread."""
        if isinstance(message, Prepare | Go | SyncAborted):
            self._inbox.put(message)

    def close(self) -> None:
        """Leave the group, once a broadcast under way is over (it has a deadline)."""
        self._inbox.put(None)
        self._thread.join()
        self._sender.close()

    def _run(self) -> None:
        message = self._inbox.get()
        while message is not None:
            message = self._agree(message) if isinstance(message, Prepare) else self._inbox.get()

    def _agree(self, prepare: Prepare) -> Prepare | Go | SyncAborted | None:
        """Answer one `Prepare`; returns the next message to deal with."""
        with self.hold:
            if prepare.epoch != self._epoch:
                self._epoch, self._rendezvous = prepare.epoch, self._sender.new_rendezvous()
            version = self._staged.version
            if version is None:
                self._send(SyncFailed(sync=prepare.sync, reason="has no weights staged"))
                return self._inbox.get()
            layout = self._layout | {"checksums": list(self._staged.checksums)}
            self._send(
                Prepared(
                    sync=prepare.sync,
                    version=version,
                    rendezvous=self._rendezvous,
                    layout=json.dumps(layout).encode(),
                )
            )
            deadline = time.monotonic() + self._go_seconds
            while True:
                try:
                    message = self._inbox.get(timeout=max(0.0, deadline - time.monotonic()))
                except queue.Empty:
                    log.warning("broadcast %d: no word after agreeing to it", prepare.sync)
                    break
                if isinstance(message, Go) and message.sync == prepare.sync:
                    self._broadcast(prepare, version)
                    break
                if isinstance(message, SyncAborted) and message.sync == prepare.sync:
                    break
                if message is None or isinstance(message, Prepare):
                    return message
        return self._inbox.get()

    def _broadcast(self, prepare: Prepare, version: int) -> None:
        trace, began = self._traces.broadcast(prepare.sync), time.time_ns()
        try:
            result = self._sender.send(
                self._staged,
                rendezvous=self._rendezvous,
                world_size=prepare.world_size,
                timeout=prepare.deadline,
            )
        except TransferFailed as error:
            log.warning("broadcast %d of version %d failed: %s", prepare.sync, version, error)
            self._epoch = -1
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
                version=version,
                checksums=list(self._staged.checksums),
                probe=self.probe.astype("<f4").tobytes() if prepare.probe else b"",
                seconds=result.seconds,
            )
        )
