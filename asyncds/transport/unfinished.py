"""Cuts off who sends a message that does not end.

ZeroMQ bounds the size of a frame, and the number of messages that wait; a message may have any
number of frames, though, which it collects until the last one is there. So the bytes that came over
a connection since its last whole message are watched, as the kernel counts them.
"""

import socket
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager

LOOK_SECONDS = 1.0
"""Seconds between two looks."""
_BYTES_RECEIVED = 128
"""Where `tcpi_bytes_received`, a u64, is in Linux's `struct tcp_info` (since Linux 4.1)."""


class UnfinishedMessages:
    """Watches the connections that were accepted at a port, by their file descriptors.

    limit: bytes that may come over one without a whole message.
    """

    def __init__(self, *, port: int, limit: int) -> None:
        self._port = port
        self._limit = limit
        self._at_last: dict[int, int] = {}
        """Bytes that had come over a connection when it last was known to have no message open."""
        self._heard: set[int] = set()
        self._look_at = 0.0

    def accepted(self, descriptor: int) -> None:
        """Watch a connection that was accepted."""
        self._at_last[descriptor] = 0
        self._heard.discard(descriptor)

    def closed(self, descriptor: int) -> None:
        """Forget a connection that was closed."""
        self._at_last.pop(descriptor, None)

    def heard(self, descriptor: int) -> None:
        """Note that a whole message came over a connection."""
        self._heard.add(descriptor)

    def cut(self, now: float) -> list[str]:
        """Break off the connections that are over the limit; returns their addresses.

        To be called after messages were taken.
        """
        if now < self._look_at:
            return []
        self._look_at = now + LOOK_SECONDS
        heard, self._heard = self._heard, set()
        addresses = []
        for descriptor, at_last in list(self._at_last.items()):
            with self._connection(descriptor) as connection:
                if connection is None:
                    continue
                received = _bytes_received(connection)
                if descriptor in heard:
                    self._at_last[descriptor] = received
                elif received - at_last > self._limit:
                    addresses.append(str(connection.getpeername()[0]))
                    connection.shutdown(socket.SHUT_RDWR)
                    self.closed(descriptor)
        return addresses

    @contextmanager
    def _connection(self, descriptor: int) -> Iterator[socket.socket | None]:
        """Yield the connection of a descriptor; None if it is not, or no more, one to the port."""
        try:
            copy = socket.fromfd(descriptor, socket.AF_INET, socket.SOCK_STREAM)
        except OSError:
            yield None
            return
        with closing(copy):
            try:
                ours = copy.getsockname()[1] == self._port and copy.getpeername()
            except (OSError, IndexError):
                ours = False
            yield copy if ours else None


def _bytes_received(connection: socket.socket) -> int:
    """Bytes received over a connection; 0 where the system does not count them."""
    option = getattr(socket, "TCP_INFO", None)
    if option is None:
        return 0
    info = connection.getsockopt(socket.IPPROTO_TCP, option, 256)
    if len(info) < _BYTES_RECEIVED + 8:
        return 0
    return int(struct.unpack_from("=Q", info, _BYTES_RECEIVED)[0])
