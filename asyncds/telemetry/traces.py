"""Traces: one for every lease and every broadcast of weights, over all processes.

No context travels with messages. The ids of a trace, and of those spans that have children, are
hashes of the run's id, what the trace is about and the span's name, so that every process knows
them; and a share of the traces is chosen by their ids, so that all choose the same ones. A span is
reported when it is over, with its times, by whoever knows them.
"""

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Protocol

from asyncds.config.schema import TracesConfig
from asyncds.telemetry.catalogue import Role

Value = str | int | float | bool | Sequence[str]

_DISTRIBUTIONS = ("opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http")
_ROOT = "root"


@dataclass(frozen=True, kw_only=True)
class Span:
    """What happened from `start` to `end`, in nanoseconds since 1970. parent: the id of its parent
    span, None of the root. error: why it failed, "" if it did not."""

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
        return _hash(f"{self.id}/{key}", 8)

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


class Traces:
    """A process's part in the traces of its run; nothing at all where they are off."""

    def __init__(self, config: TracesConfig | None, *, run: str, role: Role, name: str) -> None:
        """config: None where they are off. run: its name. name: of the process, a `role`.

        Raises ValueError if a package is missing.
        """
        self._share = 0.0 if config is None else config.sample
        self._sink: Sink | None = None
        self.run_id = ""
        """Of the run, unlike any other's: nothing is traced before it is known."""
        if config is not None:
            if problem := missing_package():
                raise ValueError(problem)
            from asyncds.telemetry.otlp import OtlpSink

            self._sink = OtlpSink(endpoint=config.endpoint, run=run, role=role, name=name)

    @property
    def on(self) -> bool:
        """Whether anything may be traced."""
        return self._sink is not None

    def lease(self, lease: int) -> Trace | None:
        """The trace of a lease; None where it is not one of those that are traced."""
        return self._trace("lease", lease)

    def broadcast(self, sync: int) -> Trace | None:
        """The same of a broadcast of weights."""
        return self._trace("broadcast", sync)

    def close(self) -> None:
        """Send what is there, but not for long."""
        if self._sink is not None:
            self._sink.close()

    def _trace(self, kind: str, number: int) -> Trace | None:
        if self._sink is None or not self.run_id:
            return None
        id = _hash(f"{self.run_id}/{kind}/{number}", 16)
        # Of the lower bits, like OpenTelemetry's own sampler: a collector may choose likewise.
        if id % 2**64 >= self._share * 2**64:
            return None
        return Trace(id=id, subject={kind: number}, sink=self._sink)


def attempt_key(attempt: int) -> str:
    """The key of the span of a lease's attempt."""
    return f"attempt {attempt}"


def nanoseconds(seconds: float) -> int:
    """Of a span's times and durations."""
    return round(seconds * 1e9)


def missing_package() -> str:
    """What is not installed and how to mend it, in a sentence; "" if all is there."""
    for name in _DISTRIBUTIONS:
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            return (
                f"telemetry.traces needs the package {name}: install `asyncds[otel]`, or leave "
                "telemetry.traces out"
            )
    return ""


def _hash(text: str, size: int) -> int:
    """size: in bytes. Never 0, which means "no id"."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:size], "big") or 1
