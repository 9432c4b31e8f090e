"""The coordinator among simulated peers that are late, die, return and talk out of turn."""

from dataclasses import replace
from pathlib import Path

import pytest
from coordinator_simulation import Faults, Simulation, make_config

from services.coordinator.state import State


def finished(sim: Simulation) -> None:
    coordinator, config = sim.coordinator, sim.config
    assert coordinator is not None
    assert (coordinator.state, coordinator.message) == (State.FINISHED, "")
    assert sorted(sim.timeline) == list(range(config.steps))
    assert sim.checkpoint == config.steps
    counts = sim.journal.counts()
    batches = config.steps * config.rollout.groups_per_step
    assert counts.get("consumed", 0) + counts.get("committed", 0) == batches
    for step, leases in sim.timeline.items():
        assert {g.lease for g in sim.journal.groups("l.step = ?", (step,))} == leases
    steps = [m["step"] for m in sim.journal.steps()]
    # The metrics of a step are lost if who reports or records them dies just after its checkpoint.
    assert steps == sorted(set(steps))
    if not sim.faults.kill_learner and not sim.faults.kill_coordinator:
        assert steps == [s + 1 for s in range(config.steps)]
    evaluated = [e["step"] for e in sim.journal.evaluations()]
    assert evaluated == sorted(set(evaluated))
    assert evaluated[-1] == config.steps // config.weights.publish_every * (
        config.weights.publish_every
    )


@pytest.mark.parametrize("max_lag", [0, 2])
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("publish_every", [1, 2])
def test_a_run_without_faults(tmp_path: Path, max_lag: int, ranks: int, publish_every: int) -> None:
    config = make_config(
        rollout__max_lag=max_lag, learner__ranks=ranks, weights__publish_every=publish_every
    )
    sim = Simulation(tmp_path, config=config)
    sim.run(limit=300)
    finished(sim)
    assert (sim.evaluations[0]["step"], sim.evaluations[0]["version"]) == (0, 0)
    assert min(sim.lags) >= 0
    if max_lag == 0:
        assert set(sim.lags) == {0}
    assert all({"reward", "learner/loss", "lag_max"} <= m.keys() for m in sim.steps)


SAMPLED = {"algorithm": {"advantage": {"kind": "grpo"}}}


@pytest.mark.parametrize("chance", [0.0, 0.2, 0.9, 1.0])
@pytest.mark.parametrize("max_lag", [0, 2])
def test_groups_without_signal_are_replaced(tmp_path: Path, max_lag: int, chance: float) -> None:
    config = make_config(
        rollout__max_lag=max_lag,
        rollout__dynamic_sampling={"enabled": True, "max_dropped": 2},
        **SAMPLED,
    )
    sim = Simulation(tmp_path, config=config, chance=chance)
    sim.run(limit=400)
    finished(sim)
    dropped, trained = sim.journal.ended()["zero_signal"], sim.groups_of_one_verdict("l.step >= 0")
    if chance in (0, 1):
        assert trained == 6 * 3, "nothing else is there to train on"
        assert dropped == 6 * 6, "twice a batch for each batch"
        assert sim.coordinator is not None
        assert sim.coordinator.leases.counts.events["kept_without_signal"] == trained
    else:
        assert dropped > 0
        assert trained < 6 * 3


CALM = {"drop": 0.02, "double": 0.02}
CHAOS = {
    "a lossy network": Faults(drop=0.1, double=0.1, overtake=0.1, cut=0.02, until=120),
    "generators die": Faults(**CALM, kill_generator=0.05, until=120),
    "the learner dies": Faults(**CALM, kill_learner=0.04, until=120),
    "the coordinator dies": Faults(**CALM, kill_coordinator=0.1, until=120),
    "bad work": Faults(bad_group=0.1, failed_lease=0.1, corrupt=0.1, until=120),
    "everything": Faults(
        drop=0.03,
        double=0.03,
        overtake=0.03,
        cut=0.01,
        kill_generator=0.02,
        kill_learner=0.01,
        kill_coordinator=0.03,
        bad_group=0.03,
        failed_lease=0.03,
        corrupt=0.03,
        until=150,
    ),
}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("faults", CHAOS.values(), ids=CHAOS.keys())
def test_a_run_ends_well_whatever_happens(tmp_path: Path, faults: Faults, seed: int) -> None:
    config = make_config(
        rollout__max_lag=seed % 3,
        learner__ranks=1 + seed % 2,
        weights__publish_every=1 + seed // 3 % 2,
        rollout__dynamic_sampling={"enabled": seed % 3 != 1, "max_dropped": 1 + seed % 2},
        # With almost nothing, samples are deleted as soon as no restart can need them.
        coordinator__journal_gb=20.0 if seed % 2 else 1e-9,
        steps=8,
        **SAMPLED,
    )
    sim = Simulation(tmp_path, config=config, generators=1 + seed % 3, faults=faults, seed=seed)
    sim.run(limit=1500)
    finished(sim)
    deleted = list(sim.journal.groups("length(g.payload) = 0"))
    assert bool(deleted) == (seed % 2 == 0)
    assert "deleted" not in sim.journal.ended(), "none of them was needed"


@pytest.mark.parametrize("seed", range(6))
def test_a_stop_is_not_forgotten_whatever_happens(tmp_path: Path, seed: int) -> None:
    config = make_config(rollout__max_lag=seed % 3, steps=500)
    faults = replace(CHAOS["everything"], kill_coordinator=0.3)
    sim = Simulation(tmp_path, config=config, generators=1 + seed % 3, faults=faults, seed=seed)
    sim.run(limit=400, until=lambda: sim.now > 10 + 10 * seed and sim.coordinator is not None)
    assert sim.coordinator is not None
    with sim.journal.transaction():
        sim.coordinator.stop("enough")
    sim.run(limit=400)
    assert sim.coordinator is not None
    assert (sim.coordinator.state, sim.coordinator.message) == (State.INTERRUPTED, "enough")
    assert sim.journal.stop_reason() is None
