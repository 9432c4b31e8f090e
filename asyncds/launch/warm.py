"""Processes that serve one run after another: the parent's end of `services.warm`."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from asyncds.launch.children import Child, inherited_environment


@dataclass(kw_only=True)
class WarmChild(Child):
    """A process that outlives the run it works on. `code` is that of the current run.

    command: of the process without the number of the file descriptor it reports on, which `start`
    puts in the place of "REPORT". Ctrl-C in the terminal is not for it, and it ends when this
    process does.
    """

    _assignment: bytes = b""
    _reports: int | None = None
    _over: int | None = None
    _closed: bool = False

    def assign(self, arguments: Sequence[str]) -> None:
        """Set the run that `start` begins, as the arguments of its role's own command."""
        self._assignment = json.dumps(list(arguments)).encode() + b"\n"

    def start(self) -> None:
        """Begin the run: in the process that did the last one well, else in a new one."""
        self.begin()
        if self.process is not None and self.process.poll() is None and self._over == 0:
            self._over = None
            self._send()
            return
        self.close()
        super().sweep()
        self._closed = False
        self._over = None
        self._reports, writing = os.pipe()
        os.set_blocking(self._reports, False)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(writing) if word == "REPORT" else word for word in self.command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=inherited_environment() | self.environment,
                start_new_session=True,
                pass_fds=(writing,),
            )
        os.close(writing)
        self._send()

    @property
    def code(self) -> int | None:
        """The exit code of the run it was given last, None while it works on it.

        Once it is told that there are no more, its own.
        """
        if self._closed and self.process is not None:
            return self.process.poll()
        if self._over is None and self.process is not None:
            ended = self.process.poll()
            line = self._read()
            self._over = int(line) if line else ended
        return self._over

    def sweep(self) -> None:
        """End what it left behind if it is dead; a living one is for the next run."""
        if self.process is not None and self.process.poll() is not None:
            super().sweep()

    def close(self) -> None:
        """Tell it that there are no more runs, and close the pipes to it."""
        self._closed = True
        if self.process is not None and self.process.stdin is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.close()
        if self._reports is not None:
            os.close(self._reports)
            self._reports = None

    def _send(self) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it is dead, which `code` will tell
            self.process.stdin.write(self._assignment)
            self.process.stdin.flush()

    def _read(self) -> bytes:
        """The line that says that a run is over; b"" if there is none."""
        if self._reports is None:
            return b""
        try:
            return os.read(self._reports, 64)
        except BlockingIOError:
            return b""


def warm_python(role: str, *options: str) -> list[str]:
    """The command line of a role that serves one run after another."""
    return [sys.executable, "-m", "services.warm", role, "REPORT", *options]
