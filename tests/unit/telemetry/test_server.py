import http.client
import socket
import struct
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest

from asyncds.telemetry.metrics.registry import build_metrics
from asyncds.telemetry.server import Check, MetricsServer


def well() -> str:
    return ""


@contextmanager
def serving(healthy: Check = well, ready: Check = well) -> Iterator[str]:
    registry = build_metrics("generator").registry
    server = MetricsServer(
        registry=registry, host="127.0.0.1", port=0, healthy=healthy, ready=ready
    )
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.close()


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_pages() -> None:
    with serving(ready=lambda: "waiting for the first weights") as url:
        status, text = get(f"{url}/metrics?x=1")
        assert status == 200
        assert "asyncds_generator_tokens_total 0.0" in text
        assert get(f"{url}/healthz") == (200, "ok\n")
        assert get(f"{url}/readyz") == (503, "waiting for the first weights\n")
        assert get(f"{url}/config.yaml")[0] == 404


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/config.yaml"])
def test_head_is_get_without_the_body(path: str) -> None:
    answers = []
    with serving() as url:
        for method in ("HEAD", "GET"):
            link = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
            link.request(method, path)
            with link.getresponse() as response:
                kept = {
                    k: v for k, v in response.getheaders() if k not in ("Date", "Content-Length")
                }
                answers.append((response.status, kept, response.read()))
            link.close()
    (status, headers, body), (expected, expected_headers, _) = answers
    assert (status, headers, body) == (expected, expected_headers, b"")


def test_a_closed_server_frees_its_port() -> None:
    with serving() as url:
        port = int(url.rsplit(":", 1)[1])
    again = MetricsServer(
        registry=build_metrics("generator").registry,
        host="127.0.0.1",
        port=port,
        healthy=well,
        ready=well,
    )
    assert again.port == port
    again.close()


def test_a_port_in_use_is_an_error() -> None:
    with serving() as url, pytest.raises(OSError, match="in use"):
        MetricsServer(
            registry=build_metrics("generator").registry,
            host="127.0.0.1",
            port=int(url.rsplit(":", 1)[1]),
            healthy=well,
            ready=well,
        )


def test_for_one_more_the_longest_awaited_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that those who say nothing keep nobody out."""
    monkeypatch.setattr("asyncds.telemetry.server._CONNECTIONS", 4)
    with serving() as url, ExitStack() as stack:
        place = "127.0.0.1", int(url.rsplit(":", 1)[1])

        def connect() -> socket.socket:
            connection = stack.enter_context(socket.create_connection(place, 10))
            connection.sendall(b"GET /metrics HTTP/1.1\r\n")
            return connection

        idle = [connect() for _ in range(10)]
        for _ in range(5):
            assert get(f"{url}/healthz") == (200, "ok\n")
            idle.append(connect())
        for connection in idle[:6]:
            assert connection.recv(1) == b"", "closed without an answer"


def test_who_waits_for_a_page_is_not_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While all do, one more waits for a place, and is turned away."""
    monkeypatch.setattr("asyncds.telemetry.server._CONNECTIONS", 2)
    monkeypatch.setattr("asyncds.telemetry.server._PLACE_SECONDS", 0.05)
    at_work, go_on = threading.Semaphore(0), threading.Event()

    def slow() -> str:
        at_work.release()
        go_on.wait(10)
        return ""

    with serving(ready=slow) as url:
        place = "127.0.0.1", int(url.rsplit(":", 1)[1])
        with ThreadPoolExecutor(2) as pool:
            asked = [pool.submit(get, f"{url}/readyz") for _ in range(2)]
            for _ in asked:
                assert at_work.acquire(timeout=10)
            with socket.create_connection(place, 10) as another:
                assert another.recv(1) == b"", "closed without an answer"
            go_on.set()
            assert [answer.result(10) for answer in asked] == [(200, "ok\n")] * 2
        assert get(f"{url}/readyz") == (200, "ok\n")


def test_a_client_that_breaks_off_leaves_no_lines_behind(capfd: pytest.CaptureFixture[str]) -> None:
    with serving() as url:
        place = "127.0.0.1", int(url.rsplit(":", 1)[1])
        for _ in range(20):
            with socket.create_connection(place, 10) as connection:
                # Closing with data unread is a reset.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.sendall(b"GET /metrics HTTP/1.1\r\n")
        assert get(f"{url}/healthz") == (200, "ok\n")
    assert "Traceback" not in capfd.readouterr().err
