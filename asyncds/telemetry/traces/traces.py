"""The part of one process in the traces of its run.

There is one trace for every lease and for every weight sync, over all processes.
"""

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from asyncds.config.operation import TracesConfig
from asyncds.telemetry.metrics.declaration import Role
from asyncds.telemetry.traces.spans import Sink, Span, Trace, Value, hashed
from asyncds.telemetry.traces.timeline import FOLDER, TimelineFile

_DISTRIBUTIONS = ("opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http")


class Traces:
    """A process's part in the traces of its run; nothing at all where they are off."""

    def __init__(
        self,
        config: TracesConfig | None,
        *,
        run: str,
        role: Role,
        name: str,
        run_dir: Path | None = None,
    ) -> None:
        """config: None where they are off. run: its name. name: of the process, a `role`.

        run_dir: where a timeline goes. Raises ValueError if a package is missing, OSError if the
        timeline can't be written.
        """
        self._share = 0.0 if config is None else config.sample
        self._timeline: TimelineFile | None = None
        self.run_id = ""
        """The id of the run, unlike any other's: nothing is traced before it is known."""
        sinks: list[Sink] = []
        if config is not None and config.endpoint is not None:
            if problem := missing_package():
                raise ValueError(problem)
            from asyncds.telemetry.traces.otlp import OtlpSink

            sinks.append(OtlpSink(endpoint=config.endpoint, run=run, role=role, name=name))
        if config is not None and config.timeline and run_dir is not None:
            self._timeline = TimelineFile(run_dir / FOLDER, name=name)
            sinks.append(self._timeline)
        self._sink = _Sinks(sinks) if sinks else None

    @property
    def on(self) -> bool:
        """Whether anything may be traced."""
        return self._sink is not None

    def lease(self, lease: int) -> Trace | None:
        """The trace of a lease; None where it is not one of those that are traced."""
        return self._trace("lease", lease)

    def broadcast(self, sync: int) -> Trace | None:
        """The trace of a weight sync, None as for `lease`."""
        return self._trace("broadcast", sync)

    def here(self, row: str, name: str, *, start: int, end: int, **facts: Value) -> None:
        """Show in the timeline what this process did, in nanoseconds since 1970.

        row: of spans that do not overlap.
        """
        if self._timeline is not None:
            self._timeline.here(row, name, start, end, facts)

    def count(self, name: str, *, at: int, **values: float) -> None:
        """Show numbers as a curve in the timeline."""
        if self._timeline is not None:
            self._timeline.count(name, at, values)

    def close(self) -> None:
        """Send what is there, but not for long."""
        if self._sink is not None:
            self._sink.close()

    def _trace(self, kind: str, number: int) -> Trace | None:
        if self._sink is None or not self.run_id:
            return None
        id = hashed(f"{self.run_id}/{kind}/{number}", 16)
        # Of the lower bits, like OpenTelemetry's own sampler: a collector may choose likewise.
        if id % 2**64 >= self._share * 2**64:
            return None
        return Trace(id=id, subject={kind: number}, sink=self._sink)


def missing_package() -> str:
    """The package that is not installed and how to mend it, in a sentence, or ""."""
    for name in _DISTRIBUTIONS:
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            return (
                f"telemetry.traces needs the package {name}: install `asyncds[otel]`, or leave "
                "telemetry.traces out"
            )
    return ""


class _Sinks:
    """Several sinks that all get every span."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = sinks

    def report(self, span: Span) -> None:
        for sink in self._sinks:
            sink.report(span)

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()
