"""A run under faults: started as users start it, looked at from outside, resumed when it ends."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from asyncds.telemetry.summary import read_summary
from asyncds.transport.observer import Observer
from tests.chaos.processes import find
from tests.chaos.watched_run import WatchedRun
from tests.support.paths import ROOT

CONFIG = ROOT / "configs" / "quickstart.yaml"


class ChaosRun(WatchedRun):
    """`asyncds run` on this machine; resumed while it is waited for, if it ended in good order."""

    def __init__(self, *, run_dir: Path, ports: int, generators: int) -> None:
        """ports: the first of as many free ones as there are processes, and one more."""
        super().__init__(
            run_dir=run_dir,
            observer=Observer(f"tcp://127.0.0.1:{ports}"),
            metrics_port=ports + 1,
            generators=generators,
        )
        self.resumed = 0
        self._ports = ports
        self._output = run_dir.with_name(f"{run_dir.name}.log").open("ab")
        self._process: subprocess.Popen[bytes] | None = None

    # --- the run --------------------------------------------------------------------------------

    def start(self, *overrides: str) -> None:
        """A new run of the quickstart's configuration."""
        self._start(
            str(CONFIG),
            f"name={self.run_dir.name}",
            f"runs_dir={self.run_dir.parent}",
            f"coordinator.port={self._ports}",
            f"telemetry.port={self._ports + 1}",
            *overrides,
        )

    def resume(self, *overrides: str) -> None:
        """Go on with it."""
        self.resumed += 1
        self._start("--resume", str(self.run_dir), *overrides)

    def _start(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "asyncds.cli.main", "run", *arguments],
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"COLUMNS": "120"},
        )

    @property
    def pid(self) -> int:
        """Of `asyncds run`."""
        assert self._process is not None
        return self._process.pid

    def interrupt(self) -> None:
        """Ctrl-C."""
        os.kill(self.pid, signal.SIGINT)

    def wait_end(self, seconds: float) -> int:
        """The exit code of `asyncds run`."""
        assert self._process is not None
        return self._process.wait(seconds)

    def go_on(self) -> None:
        """If the run has ended in good order, as a SIGTERM of the coordinator asks, resume it."""
        assert self._process is not None
        if self._process.poll() is None:
            return
        summary = read_summary(self.run_dir / "summary.json") or {}
        ended = self._process.returncode, summary.get("status")
        assert ended == (0, "interrupted"), f"the run ended: {ended}"
        self.resume()

    def close(self) -> None:
        """End it, whatever it does."""
        self._observer.close()
        if self._process is not None and self._process.poll() is None:
            for part in ("coordinator", "learner", "generator", "engine", "scorer"):
                if process := find(self.pid, part):  # type: ignore[arg-type]
                    with suppress(psutil.NoSuchProcess):
                        process.send_signal(signal.SIGCONT)
            self._process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(90)
            self._process.kill()
        self._output.close()
