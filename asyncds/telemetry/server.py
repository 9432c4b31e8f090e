"""/metrics, /healthz and /readyz over HTTP, in a thread. They expose numbers and one sentence."""

import logging
import socket
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

log = logging.getLogger(__name__)

Check = Callable[[], str]
"""Returns "" when all is well, else a sentence that says what is not. Called in another thread."""

_REQUEST_SECONDS = 10.0


class MetricsServer:
    """Serves from construction until `close`.

    healthy: is the process alive (a restart would help if not). ready: does it do its work.
    Either answers 200 `ok`, or 503 and the sentence. Raises OSError if the address can't be bound.
    """

    def __init__(
        self, *, registry: CollectorRegistry, host: str, port: int, healthy: Check, ready: Check
    ) -> None:
        def metrics(accept: str) -> tuple[int, str, bytes]:
            encoder, content_type = choose_encoder(accept)
            return 200, content_type, encoder(registry)

        routes = {
            "/metrics": metrics,
            "/healthz": lambda accept: _checked(healthy),
            "/readyz": lambda accept: _checked(ready),
        }

        class Handler(_Handler):
            pages = routes

        class Server(ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
            daemon_threads = True
            block_on_close = False

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


def _checked(check: Check) -> tuple[int, str, bytes]:
    problem = check()
    body = f"{problem or 'ok'}\n".encode()
    return (503 if problem else 200), "text/plain; charset=utf-8", body


class _Handler(BaseHTTPRequestHandler):
    """GET of a few pages; a client that stalls is dropped."""

    pages: dict[str, Callable[[str], tuple[int, str, bytes]]]
    timeout = _REQUEST_SECONDS
    server_version = "asyncds"
    sys_version = ""

    def do_GET(self) -> None:
        page = self.pages.get(self.path.partition("?")[0])
        if page is None:
            self.send_error(404, f"pages: {', '.join(self.pages)}")
            return
        status, content_type, body = page(self.headers.get("Accept", ""))
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        log.debug(format, *args)
