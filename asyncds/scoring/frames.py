"""Frames between a process pool and its workers: msgpack with a length in front.

A verifier reads text that a model wrote, so what a worker sends back is decoded into a fixed type,
never unpickled, and refused beyond a size.
"""

import asyncio
import struct
from typing import Any, BinaryIO, TypeVar

import msgspec

from asyncds.scoring.scorer import Reason
from asyncds.tasks.base import Row, Score
from asyncds.tasks.environment import Answer

MAX_BYTES = 64 * 2**20
_LENGTH = struct.Struct("<I")

T = TypeVar("T")


class Setup(msgspec.Struct):
    """First frame to a worker: the task to make and the limits to set on itself."""

    kind: str
    options: dict[str, Any]
    time_limit: float
    memory_limit: int


class Ready(msgspec.Struct):
    """A worker's answer to ``Setup``. error: why the task could not be made, "" if it could."""

    error: str = ""


class Request(msgspec.Struct, tag=True):
    """Completions of one row; the worker answers with one ``Reply`` for each, in order."""

    row: Row
    completions: list[str]


class Begin(msgspec.Struct, tag=True):
    """Start an episode of a row, which a worker has one of at a time."""

    row: Row


class Step(msgspec.Struct, tag=True):
    """A completion for the episode."""

    completion: str


class CutOff(msgspec.Struct, tag=True):
    """Judge the episode, which a limit has ended."""


class Close(msgspec.Struct, tag=True):
    """End the episode."""


EpisodeRequest = Begin | Step | CutOff | Close
AnyRequest = Request | EpisodeRequest
"""What a worker is asked; to each part of an episode it says one ``Reply``."""


class Reply(msgspec.Struct):
    """A judgement or an environment's answer, or why there is none; nothing for a thing done."""

    score: Score | None = None
    answer: Answer | None = None
    reason: Reason | None = None
    detail: str = ""


def pack(message: msgspec.Struct) -> bytes:
    """A frame. Raises ValueError beyond MAX_BYTES."""
    body = msgspec.msgpack.encode(message)
    if len(body) > MAX_BYTES:
        raise ValueError(f"a frame of {len(body):,} bytes, more than {MAX_BYTES:,}")
    return _LENGTH.pack(len(body)) + body


def read(stream: BinaryIO, kind: Any) -> Any:
    """The next frame of a blocking stream, of a kind or a union of kinds, or None at its end."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    return msgspec.msgpack.decode(stream.read(_LENGTH.unpack(head)[0]), type=kind)


async def receive(stream: asyncio.StreamReader, kind: type[T]) -> T:
    """The next frame. Raises EOFError at the end, ValueError for a frame that is not a ``kind``."""
    (length,) = _LENGTH.unpack(await stream.readexactly(_LENGTH.size))
    if length > MAX_BYTES:
        raise ValueError(f"a frame of {length:,} bytes, more than {MAX_BYTES:,}")
    return msgspec.msgpack.decode(await stream.readexactly(length), type=kind)
