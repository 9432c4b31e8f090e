"""Frames that the coordinator does not act on."""

import logging

from asyncds.transport.rejections import LogLimiter

log = logging.getLogger(__name__)


class RejectedFrames:
    """Counts frames that are no message, or say what their sender can't say.

    It logs one a minute of each sender.
    """

    def __init__(self) -> None:
        self.count = 0
        self._limiter = LogLimiter()

    def add(self, peer: bytes, reason: str, now: float) -> None:
        """One from `peer`, and what is wrong with it."""
        self.count += 1
        if self._limiter.allows(peer.hex(), now):
            # As a literal, since it may quote the frame.
            log.warning("frame from %s rejected: %.300r", peer[:40], reason)
