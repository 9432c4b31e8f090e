"""The sending side of the weight transfer: group rank 0, on the learner's rank 0."""

import socket
import time
import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import torch
from torch.distributed import TCPStore

from asyncds.weights.communicator import Communicator
from asyncds.weights.nccl import load_library
from asyncds.weights.rendezvous import connect
from asyncds.weights.staging import StagedWeights


@dataclass(frozen=True)
class SendResult:
    """How long a send took, and how much was sent.

    seconds: wall time of the whole send. connect_seconds: of it, building the group (0 when the
    group of the previous send was used again). nbytes: bytes sent to each receiver.
    """

    seconds: float
    connect_seconds: float
    nbytes: int


class WeightSender:
    """The sender of staged weights: it owns the store where groups meet, and the group in use.

    A group has fixed members and serves every send with the same rendezvous. After a failure the
    group is gone: get a ``new_rendezvous`` for the members that are left, and send again.
    Not thread-safe: one thread at a time sends.
    """

    def __init__(
        self,
        *,
        transport: Literal["gloo", "nccl"],
        host: str,
        port: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        """host: the address of this machine that receivers reach; port 0: any free one.

        device: the GPU that NCCL sends from.
        """
        if transport == "nccl":
            load_library()
        self._transport = transport
        self._host = host
        self._device = device
        # A socket of our own, because a TCPStore by itself listens on every interface.
        listener = socket.create_server((host, port))
        self._store = TCPStore(
            host,
            listener.getsockname()[1],
            is_master=True,
            wait_for_workers=False,
            timeout=timedelta(seconds=60),
            master_listen_fd=listener.detach(),
        )
        self._rendezvous: str | None = None
        self._communicator: Communicator | None = None

    def new_rendezvous(self) -> str:
        """Make the rendezvous of one new group, to be given to each member and to ``send``.

        What groups before it left in the store is removed.
        """
        for key in self._store.list_keys():
            self._store.delete_key(key)
        return f"{self._transport}://{self._host}:{self._store.port}/{uuid.uuid4().hex}"

    def send(
        self, staged: StagedWeights, *, rendezvous: str, world_size: int, timeout: float
    ) -> SendResult:
        """Broadcast the staged version to ranks 1 … world_size-1, within ``timeout`` seconds.

        Blocks, without the GIL, until the last byte has left: call it from a background thread.
        Raises TransferFailed; the group is closed then, and its rendezvous spent.
        """
        start = time.monotonic()
        deadline = start + timeout
        with staged.lock:
            if staged.version is None:
                raise ValueError("no version is staged")
            try:
                communicator = self._join(rendezvous, world_size, timeout)
                connected = time.monotonic()
                communicator.send(staged.buckets, deadline=deadline)
            except BaseException:
                self._leave(aborting=True)
                raise
        return SendResult(
            seconds=time.monotonic() - start,
            connect_seconds=connected - start,
            nbytes=staged.placement.nbytes,
        )

    def close(self) -> None:
        """Leave the group."""
        self._leave(aborting=False)

    def _join(self, rendezvous: str, world_size: int, timeout: float) -> Communicator:
        if self._communicator is None or rendezvous != self._rendezvous:
            self._leave(aborting=False)
            self._communicator = connect(
                rendezvous, rank=0, world_size=world_size, device=self._device, timeout=timeout
            )
            self._rendezvous = rendezvous
        return self._communicator

    def _leave(self, *, aborting: bool) -> None:
        communicator, self._communicator = self._communicator, None
        if communicator is not None:
            communicator.abort() if aborting else communicator.close()
