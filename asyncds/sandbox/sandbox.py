"""The sandbox: runs Python programs that nobody has read."""

import ctypes
import fcntl
import math
import os
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from asyncds.config.sandbox import SandboxConfig
from asyncds.sandbox.bubblewrap import (
    Files,
    NoSandboxError,
    command,
    environment,
    find_bubblewrap,
)
from asyncds.sandbox.running import Running, SandboxError
from asyncds.sandbox.system_calls import UnknownMachineError, seccomp_filter

Reason = Literal["timeout", "memory", "output", "crash"]
"""Why a program did not end well: it took too long or too much memory, printed too much, or ended
with another exit code than 0."""

_OUT_OF_CPU_TIME = 128 + 24
"""The exit code of what SIGXCPU has ended."""
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
_SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER: what bubblewrap leaves behind is then reaped here."""
_TRIAL = """
import os, threading
print(os.listdir("/tmp"), os.getuid() != 0)
try:
    bytearray({memory} << 20)
except MemoryError:
    print("memory")
stop = threading.Event()
try:
    for _ in range({processes} + 1):
        threading.Thread(target=stop.wait).start()
except RuntimeError:
    print("processes")
stop.set()
"""
_TRIAL_SECONDS = 30.0
_TRIED = "[] True\nmemory\nprocesses\n"


@dataclass(frozen=True, kw_only=True)
class Ran:
    """Result of a program.

    output, errors: what it printed, as far as limits allow. reason: why it did not end well, None
    where it did.
    """

    output: str
    errors: str
    reason: Reason | None


class Sandbox:
    """A place where Python programs run, one at a time, each with nothing of the one before.

    A program sees the system's programs and this Python with its packages, read-only, and an empty
    /tmp. It has no network, no other process, nothing of this process's environment, and
    ``limits``.
    """

    def __init__(self, limits: SandboxConfig | None = None) -> None:
        self.limits = limits or SandboxConfig()

    def problem(self) -> str:
        """Why programs can't be run here, in a sentence, or "". Tries it, which takes 0.1 s."""
        trial = _TRIAL.format(memory=self.limits.memory_mb, processes=self.limits.processes)
        patient = Sandbox(self.limits.model_copy(update={"seconds": _TRIAL_SECONDS}))
        try:
            ran = patient.run(trial)
        except NoSandboxError as error:
            return f"no sandbox: {error}"
        except SandboxError as error:
            return (
                f"no sandbox: this machine does not let bubblewrap make one ({error}): "
                "docs/sandbox.md says what it needs"
            )
        if ran.output == _TRIED and ran.reason is None:
            return ""
        said = (ran.errors or f"{ran.reason or ran.output}").strip().splitlines()
        return (
            f"no sandbox: a harmless program did not run in it as it should ({said[-1]:.200}): "
            "docs/sandbox.md says what it needs"
        )

    def run(self, program: str, *, stdin: str = "", seconds: float = math.inf) -> Ran:
        """Run a program (Python), with its standard input.

        seconds: its longest time, where that is shorter than the limit. Raises NoSandboxError or
        SandboxError where it can't be run, whatever it is.
        """
        given, read = (text.encode(errors="replace") for text in (program, stdin))
        shortest = min(seconds, self.limits.seconds)
        limits = self.limits.model_copy(update={"seconds": shortest})
        running = self._start(given, read, limits)
        limit = running.wait()
        errors = running.errors.decode(errors="replace")
        return Ran(
            output=running.output.decode(errors="replace"),
            errors=errors,
            reason=limit or _reason(running.exit_code(), errors),
        )

    def _start(self, program: bytes, stdin: bytes, limits: SandboxConfig) -> Running:
        bwrap = self._bubblewrap
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
        status, written = os.pipe()
        with ExitStack() as on_failure, ExitStack() as finally_:
            on_failure.callback(os.close, status)
            finally_.callback(os.close, written)
            given = {"program": program, "stdin": stdin, "stdin_copy": stdin, "seccomp": _filter()}
            opened = {name: _memory_file(name, content) for name, content in given.items()}
            for descriptor in opened.values():
                finally_.callback(os.close, descriptor)
            files = Files(**opened, status=written)
            passed = {*opened.values(), written} - {files.stdin}
            try:
                process = subprocess.Popen(
                    command(bwrap, limits, files),
                    stdin=files.stdin,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env=environment(),
                    cwd="/",
                    start_new_session=True,
                    pass_fds=passed,
                )
            except OSError as error:
                raise SandboxError(f"{bwrap} can't be started: {error.strerror}") from error
            on_failure.pop_all()
        return Running(process, status=status, limits=limits)

    @cached_property
    def _bubblewrap(self) -> str:
        return find_bubblewrap()


def _filter() -> bytes:
    try:
        return seccomp_filter()
    except UnknownMachineError as error:
        raise NoSandboxError(str(error)) from None


def _memory_file(name: str, content: bytes) -> int:
    """A file of memory that nobody can change any more."""
    descriptor = os.memfd_create(name, os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    return descriptor


def _reason(exit_code: int, errors: str) -> Reason | None:
    if exit_code == 0:
        return None
    if exit_code == _OUT_OF_CPU_TIME:
        return "timeout"
    last = errors.rstrip().rpartition("\n")[2]
    return "memory" if last.startswith("MemoryError") else "crash"
