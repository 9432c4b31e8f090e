"""The coordinator's end of the control plane: one ZeroMQ ROUTER socket."""

import zmq

from asyncds.rollout.codec import MAX_FRAME_BYTES


class BindError(Exception):
    """The address can't be bound; the message says why."""


class Router:
    """Receives frames from any peer and sends frames to a peer it has heard from."""

    def __init__(self, *, host: str, port: int) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 2000)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
        # A peer that reconnects under its old identity takes it over; one that went is an error
        # we see, not a silent drop.
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        # Peers keep what is unacknowledged, so these buffers need no bound of their own.
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.setsockopt(zmq.HEARTBEAT_IVL, 2000)
        self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 20000)
        try:
            if port:
                self._socket.bind(f"tcp://{host}:{port}")
                self.port = port
            else:
                self.port = self._socket.bind_to_random_port(f"tcp://{host}")
        except zmq.ZMQError as error:
            self.close()
            raise BindError(
                f"cannot bind coordinator.host {host}, coordinator.port {port}: {error.strerror}"
            ) from error

    def receive(self, timeout: float) -> list[tuple[bytes, bytes]]:
        """(peer, frame) of everything that has arrived; waits up to `timeout` s for the first."""
        received: list[tuple[bytes, bytes]] = []
        if not self._socket.poll(int(timeout * 1000)):
            return received
        while len(received) < 1000:
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            # Anything but [peer, frame] is not ours; an empty frame fails to decode and is counted.
            received.append((parts[0], parts[1] if len(parts) == 2 else b""))
        return received

    def send(self, peer: bytes, frame: bytes) -> bool:
        """Queue a frame. False if the peer is not connected (it will introduce itself again)."""
        try:
            self._socket.send_multipart([peer, frame], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise
            return False
        return True

    def close(self) -> None:
        """Send what is queued (for at most two seconds) and close."""
        self._socket.close()
        self._context.term()
