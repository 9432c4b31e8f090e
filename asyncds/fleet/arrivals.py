"""Arrivals: processes that have said that they are being started and have not joined yet."""

from collections.abc import Iterator
from dataclasses import dataclass

REMEMBERED_SECONDS = 3600.0
"""Seconds after which an arrival that never joined is forgotten."""
MOST = 10_000
"""Arrivals that are remembered at most; a further one is not noted."""


@dataclass(frozen=True)
class Arrival:
    """A process that is being started. doing: what, in words. since: when it said so."""

    name: str
    doing: str
    since: float


class Arrivals:
    """The arrivals by name, for display: nothing is decided by them."""

    def __init__(self) -> None:
        self._arrivals: dict[str, Arrival] = {}

    def __iter__(self) -> Iterator[Arrival]:
        return iter(self._arrivals.values())

    def get(self, name: str) -> Arrival | None:
        """The arrival called `name`."""
        return self._arrivals.get(name)

    def said(self, name: str, doing: str, now: float) -> None:
        """Take note of a process that is being started, also for the second time."""
        self._forget_the_old(now)
        if len(self._arrivals) < MOST or name in self._arrivals:
            self._arrivals[name] = Arrival(name, doing, now)

    def joined(self, name: str) -> None:
        """Take note that a process has joined."""
        self._arrivals.pop(name, None)

    def _forget_the_old(self, now: float) -> None:
        old = [a.name for a in self if now - a.since > REMEMBERED_SECONDS]
        for name in old:
            del self._arrivals[name]
