"""Meanings of a client's failed handshakes, in sentences."""

import logging

import zmq

from asyncds.transport.keys import ClientKeys

log = logging.getLogger(__name__)

HANDSHAKES = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
"""The events of a socket that are of interest."""


class Handshakes:
    """Judges the handshakes with the coordinator at `address`.

    keys: None if the coordinator's links are not encrypted. trouble: why the last handshake failed,
    if it may become right by itself; "" after one that succeeded.
    """

    def __init__(self, address: str, *, keys: ClientKeys | None) -> None:
        self.trouble = ""
        self._address = address
        self.keys = keys

    def refusal(self, event: zmq.Event, value: int) -> str:
        """Take note of an event; returns why the link is over, or "".

        A link is over where a failure can't become right by itself: ZeroMQ does not try again
        either.
        """
        if event & zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self.trouble = ""
            return ""
        if event & zmq.EVENT_HANDSHAKE_FAILED_AUTH and self.keys is not None:
            return (
                f"the coordinator at {self._address} does not allow the key in "
                f"{self.keys.secret_file}: put its public key into the coordinator's directory of "
                "allowed clients"
            )
        if value == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
            return (
                f"the coordinator at {self._address} wants encrypted links: set coordinator.curve "
                "to this process's keys"
                if self.keys is None
                else f"the coordinator at {self._address} does not encrypt its links: set "
                "coordinator.curve for it too, or for neither"
            )
        trouble = (
            "who listens there breaks every handshake off: is it the coordinator?"
            if self.keys is None
            else "who listens there breaks every handshake off: is the public key in "
            f"{self.keys.server_file} the coordinator's?"
        )
        if trouble != self.trouble:
            log.warning("the coordinator at %s: %s", self._address, trouble)
            self.trouble = trouble
        return ""
