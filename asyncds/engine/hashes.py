"""Sizes and SHA-256 of a checkpoint's files: computed while they are written, and compared."""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, TypedDict

import torch

_READERS = 8


class Described(TypedDict):
    """A file as a manifest has it."""

    bytes: int
    sha256: str


Files = dict[str, Described]


class _Hashed:
    """A file that is only ever appended to, and its hash so far."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._bytes = 0

    def write(self, data: Any) -> int:
        self._digest.update(data)
        self._bytes += memoryview(data).nbytes
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    @property
    def described(self) -> Described:
        return {"bytes": self._bytes, "sha256": self._digest.hexdigest()}


def save_hashed(state: Any, path: Path) -> Described:
    """Write what torch.load reads, and bring it to the disk; returns its entry."""
    with path.open("wb") as file:
        hashed = _Hashed(file)
        torch.save(state, hashed)
        file.flush()
        os.fsync(file.fileno())
    return hashed.described


def describe(files: Sequence[Path], *, below: Path) -> Files:
    """The entries of files that are there, by their paths below a directory."""
    with ThreadPoolExecutor(_READERS) as readers:
        hashes = readers.map(_sha256, files)
        return {
            str(file.relative_to(below)): {"bytes": file.stat().st_size, "sha256": digest}
            for file, digest in zip(files, hashes, strict=True)
        }


def differences(directory: Path, files: Mapping[str, Any]) -> list[str]:
    """Sentences about files that are not as they are described, each with the file's name."""
    with ThreadPoolExecutor(_READERS) as readers:
        found = readers.map(lambda name: _difference(directory / name, files[name]), files)
        return [f"{name} {why}" for name, why in zip(files, found, strict=True) if why]


def share(files: Mapping[str, Any], *, rank: int, ranks: int) -> dict[str, Any]:
    """The files that a rank reads, so that all ranks read about as much, and every file is read."""
    loads = [0] * ranks
    mine = {}
    for name in sorted(files, key=lambda name: (-files[name]["bytes"], name)):
        least = loads.index(min(loads))
        # An empty file is work, too.
        loads[least] += files[name]["bytes"] + 1
        if least == rank:
            mine[name] = files[name]
    return mine


def whole(files: Iterable[Files]) -> Files:
    """The files that several ranks have written, together."""
    return {name: described for some in files for name, described in some.items()}


def _difference(file: Path, expected: Mapping[str, Any]) -> str:
    try:
        if not file.is_file():
            return "is missing"
        if (size := file.stat().st_size) != expected["bytes"]:
            return f"has {size} of {expected['bytes']} bytes"
        if "sha256" in expected and _sha256(file) != expected["sha256"]:
            return "has other content than was written"
    except OSError as error:
        return f"cannot be read: {error}"
    return ""


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
