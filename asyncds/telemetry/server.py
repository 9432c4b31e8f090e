"""/metrics, /healthz and /readyz over HTTP, in a thread: numbers and one sentence.

The coordinator adds pages of its own.
"""

import logging
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import BoundedSemaphore, Lock, Thread
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

log = logging.getLogger(__name__)

Check = Callable[[], str]
"""Returns "" when all is well, else a sentence that says what is not. Called in another thread."""

_REQUEST_SECONDS = 10.0
_CONNECTIONS = 64
"""Clients served at once. For one more, the one that was waited for longest is cut off: who asks
and reads is gone by then."""
_PLACE_SECONDS = 1.0
"""Longest wait for a place while all of them wait for a page, before one more is turned away."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer to a request. headers: more of them."""

    status: int = 200
    content_type: str = "text/plain; charset=utf-8"
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


Page = Callable[[Mapping[str, str]], Reply]
"""A page: from the request's headers, such as `Accept`, to the reply; called in its own thread."""


class MetricsServer:
    """Serves from construction until `close`.

    healthy: is the process alive (a restart would help if not). ready: does it do its work.
    Either answers 200 `ok`, or 503 and the sentence. pages: others, by path. Raises OSError if the
    address can't be bound.
    """

    def __init__(
        self,
        *,
        registry: CollectorRegistry,
        host: str,
        port: int,
        healthy: Check,
        ready: Check,
        pages: Mapping[str, Page] | None = None,
    ) -> None:
        def metrics(headers: Mapping[str, str]) -> Reply:
            # Not OpenMetrics, whatever is asked for: prometheus_client 0.26 would write it with `_`
            # in the place of the `:` in vLLM's names.
            return Reply(content_type=CONTENT_TYPE_PLAIN_0_0_4, body=generate_latest(registry))

        routes: dict[str, Page] = {
            **(pages or {}),
            "/metrics": metrics,
            "/healthz": lambda headers: _checked(healthy),
            "/readyz": lambda headers: _checked(ready),
        }

        class Handler(_Handler):
            pages = routes

        class Server(_Server):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        self._server = Server((host, port), Handler)
        self._thread = Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The port it listens on, also where a free one was asked for."""
        return self._server.server_port

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(_REQUEST_SECONDS)


def _checked(check: Check) -> Reply:
    problem = check()
    return Reply(status=503 if problem else 200, body=f"{problem or 'ok'}\n".encode())


class _Server(ThreadingHTTPServer):
    """A thread per client, and not more of them than there are places."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, *arguments: Any) -> None:
        self._places = BoundedSemaphore(_CONNECTIONS)
        self._awaited: dict[socket.socket, None] = {}
        """Clients that are to ask, or to read, the longest awaited first."""
        self._lock = Lock()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self._cut_the_longest_awaited()
            if not self._places.acquire(timeout=_PLACE_SECONDS):
                self.shutdown_request(request)
                return
        self._await(request)
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._awaited.pop(request, None)
            self._places.release()

    @contextmanager
    def at_work(self, client: socket.socket) -> Iterator[None]:
        """Take the time in the block for the client's, who waits."""
        with self._lock:
            self._awaited.pop(client, None)
        try:
            yield
        finally:
            self._await(client)

    def _await(self, client: socket.socket) -> None:
        with self._lock:
            self._awaited[client] = None

    def _cut_the_longest_awaited(self) -> None:
        with self._lock:
            client = next(iter(self._awaited), None)
            if client is not None:
                del self._awaited[client]
                with suppress(OSError):  # it is gone already
                    client.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a client broke off", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD of a few pages; a client that stalls is dropped."""

    server: _Server
    pages: Mapping[str, Page]
    timeout = _REQUEST_SECONDS
    server_version = "asyncds"
    sys_version = ""

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        page = self.pages.get(self.path.partition("?")[0])
        if page is None:
            self.send_error(404, f"pages: {', '.join(self.pages)}")
            return
        try:
            with self.server.at_work(self.connection):
                reply = page({name.title(): value for name, value in self.headers.items()})
        except Exception as error:  # of a page: the server goes on
            log.exception("%s can't be shown", self.path)
            reply = Reply(status=500, body=f"{error}\n".encode())
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(reply.body)))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(reply.body)

    def log_message(self, format: str, *args: object) -> None:
        log.debug(format, *args)
