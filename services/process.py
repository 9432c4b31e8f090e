"""Common parts of every role's process: logging, metrics, signals, exit codes."""

import asyncio
import ctypes
import gc
import logging
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from asyncds.config.schema import RunConfig
from asyncds.telemetry.metrics.declaration import Role
from asyncds.telemetry.metrics.registry import Metrics
from asyncds.telemetry.server import Check, MetricsServer, Page
from asyncds.telemetry.state_dump import dump_state
from asyncds.telemetry.traces.traces import Traces
from asyncds.transport.keys import ClientKeys, ServerKeys, load_client_keys, load_server_keys

log = logging.getLogger(__name__)

DONE, FAILURE, BAD_INPUT, PREEMPTED = 0, 1, 2, 143
"""Exit codes. PREEMPTED: of a learner that a signal told to leave before the run was over."""


def run_directory(config: RunConfig) -> Path:
    """The run's directory, `<runs_dir>/<name>`."""
    return Path(config.runs_dir) / config.name


def dump(config: RunConfig, *, name: str, reason: str, state: Mapping[str, Any]) -> None:
    """Write down what this process is doing, in the run directory; from any thread."""
    try:
        path = dump_state(run_directory(config) / "dumps", name=name, reason=reason, state=state)
        log.error("%s; what this process is doing: %s", reason, path)
    except OSError as error:
        log.error("%s; what this process is doing could not be written: %s", reason, error)


def client_keys(config: RunConfig) -> ClientKeys | None:
    """Keys of a link to the coordinator; None if links are not encrypted. Raises KeyFileError."""
    curve = config.coordinator.curve
    if curve is None:
        return None
    return load_client_keys(server=Path(curve.server_public), secret=Path(curve.client_secret))


def server_keys(config: RunConfig) -> ServerKeys | None:
    """The coordinator's keys; None if links are not encrypted. Raises KeyFileError."""
    curve = config.coordinator.curve
    if curve is None:
        return None
    return load_server_keys(secret=Path(curve.server_secret), clients=Path(curve.clients))


def settle_heap() -> None:
    """Take all objects that there are out of later garbage collections.

    A process with torch and vLLM has a million, and a full collection of them stops it for 0.4 s,
    every few seconds while it makes new ones. To be called when everything is loaded.
    """
    gc.collect()
    gc.freeze()


def start_logging() -> None:
    """Lines with time, level and module, to stderr."""
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s.%(msecs)03d %(levelname)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stderr,
        force=True,
    )


def make_traces(config: RunConfig, *, role: Role, name: str) -> Traces:
    """Make this process's part in the run's traces.

    Raises ValueError if a package is missing, OSError if a timeline can't be written.
    """
    return Traces(
        config.telemetry.traces,
        run=config.name,
        role=role,
        name=name,
        run_dir=run_directory(config),
    )


@contextmanager
def metrics_server(
    config: RunConfig,
    metrics: Metrics,
    *,
    place: int,
    healthy: Check,
    ready: Check,
    pages: Mapping[str, Page] | None = None,
) -> Iterator[str]:
    """Serve /metrics, /healthz, /readyz and other pages while the block runs; yields the address.

    place: which of the run's metrics ports, counted from telemetry.port.
    """
    host, first = config.telemetry.host, config.telemetry.port
    server = MetricsServer(
        registry=metrics.registry,
        host=host,
        port=first + place if first else 0,
        healthy=healthy,
        ready=ready,
        pages=pages,
    )
    address = f"http://{f'[{host}]' if ':' in host else host}:{server.port}"
    log.info("metrics at %s/metrics", address)
    try:
        yield address
    finally:
        server.close()


def end_with_parent() -> None:
    """SIGKILL when the parent dies, on Linux: nobody else would end this process if it hangs."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def on_signals(action: Callable[[str], None]) -> None:
    """Call `action` with the signal's name on SIGINT and SIGTERM; it must not block."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda n, _: action(signal.Signals(n).name))


@contextmanager
def first_signal(action: Callable[[str], None]) -> Iterator[None]:
    """The same while the block runs, once: a second signal does what it did before."""
    before: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(number: int, _: object) -> None:
        restore()
        action(signal.Signals(number).name)

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        restore()


@contextmanager
def signals_async(loop: asyncio.AbstractEventLoop, action: Callable[[str], None]) -> Iterator[None]:
    """The same inside an event loop, while the block runs."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, action, signal.Signals(number).name)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
