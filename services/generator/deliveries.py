"""Deliveries: groups and failures, repeated until the coordinator has acknowledged them."""

import time
from dataclasses import dataclass, field

from asyncds.protocol.wire import Delivered, LeaseFailed
from asyncds.telemetry.traces.spans import attempt_key
from asyncds.telemetry.traces.traces import Traces
from asyncds.transport.link import Link


@dataclass(kw_only=True)
class _Unacknowledged:
    """A message that was sent `sends` times.

    sent: when it last was, by the monotonic clock. since: when it first was, in ns since 1970.
    """

    message: Delivered | LeaseFailed
    sent: float
    sends: int = 1
    since: int = field(default_factory=time.time_ns)


class Deliveries:
    """The outcomes of leases that are sent and not acknowledged yet, by lease."""

    def __init__(self, *, traces: Traces) -> None:
        self._traces = traces
        self._waiting: dict[int, _Unacknowledged] = {}

    def __contains__(self, lease: int) -> bool:
        return lease in self._waiting

    @property
    def leases(self) -> list[int]:
        return list(self._waiting)

    def keep(self, outcome: Delivered | LeaseFailed) -> None:
        """Keep an outcome that the caller sends for the first time."""
        self._waiting[outcome.lease] = _Unacknowledged(message=outcome, sent=time.monotonic())

    def resend(self, link: Link, *, older_than: float) -> None:
        """Repeat what was last sent `older_than` seconds ago or earlier."""
        now = time.monotonic()
        for waiting in list(self._waiting.values()):
            if now - waiting.sent >= older_than:
                waiting.sent = now
                waiting.sends += 1
                link.send(waiting.message)

    def acknowledged(self, lease: int) -> None:
        """Forget an outcome that the coordinator has, and trace how long that took."""
        done = self._waiting.pop(lease, None)
        if done is not None and (trace := self._traces.lease(lease)):
            trace.span(
                "deliver",
                start=done.since,
                end=time.time_ns(),
                parent=attempt_key(done.message.attempt),
                sends=done.sends,
            )

    def forget(self, lease: int) -> None:
        """Forget an outcome that nobody wants any more."""
        self._waiting.pop(lease, None)
