"""A run of which nothing can be sampled ends as failed, with the reason, and says it meanwhile."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from asyncds.protocol import wire
from asyncds.protocol.state import State
from asyncds.rollout.failures import IN_A_ROW, PATIENCE_SECONDS
from tests.simulation.simulated_config import make_config
from tests.simulation.simulated_faults import Faults
from tests.simulation.simulation import Simulation
from tests.support.coordinator_fixture import (
    GENERATOR,
    LEARNER,
    REPLACE,
    Driver,
    delivered,
    failed,
    leases,
    running,
)

MANY = {"rows": {"train": 10_000, "eval": 3}}


def fail_all(driver: Driver, granted: list[wire.Lease], limit: int = 10_000) -> list[wire.Lease]:
    """Fail every training lease for good until the run is over; those that were handed out."""
    seen = []
    for _ in range(limit):
        if driver.c.state is not State.RUNNING:
            break
        driver.now += 0.05
        seen += granted
        news = [failed(x, "the prompt is too long", permanent=True) for x in granted]
        granted = leases(driver.say(b"g", *news))
    return seen


def beaten(driver: Driver, seconds: float = 1.0) -> None:
    driver.now += seconds
    driver.say(b"g", wire.GeneratorHeartbeat(leases=[], stats={}))
    driver.say(b"l", wire.LearnerHeartbeat(rank=0, staged=0, checkpoint=0, phase=""))


def test_when_every_row_failed_the_run_ends_with_the_reason(driver: Driver) -> None:
    seen = fail_all(driver, running(driver))
    assert {x.row for x in seen} == set(range(9))
    assert driver.c.state is State.FINISHING
    assert driver.c.message.startswith("nothing can be trained on: all 9 rows failed: row ")
    assert driver.c.message.endswith("the prompt is too long")
    beaten(driver)
    assert driver.c.state is State.FAILED


def test_a_large_set_is_not_tried_to_its_end_and_not_spun_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.support.coordinator_fixture.GENERATOR", REPLACE(GENERATOR, **MANY))
    with closing(Driver(tmp_path)) as driver:
        seen = fail_all(driver, running(driver))
        assert driver.c.message.startswith(f"nothing can be trained on: {IN_A_ROW} groups in a row")
        assert IN_A_ROW <= len(seen) < IN_A_ROW + 20
        assert driver.now < 60


def test_it_is_told_while_it_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.coordinator_fixture.GENERATOR", REPLACE(GENERATOR, **MANY))
    with closing(Driver(tmp_path)) as driver:
        fail_all(driver, running(driver), limit=40)
        assert driver.c.state is State.RUNNING
        message = driver.c.status(driver.now).message
        assert "groups failed: row " in message
        assert message.endswith("the prompt is too long")


def test_a_few_bad_rows_change_nothing(driver: Driver) -> None:
    granted = running(driver)
    for i in range(60):
        driver.now += 0.2
        news = [
            failed(x, "too long", permanent=True) if x.row == 4 else delivered(x) for x in granted
        ]
        step = wire.BatchRequest(rank=0, step=i, report={})
        driver.say(b"l", step)
        granted = leases(driver.say(b"g", *news))
    assert driver.c.state is not State.FAILED
    assert "nothing can be" not in driver.c.message


def test_an_evaluation_of_nothing_ends_the_run(driver: Driver) -> None:
    driver.say(b"l", LEARNER)
    driver.say(b"g", GENERATOR)
    driver.synced("g")
    granted = leases(driver.tick(b"g"))
    for _ in range(20):
        news: list[Any] = [
            failed(x, "too long", permanent=True) for x in granted if x.split == "eval"
        ]
        granted = leases(driver.say(b"g", *news))
        driver.now += 0.2
    assert driver.c.message.startswith("nothing can be evaluated: all 3 rows failed: row ")


def test_groups_that_nobody_could_judge_teach_nothing(driver: Driver) -> None:
    granted = running(driver)
    for _ in range(400):
        driver.now += PATIENCE_SECONDS / 200
        news = [
            REPLACE(
                delivered(x), score_errors=x.group_size, score_error="exception KeyError: 'answer'"
            )
            for x in granted
        ]
        granted = leases(driver.say(b"g", *news))
        driver.say(b"l", wire.BatchRequest(rank=0, step=driver.c.parts.batches.trained, report={}))
        if driver.c.message:
            break
    assert driver.c.message.startswith("nothing can be trained on: ")
    assert driver.c.message.endswith("no completion could be scored: exception KeyError: 'answer'")


def test_a_fleet_that_only_fails_ends_the_run_long_before_it_is_called_a_stall(
    tmp_path: Path,
) -> None:
    sim = Simulation(tmp_path, config=make_config(), faults=Faults(failed_lease=1.0), generators=2)
    sim.run(limit=300)
    assert sim.coordinator is not None
    assert sim.coordinator.state is State.FAILED
    assert sim.coordinator.message.startswith("nothing can be evaluated: ")
