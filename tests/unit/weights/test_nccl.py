"""The NCCL communicator keeps the contract of gloo's. NCCL and CUDA are fakes here, which raise."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm.distributed.device_communicators import pynccl_wrapper
from vllm.distributed.weight_transfer import nccl_common

from asyncds.weights.buckets import TensorSpec
from asyncds.weights.communicator import SENDER, NcclCommunicator, TransferFailed, connect
from asyncds.weights.sender import WeightSender
from asyncds.weights.staging import StagedWeights

FLAT = torch.zeros(16, dtype=torch.uint8)


class FakeStream:
    def __init__(self, device: object) -> None:
        self.waited: list[object] = []

    def wait_stream(self, stream: object) -> None:
        self.waited.append(stream)


class FakeNccl:
    """Stands for vLLM's communicator. failing: the operations that NCCL answers with an error."""

    def __init__(self) -> None:
        self.failing: set[str] = set()
        self.done = True
        self.destroyed = 0

    def perhaps_fail(self, operation: str) -> None:
        if operation in self.failing:
            raise RuntimeError(f"NCCL error: {operation}")

    def broadcast(self, flat: torch.Tensor, *, src: int, stream: object) -> None:
        self.perhaps_fail("broadcast")

    def destroy(self) -> None:
        self.destroyed += 1
        self.perhaps_fail("destroy")

    def query(self) -> bool:
        self.perhaps_fail("query")
        return self.done


@pytest.fixture
def nccl(monkeypatch: pytest.MonkeyPatch) -> FakeNccl:
    fake = FakeNccl()

    def build(*_: object) -> FakeNccl:
        fake.perhaps_fail("init")
        return fake

    event = SimpleNamespace(record=lambda stream: None, query=fake.query)
    identity = SimpleNamespace(internal=b"id")
    monkeypatch.setattr(nccl_common, "uid_init_process_group", build)
    library = SimpleNamespace(ncclGetUniqueId=lambda: identity)
    monkeypatch.setattr(pynccl_wrapper, "NCCLLibrary", lambda: library)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "Stream", FakeStream)
    monkeypatch.setattr(torch.cuda, "Event", lambda: event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "the default stream")
    return fake


def communicator(rank: int = SENDER) -> NcclCommunicator:
    store: Any = SimpleNamespace(set=lambda key, value: None, get=lambda key: b"id")
    device = torch.device("cuda", 0)
    return NcclCommunicator(store, rank=rank, world_size=2, device=device, timeout=10.0)


@pytest.mark.parametrize("operation", ["broadcast", "query"])
def test_an_error_while_sending_is_a_failed_transfer(nccl: FakeNccl, operation: str) -> None:
    nccl.failing = {operation}
    with pytest.raises(
        TransferFailed, match=f"NCCL broadcast of 16 bytes: NCCL error: {operation}"
    ):
        communicator().broadcast(FLAT, timeout=10.0)


def test_a_broadcast_that_does_not_end_is_a_failed_transfer(nccl: FakeNccl) -> None:
    nccl.done = False
    with pytest.raises(TransferFailed, match=r"not done after 0.0 s"):
        communicator().broadcast(FLAT, timeout=0.01)


@pytest.mark.parametrize("leave", [NcclCommunicator.close, NcclCommunicator.abort])
def test_leaving_never_raises(nccl: FakeNccl, leave: Callable[[NcclCommunicator], None]) -> None:
    nccl.failing = {"destroy"}
    leave(communicator())
    assert nccl.destroyed == 1


def test_an_error_while_joining_is_a_failed_transfer(nccl: FakeNccl) -> None:
    nccl.failing = {"init"}
    sender = WeightSender(transport="nccl", host="127.0.0.1", device="cuda")
    with pytest.raises(TransferFailed, match="NCCL error: init"):
        connect(sender.new_rendezvous(), rank=SENDER, world_size=1, device="cuda", timeout=10.0)


def test_only_who_receives_waits_for_its_own_stream(nccl: FakeNccl) -> None:
    """The sender's is full of training; what it sends has lain there since it was staged."""
    for rank, waited in ((SENDER, []), (1, ["the default stream"])):
        one = communicator(rank)
        one.broadcast(FLAT, timeout=10.0)
        assert one._stream.waited == waited  # type: ignore[attr-defined]


def test_after_a_failed_send_the_next_group_works(nccl: FakeNccl) -> None:
    sender = WeightSender(transport="nccl", host="127.0.0.1", device="cuda")
    staged = StagedWeights(specs=[TensorSpec("w", "float32", (4,))], bucket_bytes=64)
    staged.stage([("w", torch.ones(4))], version=1)
    nccl.failing = {"broadcast"}
    with pytest.raises(TransferFailed):
        sender.send(staged, rendezvous=sender.new_rendezvous(), world_size=1, timeout=10.0)
    assert nccl.destroyed == 1
    nccl.failing = set()
    rendezvous = sender.new_rendezvous()
    sent = sender.send(staged, rendezvous=rendezvous, world_size=1, timeout=10.0)
    assert sent.nbytes == staged.nbytes
