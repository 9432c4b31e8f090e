"""Sources, staging, and a gloo broadcast between real processes, also when one of them dies."""

import multiprocessing as mp
import os
import socket
import threading
import time
from contextlib import closing, suppress
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from urllib.parse import urlsplit

import pytest
import torch
from torch import nn

from asyncds.weights.buckets import Placement
from asyncds.weights.communicator import TransferFailed
from asyncds.weights.rendezvous import connect
from asyncds.weights.sender import WeightSender
from asyncds.weights.source import iterate_weights, weight_specs
from asyncds.weights.staging import StagedWeights

BUCKET_BYTES = 512
TIMEOUT = 90.0
SHORT = 2.0


class Tied(nn.Module):
    """A model whose head is its embedding, as in most small language models."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(10, 8)
        self.body = nn.Sequential(*[nn.Linear(8, 8) for _ in range(6)])
        self.head = nn.Linear(8, 10, bias=False)
        self.head.weight = self.embed.weight


def staged(model: nn.Module, version: int = 1) -> StagedWeights:
    weights = StagedWeights(specs=weight_specs(model), bucket_bytes=BUCKET_BYTES)
    weights.stage(iterate_weights(model, gather_bytes=BUCKET_BYTES), version=version)
    return weights


def empty_buckets() -> list[torch.Tensor]:
    """What a staged ``Tied`` arrives in."""
    placement = Placement.of(weight_specs(Tied()), bucket_bytes=BUCKET_BYTES)
    return placement.buckets(torch.zeros(placement.nbytes, dtype=torch.uint8))


def receive(connection: Connection, rendezvous: str, rank: int, world_size: int) -> None:
    """Process: receive a staged ``Tied`` as often as asked, answer with the checksums."""
    torch.set_num_threads(1)
    try:
        communicator = connect(
            rendezvous, rank=rank, world_size=world_size, device="cpu", timeout=TIMEOUT
        )
        while connection.recv() == "receive":
            deadline = time.monotonic() + TIMEOUT
            connection.send(list(communicator.receive(empty_buckets(), deadline=deadline)))
    except TransferFailed as error:
        connection.send(str(error))


def send_half_and_die(connection: Connection) -> None:
    """Process: be the sender, and vanish after the first bucket."""
    torch.set_num_threads(1)
    sender = WeightSender(transport="gloo", host="127.0.0.1")
    rendezvous = sender.new_rendezvous()
    connection.send(rendezvous)
    communicator = connect(rendezvous, rank=0, world_size=2, device="cpu", timeout=TIMEOUT)
    weights = staged(Tied())
    communicator.send(weights.buckets[:1], deadline=time.monotonic() + TIMEOUT)
    os._exit(1)


@pytest.fixture
def context() -> SpawnContext:
    return mp.get_context("spawn")


def test_broadcast_to_two_receivers_and_again_in_the_same_group(context: SpawnContext) -> None:
    model = Tied()
    weights = staged(model)
    sender = WeightSender(transport="gloo", host="127.0.0.1")
    keys = sender._store.num_keys()
    rendezvous = sender.new_rendezvous()
    connections = []
    processes = []
    for rank in (1, 2):
        ours, theirs = context.Pipe()
        process = context.Process(target=receive, args=(theirs, rendezvous, rank, 3), daemon=True)
        process.start()
        connections.append(ours)
        processes.append(process)
    for version in (1, 2):
        with torch.no_grad():
            model.embed.weight.add_(1)
        weights.stage(iterate_weights(model, gather_bytes=64), version=version)
        for connection in connections:
            connection.send("receive")
        result = sender.send(weights, rendezvous=rendezvous, world_size=3, timeout=TIMEOUT)
        assert result.nbytes == sum(bucket.numel() for bucket in weights.buckets)
        for connection in connections:
            assert connection.poll(TIMEOUT)
            assert connection.recv() == list(weights.checksums)
    # A receiver dies: the sender is told within its deadline, and a new group works.
    processes[0].kill()
    processes[0].join()
    connections[1].send("receive")
    with pytest.raises(TransferFailed):
        sender.send(weights, rendezvous=rendezvous, world_size=3, timeout=SHORT)
    assert connections[1].poll(TIMEOUT)
    assert isinstance(connections[1].recv(), str)
    rendezvous = sender.new_rendezvous()
    ours, theirs = context.Pipe()
    last = context.Process(target=receive, args=(theirs, rendezvous, 1, 2), daemon=True)
    last.start()
    ours.send("receive")
    sender.send(weights, rendezvous=rendezvous, world_size=2, timeout=TIMEOUT)
    assert ours.recv() == list(weights.checksums)
    ours.send("stop")
    for process in (processes[1], last):
        process.join(TIMEOUT)
        assert process.exitcode == 0
    assert sender._store.num_keys() > keys
    sender.new_rendezvous()
    assert sender._store.num_keys() == keys, "a long run has many groups"
    sender.close()


def test_receiver_raises_when_the_sender_dies_in_the_middle(context: SpawnContext) -> None:
    ours, theirs = context.Pipe()
    process = context.Process(target=send_half_and_die, args=(theirs,), daemon=True)
    process.start()
    rendezvous = ours.recv()
    communicator = connect(rendezvous, rank=1, world_size=2, device="cpu", timeout=TIMEOUT)
    arriving = communicator.receive(empty_buckets(), deadline=time.monotonic() + SHORT)
    assert next(arriving) == staged(Tied()).checksums[0]
    with pytest.raises(TransferFailed):
        next(arriving)
    communicator.abort()
    process.join()


def test_a_member_that_never_comes_is_named() -> None:
    sender = WeightSender(transport="gloo", host="127.0.0.1")
    with pytest.raises(TransferFailed, match=r"ranks \[1, 2\] did not join"):
        sender.send(staged(Tied()), rendezvous=sender.new_rendezvous(), world_size=3, timeout=0.5)


def test_a_silent_sender_is_left_at_the_deadline() -> None:
    """The other side is alive and connected but sends nothing."""
    sender = WeightSender(transport="gloo", host="127.0.0.1")
    rendezvous = sender.new_rendezvous()
    joined: list[object] = []
    other = threading.Thread(
        target=lambda: joined.append(
            connect(rendezvous, rank=0, world_size=2, device="cpu", timeout=TIMEOUT)
        )
    )
    other.start()
    communicator = connect(rendezvous, rank=1, world_size=2, device="cpu", timeout=TIMEOUT)
    other.join()
    nothing = [torch.zeros(64, dtype=torch.uint8)]
    arriving = communicator.receive(nothing, deadline=time.monotonic() + 0.5)
    with pytest.raises(TransferFailed, match="gloo broadcast of 64 bytes"):
        next(arriving)
    communicator.abort()
    assert len(joined) == 1


class Cut:
    """Stands for the network in front of a port of this machine: forwards until it is cut, then
    nothing arrives and nobody is told. Mended after TIMEOUT, so that no test hangs."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._whole = threading.Event()
        self._whole.set()
        self.mended = threading.Timer(TIMEOUT, self._whole.set)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self.forwarded = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._whole.clear()
        self.mended.start()

    def close(self) -> None:
        self.mended.cancel()
        self._whole.set()
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._port))
            for way in ((near, far), (far, near)):
                threading.Thread(target=self._forward, args=way, daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(4096):
                self._whole.wait()
                target.sendall(data)
                if RANK_KEY in data:
                    self.forwarded.set()


RANK_KEY = b"rank-1"


def test_a_cut_network_does_not_hold_a_receiver_beyond_its_deadline() -> None:
    """It has announced itself, and waits for others, when the network is cut: it can't even tell
    the store that it has given up."""
    sender = WeightSender(transport="gloo", host="127.0.0.1")
    url = urlsplit(sender.new_rendezvous())
    assert url.port is not None
    with closing(Cut(url.port)) as network:

        def cut_when_announced() -> None:
            network.forwarded.wait(TIMEOUT)
            network.cut()

        threading.Thread(target=cut_when_announced, daemon=True).start()
        with pytest.raises(TransferFailed, match="its store does not answer"):
            connect(
                f"gloo://127.0.0.1:{network.port}{url.path}",
                rank=1,
                world_size=3,
                device="cpu",
                timeout=SHORT,
            )
        assert not network._whole.is_set(), "not before the network was mended"


@pytest.mark.parametrize("text", ["", "tcp://127.0.0.1:1/x", "gloo://127.0.0.1", "gloo:///x"])
def test_a_malformed_rendezvous_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a rendezvous"):
        connect(text, rank=0, world_size=2, device="cpu", timeout=1)
