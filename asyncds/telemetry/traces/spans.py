"""Spans, and the traces that they belong to: ids that every process computes for itself.

No context travels with messages. The ids of a trace, and of those spans that have children, are
hashes of the run's id, what the trace is about and the span's name, so that every process knows
them; and a share of the traces is chosen by their ids, so that all choose the same ones. A span is
reported when it is over, with its times, by whoever knows them.
"""

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

Value = str | int | float | bool | Sequence[str]

_ROOT = "root"


@dataclass(frozen=True, kw_only=True)
class Span:
    """A span from `start` to `end`, in nanoseconds since 1970.

    parent: the id of its parent span, None of the root. error: why it failed, "" if it did not.
    """

    trace: int
    id: int
    parent: int | None
    name: str
    start: int
    end: int
    attributes: Mapping[str, Value] = field(default_factory=dict)
    error: str = ""


class Sink(Protocol):
    """Where spans go; it must not block."""

    def report(self, span: Span) -> None:
        """Take a span that is over."""

    def close(self) -> None:
        """Send what is there, but not for long."""


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One trace that was chosen. subject: the attribute that all of its spans have."""

    id: int
    subject: Mapping[str, Value]
    sink: Sink

    def root(
        self, name: str, *, start: int, end: int, error: str = "", **attributes: Value
    ) -> None:
        """The span that all others are in; reported by one process, once."""
        self._report(name, self._id(_ROOT), None, start, end, error, attributes)

    def span(
        self,
        name: str,
        *,
        start: int,
        end: int,
        error: str = "",
        key: str = "",
        parent: str = _ROOT,
        **attributes: Value,
    ) -> None:
        """Another. key: by which its children name it as their `parent`."""
        id = self._id(key) if key else random.getrandbits(64) or 1
        self._report(name, id, self._id(parent), start, end, error, attributes)

    def _id(self, key: str) -> int:
        return hashed(f"{self.id}/{key}", 8)

    def _report(
        self,
        name: str,
        id: int,
        parent: int | None,
        start: int,
        end: int,
        error: str,
        attributes: Mapping[str, Value],
    ) -> None:
        self.sink.report(
            Span(
                trace=self.id,
                id=id,
                parent=parent,
                name=name,
                start=start,
                end=end,
                attributes={f"asyncds.{k}": v for k, v in {**self.subject, **attributes}.items()},
                error=error,
            )
        )


def attempt_key(attempt: int) -> str:
    """The key of the span of a lease's attempt."""
    return f"attempt {attempt}"


def nanoseconds(seconds: float) -> int:
    """Seconds of a span's times and durations, in nanoseconds."""
    return round(seconds * 1e9)


def hashed(text: str, size: int) -> int:
    """An id of `size` bytes, made from a text. Never 0, which means "no id"."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:size], "big") or 1
