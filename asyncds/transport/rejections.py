"""Connections that were turned away: counted, and logged without filling the log."""

import logging
from collections import Counter

log = logging.getLogger(__name__)

QUIET_SECONDS = 60.0
"""The time in which an address gets at most one line."""
MAX_ADDRESSES = 1000
"""Addresses remembered; beyond it nothing is logged, only counted."""
REASONS = ("not_allowed", "handshake", "endless")
"""A key that is not on the list; no handshake as it should be: not encrypted, made for another
server key, broken off, or noise; or, once it was let in, a message that did not end."""


class LogLimiter:
    """Says when to log something that an enemy may cause as often as he likes."""

    def __init__(self) -> None:
        self._logged: dict[str, float] = {}

    def allows(self, address: str, now: float) -> bool:
        """Whether a line about `address` is due. True counts as logged."""
        if now - self._logged.get(address, -QUIET_SECONDS) < QUIET_SECONDS:
            return False
        if len(self._logged) >= MAX_ADDRESSES:
            self._logged = {a: at for a, at in self._logged.items() if now - at < QUIET_SECONDS}
        if len(self._logged) >= MAX_ADDRESSES:
            return False
        self._logged[address] = now
        return True


class Rejections:
    """The connections that were turned away, counted by reason."""

    def __init__(self) -> None:
        self.counts = Counter(dict.fromkeys(REASONS, 0))
        self._log_limiter = LogLimiter()

    def add(self, reason: str, *, address: str, what: str, now: float) -> None:
        """Count a rejection. what: completes "refused a connection from ADDRESS: …"."""
        self.counts[reason] += 1
        if self._log_limiter.allows(address, now):
            log.warning("refused a connection from %s: %s", address, what)
