"""A real Ray cluster of several machines on this one: a head without CPUs, and nodes with some.

Every process that a node starts, and those that they start, has the node's mark in its environment:
so a node can be killed as a machine that loses its power would be, and what is left be found.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

MARK = "ASYNCDS_TEST_NODE"
WAIT_SECONDS = 900.0
GONE_SECONDS = 60.0


class RayCluster:
    """A cluster; `with` ends it. home: where Ray keeps the token that protects a cluster."""

    def __init__(self, home: Path) -> None:
        self._id = uuid.uuid4().hex
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        # Not what Ray has set in this process for a cluster of another test (its token).
        clean = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        self.environment = clean | {
            MARK: self._mark("client"),
            "HOME": str(home),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",  # 15 is meant for machines that do something besides
        }
        self._nodes: dict[str, subprocess.Popen[str]] = {}

    def __enter__(self) -> "RayCluster":
        port = self.address.rpartition(":")[2]
        self._start("head", "--head", f"--port={port}", "--include-dashboard=false", cpus=0)
        return self

    def __exit__(self, *_: object) -> None:
        for name in reversed(list(self._nodes)):
            self.kill(name)

    def add(self, name: str, *, cpus: int) -> None:
        """A node more."""
        self._start(name, f"--address={self.address}", cpus=cpus)

    def kill(self, name: str) -> None:
        """A node loses its power, with all that runs on it."""
        for process in self.processes(name):
            with suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)
        self._nodes.pop(name).communicate(timeout=WAIT_SECONDS)

    def processes(self, node: str | None = None, *, running: str = "") -> list[psutil.Process]:
        """The processes of a node, or of all, that have a word in their command line."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                mark = process.environ().get(MARK, "")
                ours = mark == self._mark(node) if node else mark.startswith(self._id)
                said = not running or running in process.cmdline()
                if ours and said and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def node_of(self, running: str) -> str | None:
        """The node on which a process runs that has a word in its command line."""
        return next((n for n in self._nodes if self.processes(n, running=running)), None)

    def left(self, running: str) -> list[str]:
        """What is left, after a while at most, of processes with a word in their command line."""
        deadline = time.monotonic() + GONE_SECONDS
        while (left := self.processes(running=running)) and time.monotonic() < deadline:
            time.sleep(0.2)
        return [" ".join(process.cmdline()) for process in left]

    def _mark(self, node: str) -> str:
        return f"{self._id}-{node}"

    def _start(self, name: str, *arguments: str, cpus: int) -> None:
        ray = Path(sys.executable).with_name("ray")
        node = self._nodes[name] = subprocess.Popen(
            [
                *(str(ray), "start", "--block", "--node-ip-address=127.0.0.1", *arguments),
                *(f"--num-cpus={cpus}", f"--node-name={name}", "--object-store-memory=100000000"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment | {MARK: self._mark(name)},
            start_new_session=True,
        )
        assert node.stdout is not None
        output = ""
        while "Ray runtime started" not in output:
            line = node.stdout.readline()
            assert line, output
            output += line


@contextmanager
def cluster(home: Path, *nodes: str, cpus: int = 1) -> Iterator[RayCluster]:
    """A cluster of so many nodes."""
    with RayCluster(home) as made:
        for name in nodes:
            made.add(name, cpus=cpus)
        yield made


def wait_until(condition: Callable[[], object], said: Callable[[], object] = str) -> None:
    """Wait until it is so. said: what is shown if it does not come."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, said()
        time.sleep(0.2)
