"""Which checkpoints are kept."""

from contextlib import closing
from pathlib import Path

import pytest

from asyncds.protocol import wire
from tests.simulation.simulated_config import make_config
from tests.simulation.simulation import Simulation
from tests.support.coordinator_fixture import (
    LEARNER,
    REPLACE,
    Driver,
    only,
    running,
)
from tests.support.records import evaluation_record


def test_the_best_checkpoint_is_kept_also_after_a_restart(tmp_path: Path) -> None:
    sim = Simulation(
        tmp_path,
        config=make_config(
            steps=12,
            eval={"every": 2, "n_problems": 3, "n_samples": 2, "interim_samples": 2},
            checkpoint={"every": 2, "keep_last": 1},
        ),
        chance=0.0,
    )
    sim.run(limit=300, until=lambda: any(e.step == 2 for e in sim.evaluations))
    sim.chance = 1.0
    sim.run(limit=300, until=lambda: any(e.step == 4 for e in sim.evaluations))
    sim.chance = 0.0
    assert sim.coordinator is not None
    assert sim.coordinator.parts.checkpoints.best == 4
    sim.kill_coordinator(back_after=0)
    sim.run(limit=300)
    assert sim.coordinator.parts.checkpoints.best == 4
    # 10 too, if it was still being evaluated when 12 was saved.
    assert {4, 12} <= set(sim.checkpoints) <= {4, 10, 12}


def test_without_keep_best_the_last_are_kept(tmp_path: Path) -> None:
    sim = Simulation(
        tmp_path,
        config=make_config(checkpoint={"every": 1, "keep_last": 2, "keep_best": False}),
    )
    sim.run(limit=300)
    assert sim.checkpoints == [5, 6]


def test_what_the_learner_lost_is_not_the_best(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(Driver(tmp_path)) as driver:
        running(driver)
        for step, chance in ((2, 0.5), (4, 0.9)):
            id = driver.journal.add_evaluation(version=step, step=step, n_samples=2)
            result = {"version": step, "step": step, "pass@k": {"1": chance}}
            driver.journal.finish_evaluation(evaluation_record(id, result))
            driver.say(b"l", wire.LearnerHeartbeat(rank=0, staged=0, checkpoint=step, phase=""))
        assert driver.c.parts.checkpoints.best == 4
        beat = wire.LearnerHeartbeat(rank=0, staged=0, checkpoint=2, phase="")
        (ack, *_) = only(driver.say(b"l", beat), wire.LearnerAck)
        assert set(ack.keep) == {3, 4}, "the best, and the one that is evaluated next"
        assert not ack.evaluating
        driver.say(b"m", REPLACE(LEARNER, incarnation="l2", step=2))
        assert driver.c.parts.checkpoints.best == 2
        assert "starts at step 2 although step 4 was saved" in caplog.text
