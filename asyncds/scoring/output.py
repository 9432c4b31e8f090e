"""Output of a worker process: a little is shown, and too much ends the process."""

import asyncio
import os
import sys
from collections.abc import Callable

MAX_BYTES = 8 * 2**20
"""What one judgement may print."""
SHOWN_BYTES = 4096
"""What is shown of the output for one row: it goes into the generator's log."""


class Output(asyncio.Protocol):
    """The reading end of a worker's standard error.

    It is a pipe of its own and no part of asyncio's subprocess, which would wait for programs that
    a verifier has started and that still hold it.
    """

    def __init__(self) -> None:
        self._transport: asyncio.BaseTransport | None = None
        self._printed = 0
        self._shown = 0
        self.is_too_much = False
        self.on_too_much: Callable[[], None] = lambda: None

    async def opened(self) -> int:
        """Begin to read. Returns the writing end, for the process; the caller closes its own."""
        reading, writing = os.pipe()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: self, os.fdopen(reading, "rb", buffering=0)
        )
        return writing

    def next_row(self) -> None:
        """Take what comes from now on as printed for another row."""
        self._shown = 0

    def next_completion(self) -> None:
        """Take what comes from now on as printed by another judgement."""
        self._printed = 0

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._printed += len(data)
        if self._shown < SHOWN_BYTES:
            shown = data[: SHOWN_BYTES - self._shown]
            self._shown += len(shown)
            print(shown.decode(errors="replace"), end="", file=sys.stderr)
            if self._shown == SHOWN_BYTES:
                print("\n[a verifier prints more than is shown]", file=sys.stderr)
        if self._printed > MAX_BYTES and not self.is_too_much:
            self.is_too_much = True
            self.on_too_much()
