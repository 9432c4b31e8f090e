"""Runs in which one thing goes wrong, then everything: they come to a good end all the same."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from asyncds.protocol.state import State
from tests.simulation.scenarios import LIMIT, finished
from tests.simulation.simulated_config import SAMPLED, make_config
from tests.simulation.simulated_faults import PLANS, Faults
from tests.simulation.simulated_links import SocketLinks
from tests.simulation.simulation import Simulation

Start = Callable[..., Simulation]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a simulation over sockets, which are closed at the end."""
    started: list[Simulation] = []

    def start(**settings: Any) -> Simulation:
        started.append(Simulation(tmp_path, links=SocketLinks(), **settings))
        return started[-1]

    yield start
    for sim in started:
        sim.close()


@pytest.mark.parametrize("max_lag", [0, 2])
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("publish_every", [1, 2])
def test_a_run_without_faults(start: Start, max_lag: int, ranks: int, publish_every: int) -> None:
    config = make_config(
        rollout__max_lag=max_lag, learner__ranks=ranks, weights__publish_every=publish_every
    )
    sim = start(config=config)
    sim.run(limit=300)
    finished(sim)
    assert (sim.evaluations[0].step, sim.evaluations[0].version) == (0, 0)
    assert min(sim.always.lags) >= 0
    if max_lag == 0:
        assert set(sim.always.lags) == {0}
    assert all({"reward", "learner/loss", "lag_max"} <= r.line().keys() for r in sim.steps)


@pytest.mark.parametrize("chance", [0.0, 0.2, 0.9, 1.0])
@pytest.mark.parametrize("max_lag", [0, 2])
def test_groups_without_signal_are_replaced(start: Start, max_lag: int, chance: float) -> None:
    config = make_config(
        rollout__max_lag=max_lag,
        rollout__dynamic_sampling={"enabled": True, "max_dropped": 2},
        **SAMPLED,
    )
    sim = start(config=config, chance=chance)
    sim.run(limit=400)
    finished(sim)
    dropped, trained = sim.journal.ended()["zero_signal"], of_one_verdict(sim, from_step=0)
    if chance in (0, 1):
        assert trained == 6 * 3, "nothing else is there to train on"
        assert dropped == 6 * 6, "twice a batch for each batch"
        assert sim.coordinator is not None
        assert sim.coordinator.parts.leases.counts.events["kept_without_signal"] == trained
    else:
        assert dropped > 0
        assert trained < 6 * 3


def of_one_verdict(sim: Simulation, **only: Any) -> int:
    """Training groups all right or all wrong; only: of `Journal.groups`."""
    groups = sim.journal.groups(purpose="train", **only)
    return sum(g.n_correct in (0, g.n) for g in groups)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("faults", PLANS.values(), ids=PLANS.keys())
def test_a_run_ends_well_whatever_happens(start: Start, faults: Faults, seed: int) -> None:
    config = make_config(
        rollout__max_lag=seed % 3,
        learner__ranks=1 + seed % 2,
        weights__publish_every=1 + seed // 3 % 2,
        rollout__dynamic_sampling={"enabled": seed % 3 != 1, "max_dropped": 1 + seed % 2},
        steps=8,
        # With almost nothing, samples are deleted as soon as no restart can need them.
        coordinator__journal_gb=20.0 if seed % 2 else 1e-9,
        **SAMPLED,
    )
    sim = start(config=config, generators=1 + seed % 3, faults=faults, seed=seed)
    sim.run(limit=LIMIT)
    finished(sim)
    deleted = [g for g in sim.journal.groups() if not g.payload]
    assert bool(deleted) == (seed % 2 == 0)
    assert "deleted" not in sim.journal.ended(), "none of them was needed"


@pytest.mark.parametrize("seed", range(6))
def test_a_stop_is_not_forgotten_whatever_happens(start: Start, seed: int) -> None:
    config = make_config(rollout__max_lag=seed % 3, steps=500)
    faults = replace(PLANS["everything"], kill_coordinator=0.3)
    sim = start(config=config, generators=1 + seed % 3, faults=faults, seed=seed)
    sim.run(limit=400, until=lambda: sim.now > 10 + 10 * seed and sim.coordinator is not None)
    assert sim.coordinator is not None
    with sim.journal.transaction():
        sim.coordinator.end.stop("enough")
    sim.run(limit=400)
    assert sim.coordinator is not None
    assert (sim.coordinator.state, sim.coordinator.message) == (State.INTERRUPTED, "enough")
    assert sim.journal.stop_reason() is None
