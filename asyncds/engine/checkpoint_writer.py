"""Checkpoints of a TrainingEngine are written beside training: whole or not at all.

Training waits for a copy in main memory, which a thread writes. All ranks write to the same
directory, which on several nodes must be on a shared file system, each its own part, hashed while
it is written; rank 0 writes the export too, an eighth of all, and hashes it afterwards. The
directory has another name until everything is on the disk, and is renamed then.
"""

import errno
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from concurrent import futures
from dataclasses import dataclass
from functools import partial as bound
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from asyncds.engine.checkpoint import (
    MANIFEST,
    CheckpointError,
    complete,
    layout,
    manifest_of,
)
from asyncds.engine.checkpoint_copy import HF, Part, fits_everywhere, part_of
from asyncds.engine.checkpoint_owner import PARTIAL, confirm, put_in_place
from asyncds.engine.hashes import Files, describe, whole
from asyncds.engine.process_group import Meeting, MeetingLateError, gathered
from asyncds.engine.training import TrainingEngine

log = logging.getLogger(__name__)

_FULL_BYTES = 1 << 20
"""Free bytes below which a full disk is why writing failed."""
_LOOK_SECONDS = 1.0


class NoRoomError(CheckpointError):
    """A checkpoint that was not written, because the disk is full; the message names it."""


class WriteLateError(CheckpointError):
    """A checkpoint that took too long to write; the message names it and the setting."""


@dataclass(frozen=True, kw_only=True)
class _Write:
    """A checkpoint that is being written. result: of the thread: why there was no room, if so."""

    directory: Path
    partial: Path
    began: float
    result: "futures.Future[NoRoomError | None]"


class CheckpointWriter:
    """Writes the checkpoints in `root`, one at a time; every rank has one.

    owner: who has taken over `root` (``checkpoint_owner``). longest_s: what a write may take.
    ended: called on every rank, by any thread, when a checkpoint is in place, or there was no room:
    with its step, the seconds since it was begun, and why it was not written. Until it returns the
    write is under way.
    """

    def __init__(
        self,
        engine: TrainingEngine,
        root: Path,
        *,
        owner: str,
        longest_s: float,
        ended: Callable[[int, float, NoRoomError | None], None],
    ) -> None:
        """A collective."""
        self._engine = engine
        self._root = root
        self._owner = owner
        self._longest_s = longest_s
        self._ended = ended
        self._meeting = Meeting()
        self._write: _Write | None = None
        self.waited_for = 0
        """Bytes on the disk, on rank 0, of the checkpoint that `wait` waits for; else 0."""

    @property
    def writing(self) -> bool:
        """Whether one is being written."""
        return self._write is not None and not self._write.result.done()

    def check(self) -> None:
        """Raise what a write ended with, if not for want of room."""
        if self._write is not None and self._write.result.done():
            self._write.result.result()

    def begin(self, step: int, *, state: Mapping[str, Any]) -> NoRoomError | None:
        """Copy the checkpoint `step-N`, which is written meanwhile. A collective.

        None may be under way (`wait`). state: what the caller wants back from ``load``; JSON. Where
        there is too little memory for the copy, it is written before this returns. Returns why it
        was not written, all ranks alike, as far as that is known: there is less room than the
        checkpoint before it takes. Raises ReplacedError, on rank 0 at least, with which the others
        end, if there is another owner.
        """
        began = time.monotonic()
        directory = self._root / f"step-{step}"
        partial = self._root / f"{PARTIAL}{directory.name}-{self._owner}"
        parts: list[Part] = []
        for action in (
            lambda: self._prepare(partial),
            lambda: parts.append(part_of(self._engine, partial)),
        ):
            if problem := self._together(action, gathered):
                error = self._left_out(directory, partial, problem)
                self._ended(step, time.monotonic() - began, error)
                return error
        part = parts.pop()
        beside = fits_everywhere(part.size)
        if beside:
            part = part.copied()
        elif self._engine.rank == 0:
            log.warning(
                "training waits until %s is written: there is no memory for the copies of it "
                "(%.2f GB on this rank)",
                directory.name,
                part.size / 1e9,
            )
        result: futures.Future[NoRoomError | None] = futures.Future()
        self._write = _Write(directory=directory, partial=partial, began=began, result=result)
        manifest = {**layout(self._engine), "state": dict(state)}

        def run() -> None:
            try:
                problem = self._place(part, directory, manifest)
                self._ended(step, time.monotonic() - began, problem)
            except MeetingLateError as error:
                result.set_exception(self._late(directory, str(error)))
            except BaseException as error:
                result.set_exception(error)
            else:
                result.set_result(problem)

        threading.Thread(target=run, name=f"writer of {directory.name}", daemon=True).start()
        return None if beside else self.wait()

    def wait(self) -> NoRoomError | None:
        """Wait for the write that is under way; returns why it was not written, all ranks alike.

        None where none is. A write that was waited for is not waited for again. Raises what the
        write ended with, and WriteLateError.
        """
        write = self._write
        if write is None:
            return None
        try:
            while not futures.wait([write.result], timeout=_LOOK_SECONDS).done:
                if time.monotonic() - write.began > self._longest_s:
                    raise self._late(write.directory, "its thread is not done")
                if self._engine.rank == 0:
                    self.waited_for = _size(write.partial) or self.waited_for
        finally:
            self.waited_for = 0
        self._write = None
        return write.result.result()

    def close(self) -> None:
        """Wait for what is being written, whatever becomes of it; the log says so."""
        if self.writing:
            try:
                self.wait()
            except Exception as error:
                log.error("%s", error)

    def _prepare(self, partial: Path) -> None:
        if self._engine.rank == 0:
            confirm(self._root, self._owner)
            shutil.rmtree(partial, ignore_errors=True)
            (partial / HF).mkdir(parents=True)
            _look_for_room(self._root)

    def _place(self, part: Part, directory: Path, manifest: dict[str, Any]) -> NoRoomError | None:
        """Write a part, and put all of them in place. Of a thread, on all ranks."""
        written: Files = {}
        meet = bound(self._meeting.gathered, seconds=self._longest_s)

        def write() -> None:
            written.update(part.write(self._engine))

        def finish() -> None:
            everything = whole(meet(written))
            if self._engine.rank == 0:
                files = _complete_files(part.directory, everything)
                text = json.dumps({**manifest, "files": files}, indent=1)
                (part.directory / MANIFEST).write_text(text)
                _flush(part.directory)
                put_in_place(part.directory, directory, self._owner)

        for action in (write, finish):
            if problem := self._together(action, meet):
                return self._left_out(directory, part.directory, problem)
        return None

    def _late(self, directory: Path, why: str) -> WriteLateError:
        return WriteLateError(
            f"{directory} was not written within {self._longest_s:.0f} s ({why}): look after the "
            "disk, or lower checkpoint.least_mb_per_second"
        )

    def _left_out(self, directory: Path, partial: Path, problem: str) -> NoRoomError:
        if self._engine.rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
        return NoRoomError(
            f"the checkpoint {directory} was not written, because the disk is full ({problem}): "
            "make room; the one before it is kept"
        )

    def _together(self, action: Callable[[], None], exchange: Callable[[str], list[str]]) -> str:
        """Do it on every rank; returns how the disk was full for one of them, or ""."""
        problem = ""
        try:
            action()
        except (OSError, RuntimeError, SafetensorError) as error:
            confirm(self._root, self._owner)  # another owner has taken away what was half written
            # The libraries tell a full disk each in its own words, if at all.
            missing = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
            if not missing and shutil.disk_usage(_existing(self._root)).free > _FULL_BYTES:
                raise
            problem = " ".join((getattr(error, "strerror", None) or str(error)).split())[:200]
        return next(filter(None, exchange(problem)), "")


def _look_for_room(root: Path) -> None:
    """Raise OSError if there is less than the newest checkpoint takes."""
    if found := complete(root):
        taken = sum(file["bytes"] for file in manifest_of(found[-1])["files"].values())
        free = shutil.disk_usage(root).free
        if free < taken:
            raise OSError(
                errno.ENOSPC,
                f"{free / 1e6:,.0f} MB are free, {found[-1].name} takes {taken / 1e6:,.0f} MB",
            )


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)


def _complete_files(partial: Path, written: Files) -> Files:
    """The entries of all files: those that ranks have written, and the others, which are read.

    Raises CheckpointError where a file of another rank is not here.
    """
    there = [path for path in sorted(partial.rglob("*")) if path.is_file()]
    names = {str(path.relative_to(partial)) for path in there}
    if missing := sorted(written.keys() - names):
        raise CheckpointError(
            f"{missing[0]} was written by another rank and is not in {partial}: give all ranks the "
            "same runs_dir, on a shared file system"
        )
    others = [path for path in there if str(path.relative_to(partial)) not in written]
    return dict(sorted({**written, **describe(others, below=partial)}.items()))


def _size(directory: Path) -> int:
    """Bytes that are written below a directory; 0 if it vanishes meanwhile."""
    try:
        return sum(path.stat().st_size for path in directory.rglob("*"))
    except OSError:
        return 0


def _flush(directory: Path) -> None:
    """Bring every file and directory entry below (and including) ``directory`` to the disk."""
    for path in (*directory.rglob("*"), directory):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
