"""The processes of a run on this machine: started, watched, restarted, ended."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from asyncds.config.operation import SupervisionConfig
from asyncds.launch.cause import cause
from asyncds.launch.liveness import LEARNER, LivenessMonitor
from asyncds.launch.restarts import Restarts
from asyncds.protocol.records import RunStatus

LONGEST_TURN_SECONDS = 10.0
"""Seconds between two looks at the processes; after a longer one this process was stopped."""
BAD_INPUT = 2
"""The exit code of a process that starting again can't help."""
FULL_BYTES = 1 << 20
"""Free bytes below which a full disk is why a process failed, and its log can't say so."""
LOG_LINES = 5
"""Lines of a failed process's log that are shown where none says why it failed."""
WAITING = "waiting for "
"""Begins the line of a process that can't start yet, such as one that a cluster has no room for."""
WAITING_BYTES = 1024
HURRY_SECONDS = 2.0
"""Seconds for processes to leave that were told to, when somebody waits for it."""
RANK_VARIABLES = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)
"""What torchrun, and operators such as Kubeflow's, tell a process of the group that it is in."""


class ChildFailedError(Exception):
    """A process of the run can't be kept alive; the message names it and says why."""


@dataclass(kw_only=True)
class Child:
    """One process.

    follows: it asks the run to end if this process dies (the coordinator). started: when the
    present one was, by the monotonic clock; log_begins: where its part of the log does, in bytes.
    """

    name: str
    command: Sequence[str]
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    follows: bool = False
    started: float = 0.0
    log_begins: int = 0
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, in a session of its own: Ctrl-C in the terminal is not for it."""
        self.begin()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=inherited_environment() | self.environment,
                start_new_session=True,
                preexec_fn=_end_with_parent if self.follows else None,
            )

    def begin(self) -> None:
        """Note when, and where in the log, it starts."""
        self.started = time.monotonic()
        self.log_begins = self.log.stat().st_size if self.log.exists() else 0

    @property
    def code(self) -> int | None:
        """The exit code; None while it runs."""
        return None if self.process is None else self.process.poll()

    def signal(self, number: signal.Signals) -> None:
        """Signal the process and those it has started."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, number)

    def sweep(self) -> None:
        """End what it left behind in its session (an engine, a scorer)."""
        if self.process is None:
            return
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def failure(self) -> str:
        """How it ended and why, in a sentence; with the end of its log where that does not say."""
        code = self.code
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        if shutil.disk_usage(self.log.parent).free < FULL_BYTES:
            return f"{self.name} ended with {how}: the disk of {self.log.parent} is full, make room"
        if said := cause(self._said()):
            return f"{self.name} ended with {how}: {said} (log: {self.log})"
        lines = self._said().splitlines()[-LOG_LINES:]
        return f"{self.name} ended with {how} ({self.log}):\n" + "\n".join(f"  {x}" for x in lines)

    def death(self) -> str:
        """Words on how it ended, and why, if its log says it."""
        if self.code == 0:
            return "left"
        said = cause(self._said())
        return f"died ({said})" if said else "died"

    def waiting(self) -> str:
        """Words on what it waits for before it can start, the last line of its log; or ""."""
        try:
            with self.log.open("rb") as opened:
                opened.seek(max(self.log_begins, self.log.stat().st_size - WAITING_BYTES))
                lines = opened.read().decode(errors="replace").splitlines()
        except FileNotFoundError:
            return ""
        return lines[-1] if lines and lines[-1].startswith(WAITING) else ""

    def _said(self) -> str:
        """The log of the present process."""
        with self.log.open("rb") as opened:
            opened.seek(self.log_begins)
            return opened.read().decode(errors="replace")


class Children:
    """All processes of a run. The first is the coordinator, whose end is the run's end."""

    def __init__(
        self, children: Sequence[Child], *, supervision: SupervisionConfig | None = None
    ) -> None:
        """supervision: default, that of a configuration that says nothing."""
        self._children = list(children)
        self._leaving: list[Child] = []
        limits = supervision or SupervisionConfig()
        self._restarts: defaultdict[str, Restarts] = defaultdict(
            lambda: Restarts(most=limits.max_restarts, seconds=limits.window_seconds)
        )
        self._left: dict[str, float] = {}
        self._liveness = LivenessMonitor(
            silent_seconds=limits.silent_seconds, start_seconds=limits.start_seconds
        )
        self._looked = time.monotonic()

    def start(self) -> None:
        """Start all."""
        for child in self._children:
            child.start()

    @property
    def names(self) -> list[str]:
        """The names of those that are to live as long as the run does."""
        return [child.name for child in self._children]

    @property
    def leaving(self) -> list[str]:
        """The names of those that were told to leave and are still here."""
        return [child.name for child in self._leaving if child.code is None]

    def join(self, child: Child) -> None:
        """Start one more."""
        self._children.append(child)
        child.start()

    def leave(self, name: str) -> None:
        """Tell a process to leave, for good."""
        (child,) = (child for child in self._children if child.name == name)
        self._children.remove(child)
        self._leaving.append(child)
        child.signal(signal.SIGTERM)

    @property
    def coordinator(self) -> Child:
        """The one that the others follow."""
        return self._children[0]

    def left(self) -> dict[str, float]:
        """The processes beside the coordinator that have left in good order.

        Each with the seconds since that was first seen.
        """
        now = time.monotonic()
        gone = [child.name for child in self._children[1:] if child.code == 0]
        self._left = {name: self._left.get(name, now) for name in gone}
        return {name: now - since for name, since in self._left.items()}

    def loading(self, status: RunStatus) -> list[str]:
        """The processes beside the coordinator that were not heard of since they started, in words.

        status: the coordinator's answer.
        """
        now = time.monotonic()
        seen: dict[str, float | None] = {m.name: m.last_seen for m in status.fleet}
        seen[LEARNER] = status.learner.last_seen
        heard = {name: now - ago for name, ago in seen.items() if ago is not None}
        return [
            f"{child.name} is {child.waiting() or 'loading'} ({now - child.started:.0f} s)"
            for child in self._children[1:]
            if child.code is None and heard.get(child.name, 0.0) <= child.started
        ]

    def end_hung(self, status: RunStatus | None) -> list[str]:
        """Kill what has been silent for too long; returns what happened, a sentence each.

        status: the coordinator's answer of this moment, None if there is none.
        """
        now = time.monotonic()
        if now - self._looked > LONGEST_TURN_SECONDS:
            self._liveness.listens_again(now)
        self._looked = now
        started = {child.name: child.started for child in self._children if child.code is None}
        hung = self._liveness.hung(started, status, now)
        for child in self._children:
            if child.name in hung:
                child.signal(signal.SIGKILL)
        return [
            f"{name} was silent for {seconds:.0f} s and is killed" for name, seconds in hung.items()
        ]

    def tend(self, *, too_early: Sequence[str] = ()) -> list[str]:
        """Start again what failed, and who left too early; returns what happened, a sentence each.

        Raises ChildFailedError if a process can't be kept alive.
        """
        news = []
        for child in self._children:
            if child.code is None or (child.code == 0 and child.name not in too_early):
                continue
            restarts, now = self._restarts[child.name], time.monotonic()
            if child.code == BAD_INPUT or not restarts.spend(now):
                raise ChildFailedError(child.failure())
            tried = f"{restarts.count(now)}/{restarts.most}"
            news.append(f"{child.name} {child.death()} and is started again ({tried})")
            child.sweep()
            child.start()
        return news

    def end(self, timeout: float, *, hurry: Callable[[], bool] = lambda: False) -> None:
        """Wait until all have left; after `timeout` seconds tell them to, then make them.

        hurry: whether to tell them to, and make them, without waiting any longer.
        """
        self._children += self._leaving
        for number in (None, signal.SIGTERM, signal.SIGKILL):
            for child in self._children:
                if number is not None and child.code is None:
                    child.signal(number)
            began = time.monotonic()
            in_a_hurry = 0.0 if number is None else HURRY_SECONDS
            while time.monotonic() - began < (in_a_hurry if hurry() else timeout):
                if all(child.code is not None for child in self._children):
                    break
                time.sleep(0.05)
        for child in self._children:
            child.sweep()


def inherited_environment() -> dict[str, str]:
    """Environment variables of this process that hold for the processes of a run too.

    A run that is started inside somebody's torchrun makes groups of its own.
    """
    return {name: value for name, value in os.environ.items() if name not in RANK_VARIABLES}


def python(module: str, *arguments: str) -> list[str]:
    """The command line of a module in this Python."""
    return [sys.executable, "-m", module, *arguments]


def _end_with_parent() -> None:
    """Have the child, on Linux, get SIGTERM when its parent dies: no run is left behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
