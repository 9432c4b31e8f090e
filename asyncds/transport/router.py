"""The coordinator's end of the control plane: one ZeroMQ ROUTER socket."""

import math
import os
import socket
import time
from contextlib import ExitStack
from typing import Any

import zmq

from asyncds.protocol.codec import MAX_FRAME_BYTES, encode
from asyncds.protocol.wire import Refused
from asyncds.transport.gate import AllowList, Gate
from asyncds.transport.keys import ServerKeys
from asyncds.transport.monitor import monitored, read_events
from asyncds.transport.rejections import Rejections
from asyncds.transport.unfinished import UnfinishedMessages

FAILED = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
UNKNOWN = "an unknown address"
MAX_PEERS = 10_000
"""Peers whose keys are remembered; who was silent for longer than so many others is forgotten."""


PEER_FRAMES = 1000
"""Frames of one peer that wait to be taken, and to be sent to it."""
UNFINISHED_BYTES = MAX_FRAME_BYTES + (32 << 20)
"""Bytes that may come over a connection without a whole message, before it is cut: the largest
frame, and what waits in the kernel behind it."""


class BindError(Exception):
    """The address can't be bound; the message says why."""


class Router:
    """A socket that receives frames from any peer and sends frames to a peer it has heard from.

    keys: links are encrypted, and only peers whose keys are allowed are heard and spoken to; a key
    that is taken off the list counts no more from then on, even on a link that is up.
    rejections: what was turned away.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        keys: ServerKeys | None = None,
        unfinished_bytes: int = UNFINISHED_BYTES,
    ) -> None:
        """unfinished_bytes: may come over a connection without a whole message."""
        self.rejections = Rejections()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 2000)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
        # A peer that reconnects under its old identity takes it over; one that went is an error
        # we see, not a silent drop.
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        # Bounds per peer, so that one that floods waits, and one that does not read gets no more.
        # Peers keep what is unacknowledged and repeat what is unanswered.
        self._socket.setsockopt(zmq.SNDHWM, PEER_FRAMES)
        self._socket.setsockopt(zmq.RCVHWM, PEER_FRAMES)
        self._socket.setsockopt(zmq.HEARTBEAT_IVL, 2000)
        self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 20000)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._open = ExitStack()
        self._monitor = self._open.enter_context(
            monitored(
                self._context, self._socket, zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | FAILED
            )
        )
        self._poller.register(self._monitor, zmq.POLLIN)
        self._failed = _FailedHandshakes()
        self._allowed: AllowList | None = None
        self._gate: Gate | None = None
        self._users: dict[bytes, bytes] = {}
        if keys is not None:
            self._encrypt(keys)
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
        self._unfinished = UnfinishedMessages(port=self.port, limit=unfinished_bytes)

    def receive(self, timeout: float) -> list[tuple[bytes, bytes]]:
        """(peer, frame) of everything that has arrived; waits up to `timeout` s for the first.

        Newcomers are let in or turned away meanwhile.
        """
        deadline = time.monotonic() + timeout
        while True:
            left = max(0.0, deadline - time.monotonic())
            ready = dict(self._poller.poll(math.ceil(left * 1000)))
            now = time.monotonic()
            if self._allowed is not None:
                self._allowed.refresh(now)
            if self._monitor in ready:
                self._watch(now)
            if self._gate is not None and self._gate.socket in ready:
                self._gate.answer(now)
            frames = self._frames(now) if self._socket in ready else []
            for address in self._unfinished.cut(now):
                what = "it sent a message that did not end"
                self.rejections.add("endless", address=address, what=what, now=now)
            if frames or now >= deadline:
                return frames

    def send(self, peer: bytes, frame: bytes) -> bool:
        """Queue a frame. Returns whether it could be.

        Not if the peer is not connected (it will introduce itself again), does not read what it is
        sent, or its key is no longer allowed.
        """
        if self._allowed is not None and self._users.get(peer, b"") not in self._allowed:
            return False
        return self._send(peer, frame)

    def close(self) -> None:
        """Send what is queued (for at most two seconds) and close."""
        self._open.close()
        self._socket.close()
        if self._gate is not None:
            self._gate.close()
        self._context.term()

    def _encrypt(self, keys: ServerKeys) -> None:
        keys.apply(self._socket)
        self._allowed = AllowList(keys.clients)
        self._allowed.refresh(time.monotonic())
        self._gate = Gate(context=self._context, allowed=self._allowed, rejections=self.rejections)
        self._gate.guard(self._socket)
        self._poller.register(self._gate.socket, zmq.POLLIN)

    def _send(self, peer: bytes, frame: bytes) -> bool:
        try:
            self._socket.send_multipart([peer, frame], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise
            return False
        return True

    def _frames(self, now: float) -> list[tuple[bytes, bytes]]:
        received: list[tuple[bytes, bytes]] = []
        for _ in range(1000):
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                break
            peer = parts[0].bytes
            descriptor = _property(parts[-1], zmq.SRCFD)
            if descriptor is not None:
                self._unfinished.heard(descriptor)
            if self._allowed is not None and not self._vouched(peer, parts[-1], now):
                continue
            # Anything but [peer, frame] is not ours; an empty frame fails to decode and is counted.
            received.append((peer, parts[1].bytes if len(parts) == 2 else b""))
        return received

    def _vouched(self, peer: bytes, frame: zmq.Frame, now: float) -> bool:
        """Whether the key that `peer` was let in with is still allowed; if not, it is told once."""
        assert self._allowed is not None
        user = str(_property(frame, "User-Id")).encode()
        known = self._users.pop(peer, None)
        if user in self._allowed:
            if len(self._users) >= MAX_PEERS:
                del self._users[next(iter(self._users))]
            self._users[peer] = user
            return True
        if known is not None:
            reason = "its key was taken off the coordinator's list of allowed clients"
            self.rejections.add(
                "not_allowed",
                address=_property(frame, "Peer-Address") or UNKNOWN,
                what=reason,
                now=now,
            )
            self._send(peer, encode(Refused(reason=reason)))
        return False

    def _watch(self, now: float) -> None:
        """Take note of connections that came, went, or failed to shake hands."""
        for event, value in read_events(self._monitor):
            if event & zmq.EVENT_ACCEPTED:
                self._unfinished.accepted(value)
            elif not event & FAILED:
                self._unfinished.closed(value)
            if (address := self._failed.note(event, value)) is not None:
                what = "it did not complete the handshake"
                if self._allowed is not None:
                    what += ": is it encrypted, and has it this coordinator's public key?"
                self.rejections.add("handshake", address=address, what=what, now=now)


class _FailedHandshakes:
    """Finds out whose handshakes failed.

    ZeroMQ tells the failure first, then which file descriptor is closed for it, so addresses are
    looked up while the connection is up; the address of one that was too short is not known.
    """

    def __init__(self) -> None:
        self._addresses: dict[int, str] = {}
        self._failing = False

    def note(self, event: zmq.Event, value: int) -> str | None:
        """Take note of an event; returns the address if it ends a failed handshake."""
        if event & zmq.EVENT_ACCEPTED:
            self._addresses[value] = _peer_address(value)
        elif event & FAILED:
            self._failing = True
        else:
            address, failing = self._addresses.pop(value, UNKNOWN), self._failing
            self._failing = False
            return address if failing else None
        return None


def _property(frame: zmq.Frame, name: str | int) -> Any:
    """Ask ZeroMQ what it knows of who sent a frame.

    None where its connection was reset before it was accepted: nothing is known then.
    """
    try:
        return frame.get(name)
    except zmq.ZMQError as error:
        if error.errno != zmq.EINVAL:
            raise
        return None


def _peer_address(descriptor: int) -> str:
    """Look up the address at the other end of a connection.

    By now it may be closed, and its number another file's.
    """
    try:
        copy = os.dup(descriptor)
    except OSError:
        return UNKNOWN
    try:
        connection = socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        return UNKNOWN
    with connection:
        try:
            return str(connection.getpeername()[0])
        except (OSError, IndexError):
            return UNKNOWN
