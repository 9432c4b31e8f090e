"""A run that goes on in other processes, looked at from outside, and waited for."""

import math
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from asyncds.protocol.records import RunStatus
from asyncds.transport.observer import Observer

ANSWER_SECONDS = 0.3
POLL_SECONDS = 0.01
LOOK_SECONDS = 0.2
"""How often the status is asked for at least, so that no trained batch is missed."""
ROLES = ("coordinator", "learner", "generator")
"""In the order of their metrics ports."""


class WatchedRun(ABC):
    """Waits end with an AssertionError at their deadline."""

    def __init__(
        self, *, run_dir: Path, observer: Observer, metrics_port: int, generators: int
    ) -> None:
        """metrics_port: the first of one per process."""
        self.run_dir = run_dir
        self.generators = generators
        self.last: RunStatus | None = None
        self.longest_stall = 0.0
        self._frozen_at: float | None = None
        self._observer = observer
        self._metrics_port = metrics_port
        self._moved = self._asked = time.monotonic()
        self.trained = 0
        """How often a batch was seen to be trained, those trained again included."""

    @property
    @abstractmethod
    def pid(self) -> int:
        """Of the process whose children the roles are."""

    @abstractmethod
    def go_on(self) -> None:
        """Called again and again while something is waited for."""

    def at(self, role: str) -> AbstractContextManager[None]:
        """Connections that are made while the block runs are made from where a role is."""
        return nullcontext()

    @property
    def frozen_for(self) -> float:
        """Seconds since `freeze`, 0 before and after."""
        return 0.0 if self._frozen_at is None else time.monotonic() - self._frozen_at

    def freezes(self, frozen: bool) -> None:
        """A part was frozen, or goes on."""
        self._frozen_at = time.monotonic() if frozen else None

    def status(self) -> RunStatus | None:
        """The coordinator's answer, None if it does not."""
        self._asked = time.monotonic()
        answer = self._observer.status(ANSWER_SECONDS)
        if answer is not None:
            before = -1 if self.last is None else self.last.step
            now = time.monotonic()
            if answer.step > before:
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
        port = self._metrics_port + ROLES.index(role)
        try:
            with (
                self.at(role),
                urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}", timeout=1) as answer,
            ):
                return str(answer.read().decode())
        except OSError:
            return None

    def is_well(self, suspect_seconds: float) -> bool:
        """Everybody is there, was heard of lately, and has verified weights."""
        status = self.status()
        if status is None or status.over:
            return False
        fleet = [m for m in status.fleet if m.health == "healthy"]
        heard = [m.last_seen for m in fleet] + [status.learner.last_seen]
        return (
            len(fleet) == self.generators
            and status.learner.phase != "not here"
            and all(ago is not None and ago < suspect_seconds for ago in heard)
        )

    def wait(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Until it is so."""
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
