"""A program while it runs: what it prints is read, and it is ended when it takes too much."""

import json
import os
import selectors
import signal
import subprocess
import time
from contextlib import ExitStack, suppress
from typing import Literal

import psutil

from asyncds.config.sandbox import SandboxConfig

Limit = Literal["timeout", "memory", "output"]
"""What a program was ended for."""
END_SECONDS = 10.0
"""Deadline for a sandbox that was killed to be gone."""
_LOOK_SECONDS = 0.1
_REAP_SECONDS = 0.002
_READ_BYTES = 1 << 16


class SandboxError(RuntimeError):
    """The sandbox itself failed, and not the program in it."""


class Running:
    """A sandbox that was started.

    process: bubblewrap, whose standard output and errors are pipes. status: the reading end of the
    pipe that it writes its status to. output, errors: what the program has printed.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], *, status: int, limits: SandboxConfig
    ) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self._limits = limits
        self.output, self.errors, self._status = bytearray(), bytearray(), bytearray()
        self._files = (process.stdout, process.stderr, os.fdopen(status, "rb", buffering=0))
        self._selector = selectors.DefaultSelector()
        kept = (self.output, self.errors, self._status)
        for file, buffer in zip(self._files, kept, strict=True):
            self._selector.register(file, selectors.EVENT_READ, buffer)

    def wait(self) -> Limit | None:
        """Wait until all that runs in the sandbox is gone.

        Returns what it was ended for, None where it ended by itself. Raises SandboxError.
        """
        with ExitStack() as files:
            files.enter_context(self._selector)
            for file in self._files:
                files.enter_context(file)
            limit = self._watch()
            if limit is not None:
                self._kill()
                self._drain()
        self._reap()
        return limit

    def exit_code(self) -> int:
        """The program's exit code, 128 and the signal for one that a signal ended.

        Raises SandboxError where the program was never begun.
        """
        code = self._said("exit-code")
        if code is None:
            why = self.errors.decode(errors="replace").strip().splitlines() or ["no reason given"]
            raise SandboxError(why[0])
        return code

    def _watch(self) -> Limit | None:
        """Read until the end of all that is printed, or until a limit is met."""
        now = time.monotonic()
        end, look = now + self._limits.seconds, now + _LOOK_SECONDS
        while self._selector.get_map():
            self._read(min(end, look) - now)
            now = time.monotonic()
            if len(self.output) + len(self.errors) > self._limits.output_kb << 10:
                return "output"
            if now >= end:
                return "timeout"
            if now >= look:
                look = now + _LOOK_SECONDS
                memory, cpu_seconds = self._used()
                if memory > self._limits.memory_mb << 20:
                    return "memory"
                if cpu_seconds > self._limits.cpu_seconds:
                    return "timeout"
        return None

    def _read(self, seconds: float) -> None:
        for key, _ in self._selector.select(max(seconds, 0)):
            if data := os.read(key.fd, _READ_BYTES):
                key.data.extend(data)
            else:
                self._selector.unregister(key.fileobj)

    def _used(self) -> tuple[int, float]:
        """Bytes that the sandbox's processes have in memory, and seconds they have computed."""
        first = self._said("child-pid")
        memory, seconds = 0, 0.0
        with suppress(psutil.Error):
            init = psutil.Process(first) if first else None
            for process in (init, *init.children(recursive=True)) if init else ():
                with suppress(psutil.Error):
                    memory += process.memory_info().rss
                    # Of the system and of itself, and of its children that are over.
                    seconds += sum(process.cpu_times()[:4])
        return memory, seconds

    def _kill(self) -> None:
        """End all that runs in the sandbox, by its first process, without which none can live.

        Bubblewrap names it before it lets it go on. Until then it is of bubblewrap's own group, and
        would wait for ever if that alone were gone.
        """
        if self._selector.get_map():
            self._read(0)
        first = self._said("child-pid")
        with suppress(ProcessLookupError):
            if first is not None:
                os.kill(first, signal.SIGKILL)
            else:
                os.killpg(self._process.pid, signal.SIGKILL)

    def _drain(self) -> None:
        """Read, and forget, what was still on its way."""
        most = self._limits.output_kb << 10
        kept = [min(len(printed), most) for printed in (self.output, self.errors)]
        end = time.monotonic() + END_SECONDS
        while True:
            del self.output[kept[0] :], self.errors[kept[1] :]
            if not self._selector.get_map():
                return
            left = end - time.monotonic()
            if left <= 0:
                raise SandboxError(f"what was killed is not gone after {END_SECONDS:g} s")
            self._read(left)

    def _reap(self) -> None:
        """Wait for the last processes, which are ours once bubblewrap is gone."""
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise SandboxError(f"bubblewrap did not end within {END_SECONDS:g} s") from None
        _reap(-self._process.pid)
        if (first := self._said("child-pid")) is not None:
            _reap(first)

    def _said(self, name: str) -> int | None:
        """A number in bubblewrap's status, which is an object a line."""
        for line in bytes(self._status).splitlines():
            with suppress(ValueError):
                if name in (said := json.loads(line)):
                    return int(said[name])
        return None


def _reap(which: int) -> None:
    """Wait for children of this process, by ``which`` as os.waitpid has it. Raises SandboxError."""
    end = time.monotonic() + END_SECONDS
    with suppress(ChildProcessError):
        while time.monotonic() < end:
            if os.waitpid(which, os.WNOHANG) == (0, 0):
                time.sleep(_REAP_SECONDS)
        raise SandboxError(f"a process of a sandbox did not end within {END_SECONDS:g} s")
