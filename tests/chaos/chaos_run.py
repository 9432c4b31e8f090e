"""A run under faults: started as users start it, looked at from outside, resumed when it ends."""

import math
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from processes import find

from asyncds.telemetry.summary import read_summary
from asyncds.transport.observer import Observer

CONFIG = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
ANSWER_SECONDS = 0.3
POLL_SECONDS = 0.01
LOOK_SECONDS = 0.2
"""How often the status is asked for at least, so that no trained batch is missed."""


class ChaosRun:
    """`asyncds run` on this machine. Waits end with an AssertionError at their deadline."""

    def __init__(self, *, run_dir: Path, ports: int, generators: int) -> None:
        """ports: the first of as many free ones as there are processes, and one more."""
        self.run_dir = run_dir
        self.generators = generators
        self.last: dict[str, Any] | None = None
        self.resumed = 0
        self.longest_stall = 0.0
        self._frozen_at: float | None = None
        self._ports = ports
        self._observer = Observer(f"tcp://127.0.0.1:{ports}")
        self._output = run_dir.with_name(f"{run_dir.name}.log").open("ab")
        self._process: subprocess.Popen[bytes] | None = None
        self._moved = self._asked = time.monotonic()
        self.trained = 0
        """How often a batch was seen to be trained, those trained again included."""

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

    # --- from outside ---------------------------------------------------------------------------

    @property
    def frozen_for(self) -> float:
        """Seconds since `freeze`, 0 before and after."""
        return 0.0 if self._frozen_at is None else time.monotonic() - self._frozen_at

    def freezes(self, frozen: bool) -> None:
        """A part was frozen, or goes on."""
        self._frozen_at = time.monotonic() if frozen else None

    def status(self) -> dict[str, Any] | None:
        """The coordinator's answer, None if it does not."""
        self._asked = time.monotonic()
        answer = self._observer.status(ANSWER_SECONDS)
        if answer is not None:
            before = -1 if self.last is None else self.last["step"]
            now = time.monotonic()
            if answer["step"] > before:
                self.trained += 1
                self.longest_stall = max(self.longest_stall, now - self._moved)
                self._moved = now
            self.last = answer
        return answer

    def forget_stalls(self) -> None:
        """Measure `longest_stall` from the batch that was trained last."""
        self.longest_stall = 0.0

    def gauge(self, name: str) -> float:
        """A series of the first generator's page, NaN without one."""
        return self._series("generator", f"asyncds_generator_{name}")

    def started(self, role: str) -> float:
        """When the process of a role that is ready for work was started, NaN if none is."""
        if self._page(role, "readyz") is None:
            return math.nan
        return self._series(role, "process_start_time_seconds")

    def _series(self, role: str, name: str) -> float:
        lines = (self._page(role, "metrics") or "").splitlines()
        return next((float(x.split()[1]) for x in lines if x.startswith(f"{name} ")), math.nan)

    def _page(self, role: str, page: str) -> str | None:
        """What a role's process serves, None if it does not answer or is not ready."""
        port = self._ports + 1 + ("coordinator", "learner", "generator").index(role)
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}", timeout=1) as answer:
                return str(answer.read().decode())
        except OSError:
            return None

    def is_well(self, suspect_seconds: float) -> bool:
        """Everybody is there, was heard of lately, and has verified weights."""
        status = self.status()
        if status is None or status["over"]:
            return False
        fleet = [m for m in status["fleet"] if m["health"] == "healthy"]
        heard = [m["last_seen"] for m in fleet] + [status["learner"]["last_seen"]]
        return (
            len(fleet) == self.generators
            and status["learner"]["phase"] != "not here"
            and all(ago is not None and ago < suspect_seconds for ago in heard)
        )

    def wait(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Until it is so; the run is resumed meanwhile if it has ended in good order."""
        assert self.comes(condition, seconds), f"{what}: not within {seconds:g} s: {self.last}"

    def comes(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Whether it becomes so in time."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                return False
            self.go_on()
            if not self.frozen_for and time.monotonic() - self._asked > LOOK_SECONDS:
                self.status()
            time.sleep(POLL_SECONDS)
        return True
