"""Hostile clients of the pages that a coordinator serves, and of the metrics that every role does:
requests of every malformed kind, clients that stall, more of them than there are places, and some
that do not read. The pages stay there for others meanwhile, and the run goes on.

`--frames N` sends a two hundredth as many requests, `--fuzz-seed N` draws others.
"""

import json
import random
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.simulation.simulated_config import make_config
from tests.support.socket_run import SocketRun, socket_run

MIB = 1 << 20
GROWTH = 48 * MIB
"""Charts, buffers of 64 clients, what their threads keep for the next, the run: it levels off."""
STALLED, STALLING = 100, 70
"""Clients that stay without another word, and that begin to all at once: more than are served."""
PAGES = ("/", "/status.json", "/details.json", "/metrics", "/healthz", "/readyz")
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "G\0T", "")
PATHS = (
    *PAGES,
    "/../../../../etc/passwd",
    "//etc/passwd",
    "/%2e%2e/%2e%2e/config.yaml",
    "/journal.db",
    "/details.json?" + "x=1&" * 2000,
    "http://elsewhere.example/metrics",
    "*",
    "/" + "a" * 70_000,
    "/\x00\r\nX: y",
)
VERSIONS = ("HTTP/1.1", "HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "HTTP/1.1.1", "HTTP/9" * 9, "", "\xff")
HEADERS = (
    "Host: 127.0.0.1",
    "Host: elsewhere.example",
    "Host:",
    "Connection: keep-alive",
    "Content-Length: 99999999999",
    "Content-Length: -1",
    "Transfer-Encoding: chunked",
    "Expect: 100-continue",
    "Range: bytes=0-99999999999",
    "Accept-Encoding: " + "gzip;q=0.1," * 3000,
    "If-None-Match: " + '"x",' * 3000,
    "Accept: " + ";q=,/" * 3000,
    "X: " + "y" * 70_000,
    ": nameless",
    " folded",
    "no colon",
    "N\xe4me: \xff\xfe",
)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[SocketRun]:
    # Where many tests run at once a peer may be held up for long.
    config = make_config(
        steps=1_000_000,
        coordinator__suspect_seconds=60,
        coordinator__dead_seconds=120,
        telemetry={"page": True},
    )
    with socket_run(tmp_path / "runs", config) as run:
        yield run


def hostile(rng: random.Random) -> bytes:
    """A request, or what begins like one."""
    if rng.random() < 0.1:
        return rng.randbytes(rng.choice([1, 10, 1000, 100_000]))
    lines = [f"{rng.choice(METHODS)} {rng.choice(PATHS)} {rng.choice(VERSIONS)}"]
    lines += [rng.choice(HEADERS) for _ in range(rng.choice([0, 1, 3, 10, 200]))]
    data = bytearray("\r\n".join([*lines, "", ""]), "latin-1")
    if rng.random() < 0.3:
        del data[rng.randrange(len(data)) :]
    if rng.random() < 0.3:
        data[rng.randrange(len(data) + 1) :] = rng.randbytes(30)
    return bytes(data) * rng.choice([1, 1, 1, 20])


def test_pages_are_there_for_others_whatever_clients_do(
    run: SocketRun, pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str]
) -> None:
    requests = (pytestconfig.getoption("frames", None) or 30_000) // 200
    rng = random.Random(pytestconfig.getoption("fuzz_seed", None) or 0)
    process = psutil.Process(run.process.pid)
    stalled: list[socket.socket] = []
    before = largest = files = trained = threads = 0
    for i in range(requests):
        if i == requests // 10:
            before, files, trained = run.memory(), process.num_fds(), run.steps_trained
        run.turn()
        connection = socket.create_connection(("127.0.0.1", run.metrics_port), 5)
        stalled.append(connection)
        connection.settimeout(0.05)
        with suppress(OSError):  # it is refused while it speaks
            connection.sendall(hostile(rng))
            if rng.random() < 0.3:
                connection.shutdown(socket.SHUT_WR)
        while len(stalled) > (STALLED if rng.random() < 0.98 else 0):
            stalled.pop(rng.randrange(len(stalled))).close()
        if i % 50 == 0:
            stalled += [stalling(run.metrics_port) for _ in range(STALLING)]
            assert all_served(run.metrics_port)
        largest, threads = max(largest, run.memory()), max(threads, process.num_threads())
    for connection in stalled:
        connection.close()
    run.go_on_until(lambda: process.num_fds() <= files + 5, "connections stay open")
    run.go_on_until(lambda: run.steps_trained >= trained + 3, "the run does not go on")
    with capsys.disabled():
        print(
            f"\n{requests} requests: {run.steps_trained - trained} steps trained, "
            f"{before / MIB:.0f} MiB before, {largest / MIB:.0f} at most, {threads} threads at most"
        )
    assert largest - before < GROWTH
    assert 64 <= threads < 64 + 20, "every place was taken, and there are no more"
    assert len(run.log_text()) < MIB, "an enemy can't fill the disk with lines"
    assert run.end() == 0, run.log_text()[-2000:]
    assert "Traceback" not in run.log_text()


def stalling(port: int) -> socket.socket:
    """A client in the middle of its request."""
    connection = socket.create_connection(("127.0.0.1", port), 5)
    connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: ")
    return connection


def all_served(port: int) -> bool:
    """Whether every page is what it should be."""
    texts = {}
    for page in PAGES:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{page}", timeout=20) as answer:
            assert answer.status == 200
            texts[page] = answer.read().decode()
    assert len(json.loads(texts["/status.json"])["fleet"]) == 2
    assert "asyncds_coordinator_steps_total" in texts["/metrics"]
    return texts["/healthz"] == texts["/readyz"] == "ok\n"
