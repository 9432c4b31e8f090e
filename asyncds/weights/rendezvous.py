"""Meeting of the members of a group, each with a deadline, before anybody communicates.

A *rendezvous* is a string made by the sender, ``transport://host:port/prefix``: where its store
listens and under which prefix the members of one group meet. It is used for one group only.
"""

import socket
import threading
import time
from concurrent.futures import Future
from datetime import timedelta
from urllib.parse import SplitResult, urlsplit

import torch
from torch.distributed import DistError, PrefixStore, Store, TCPStore

from asyncds.weights.communicator import SENDER, Communicator, NotJoined, TransferFailed
from asyncds.weights.gloo import GlooCommunicator
from asyncds.weights.nccl import NcclCommunicator

STORE_SECONDS = 1.0
"""Beyond the deadline of a meeting, for the store to say who is missing."""


def connect(
    rendezvous: str, *, rank: int, world_size: int, device: torch.device | str, timeout: float
) -> Communicator:
    """Join the group of ``rendezvous`` as ``rank`` of ``world_size``; returns when all have.

    All members meet at the store first, so that nobody enters a collective that somebody else will
    never enter. Raises NotJoined, with the ranks that are missing, after ``timeout`` seconds, or a
    little later, with no ranks, if the store does not answer either.
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
            raise NotJoined(f"no group at {rendezvous}: its store does not answer") from None
        return joined.result()


def _join(
    url: SplitResult, *, rank: int, world_size: int, device: torch.device, timeout: float
) -> Communicator:
    """Join, however long the store takes. Raises NotJoined."""
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
    except NotJoined:
        raise
    except (TransferFailed, RuntimeError, OSError) as error:
        reason = error if isinstance(error, TransferFailed) else repr(error)
        raise NotJoined(f"no group at {url.geturl()}: {reason}") from error


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
        raise NotJoined(f"ranks {missing} did not join within {timeout:.1f} s") from error
    return store


def _address_towards(host: str, port: int) -> str:
    """The address of this machine on the way to ``host``; nothing is sent."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(address)
        return str(probe.getsockname()[0])
