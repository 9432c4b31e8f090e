"""Makes one fault after another, and waits after each until the run has got over it."""

import math
import os
import signal
import time
from contextlib import suppress

import psutil

from tests.chaos.chaos_run import ChaosRun
from tests.chaos.faults import Fault
from tests.chaos.holding import Holder
from tests.chaos.phases import PHASES
from tests.chaos.processes import find, is_gone, send, send_all
from tests.chaos.report import Outcome

TRIES = 3
"""How often a phase is waited for before a fault is made outside of it."""


class Injector:
    """holder: of the run's phases."""

    def __init__(self, run: ChaosRun, holder: Holder) -> None:
        self._run = run
        self._holder = holder

    def make(self, fault: Fault) -> Outcome:
        """Make a fault; returns when the run has got over it."""
        run = self._run
        resumed, started = run.resumed, run.started(fault.role)
        role, frozen, reached = self._in_phase(fault)
        run.forget_stalls()
        began = time.monotonic()
        try:
            if fault.signal is signal.SIGSTOP:
                send_all(role, fault.signal)
            else:
                send(role, fault.signal)
        finally:
            # What belongs to the role and was stopped with it stays so.
            if frozen is not None and not (
                fault.signal is signal.SIGSTOP and _belongs(frozen, role)
            ):
                send(frozen, signal.SIGCONT)
            run.freezes(False)
        if fault.pause is not None:
            run.comes(lambda: False, fault.pause)
            send_all(role, signal.SIGCONT)
        else:
            run.wait(
                lambda: is_gone(role), self._holder.recovery_seconds, f"{fault.role} is not ended"
            )
            run.wait(
                lambda: _is_another(run.started(fault.role), started),
                self._holder.recovery_seconds,
                f"no new {fault.role} is ready",
            )
        self._holder.wait_until_well()
        return Outcome(
            fault=fault,
            reached=reached,
            step=run.last.step if run.last else 0,
            recovery_seconds=time.monotonic() - began,
            stall_seconds=run.longest_stall,
            resumed=run.resumed > resumed,
        )

    def _in_phase(self, fault: Fault) -> tuple[psutil.Process, psutil.Process | None, bool]:
        """The role's process; the one that is frozen, if the phase is held open; whether it is."""
        phase = PHASES[fault.phase]
        for _ in range(TRIES):
            if frozen := self._holder.hold(phase):
                if role := find(self._run.pid, fault.role):  # type: ignore[arg-type]
                    return role, frozen, True
                self._holder.release(frozen)
            self._holder.wait_until_well()
        role = find(self._run.pid, fault.role)  # type: ignore[arg-type]
        assert role is not None, f"no {fault.role} is running"
        return role, None, False


def _belongs(part: psutil.Process, role: psutil.Process) -> bool:
    """Whether a part is in the session that a role's process leads."""
    with suppress(ProcessLookupError):
        return os.getpgid(part.pid) == role.pid
    return False


def _is_another(started: float, before: float) -> bool:
    """Whether there is a process, and it was started at another time."""
    return not math.isnan(started) and started != before
