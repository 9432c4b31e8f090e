"""What frames of a simulated run travel on: nothing, or a real ZeroMQ connection for every peer."""

import time
from collections import Counter, defaultdict, deque
from typing import Protocol

import zmq

from asyncds.transport.router import Router

KNOCK = b"knock"
"""No message: it shows that a connection is up, in both directions."""
DEADLINE = 60.0
RECONNECT_MS = 20
Frames = list[tuple[bytes, bytes]]
"""(peer, frame), in the order in which they travel."""


class Links(Protocol):
    """Carries frames between peers and the coordinator, and returns those that arrived."""

    def up(self, frames: Frames) -> Frames: ...
    def down(self, frames: Frames) -> Frames: ...
    def connect(self, peer: bytes) -> None: ...
    def disconnect(self, peer: bytes) -> None: ...
    def start_coordinator(self) -> None: ...
    def kill_coordinator(self) -> None: ...
    def close(self) -> None: ...


class NoLinks:
    """Frames are handed over."""

    def up(self, frames: Frames) -> Frames:
        return frames

    def down(self, frames: Frames) -> Frames:
        return frames

    def connect(self, peer: bytes) -> None:
        pass

    def disconnect(self, peer: bytes) -> None:
        pass

    def start_coordinator(self) -> None:
        pass

    def kill_coordinator(self) -> None:
        pass

    def close(self) -> None:
        pass


class SocketLinks:
    """The coordinator's own `Router`, and a DEALER for every peer.

    In step: `up` and `down` return when all they were given has arrived at the other end, in the
    order it was given in. So a seed gives the same run as without sockets.
    """

    def __init__(self) -> None:
        self._context = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, self._context.get(zmq.SOCKET_LIMIT))
        self._dealers: dict[bytes, zmq.Socket[bytes]] = {}
        self._new: set[bytes] = set()
        self._router: Router | None = None
        self._port = 0

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._dealers)

    def start_coordinator(self) -> None:
        self._router = Router(host="127.0.0.1", port=self._port)
        self._port = self._router.port
        self._new = set(self._dealers)

    def kill_coordinator(self) -> None:
        assert self._router is not None
        self._router.close()
        self._router = None

    def connect(self, peer: bytes) -> None:
        """A connection for `peer`, in the place of the one it has."""
        self.disconnect(peer)
        socket = self._context.socket(zmq.DEALER)
        for option in (zmq.LINGER, zmq.SNDHWM, zmq.RCVHWM):
            socket.setsockopt(option, 0)
        socket.setsockopt(zmq.IDENTITY, peer)
        socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        socket.setsockopt(zmq.RCVTIMEO, int(DEADLINE * 1000))
        socket.connect(f"tcp://127.0.0.1:{self._port}")
        self._dealers[peer] = socket
        self._new.add(peer)

    def disconnect(self, peer: bytes) -> None:
        if peer in self._dealers:
            self._dealers.pop(peer).close()
            self._new.discard(peer)

    def up(self, frames: Frames) -> Frames:
        router = self._knock()
        waiting = Counter(peer for peer, _ in frames if peer in self._dealers)
        for peer, frame in frames:
            if peer in waiting:
                self._dealers[peer].send(frame, zmq.NOBLOCK)
        arrived: defaultdict[bytes, deque[bytes]] = defaultdict(deque)
        missing, deadline = waiting.total(), time.monotonic() + DEADLINE
        while missing:
            assert time.monotonic() < deadline, f"{missing} frames did not arrive"
            for peer, frame in router.receive(1.0):
                if frame != KNOCK:
                    arrived[peer].append(frame)
                    missing -= 1
        # Who has left meanwhile: what it had sent before is on its way.
        return [(p, arrived[p].popleft() if p in waiting else frame) for p, frame in frames]

    def down(self, frames: Frames) -> Frames:
        router = self._knock()
        for peer, frame in frames:
            sent = router.send(peer, frame)
            assert sent or peer not in self._dealers, f"{peer!r} can't be reached"
        return [
            (p, self._dealers[p].recv() if p in self._dealers else frame) for p, frame in frames
        ]

    def close(self) -> None:
        if self._router is not None:
            self.kill_coordinator()
        self._context.destroy(linger=0)

    def _knock(self) -> Router:
        """Wait until the router knows every new connection. What a connection loses that breaks
        with its router is only ever a knock."""
        assert self._router is not None
        deadline = time.monotonic() + DEADLINE
        while self._new:
            assert time.monotonic() < deadline, f"{len(self._new)} connections do not come up"
            for peer in self._new:
                self._dealers[peer].send(KNOCK, zmq.NOBLOCK)
            again = time.monotonic() + 0.5
            while self._new and time.monotonic() < again:
                self._new -= {p for p, frame in self._router.receive(0.1) if frame == KNOCK}
        return self._router
