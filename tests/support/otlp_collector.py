"""A collector of traces: takes what the real exporter sends, over HTTP, and keeps the spans."""

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from asyncds.config.operation import TracesConfig
from asyncds.telemetry.metrics.declaration import Role
from asyncds.telemetry.traces.traces import Traces


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A span as it arrived. parent: "" of a root. service: of the process that sent it. attributes:
    without the prefix `asyncds.`. error: "" if it is fine."""

    trace: str
    id: str
    parent: str
    name: str
    start: int
    end: int
    service: str
    instance: str
    run: str
    attributes: dict[str, Any] = field(default_factory=dict)
    error: str = ""


@dataclass(kw_only=True)
class Collector:
    """endpoint: for telemetry.traces. spans: all that arrived."""

    endpoint: str
    spans: list[Seen] = field(default_factory=list)
    hang: threading.Event = field(default_factory=threading.Event)
    """While it is not set requests wait, if it was cleared."""

    def __post_init__(self) -> None:
        self.hang.set()

    def traces(self) -> dict[str, list[Seen]]:
        """Spans by trace, in the order of their beginnings."""
        found: dict[str, list[Seen]] = {}
        for span in sorted(self.spans, key=lambda s: (s.start, s.end)):
            found.setdefault(span.trace, []).append(span)
        return found

    def of(self, kind: str) -> dict[int, list[Seen]]:
        """Those of leases, or of broadcasts, by number."""
        return {
            spans[0].attributes[kind]: spans
            for spans in self.traces().values()
            if kind in spans[0].attributes
        }


@contextmanager
def traced(role: Role) -> Iterator[tuple[Traces, Collector]]:
    """Traces of a process, and where they arrive, all of them when the block is left."""
    with collecting() as collector:
        config = TracesConfig(endpoint=collector.endpoint)
        with closing(Traces(config, run="r", role=role, name=f"{role}-0")) as traces:
            traces.run_id = "0f"
            yield traces, collector


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on a free port of loopback, while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            collector.hang.wait()
            if self.path != "/v1/traces":
                self.send_error(404)
                return
            collector.spans += _spans(ExportTraceServiceRequest.FromString(body))
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector = Collector(endpoint=f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield collector
        finally:
            collector.hang.set()
            server.shutdown()


def _spans(request: ExportTraceServiceRequest) -> Iterator[Seen]:
    for group in request.resource_spans:
        resource = _attributes(group.resource.attributes)
        for scope in group.scope_spans:
            for span in scope.spans:
                found, status = _attributes(span.attributes), span.status
                assert all(name.startswith("asyncds.") for name in found)
                yield Seen(
                    trace=span.trace_id.hex(),
                    id=span.span_id.hex(),
                    parent=span.parent_span_id.hex(),
                    name=span.name,
                    start=span.start_time_unix_nano,
                    end=span.end_time_unix_nano,
                    service=resource["service.name"],
                    instance=resource["service.instance.id"],
                    run=resource["asyncds.run"],
                    attributes={k.removeprefix("asyncds."): v for k, v in found.items()},
                    error=status.message if status.code == status.STATUS_CODE_ERROR else "",
                )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, kind)
