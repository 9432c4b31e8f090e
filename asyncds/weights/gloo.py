"""Broadcast groups over TCP, between main memories: ``torch.distributed``'s gloo."""

import math
from collections.abc import Iterable, Iterator
from datetime import timedelta

import torch
from torch.distributed import BroadcastOptions, ProcessGroupGloo, Store

from asyncds.weights.checksum import checksum
from asyncds.weights.communicator import SENDER, TransferFailed, seconds_left


class GlooCommunicator:
    """A gloo process group of its own, apart from any default group."""

    def __init__(
        self, store: Store, *, rank: int, world_size: int, host: str, timeout: float
    ) -> None:
        """host: the local address that the other members connect to."""
        options = ProcessGroupGloo._Options()
        options._devices = [ProcessGroupGloo.create_device(hostname=host)]
        options._timeout = timedelta(seconds=timeout)
        self._group = ProcessGroupGloo(store, rank, world_size, options)

    def send(self, buckets: Iterable[torch.Tensor], *, deadline: float) -> None:
        for bucket in buckets:
            self._broadcast(bucket, deadline)

    def receive(self, buckets: Iterable[torch.Tensor], *, deadline: float) -> Iterator[int]:
        for bucket in buckets:
            self._broadcast(bucket, deadline)
            yield int(checksum(bucket))

    def close(self) -> None:
        self._group.shutdown()

    def abort(self) -> None:
        self._group.abort()

    def _broadcast(self, bucket: torch.Tensor, deadline: float) -> None:
        options = BroadcastOptions()
        options.rootRank = SENDER
        options.rootTensor = 0
        options.timeout = timedelta(milliseconds=math.ceil(seconds_left(deadline) * 1000))
        try:
            self._group.broadcast([bucket], options).wait()
        except RuntimeError as error:
            raise TransferFailed(f"gloo broadcast of {bucket.numel()} bytes: {error}") from error
