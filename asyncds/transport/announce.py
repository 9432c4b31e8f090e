"""A word to the coordinator of a process that is not yet able to take part."""

import uuid

import zmq

from asyncds.config.operation import CoordinatorConfig
from asyncds.protocol.codec import encode
from asyncds.protocol.wire import Starting
from asyncds.transport.keys import ClientKeys

LINGER_MS = 2000
"""Milliseconds that the word may take. It is for display: a start goes on without it."""


def announce(
    settings: CoordinatorConfig, *, name: str, doing: str, keys: ClientKeys | None
) -> None:
    """Say once that a process is being started, and leave no thread or socket behind.

    An engine's processes are forked next, and would inherit both. name: that it will join with.
    keys: of an encrypted link. Blocks for LINGER_MS at most where no coordinator is there yet.
    """
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, LINGER_MS)
        socket.setsockopt(zmq.IDENTITY, f"{name[:64]}:{uuid.uuid4().hex[:8]}".encode())
        if keys is not None:
            keys.apply(socket)
        socket.connect(f"tcp://{settings.host}:{settings.port}")
        socket.send(encode(Starting(name=name[:64], doing=doing)))
