"""Holding a phase open by freezing what it waits for, and waiting until all is well."""

import signal

import psutil

from tests.chaos.phases import Phase
from tests.chaos.processes import find, send
from tests.chaos.watched_run import WatchedRun


class Holder:
    """freeze_seconds: how long a part is frozen at most to hold a phase open, less than any
    deadline of the run. recovery_seconds: when the run must have got over whatever it was."""

    def __init__(
        self,
        run: WatchedRun,
        *,
        freeze_seconds: float,
        suspect_seconds: float,
        recovery_seconds: float,
    ) -> None:
        self.recovery_seconds = recovery_seconds
        self._run = run
        self._freeze_seconds = freeze_seconds
        self._suspect_seconds = suspect_seconds

    def wait_until_well(self) -> None:
        """Everybody is well, and a batch was trained since."""
        run = self._run
        run.wait(self._well, self.recovery_seconds, "not everybody is well")
        trained = run.trained
        run.wait(
            lambda: self._well() and run.trained > trained,
            self.recovery_seconds,
            "no batch is trained",
        )

    def hold(self, phase: Phase) -> psutil.Process | None:
        """Freeze what the phase waits for; None if it was not reached."""
        run = self._run
        part = find(run.pid, phase.frozen)
        if part is None or not run.comes(lambda: phase.moment(run), self.recovery_seconds):
            return None
        send(part, signal.SIGSTOP)
        run.freezes(True)
        if run.comes(lambda: phase.inside(run), self._freeze_seconds):
            return part
        self.release(part)
        return None

    def release(self, part: psutil.Process) -> None:
        """What was frozen goes on."""
        send(part, signal.SIGCONT)
        self._run.freezes(False)

    def _well(self) -> bool:
        return self._run.is_well(self._suspect_seconds)
