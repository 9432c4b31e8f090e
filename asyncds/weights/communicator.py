"""Broadcast groups with deadlines: gloo between CPUs, NCCL between GPUs.

A *rendezvous* is a string made by the sender, ``transport://host:port/prefix``: where its store
listens and under which prefix the members of one group meet. It is used for one group only.
"""

import logging
import math
import socket
import threading
import time
from concurrent.futures import Future
from datetime import timedelta
from typing import Any, Protocol
from urllib.parse import SplitResult, urlsplit

import torch
from torch.distributed import (
    BroadcastOptions,
    DistError,
    PrefixStore,
    ProcessGroupGloo,
    Store,
    TCPStore,
)

log = logging.getLogger(__name__)

SENDER = 0
"""The group rank that broadcasts."""
STORE_SECONDS = 1.0
"""Seconds beyond the deadline of a meeting, for the store to say who is missing."""


class TransferFailed(RuntimeError):  # noqa: N818
    """A transfer did not complete: a member is missing, died or was too late."""


class Communicator(Protocol):
    """One rank of a broadcast group. After an error it is of no use any more: abort it."""

    device: torch.device
    """Where the tensors that are broadcast must lie."""

    def broadcast(self, flat: torch.Tensor, *, timeout: float) -> None:
        """Send (rank 0) or fill (others) ``flat``, uint8 [nbytes], within ``timeout`` seconds.

        Raises TransferFailed.
        """

    def close(self) -> None:
        """Leave the group, while nothing is under way."""

    def abort(self) -> None:
        """Leave the group whatever is under way; returns promptly."""


class GlooCommunicator:
    """``torch.distributed``'s gloo process group, apart from any default group."""

    def __init__(
        self, store: Store, *, rank: int, world_size: int, host: str, timeout: float
    ) -> None:
        """host: the local address that the other members connect to."""
        options = ProcessGroupGloo._Options()
        options._devices = [ProcessGroupGloo.create_device(hostname=host)]
        options._timeout = timedelta(seconds=timeout)
        self.device = torch.device("cpu")
        self._group = ProcessGroupGloo(store, rank, world_size, options)

    def broadcast(self, flat: torch.Tensor, *, timeout: float) -> None:
        options = BroadcastOptions()
        options.rootRank = SENDER
        options.rootTensor = 0
        options.timeout = timedelta(milliseconds=math.ceil(timeout * 1000))
        try:
            self._group.broadcast([flat], options).wait()
        except RuntimeError as error:
            raise TransferFailed(f"gloo broadcast of {flat.numel()} bytes: {error}") from error

    def close(self) -> None:
        self._group.shutdown()

    def abort(self) -> None:
        self._group.abort()


class NcclCommunicator:
    """vLLM's NCCL communicator, with deadlines. Selected by an ``nccl://`` rendezvous (CUDA).

    The unique id travels through the store. NCCL itself waits for ever, so the group is built on a
    helper thread and a broadcast is awaited by polling an event; who is late is left behind by
    aborting the communicator.
    """

    def __init__(
        self, store: Store, *, rank: int, world_size: int, device: torch.device, timeout: float
    ) -> None:
        from vllm.distributed.device_communicators.pynccl_wrapper import NCCLLibrary
        from vllm.distributed.weight_transfer.nccl_common import uid_init_process_group

        if rank == SENDER:
            store.set("nccl_unique_id", bytes(NCCLLibrary().ncclGetUniqueId().internal))
        unique_id = store.get("nccl_unique_id")
        built: Future[Any] = Future()

        def build() -> None:
            try:
                torch.cuda.set_device(device)
                built.set_result(uid_init_process_group(unique_id, rank, world_size, device))
            except Exception as error:
                built.set_exception(error)

        threading.Thread(target=build, name="nccl-init", daemon=True).start()
        self.device = device
        self._sends = rank == SENDER
        try:
            self._communicator = built.result(timeout)
        except TimeoutError:
            raise TransferFailed(f"NCCL built no group within {timeout:.1f} s") from None
        self._stream = torch.cuda.Stream(device)

    def broadcast(self, flat: torch.Tensor, *, timeout: float) -> None:
        try:
            done = self._begin(flat)
            deadline = time.monotonic() + timeout
            while not done.query():
                if time.monotonic() > deadline:
                    raise TransferFailed(
                        f"NCCL broadcast of {flat.numel()} bytes: not done after {timeout:.1f} s"
                    )
                time.sleep(1e-3)
        except TransferFailed:
            raise
        except RuntimeError as error:  # of NCCL and of CUDA alike
            raise TransferFailed(f"NCCL broadcast of {flat.numel()} bytes: {error}") from error

    def close(self) -> None:
        self._destroy()

    def abort(self) -> None:
        self._destroy()

    def _begin(self, flat: torch.Tensor) -> "torch.cuda.Event":
        if not self._sends:
            # The buffer is being zeroed. What is sent has lain there since it was staged, so that
            # the sender waits for nothing: its default stream is full of training.
            self._stream.wait_stream(torch.cuda.current_stream(self.device))
        self._communicator.broadcast(flat, src=SENDER, stream=self._stream)
        done = torch.cuda.Event()
        done.record(self._stream)
        return done

    def _destroy(self) -> None:
        try:
            self._communicator.destroy()
        except RuntimeError as error:
            log.warning("an NCCL group did not end in order: %s", error)


def connect(
    rendezvous: str, *, rank: int, world_size: int, device: torch.device | str, timeout: float
) -> Communicator:
    """Join the group of ``rendezvous`` as ``rank`` of ``world_size``; returns when all have.

    All members meet at the store first, so that nobody enters a collective that somebody else will
    never enter. Raises TransferFailed, with the ranks that are missing, after ``timeout`` seconds,
    or a little later, with no ranks, if the store does not answer either.
    """
    url = urlsplit(rendezvous)
    if url.scheme not in ("gloo", "nccl") or not url.hostname or not url.port:
        raise ValueError(f"not a rendezvous (transport://host:port/prefix): {rendezvous!r}")
    device = torch.device(device)
    if url.scheme == "nccl" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    joined: Future[Communicator] = Future()

    def join() -> None:
        try:
            communicator = _join(
                url, rank=rank, world_size=world_size, device=device, timeout=timeout
            )
        except Exception as error:
            if joined.set_running_or_notify_cancel():
                joined.set_exception(error)
            return
        if joined.set_running_or_notify_cancel():
            joined.set_result(communicator)
        else:
            communicator.abort()

    # A store's client that gives up waiting asks the server to forget it, and waits for that answer
    # without a deadline: where the network is cut, until it is mended.
    threading.Thread(target=join, name="join-group", daemon=True).start()
    try:
        return joined.result(timeout + STORE_SECONDS)
    except TimeoutError:
        if joined.cancel():
            raise TransferFailed(f"no group at {rendezvous}: its store does not answer") from None
        return joined.result()


def _join(
    url: SplitResult, *, rank: int, world_size: int, device: torch.device, timeout: float
) -> Communicator:
    """Join, however long the store takes. Raises TransferFailed."""
    deadline = time.monotonic() + timeout
    host, port = str(url.hostname), int(url.port or 0)
    try:
        store = _join_store(host, port, url.path, rank=rank, world_size=world_size, timeout=timeout)
        remaining = max(deadline - time.monotonic(), 1e-3)
        if url.scheme == "nccl":
            return NcclCommunicator(
                store, rank=rank, world_size=world_size, device=device, timeout=remaining
            )
        return GlooCommunicator(
            store,
            rank=rank,
            world_size=world_size,
            host=host if rank == SENDER else _address_towards(host, port),
            timeout=remaining,
        )
    except TransferFailed:
        raise
    except (RuntimeError, OSError) as error:
        raise TransferFailed(f"no group at {url.geturl()}: {error!r}") from error


def _join_store(
    host: str, port: int, prefix: str, *, rank: int, world_size: int, timeout: float
) -> Store:
    """Announce ``rank`` and wait for the others, at most ``timeout`` seconds."""
    limit = timedelta(seconds=timeout)
    store = PrefixStore(prefix, TCPStore(host, port, timeout=limit, wait_for_workers=False))
    keys = [f"rank-{member}" for member in range(world_size)]
    store.set(keys[rank], "here")
    try:
        store.wait(keys, limit)
    except DistError as error:
        missing = [member for member, key in enumerate(keys) if not store.check([key])]
        raise TransferFailed(f"ranks {missing} did not join within {timeout:.1f} s") from error
    return store


def _address_towards(host: str, port: int) -> str:
    """The address of this machine on the way to ``host``; nothing is sent."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(address)
        return str(probe.getsockname()[0])
