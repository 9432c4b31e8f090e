"""The gate: the allow-list of keys, and the ZAP server that ZeroMQ asks at each handshake.

ZAP is ZeroMQ RFC 27. Keys are Z85 text.
"""

import logging
from pathlib import Path
from typing import Any

import zmq
from zmq.utils import z85

from asyncds.transport.keys import KeyFileError, clients_stamp, read_clients
from asyncds.transport.rejections import Rejections

log = logging.getLogger(__name__)

RELOAD_SECONDS = 1.0
"""How often the directory is looked at."""
DOMAIN = b"control"
AT_ONCE = 100
"""Handshakes decided in one go, so that a flood of them does not keep messages waiting."""


class AllowList:
    """The public keys in a directory; `refresh` notices what was added and taken away."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._keys: dict[bytes, str] = {}
        self._stamp: object = None
        self._next = 0.0
        self._unreadable = ""

    def __contains__(self, key: bytes) -> bool:
        return key in self._keys

    def refresh(self, now: float) -> None:
        """Read the directory again if it has changed, at most every RELOAD_SECONDS.

        A directory that can't be read leaves the list as it is; a file that can't be read is a key
        that is not allowed.
        """
        if now < self._next:
            return
        self._next = now + RELOAD_SECONDS
        try:
            stamp = clients_stamp(self._directory)
            if stamp == self._stamp:
                return
            keys, problems = read_clients(self._directory)
        except KeyFileError as error:
            if str(error) != self._unreadable:
                log.error("%s; those allowed so far stay allowed", error)
                self._unreadable = str(error)
            return
        for problem in problems:
            log.warning("not allowed in: %s", problem)
        added = [name for key, name in keys.items() if key not in self._keys]
        removed = [name for key, name in self._keys.items() if key not in keys]
        for what, names in (("allowed", added), ("no longer allowed", removed)):
            if names:
                log.info("clients %s: %s", what, ", ".join(names))
        self._stamp, self._keys, self._unreadable = stamp, keys, ""


class Gate:
    """Answers for one context, whose sockets must be made to ask by `guard`."""

    def __init__(
        self, *, context: "zmq.Context[Any]", allowed: AllowList, rejections: Rejections
    ) -> None:
        self._allowed = allowed
        self._rejections = rejections
        self.socket = context.socket(zmq.REP)
        """Readable when `answer` has something to do."""
        self.socket.bind("inproc://zeromq.zap.01")

    def guard(self, socket: "zmq.Socket[Any]") -> None:
        """Let nobody into `socket` who was not asked about here."""
        socket.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
        # Without it ZeroMQ lets everyone in when nobody answers.
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)

    def answer(self, now: float) -> None:
        """Decide the handshakes that wait. The user id of who is let in is the key."""
        for _ in range(AT_ONCE):
            try:
                request = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            version, number, _, address, _, mechanism, *credentials = request
            key = z85.encode(credentials[0]) if mechanism == b"CURVE" else b""
            if key in self._allowed:
                self.socket.send_multipart([version, number, b"200", b"", key, b""])
                continue
            self.socket.send_multipart([version, number, b"400", b"", b"", b""])
            self._rejections.add(
                "not_allowed",
                address=address.decode(errors="replace"),
                what=f"its public key {key.decode()} is not among the allowed clients",
                now=now,
            )

    def close(self) -> None:
        """Let nobody in any more."""
        self.socket.close(0)
