"""A monitor of a socket's connections: ZeroMQ's own events."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import zmq
from zmq.utils.monitor import parse_monitor_message


@contextmanager
def monitored(
    context: "zmq.Context[Any]", socket: "zmq.Socket[Any]", events: int
) -> Iterator["zmq.Socket[bytes]"]:
    """A socket that `read_events` reads; while the block runs it must be read now and then."""
    address = f"inproc://monitor-{id(socket)}"
    socket.monitor(address, events)
    pair = context.socket(zmq.PAIR)
    # With a bound, ZeroMQ's thread would wait for us while it holds a lock that closing needs.
    pair.setsockopt(zmq.RCVHWM, 0)
    pair.connect(address)
    try:
        yield pair
    finally:
        socket.monitor(None, 0)
        pair.close(0)


def read_events(pair: "zmq.Socket[bytes]") -> Iterator[tuple[zmq.Event, int]]:
    """(event, value) of everything that has happened since the last call."""
    while pair.poll(0):
        event = parse_monitor_message(pair.recv_multipart())
        yield zmq.Event(event["event"]), event["value"]
