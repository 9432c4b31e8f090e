"""The pool's end of one worker process."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Self

import psutil

from asyncds.scoring.frames import (
    AnyRequest,
    Begin,
    EpisodeRequest,
    Ready,
    Reply,
    Request,
    Setup,
    pack,
    receive,
)
from asyncds.scoring.output import Output
from asyncds.scoring.scorer import Reason, ScorerUnavailableError
from asyncds.scoring.worker import WATCHDOG_EXIT
from asyncds.tasks.base import Row

GRACE_SECONDS = 5.0
"""How much longer than a worker's own watchdog we wait before we give it up."""

EXIT_SECONDS = 5.0
"""How long a process that has closed its pipe, or was killed, may take to end."""


class WorkerProcess:
    """A ``Worker``: a process that has been started."""

    def __init__(self, process: asyncio.subprocess.Process, setup: Setup, output: Output) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._requests = process.stdin
        self._replies = process.stdout
        self._setup = setup
        self._output = output
        output.on_too_much = self.kill
        self._outstanding = 0
        self._broken = False
        self._killed = False

    @classmethod
    async def spawn(cls, setup: Setup) -> Self:
        """Start a process; ``ready`` makes it usable.

        It has a session of its own, so that Ctrl-C ends the run and not its scorers before it.
        """
        output = Output()
        printed = await output.opened()
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "asyncds.scoring.worker"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=printed,
                start_new_session=True,
            )
        except BaseException:
            output.close()
            raise
        finally:
            os.close(printed)
        return cls(process, setup, output)

    async def ready(self, *, deadline: float) -> None:
        """Wait until the task is made. Raises ScorerUnavailableError, at the deadline too."""
        try:
            async with asyncio.timeout(deadline):
                self._requests.write(pack(self._setup))
                await self._requests.drain()
                error = (await receive(self._replies, Ready)).error
        except TimeoutError:
            error = f"not ready within {deadline:g} s"
        except (EOFError, ConnectionError, ValueError) as failure:
            error = f"it broke off ({failure})"
        if error:
            raise ScorerUnavailableError(f"a scorer process did not start: {error}")

    async def judge(self, row: Row, completions: Sequence[str]) -> AsyncIterator[Reply]:
        """One reply after the other, in order; the last one, perhaps too early, where it broke."""
        self._output.next_row()
        request = Request(row, list(completions))
        async for reply in self._asked(request, replies=len(completions)):
            yield reply

    async def ask(self, request: EpisodeRequest) -> Reply:
        """The reply to a part of an episode."""
        if isinstance(request, Begin):
            self._output.next_row()
        [reply] = [reply async for reply in self._asked(request, replies=1)]
        return reply

    async def _asked(self, request: AnyRequest, *, replies: int) -> AsyncIterator[Reply]:
        self._outstanding = replies
        try:
            async with asyncio.timeout(self._setup.time_limit + GRACE_SECONDS):
                self._requests.write(pack(request))
                await self._requests.drain()
            while self._outstanding and not self._broken:
                self._output.next_completion()
                async with asyncio.timeout(self._setup.time_limit + GRACE_SECONDS):
                    reply = await receive(self._replies, Reply)
                self._outstanding -= 1
                self._broken = reply.reason == "memory"
                yield reply
        except TimeoutError:
            self._broken = True
            self.kill()
            yield Reply(reason="timeout", detail="its own watchdog did not bite")
        except (EOFError, ConnectionError, ValueError) as failure:
            self._broken = True
            code = await self._exit_code(deadline=EXIT_SECONDS)
            reason: Reason = "timeout" if code == WATCHDOG_EXIT else "crash"
            if self._output.is_too_much:
                reason = "output"
            yield Reply(reason=reason, detail=f"exit code {code}, {failure}")
        if self._broken:
            await self._exit_code(deadline=EXIT_SECONDS)

    @property
    def is_idle(self) -> bool:
        """Whether it can take a row: alive, and nothing it was asked is still unanswered."""
        return self.is_alive and not self._broken and not self._killed and self._outstanding == 0

    @property
    def is_alive(self) -> bool:
        return self._process.returncode is None

    def kill(self) -> None:
        """End the process, and with it what it has started, such as a sandbox half made."""
        self._killed = True
        if not self.is_alive:
            return
        started: list[psutil.Process] = []
        with suppress(psutil.Error):
            started = psutil.Process(self._process.pid).children(recursive=True)
        self._process.kill()
        for process in started:
            with suppress(psutil.Error):
                process.kill()

    async def end(self, *, deadline: float) -> None:
        """Let it finish what it has read and end, or kill it after ``deadline`` seconds."""
        self._requests.close()
        await self._exit_code(deadline=deadline)

    async def _exit_code(self, *, deadline: float) -> int:
        try:
            async with asyncio.timeout(deadline):
                return await self._process.wait()
        except TimeoutError:
            self.kill()
        try:
            async with asyncio.timeout(EXIT_SECONDS):
                return await self._process.wait()
        finally:
            self._output.close()
