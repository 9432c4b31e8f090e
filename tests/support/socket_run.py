"""A run of which only the learner and the generators are simulated: the coordinator is a process,
and they talk to it over sockets. Their time passes `speed` times as fast as the clock."""

import os
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import zmq

from asyncds.config.load import dump_config
from asyncds.config.schema import RunConfig
from asyncds.launch.local import free_port
from asyncds.protocol import wire
from asyncds.protocol.codec import decode_from_coordinator, encode
from asyncds.transport.keys import ClientKeys, load_client_keys
from asyncds.transport.observer import Observer
from tests.simulation.simulated_generator import SimGenerator
from tests.simulation.simulated_peer import Peer
from tests.simulation.simulation import Simulation

SPEED = 5.0
DEADLINE = 60.0
ENDING = 30.0


class SocketRun(Simulation):
    """A fault-free run. `turn` lets every peer do what is due; call it often.

    made: by lease, (generator, payload) of every group that was made for it.
    said: the frames that each peer has sent. now: seconds of the peers' time.
    """

    def __init__(
        self, directory: Path, config: RunConfig, *, generators: int = 2, speed: float = SPEED
    ) -> None:
        port, metrics = free_port(), free_port()
        directory.mkdir(parents=True, exist_ok=True)
        update = {
            "name": "r",
            "runs_dir": str(directory),
            "coordinator": config.coordinator.model_copy(update={"port": port}),
            "telemetry": config.telemetry.model_copy(update={"port": metrics}),
        }
        config = config.model_copy(update=update)
        self.port, self.metrics_port = port, metrics
        self.address = f"tcp://127.0.0.1:{port}"
        self.made: defaultdict[int, set[tuple[str, bytes]]] = defaultdict(set)
        self.said: defaultdict[bytes, list[bytes]] = defaultdict(list)
        self.sockets: dict[bytes, zmq.Socket[bytes]] = {}
        self._directory, self._speed = directory, speed
        self._context = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, self._context.get(zmq.SOCKET_LIMIT))
        self._started = time.monotonic()
        curve = config.coordinator.curve
        self.keys: ClientKeys | None = curve and load_client_keys(
            server=Path(curve.server_public), secret=Path(curve.client_secret)
        )
        super().__init__(directory, config=config, generators=generators)
        self.always.base_evaluated = True  # what is checked of a coordinator in this process

    # --- processes and the network, in place of the simulated ones ------------------------------

    def start_coordinator(self) -> None:
        file = self._directory / "config.yaml"
        file.write_text(dump_config(self.config))
        with (self._directory / "coordinator.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "asyncds.cli.main", "coordinator", str(file)],
                stdout=log,
                stderr=log,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )
        self.coordinator = None

    def to_coordinator(self, peer: Peer, message: wire.Message) -> None:
        frame = encode(message)
        if isinstance(message, wire.Delivered):
            self.made[message.lease].add((peer.name, encode(message.group)))
        self.said[peer.peer].append(frame)
        self.socket(peer).send(frame, zmq.NOBLOCK)

    def socket(self, peer: Peer) -> "zmq.Socket[bytes]":
        """The peer's own."""
        if peer.peer not in self.sockets:
            self.sockets[peer.peer] = self.dealer(peer.peer)
        return self.sockets[peer.peer]

    def dealer(self, identity: bytes = b"", **options: int) -> "zmq.Socket[bytes]":
        """A socket connected to the coordinator, with an allowed key if it wants keys."""
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, options.get("sndhwm", 0))
        socket.setsockopt(zmq.RCVHWM, options.get("rcvhwm", 0))
        if identity:
            socket.setsockopt(zmq.IDENTITY, identity)
        if self.keys is not None:
            self.keys.apply(socket)
        socket.connect(self.address)
        return socket

    def turn(self) -> None:
        assert self.process.poll() is None, f"the coordinator ended: {self.log_text()[-2000:]}"
        self.network.now = (time.monotonic() - self._started) * self._speed
        self.network.due()
        for peer in list(self.peers.values()):
            if peer.peer in self.sockets:
                for frame in received(self.sockets[peer.peer]):
                    if peer.alive:
                        peer.take(decode_from_coordinator(frame))
        self.peers_turn()

    # --- for tests ------------------------------------------------------------------------------

    @property
    def steps_trained(self) -> int:
        return len(self.timeline)

    def go_on_until(self, condition: Any, what: str) -> None:
        """Turn until `condition()`, or fail."""
        deadline = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < deadline, f"{what}: not within {DEADLINE:g} s"
            self.turn()
            time.sleep(0.002)

    def members(self) -> list[SimGenerator]:
        return list(self.generators.values())

    def metrics(self) -> dict[str, float]:
        """Every series of the coordinator by its name, with labels."""
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=DEADLINE) as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name.removeprefix("asyncds_coordinator_"): float(v) for name, _, v in pairs}

    def memory(self) -> int:
        """Resident bytes of the coordinator."""
        rss: int = psutil.Process(self.process.pid).memory_info().rss
        return rss

    def log_text(self) -> str:
        return (self._directory / "coordinator.log").read_text(errors="replace")

    def end(self) -> int:
        """Have the run end in good order; the coordinator's exit code."""
        with closing(Observer(self.address, keys=self.keys)) as observer:
            deadline = time.monotonic() + ENDING
            observer.stop("enough")
            while self.process.poll() is None:
                assert time.monotonic() < deadline, "the run does not end"
                self._end_turn()
                time.sleep(0.005)
        return int(self.process.returncode)

    def _end_turn(self) -> None:
        if self.process.poll() is None:
            self.turn()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._context.destroy(linger=0)


@contextmanager
def socket_run(directory: Path, config: RunConfig) -> Iterator[SocketRun]:
    """A run whose base model is evaluated and that has trained a few steps."""
    with closing(SocketRun(directory, config)) as run:
        run.go_on_until(lambda: run.steps_trained >= 3, "the run does not begin")
        yield run


def received(socket: "zmq.Socket[bytes]") -> Iterator[bytes]:
    """What has arrived."""
    while socket.poll(0):
        yield socket.recv()
