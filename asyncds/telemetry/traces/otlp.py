"""Spans to a collector of OpenTelemetry, over OTLP and HTTP, in a thread of the SDK's."""

import logging
from collections.abc import Sequence
from threading import Lock, Thread

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http import trace_exporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from asyncds.telemetry.traces.spans import Span

log = logging.getLogger(__name__)

QUEUE = 16_384
"""Spans that wait for the collector; a checkpoint ends the leases of many batches at once."""
END_SECONDS = 5.0
"""Seconds for the collector to take the rest when the process ends."""


class OtlpSink:
    """Never blocks: what the collector does not take in time is lost, and the log says so once."""

    def __init__(self, *, endpoint: str, run: str, role: str, name: str) -> None:
        self._ids = _Ids()
        self._lock = Lock()
        self._reported = 0
        self._exporter = _Exporter(endpoint)
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=Resource.create(
                {
                    "service.name": f"asyncds-{role}",
                    "service.instance.id": name,
                    "asyncds.run": run,
                }
            ),
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter, max_queue_size=QUEUE))
        self._tracer = self._provider.get_tracer("asyncds")

    def report(self, span: Span) -> None:
        """Take a span that is over; from any thread."""
        with self._lock:
            self._ids.trace, self._ids.span = span.trace, span.id
            made = self._tracer.start_span(
                span.name,
                context=_inside(span),
                attributes=span.attributes,
                start_time=span.start,
            )
            self._reported += 1
        if span.error:
            made.set_status(Status(StatusCode.ERROR, span.error))
        made.end(span.end)

    def close(self) -> None:
        """Send what is there, for END_SECONDS at most."""
        ending = Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(END_SECONDS)
        if lost := self._reported - self._exporter.taken:
            log.warning("%d of %d spans were lost", lost, self._reported)
        self._exporter.close()


class _Ids(IdGenerator):
    """The ids of the span that is made next."""

    trace = span = 0

    def generate_trace_id(self) -> int:
        return self.trace

    def generate_span_id(self) -> int:
        return self.span


def _inside(span: Span) -> Context:
    """The parent's context; an empty one of a root."""
    if span.parent is None:
        return Context()
    parent = SpanContext(
        span.trace, span.parent, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED)
    )
    return set_span_in_context(NonRecordingSpan(parent), Context())


class _Exporter(SpanExporter):
    """The library's exporter, with a log that is not filled by failures.

    The library logs every failure and the end of none: here the log gets one line when spans are
    not taken, and one when they are again.
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._exporter = trace_exporter.OTLPSpanExporter(endpoint.rstrip("/") + "/v1/traces")
        self._said = _Said()
        self._failing = False
        self.taken = 0
        """Spans that the collector has."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            self.taken += len(spans)
            if self._failing:
                log.info("the collector at %s takes spans again", self._endpoint)
        elif not self._failing:
            log.warning(
                "the collector at %s takes no spans (%s); the run goes on without them: see "
                "whether telemetry.traces.endpoint is right",
                *(self._endpoint, self._said.last),
            )
        self._failing = result is not SpanExportResult.SUCCESS
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def close(self) -> None:
        """Let go of the library's log."""
        self._said.close()


class _Said(logging.Handler):
    """Keeps the last word of the library's log, which goes nowhere else.

    Nor do the complaints about its queue: spans that are lost are counted at the end.
    """

    _NAMES = ("opentelemetry.exporter", "opentelemetry.sdk")

    def __init__(self) -> None:
        super().__init__()
        self.last = "no reason given"
        for logger in map(logging.getLogger, self._NAMES):
            logger.addHandler(self)
            logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith(self._NAMES[0]):
            self.last = record.getMessage()

    def close(self) -> None:
        for logger in map(logging.getLogger, self._NAMES):
            logger.removeHandler(self)
            logger.propagate = True
        super().close()
