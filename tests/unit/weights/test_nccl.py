"""The NCCL communicator keeps the contract of gloo's.

No GPU is needed: vLLM's wrapper is the real one, the library under it is a fake (it is compiled
here), and so are CUDA's streams and events, which do everything at once or never.
"""

import ctypes
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm.distributed.device_communicators.pynccl_wrapper import NCCLLibrary

from asyncds.weights import nccl as module
from asyncds.weights.buckets import Placement, TensorSpec
from asyncds.weights.checksum import checksum
from asyncds.weights.communicator import SENDER, NotJoined, TransferFailed
from asyncds.weights.nccl import NcclCommunicator
from asyncds.weights.rendezvous import connect
from asyncds.weights.sender import WeightSender
from asyncds.weights.source import Piece
from asyncds.weights.staging import StagedWeights
from tests.support.watched_allocator import WatchedAllocator

SOURCE = Path(__file__).parents[2] / "support" / "fake_nccl.c"
WAIT = 30.0
ERROR = 3


class Call(IntEnum):
    """The calls of the fake, by its numbers."""

    UNIQUE_ID, INIT, BROADCAST, ASYNC_ERROR, ABORT = range(5)


class FakeNccl:
    """Controls of the fake library, and of the events of CUDA that say when work is done."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self.done = True

    def fail(self, call: Call, result: int = ERROR) -> None:
        self._library.fake_fail(call.value, result)

    def hang(self, call: Call, *, yes: bool = True) -> None:
        self._library.fake_hang(call.value, int(yes))

    def count(self, call: Call) -> int:
        return int(self._library.fake_count(call.value))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler (cc) to make the fake NCCL with")
    path = tmp_path_factory.mktemp("nccl") / "libnccl.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", path, SOURCE], check=True, timeout=WAIT)
    return path


@pytest.fixture
def nccl(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNccl]:
    own = tmp_path / "libnccl.so"  # a copy, so that each test has its state for itself
    shutil.copy(library, own)
    monkeypatch.setitem(os.environ, "VLLM_NCCL_SO_PATH", str(own))
    fake = FakeNccl(own)
    stream = SimpleNamespace(cuda_stream=0, wait_stream=lambda other: None)
    event = SimpleNamespace(record=lambda stream: None, query=lambda: fake.done)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "Event", lambda: event)
    yield fake
    for call in Call:
        fake.hang(call, yes=False)


def communicator(rank: int = SENDER, timeout: float = WAIT) -> NcclCommunicator:
    store: Any = SimpleNamespace(set=lambda key, value: None, get=lambda key: bytes(128))
    cpu = torch.device("cpu")
    return NcclCommunicator(store, rank=rank, world_size=2, device=cpu, timeout=timeout)


def buckets(seed: int, *sizes: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 256, (n,), generator=generator, dtype=torch.uint8) for n in sizes]


def soon(seconds: float = WAIT) -> float:
    return time.monotonic() + seconds


def test_the_fake_is_under_the_real_wrapper(nccl: FakeNccl) -> None:
    assert isinstance(communicator()._library, NCCLLibrary)
    assert nccl.count(Call.INIT) == 1


@pytest.mark.parametrize("sizes", [(), (64,), (64, 64), (64, 64, 64, 64, 16)])
def test_what_is_sent_arrives_with_its_checksums(nccl: FakeNccl, sizes: tuple[int, ...]) -> None:
    sender, receiver = communicator(), communicator(1)
    for version in (1, 2):  # the same group again
        sent, got = buckets(version, *sizes), buckets(99, *sizes)
        sender.send(sent, deadline=soon())
        totals = list(receiver.receive(got, deadline=soon()))
        assert totals == [int(checksum(bucket)) for bucket in sent]
        assert all(torch.equal(a, b) for a, b in zip(got, sent, strict=True))


def test_what_lies_on_the_device_is_two_buckets(nccl: FakeNccl) -> None:
    size, many = 4096, buckets(0, *[4096] * 20)
    sender, receiver = communicator(), communicator(1)
    scalars = 100
    with WatchedAllocator() as allocator:
        sender.send(many, deadline=soon())
        assert 2 * size <= allocator.peak <= 2 * size + scalars
        list(receiver.receive(many, deadline=soon()))
    assert allocator.peak <= 4 * size + scalars


def sends() -> None:
    communicator().send(buckets(0, 64, 64, 64), deadline=soon())


def receives() -> None:
    communicator().send(buckets(0, 64, 64, 64), deadline=soon())
    list(communicator(1).receive(buckets(0, 64, 64, 64), deadline=soon()))


@pytest.mark.parametrize("transfer", [sends, receives])
@pytest.mark.parametrize("call", [Call.BROADCAST, Call.ASYNC_ERROR])
def test_an_error_of_the_library_is_a_failed_transfer(
    nccl: FakeNccl, call: Call, transfer: Callable[[], None]
) -> None:
    nccl.fail(call)
    with pytest.raises(TransferFailed, match=f"fake error {ERROR}"):
        transfer()


@pytest.mark.parametrize("result", [0, module.IN_PROGRESS])
def test_a_broadcast_that_does_not_end_is_a_failed_transfer(nccl: FakeNccl, result: int) -> None:
    nccl.done = False
    nccl.fail(Call.ASYNC_ERROR, result)
    with pytest.raises(TransferFailed, match="64 bytes was not done in time"):
        communicator().send(buckets(0, 64), deadline=soon(0.01))


def test_a_peer_that_is_lost_is_noticed_before_the_deadline(nccl: FakeNccl) -> None:
    """NCCL says so only to who asks: the event never comes."""
    nccl.done = False
    nccl.fail(Call.ASYNC_ERROR, module.IN_PROGRESS)
    began = nccl.count(Call.ASYNC_ERROR)
    failures: list[str] = []

    def send() -> None:
        try:
            communicator().send(buckets(0, 64), deadline=soon())
        except TransferFailed as error:
            failures.append(str(error))

    thread = threading.Thread(target=send)
    thread.start()
    while nccl.count(Call.ASYNC_ERROR) < began + 3:  # it is waiting
        thread.join(0.001)
    nccl.fail(Call.ASYNC_ERROR)
    thread.join(WAIT)
    assert failures == [f"NCCL lost a peer, or failed: fake error {ERROR}"]


@pytest.mark.parametrize("leave", [NcclCommunicator.close, NcclCommunicator.abort])
@pytest.mark.parametrize("trouble", ["none", "error", "hang"])
def test_leaving_neither_raises_nor_waits_for_ever(
    nccl: FakeNccl,
    leave: Callable[[NcclCommunicator], None],
    trouble: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "ABORT_SECONDS", WAIT if trouble != "hang" else 0.01)
    one = communicator()
    if trouble == "error":
        nccl.fail(Call.ABORT)
    nccl.hang(Call.ABORT, yes=trouble == "hang")
    leave(one)
    leave(one)
    nccl.hang(Call.ABORT, yes=False)
    assert nccl.count(Call.ABORT) == 1


def test_a_group_that_is_never_built_is_a_failed_transfer(nccl: FakeNccl) -> None:
    nccl.hang(Call.INIT)
    with pytest.raises(TransferFailed, match="nccl-init was not done within"):
        communicator(timeout=0.01)


@pytest.mark.parametrize("call", [Call.UNIQUE_ID, Call.INIT])
def test_an_error_while_joining_is_a_group_that_never_was(nccl: FakeNccl, call: Call) -> None:
    nccl.fail(call)
    sender = WeightSender(transport="nccl", host="127.0.0.1", device="cuda")
    with pytest.raises(NotJoined, match=f"fake error {ERROR}"):
        connect(sender.new_rendezvous(), rank=SENDER, world_size=1, device="cuda", timeout=WAIT)


def test_after_a_failed_send_the_next_group_works(nccl: FakeNccl) -> None:
    sender = WeightSender(transport="nccl", host="127.0.0.1", device=torch.device("cpu", 0))
    staged = StagedWeights(specs=[TensorSpec("w", "float32", (4,))], bucket_bytes=64)
    staged.stage([Piece("w", 0, torch.ones(4))], version=1)
    nccl.fail(Call.BROADCAST)
    with pytest.raises(TransferFailed):
        sender.send(staged, rendezvous=sender.new_rendezvous(), world_size=1, timeout=WAIT)
    assert nccl.count(Call.ABORT) == 1
    nccl.fail(Call.BROADCAST, 0)
    rendezvous = sender.new_rendezvous()
    for _ in range(2):
        sent = sender.send(staged, rendezvous=rendezvous, world_size=1, timeout=WAIT)
    assert sent.nbytes == staged.placement.nbytes
    assert nccl.count(Call.INIT) == 2
    sender.close()
    assert nccl.count(Call.ABORT) == 2


def test_a_machine_without_nccl_is_told_when_the_sender_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(os.environ, "VLLM_NCCL_SO_PATH", "/nowhere/libnccl.so")
    with pytest.raises(TransferFailed, match="NCCL can't be loaded on this machine"):
        WeightSender(transport="nccl", host="127.0.0.1", device="cuda")


def test_the_layout_of_a_large_tensor_needs_no_large_buffer() -> None:
    placement = Placement.of([TensorSpec("w", "float32", (1000,))], bucket_bytes=64)
    assert max(map(len, placement.buckets(torch.zeros(placement.nbytes, dtype=torch.uint8)))) == 64
