"""The contract of a broadcast group: one sender, receivers, deadlines, errors that are outcomes."""

import time
from collections.abc import Iterable, Iterator
from typing import Protocol

import torch

SENDER = 0
"""The group rank that broadcasts."""


class TransferFailed(RuntimeError):  # noqa: N818
    """A transfer did not complete: a member is missing, died or was too late."""


class NotJoined(TransferFailed):
    """The group of a transfer was never whole: nothing was sent or received."""


class Communicator(Protocol):
    """One rank of a broadcast group. After an error it is of no use any more: abort it.

    Buckets are uint8 tensors in main memory; whatever a transport needs of a device is its own.
    Deadlines are points of ``time.monotonic``.
    """

    def send(self, buckets: Iterable[torch.Tensor], *, deadline: float) -> None:
        """Send buckets, in their order, as rank 0. Raises TransferFailed."""

    def receive(self, buckets: Iterable[torch.Tensor], *, deadline: float) -> Iterator[int]:
        """Fill buckets, in their order; yields the checksum of each once it has arrived.

        Raises TransferFailed.
        """

    def close(self) -> None:
        """Leave the group, while nothing is under way."""

    def abort(self) -> None:
        """Leave the group whatever is under way; returns promptly."""


def seconds_left(deadline: float) -> float:
    """The seconds until a deadline. Raises TransferFailed if there are none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TransferFailed("the deadline of the transfer has passed")
    return left
