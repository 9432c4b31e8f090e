"""Two thousand generators around one coordinator, each with a connection of its own.

Hundreds die at once, hundreds are cut off at once, the coordinator and the learner die. Shows that
the coordinator keeps its promises among so many, in simulated time; how fast it is among them,
benchmarks/coordinator.py measures.
"""

import resource
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from asyncds.fleet.membership import Health
from tests.simulation.scenarios import LIMIT, finished
from tests.simulation.simulated_config import make_config
from tests.simulation.simulated_faults import Faults
from tests.simulation.simulated_links import SocketLinks
from tests.simulation.simulation import Simulation

FILES_PER_GENERATOR = 3
"""Two ends of a connection, and what wakes the socket's owner."""
OTHER_FILES = 300
FAULTS = Faults(double=0.001, overtake=0.001, kill_generator=2e-5, bad_group=0.01, until=60)
"""Rare among so many: a broadcast in which one of its members dies is sent again to all."""
pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def generators(pytestconfig: pytest.Config) -> Iterator[int]:
    """How many there are; this process may open enough files for them."""
    n = pytestconfig.getoption("large", None) or 2000
    needed = FILES_PER_GENERATOR * n + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < needed:
        pytest.skip(f"{n} generators need {needed} open files, and {hard} are allowed: ulimit -Hn")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    yield n
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_thousands_of_generators(
    tmp_path: Path, generators: int, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(
        steps=3,
        rollout__groups_per_step=generators // 2,
        rollout__straggler_seconds=3,
        eval={"every": 0, "n_problems": 5, "n_samples": 2, "interim_samples": 2},
        coordinator={
            "heartbeat_seconds": 2,
            "suspect_seconds": 5,
            "dead_seconds": 12,
            "stall_seconds": 200,
        },
    )
    links, began = SocketLinks(), time.process_time()
    sim = Simulation(tmp_path, config=config, generators=generators, faults=FAULTS, links=links)
    with closing(sim):
        sim.run(limit=LIMIT, until=lambda: healthy(sim) > 0.9 * generators)
        assert links.connections > generators
        first, second = split(sim, generators // 5)
        sim.run(limit=LIMIT, until=lambda: len(sim.timeline) >= 1)
        for generator in first:
            sim.kill(generator, back_after=sim.rng.uniform(1, 10))
        for generator in second:
            sim.cut(generator, seconds=sim.rng.uniform(1, 20))
        sim.run(limit=LIMIT, until=lambda: len(sim.timeline) >= 2)
        assert sim.learner is not None
        sim.kill(sim.learner, back_after=2)
        sim.kill_coordinator(back_after=1)
        sim.run(limit=LIMIT)
        finished(sim)
    with capsys.disabled():
        print(
            f"\n{generators} generators: {sim.now:.0f} simulated s in "
            f"{time.process_time() - began:.0f} s of CPU, {sim.frames_up} frames up and "
            f"{sim.frames_down} down"
        )


def healthy(sim: Simulation) -> int:
    """How many generators serve."""
    fleet = sim.coordinator.parts.fleet if sim.coordinator is not None else []
    return sum(member.health is Health.HEALTHY for member in fleet)


def split(sim: Simulation, n: int) -> tuple[list, list]:
    """Two times n generators, none in both."""
    chosen = sim.rng.sample([*sim.generators.values()], 2 * n)
    return chosen[:n], chosen[n:]
