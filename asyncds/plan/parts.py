"""The parts that a memory, a disk or a time is made of."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A name, its bytes, and in words where they come from."""

    name: str
    nbytes: float
    why: str = ""


def total(parts: Iterable[Part]) -> float:
    """Bytes of all parts together."""
    return sum(part.nbytes for part in parts)
