"""Measures the processor time that a coordinator needs for many generators.

    python benchmarks/coordinator.py [generators …]

The coordinator is a process of its own, with its journal on the disk; the generators are simulated
in this one, each with a connection of its own and a heartbeat a second. First only heartbeats come,
then a simulated learner trains. Needs three open files for each generator (ulimit -n).
"""

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from asyncds.protocol import wire
from tests.simulation.simulated_config import make_config
from tests.simulation.simulated_peer import Peer
from tests.support.socket_run import SocketRun

HEARTBEAT_SECONDS = 20.0
STEPS = 3
DEADLINE = 1200.0


class CountedRun(SocketRun):
    """Counts what generators say. Its learner comes when it is called."""

    def __init__(self, directory: Path, generators: int) -> None:
        self.counts: Counter[str] = Counter()
        config = make_config(
            steps=1_000_000,
            rollout__groups_per_step=max(generators // 2, 1),
            rollout__straggler_seconds=1,
            rollout__lease_seconds=2000,
            eval={"n_problems": 3, "n_samples": 2},
            coordinator={"suspect_seconds": 200, "dead_seconds": 600, "stall_seconds": 3000},
            weights={"prepare_seconds": 120, "transfer_seconds": 300, "probe_every": 2},
            checkpoint={"every": 1_000_000},
        )
        super().__init__(directory, config, generators=generators, speed=1.0)

    def start_learner(self) -> None:
        pass

    def to_coordinator(self, peer: Peer, message: wire.Message) -> None:
        super().to_coordinator(peer, message)
        self.counts[type(message).__name__] += 1
        self.said.clear()

    def goes_on(self, condition: Callable[[], bool]) -> None:
        """Until `condition()`."""
        deadline = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < deadline, "it takes too long"
            self.turn()
            time.sleep(0.002)

    def cpu(self) -> float:
        """Seconds of processor time of the coordinator so far."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)


def main(sizes: list[int]) -> None:
    """Measure all, print a row for each."""
    print("| generators | CPU of one, heartbeats only | µs a heartbeat | ms a group | MiB |")
    print("|---|---|---|---|---|")
    for n in sizes:
        with (
            tempfile.TemporaryDirectory() as directory,
            closing(CountedRun(Path(directory), n)) as run,
        ):
            print(measure(run, n), flush=True)


def measure(run: CountedRun, generators: int) -> str:
    """A row. What a group costs is all that is not the cost of heartbeats, with its share of
    leases, broadcasts and batches."""
    run.goes_on(lambda: all(g.welcomed for g in run.generators.values()))
    started, cpu, heard = time.monotonic(), run.cpu(), run.counts["GeneratorHeartbeat"]
    run.goes_on(lambda: time.monotonic() - started > HEARTBEAT_SECONDS)
    wall, idle = time.monotonic() - started, run.cpu() - cpu
    per_beat = idle / (run.counts["GeneratorHeartbeat"] - heard)
    cpu, heard, groups = run.cpu(), run.counts["GeneratorHeartbeat"], run.counts["Delivered"]
    SocketRun.start_learner(run)
    run.goes_on(lambda: run.steps_trained >= STEPS)
    beats = run.counts["GeneratorHeartbeat"] - heard
    per_group = (run.cpu() - cpu - per_beat * beats) / (run.counts["Delivered"] - groups)
    return (
        f"| {generators} | {idle / wall:.1%} | {per_beat * 1e6:.0f} | {per_group * 1e3:.2f} | "
        f"{run.memory() / (1 << 20):.0f} |"
    )


if __name__ == "__main__":
    main([int(n) for n in sys.argv[1:]] or [100, 1000, 2000])
