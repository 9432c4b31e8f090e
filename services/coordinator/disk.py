"""A full disk: the coordinator waits for room in the run directory.

Nothing can be made durable then, so nothing is granted and nothing acknowledged. Whoever speaks is
asked to introduce itself, which it repeats until it is welcomed; meanwhile it keeps what it has.
"""

import errno
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from asyncds.protocol.codec import ProtocolError, decode_to_coordinator, encode
from asyncds.protocol.records import RunStatus
from asyncds.protocol.wire import Identify, Message, Observe, Status, Stop
from asyncds.rollout.journal_file import DiskFullError
from asyncds.transport.router import Router

log = logging.getLogger(__name__)

ROOM_BYTES = 16 << 20
"""Bytes that must be free before the run goes on: with less it would wait again at once."""
LOOK_SECONDS = 1.0
"""Seconds between two looks for room."""


def is_full(error: Exception) -> bool:
    """Whether something could not be written for want of room."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return isinstance(error, DiskFullError)


def has_room(directory: Path) -> bool:
    """Whether ROOM_BYTES can be written. Raises OSError where something else forbids it."""
    if shutil.disk_usage(directory).free < ROOM_BYTES:
        return False
    probe = directory / ".room"
    try:
        with probe.open("wb") as file:
            file.write(bytes(ROOM_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if not is_full(error):
            raise
        return False
    finally:
        probe.unlink(missing_ok=True)
    return True


def wait_for_room(
    *,
    directory: Path,
    router: Router,
    status: RunStatus,
    seconds: float,
    clock: Callable[[], float],
    on_look: Callable[[], None],
    stopped: Callable[[], bool],
) -> bool:
    """Wait until there is room; False if there was none for `seconds`, or the run was told to stop.

    status: what is answered to those who ask for the run's. on_look: called at every look.
    """
    deadline = clock() + seconds
    while True:
        for peer, frame in router.receive(LOOK_SECONDS):
            answer = _answer(frame, status)
            if answer is None:
                return False
            router.send(peer, encode(answer))
        on_look()
        if has_room(directory):
            return True
        if stopped() or clock() > deadline:
            return False


def _answer(frame: bytes, status: RunStatus) -> Message | None:
    """None if the run is told to stop."""
    try:
        message = decode_to_coordinator(frame)
    except ProtocolError as error:
        log.debug("a frame that came while there was no room: %s", error)
        return Identify()
    match message:
        case Observe():
            return Status(run=status)
        case Stop():
            return None
        case _:
            return Identify()
