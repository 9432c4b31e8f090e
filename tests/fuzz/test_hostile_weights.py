"""Noise at every port that a weight transfer opens: the store where groups meet, and gloo's own.
Weights arrive all the same. What is said is random, or begins as the store's protocol does.

Who speaks that protocol well can break off a transfer, or fill the store: these ports are for a
network of the run's own (docs/security.md). NCCL's ports are not tried: that needs GPUs.

`--frames N` makes a two hundredth as many connections, `--fuzz-seed N` draws others.
"""

import multiprocessing as mp
import os
import random
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from asyncds.weights.rendezvous import connect
from asyncds.weights.sender import WeightSender
from tests.unit.weights.test_transfer import TIMEOUT, Tied, empty_buckets, staged

MIB = 1 << 20
GROWTH = 16 * MIB
DEADLINE = 2 * TIMEOUT
STORE = b"\0" + struct.pack("<I", 0x3C85F7CE)
"""How a client of torch's TCPStore begins: a kind of message, and a magic number."""
IDLE_CONNECTIONS = 20
SENDS = 3
"""With each group, so that ports of some are old and of others not open yet."""


def send(connection: Connection, log: str) -> None:
    """Process: send a staged ``Tied`` where it is asked to, as the learner does; what it has to say
    besides goes to a file."""
    torch.set_num_threads(1)
    with open(log, "w") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    weights = staged(Tied())
    with closing(WeightSender(transport="gloo", host="127.0.0.1")) as sender:
        connection.send(weights.checksums)
        while (rendezvous := connection.recv()) is not None:
            if rendezvous == "new":
                connection.send(sender.new_rendezvous())
            else:
                sender.send(weights, rendezvous=rendezvous, world_size=2, timeout=TIMEOUT)
                connection.send("sent")


def take(connection: Connection) -> None:
    """Process: join the groups it is told of, and answer with the checksums of what was sent."""
    torch.set_num_threads(1)
    buckets = empty_buckets()
    while True:
        group = connect(connection.recv(), rank=1, world_size=2, device="cpu", timeout=TIMEOUT)
        for _ in range(SENDS):
            deadline = time.monotonic() + TIMEOUT
            connection.send(list(group.receive(buckets, deadline=deadline)))
        group.close()


class Enemy(threading.Thread):
    """Connects to every port that these processes listen on, until it is stopped."""

    def __init__(self, processes: list[psutil.Process], *, seed: int) -> None:
        super().__init__(daemon=True)
        self.count = 0
        self._processes = processes
        self._rng = random.Random(seed)
        self._enough = threading.Event()

    def run(self) -> None:
        idle: deque[socket.socket] = deque()
        while not self._enough.is_set():
            for port in self._ports():
                with suppress(OSError):  # closed by now, or while it is spoken to
                    idle.append(socket.create_connection(("127.0.0.1", port), 5))
                    idle[-1].sendall(self._noise())
                    self.count += 1
                while len(idle) > IDLE_CONNECTIONS:
                    idle.popleft().close()
        for connection in idle:
            connection.close()

    def stop(self) -> None:
        self._enough.set()
        self.join(DEADLINE)

    def _ports(self) -> set[int]:
        return {
            connection.laddr.port
            for process in self._processes
            for connection in process.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        }

    def _noise(self) -> bytes:
        rng = self._rng
        kind = bytes([rng.randrange(20)])
        size = struct.pack("<Q", rng.choice([0, 1, 3, 1 << 20, 1 << 40, (1 << 64) - 1]))
        makers: list[Callable[[], bytes]] = [
            lambda: rng.randbytes(rng.choice([1, 30, 300, 100_000])),
            lambda: STORE + kind + rng.randbytes(60),
            lambda: STORE + kind + size,
            lambda: kind + size + rng.randbytes(8),
            lambda: size + rng.randbytes(rng.randrange(100)),
        ]
        return rng.choice(makers)()


@contextmanager
def process(target: Callable[..., None], *arguments: Any) -> Iterator[tuple[Connection, int]]:
    """A process and a line to it; (the line, its id)."""
    context = mp.get_context("spawn")
    ours, theirs = context.Pipe()
    started = context.Process(target=target, args=(theirs, *arguments), daemon=True)
    started.start()
    theirs.close()
    try:
        yield ours, started.pid or 0
    finally:
        started.kill()
        started.join()


def told(connection: Connection) -> Any:
    assert connection.poll(DEADLINE), "no answer"
    return connection.recv()


def test_weights_arrive_whatever_strangers_send(
    tmp_path: Path, pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str]
) -> None:
    connections = (pytestconfig.getoption("frames", None) or 60_000) // 200
    seed = pytestconfig.getoption("fuzz_seed", None) or 0
    log = tmp_path / "log"
    import_module("services.learner")  # what it sets holds for the processes started from now on
    with process(send, str(log)) as (sender, pid), process(take) as (receiver, other):
        sending = psutil.Process(pid)
        enemy = Enemy([sending, psutil.Process(other)], seed=seed)
        checksums = list(told(sender))
        groups = before = 0
        while enemy.count < connections:
            sender.send("new")
            rendezvous = told(sender)
            receiver.send(rendezvous)
            for _ in range(SENDS):
                sender.send(rendezvous)
                assert told(receiver) == checksums
                assert told(sender) == "sent"
            groups += 1
            assert groups == 1 or enemy.is_alive()
            if groups == 1:
                before = sending.memory_info().rss
                enemy.start()
        grown, files = sending.memory_info().rss - before, sending.num_fds()
        enemy.stop()
    with capsys.disabled():
        print(f"\n{enemy.count} connections: {groups} groups, {grown / MIB:.1f} MiB more")
    assert grown < GROWTH
    assert files < 60 + IDLE_CONNECTIONS
    assert len(log.read_text()) < 1000, "an enemy can't fill the disk with lines"
