"""Receiving a version beside whatever the process does: on a thread, into main memory."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from asyncds.weights.buckets import Placement
from asyncds.weights.communicator import Communicator, NotJoined, TransferFailed
from asyncds.weights.region import Region
from asyncds.weights.rendezvous import connect

log = logging.getLogger(__name__)

Tensors = list[tuple[str, torch.Tensor]]


@dataclass(frozen=True, kw_only=True)
class Order:
    """A version to receive, and how.

    In which group and as which rank, what it consists of, what the checksums of its buckets are,
    and how many seconds there are.
    """

    rendezvous: str
    rank: int
    world_size: int
    placement: Placement
    checksums: tuple[int, ...]
    timeout: float


class Receiver:
    """The receiving end of transfers, one at a time.

    A version lands in a region of main memory that is kept from one to the next, and is verified
    there bucket by bucket. `begin` returns at once; the outcome is asked for. Whatever fails, the
    group is left and the next `begin` starts afresh.
    """

    def __init__(self, *, device: torch.device, prepare: Callable[[Tensors], None]) -> None:
        """Receive nothing yet.

        device: the GPU that an ``nccl://`` group arrives at. prepare: does, on the thread of the
        receiver, what can be done of loading before anything stops for it.
        """
        self._device = device
        self._prepare = prepare
        self._rendezvous: str | None = None
        self._communicator: Communicator | None = None
        self._region = Region(0)
        self._whole: Placement | None = None
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    def begin(self, order: Order) -> None:
        """Begin to receive. Raises TransferFailed while another version is being received."""
        if self.busy:
            raise TransferFailed("another version is still being received")
        self._whole = self._failure = None
        self._thread = threading.Thread(
            target=self._run, args=(order,), name="receive-weights", daemon=True
        )
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether a version is being received."""
        return self._thread is not None and self._thread.is_alive()

    def check(self) -> None:
        """Raise what ended the last transfer, if it failed: TransferFailed, or a surprise."""
        if self._failure is not None:
            raise self._failure

    def tensors(self) -> Tensors:
        """The version that arrived, as views of the region. Raises TransferFailed without one."""
        if self.busy or self._whole is None:
            raise TransferFailed("no whole version is there")
        return self._whole.tensors(self._region.flat)

    def close(self) -> None:
        """Leave the group. A transfer under way is broken off."""
        communicator, self._communicator = self._communicator, None
        if communicator is not None:
            communicator.abort() if self.busy else communicator.close()

    def _run(self, order: Order) -> None:
        try:
            self._receive(order, deadline=time.monotonic() + order.timeout)
            self._whole = order.placement
            self._prepare(order.placement.tensors(self._region.flat))
        except BaseException as error:  # the thread's last word: it is asked for
            if not isinstance(error, TransferFailed):
                log.exception("a transfer ended by surprise")
            self._whole, self._failure = None, error
            communicator, self._communicator = self._communicator, None
            if communicator is not None:
                communicator.abort()

    def _receive(self, order: Order, *, deadline: float) -> None:
        if self._region.flat.numel() != order.placement.nbytes:
            self._region = Region(order.placement.nbytes)
            if self._device.type == "cuda":
                self._region.pin()
        buckets = order.placement.buckets(self._region.flat)
        if len(buckets) != len(order.checksums):
            raise TransferFailed(
                f"{len(order.checksums)} checksums were announced for {len(buckets)} buckets"
            )
        communicator = self._join(order)
        arrived = communicator.receive(buckets, deadline=deadline)
        for index, (total, expected) in enumerate(zip(arrived, order.checksums, strict=True)):
            if total != expected:
                raise TransferFailed(
                    f"bucket {index} of {len(buckets)} has not the checksum of what was sent"
                )

    def _join(self, order: Order) -> Communicator:
        if self._communicator is not None and self._rendezvous != order.rendezvous:
            self._communicator.close()
            self._communicator = None
        if self._communicator is None:
            self._communicator = connect(
                order.rendezvous,
                rank=order.rank,
                world_size=order.world_size,
                device=self._device,
                timeout=order.timeout,
            )
            self._rendezvous = order.rendezvous
        return self._communicator


def joined(error: BaseException) -> bool:
    """Whether a transfer that failed so had begun: its group was whole."""
    return not isinstance(error, NotJoined)
