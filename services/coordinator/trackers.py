"""The processes that send the run's metrics to trackers: started, looked after, ended."""

import json
import logging
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from asyncds.config.schema import RunConfig
from asyncds.telemetry.trackers.follower import unsent

log = logging.getLogger(__name__)

END_SECONDS = 20.0
"""Seconds for trackers to take the rest when the run is over."""


class TrackerProcesses:
    """One process per tracker of the configuration, from construction until `close`.

    If this process dies, they send what is there and end.
    """

    def __init__(self, *, config: RunConfig, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._processes: dict[str, subprocess.Popen[str]] = {}
        for i, tracker in enumerate(config.telemetry.trackers):
            said = {"config": config.model_dump(mode="json"), "tracker": i}
            self._processes[tracker.kind] = _start(said)

    def check(self) -> None:
        """The log says, once, which one has ended before its time. The run goes on without it."""
        for kind, process in list(self._processes.items()):
            if (code := process.poll()) is not None:
                del self._processes[kind]
                log.error(
                    "the process for %s ended with exit code %d; the run goes on, and `asyncds "
                    "track %s` sends what is missing there",
                    *(kind, code, self._run_dir),
                )

    def close(self) -> None:
        """Wait for what the trackers have to send yet, but not long.

        The run is over, its summary written.
        """
        for process in self._processes.values():
            assert process.stdin is not None
            process.stdin.close()
        deadline = time.monotonic() + END_SECONDS
        for kind, process in self._processes.items():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if n := unsent(self._run_dir, kind):
                log.warning(
                    "%s did not take %d steps, or the end of the run: `asyncds track %s` sends "
                    "them",
                    *(kind, n, self._run_dir),
                )


def _start(said: dict[str, Any]) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-m", "services.tracker"],
        stdin=subprocess.PIPE,
        text=True,
        preexec_fn=_heed_no_signals,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(said) + "\n")
    process.stdin.flush()
    return process


def _heed_no_signals() -> None:
    """Have a child heed no signals of its parent's group.

    What tells this process to stop reaches its children too, and is not for them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
