"""Asking a running coordinator how the run is doing, or to end it."""

import logging

import zmq

from asyncds.protocol.codec import decode_from_coordinator, encode
from asyncds.protocol.records import RunStatus
from asyncds.protocol.wire import Message, Observe, Status, Stop
from asyncds.transport.keys import ClientKeys

log = logging.getLogger(__name__)


class Observer:
    """A short-spoken client of the control plane. keys: of an encrypted link."""

    def __init__(self, address: str, *, keys: ClientKeys | None = None) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 1000)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        if keys is not None:
            keys.apply(self._socket)
        self._socket.connect(address)

    def status(self, timeout: float) -> RunStatus | None:
        """Ask for the newest status; None if no answer comes within `timeout` seconds.

        It may be the late answer to an earlier question.
        """
        self._send(Observe())
        answer = None
        while self._socket.poll(int(timeout * 1000) if answer is None else 0):
            message = decode_from_coordinator(self._socket.recv())
            if isinstance(message, Status):
                answer = message.run
        return answer

    def stop(self, reason: str, *, failed: bool = False) -> None:
        """Ask for an orderly end. failed: the run can't go on, and its status says so."""
        self._send(Stop(reason=reason, failed=failed))

    def _send(self, message: Message) -> None:
        # Where a handshake was refused there is no connection, and a blocking send waits for ever.
        try:
            self._socket.send(encode(message), zmq.NOBLOCK)
        except zmq.Again:
            log.debug("no connection to send on: the handshake was refused")

    def close(self) -> None:
        """Close the connection."""
        self._context.destroy(linger=1000)
