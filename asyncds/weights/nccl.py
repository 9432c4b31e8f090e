"""Broadcast groups between GPUs: NCCL, with deadlines, through two small buffers on the device.

NCCL itself waits for ever and tells of a lost peer only who asks. So a group is built on a helper
thread, a broadcast is awaited by polling, both an event and NCCL's asynchronous error, and who is
late is left behind by aborting the communicator.
"""

import ctypes
import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import torch
from torch.distributed import Store

from asyncds.weights.checksum import checksum
from asyncds.weights.communicator import SENDER, TransferFailed

log = logging.getLogger(__name__)

LANES = 2
"""Buffers on the device: one is on its way to or from main memory while the other is broadcast."""
POLL_SECONDS = 2e-4
ABORT_SECONDS = 5.0
"""How long an abort is waited for; NCCL may hold it up for as long as a kernel runs."""
SUCCESS, IN_PROGRESS = 0, 7
"""NCCL's results of a call that are not errors."""
UINT8 = 1
"""NCCL's number of the type."""


def load_library() -> Any:
    """Load NCCL, by vLLM's wrapper; the import takes seconds.

    Whoever will send calls it at its start: the first join is waited for by a whole fleet. Raises
    TransferFailed where there is none.
    """
    from vllm.distributed.device_communicators.pynccl_wrapper import NCCLLibrary

    try:
        library = NCCLLibrary()
        asynchronous_error = library.lib.ncclCommGetAsyncError
    except (ValueError, OSError, AttributeError) as error:
        raise TransferFailed(f"NCCL can't be loaded on this machine: {error}") from error
    asynchronous_error.restype = ctypes.c_int
    asynchronous_error.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_int)]
    return library


@dataclass(eq=False)
class _Lane:
    """A buffer on the device, with what belongs to it.

    total: the checksum of what lies in it, int64 in main memory. done: the event after which both
    are done with.
    """

    buffer: torch.Tensor
    total: torch.Tensor
    done: Any


class NcclCommunicator:
    """One rank of an NCCL communicator. Selected by an ``nccl://`` rendezvous.

    Its streams wait for nothing that trains or decodes on the same GPU, and the other way round.
    """

    def __init__(
        self, store: Store, *, rank: int, world_size: int, device: torch.device, timeout: float
    ) -> None:
        """The unique id travels through the store. Raises TransferFailed."""
        self._library = load_library()
        self._device = device
        self._lanes: list[_Lane] = []
        self._handle = _within(
            timeout, lambda: self._build(store, rank, world_size), name="nccl-init"
        )
        self._broadcasts = torch.cuda.Stream(device)
        self._copies = torch.cuda.Stream(device)

    def _build(self, store: Store, rank: int, world_size: int) -> Any:
        from vllm.utils.nccl import unpinned_nccl_env

        torch.cuda.set_device(self._device)
        if rank == SENDER:
            store.set("nccl_unique_id", bytes(self._library.ncclGetUniqueId().internal))
        unique_id = self._library.unique_id_from_bytes(store.get("nccl_unique_id"))
        with unpinned_nccl_env():  # what vLLM sets for its own groups, the sender has not set
            return self._library.ncclCommInitRank(world_size, unique_id, rank)

    def send(self, buckets: Iterable[torch.Tensor], *, deadline: float) -> None:
        try:
            for lane, bucket in zip(
                self._lanes_for(buckets := list(buckets)), buckets, strict=False
            ):
                self._await(lane, deadline)
                part = lane.buffer[: bucket.numel()]
                with torch.cuda.stream(self._copies):
                    part.copy_(bucket, non_blocking=True)
                self._broadcasts.wait_stream(self._copies)
                self._broadcast(part)
                lane.done.record(self._broadcasts)
            for lane in self._lanes:
                self._await(lane, deadline)
        except RuntimeError as error:  # of NCCL and of CUDA alike
            raise _failed(error) from error

    def receive(self, buckets: Iterable[torch.Tensor], *, deadline: float) -> Iterator[int]:
        arriving: deque[_Lane] = deque()
        try:
            for lane, bucket in zip(
                self._lanes_for(buckets := list(buckets)), buckets, strict=False
            ):
                if lane in arriving:
                    yield self._landed(arriving.popleft(), deadline)
                part = lane.buffer[: bucket.numel()]
                self._broadcast(part)
                self._copies.wait_stream(self._broadcasts)
                with torch.cuda.stream(self._copies):
                    lane.total.copy_(checksum(part), non_blocking=True)
                    bucket.copy_(part, non_blocking=True)
                lane.done.record(self._copies)
                arriving.append(lane)
            while arriving:
                yield self._landed(arriving.popleft(), deadline)
        except RuntimeError as error:
            raise _failed(error) from error

    def close(self) -> None:
        self._end()

    def abort(self) -> None:
        self._end()

    def _lanes_for(self, buckets: list[torch.Tensor]) -> Iterator[_Lane]:
        """The lanes in turn, large enough for each bucket."""
        size = max((bucket.numel() for bucket in buckets), default=0)
        if size > (self._lanes[0].buffer.numel() if self._lanes else 0):
            pinned = self._device.type == "cuda"
            with torch.cuda.stream(self._broadcasts):
                self._lanes = [
                    _Lane(
                        buffer=torch.empty(size, dtype=torch.uint8, device=self._device),
                        total=torch.zeros((), dtype=torch.int64, pin_memory=pinned),
                        done=torch.cuda.Event(),
                    )
                    for _ in range(LANES)
                ]
        return cycle(self._lanes)

    def _broadcast(self, part: torch.Tensor) -> None:
        address = ctypes.c_void_p(part.data_ptr())
        stream = ctypes.c_void_p(self._broadcasts.cuda_stream)
        self._library.ncclBroadcast(
            address, address, part.numel(), UINT8, SENDER, self._handle, stream
        )

    def _landed(self, lane: _Lane, deadline: float) -> int:
        self._await(lane, deadline)
        return int(lane.total)

    def _await(self, lane: _Lane, deadline: float) -> None:
        while not lane.done.query():
            self._check()
            if time.monotonic() > deadline:
                raise TransferFailed(
                    f"an NCCL broadcast of up to {lane.buffer.numel()} bytes was not done in time"
                )
            time.sleep(POLL_SECONDS)
        self._check()

    def _check(self) -> None:
        """Raise what happened to the communicator since it was last asked."""
        result = ctypes.c_int()
        self._library.NCCL_CHECK(
            self._library.lib.ncclCommGetAsyncError(self._handle, ctypes.byref(result))
        )
        if result.value not in (SUCCESS, IN_PROGRESS):
            raise TransferFailed(
                "NCCL lost a peer, or failed: " + self._library.ncclGetErrorString(result.value)
            )

    def _end(self) -> None:
        handle, self._handle = self._handle, None
        if handle is None:
            return
        try:
            _within(ABORT_SECONDS, lambda: self._abort(handle), name="nccl-abort")
        except (TransferFailed, RuntimeError) as error:
            log.warning("an NCCL group did not end in order: %s", error)

    def _abort(self, handle: Any) -> None:
        torch.cuda.set_device(self._device)
        self._library.ncclCommAbort(handle)


def _within(timeout: float, call: Any, *, name: str) -> Any:
    """The result of a call that may never return, on a thread of its own.

    Raises TransferFailed after ``timeout`` seconds, and what the call raises.
    """
    done: Future[Any] = Future()

    def run() -> None:
        try:
            done.set_result(call())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    try:
        return done.result(timeout)
    except TimeoutError:
        raise TransferFailed(f"{name} was not done within {timeout:.1f} s") from None


def _failed(error: RuntimeError) -> TransferFailed:
    return (
        error if isinstance(error, TransferFailed) else TransferFailed(f"NCCL broadcast: {error}")
    )
