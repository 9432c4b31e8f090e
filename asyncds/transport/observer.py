"""Asking a running coordinator how the run is doing, or to end it."""

from typing import Any

import zmq

from asyncds.rollout.codec import decode_from_coordinator, encode
from asyncds.rollout.wire import Observe, Status, Stop
from asyncds.transport.keys import ClientKeys


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

    def status(self, timeout: float) -> dict[str, Any] | None:
        """The newest status, or None if the coordinator does not answer within `timeout` s."""
        self._socket.send(encode(Observe()))
        answer = None
        while self._socket.poll(int(timeout * 1000) if answer is None else 0):
            message = decode_from_coordinator(self._socket.recv())
            if isinstance(message, Status):
                answer = message.run
        return answer

    def stop(self, reason: str) -> None:
        """Ask for an orderly end."""
        self._socket.send(encode(Stop(reason=reason)))

    def close(self) -> None:
        """Close the connection."""
        self._context.destroy(linger=1000)
