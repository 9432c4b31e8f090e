"""What outlives the coordinator: leases in work, groups on their way, refills."""

from contextlib import closing
from pathlib import Path

import pytest

from asyncds.protocol import wire
from asyncds.protocol.state import State
from asyncds.rollout.lifecycle import OpenState
from tests.simulation.simulated_config import make_config
from tests.simulation.simulation import Simulation
from tests.support.coordinator_fixture import (
    GENERATOR,
    LEARNER,
    REPLACE,
    Driver,
    delivered,
    leases,
    only,
    running,
    running_ids,
)


def test_a_group_sent_before_the_learner_is_back_is_kept(tmp_path: Path) -> None:
    with closing(Driver(tmp_path)) as driver:
        lease = running(driver)[0]
    with closing(Driver(tmp_path)) as driver:
        driver.say(b"g", REPLACE(GENERATOR, leases=[lease.id]))
        assert wire.Ack(leases=[lease.id]) in driver.say(b"g", delivered(lease))
        assert [g.lease for g in driver.journal.groups(purpose="train")] == [lease.id]


def test_work_goes_on_across_a_coordinators_restart(tmp_path: Path) -> None:
    with closing(Driver(tmp_path)) as driver:
        granted = running(driver)
        ids = running_ids(driver)
    with closing(Driver(tmp_path)) as driver:
        driver.say(b"g", REPLACE(GENERATOR, leases=[g.id for g in granted]))
        driver.say(b"l", LEARNER)
        answer = driver.say(b"g", wire.GeneratorHeartbeat(leases=ids, stats={}))
        assert only(answer, wire.Cancel) == []
        member = driver.c.parts.fleet.get("g")
        assert member is not None
        assert driver.c.parts.leases.open.leases_of(member.name) == len(granted)


def test_leases_in_work_do_not_age_by_a_coordinators_restart(tmp_path: Path) -> None:
    with closing(Driver(tmp_path, steps=20)) as driver:
        granted = running(driver)
        for step in range(5):
            id = 1000 + step
            driver.journal.add_lease(id=id, purpose="train", row=1, attempt=1, evaluation=None)
            driver.journal.batch(step, step, [id])
            driver.journal.consume(step)
        ids = running_ids(driver)
    with closing(Driver(tmp_path, steps=20)) as driver:
        driver.say(b"g", REPLACE(GENERATOR, leases=[g.id for g in granted]))
        driver.say(b"l", REPLACE(LEARNER, step=5))
        driver.say(b"l", wire.BatchRequest(rank=0, step=5, report={}))
        assert driver.c.parts.scheduler.step == 5
        assert set(ids) <= set(running_ids(driver)), "how old their tokens are is not known yet"


@pytest.mark.parametrize("lost", [False, True])
def test_what_was_too_old_is_refilled_across_a_coordinators_restart(
    tmp_path: Path, lost: bool
) -> None:
    """Also if a generator was lost with it, and another made it."""
    calm = {"steps": 20, "eval": {"n_problems": 3, "n_samples": 2}}
    with closing(Driver(tmp_path, **calm)) as driver:
        old = running(driver)[0]
        if lost:
            driver.say(b"g", wire.Bye(), REPLACE(GENERATOR, incarnation="g2"))
            driver.synced("g")
            old = next(g for g in leases(driver.tick(b"g")) if g.id == old.id)
            assert old.attempt == 2
        driver.say(b"g", delivered(old))
        for step in range(5):
            id = 1000 + step
            driver.journal.add_lease(id=id, purpose="train", row=1, attempt=1, evaluation=None)
            driver.journal.batch(step, step, [id])
            driver.journal.consume(step)
    learner = REPLACE(LEARNER, step=5)
    with closing(Driver(tmp_path, **calm)) as driver:
        driver.say(b"l", learner)
        driver.say(b"l", wire.BatchRequest(rank=0, step=5, report={}))
        assert driver.journal.ended() == {"stale": 1}
    with closing(Driver(tmp_path, **calm)) as driver:
        for lease in driver.journal.leases("leased"):
            driver.journal.end_lease(lease.id, "failed", "out of the way")
        driver.c.parts.leases.restore(5)
        driver.say(b"l", learner)
        driver.say(b"g", GENERATOR)
        driver.synced("g", version=5)
        granted = leases(driver.tick(b"g"))
        assert [(g.row, g.attempt) for g in granted if g.attempt == 2] == [(old.row, 2)]
    with closing(Driver(tmp_path, **calm)) as driver:
        assert driver.journal.meta("refills") == "[]", "once"


def test_the_last_steps_are_trained_again_if_the_learner_dies_before_their_checkpoint(
    tmp_path: Path,
) -> None:
    sim = Simulation(tmp_path, config=make_config(steps=5, checkpoint={"every": 3}))
    coordinator = sim.coordinator
    assert coordinator is not None
    sim.run(limit=300, until=lambda: coordinator.state is State.FINISHING)
    assert sim.learner is not None
    assert sim.checkpoint == 3
    sim.kill(sim.learner, back_after=3)
    sim.run(limit=300)
    assert coordinator.state is State.FINISHED
    assert sorted(sim.timeline) == list(range(5))
    assert sim.checkpoint == 5


@pytest.mark.parametrize("ended", ["coordinator", "learner", "both"])
def test_a_batch_whose_report_came_after_its_checkpoint_is_written_down(
    tmp_path: Path, ended: str
) -> None:
    """Once, whoever ended in between; what the learner measured, as long as it lives."""
    saved = wire.LearnerHeartbeat(rank=0, staged=0, checkpoint=1, phase="")
    report = wire.BatchRequest(rank=0, step=1, report={"loss": 0.5})
    with closing(Driver(tmp_path)) as driver:
        granted = running(driver)
        driver.say(b"l", wire.BatchRequest(rank=0, step=0, report={}))
        answers = driver.tick(b"l")
        while not only(answers, wire.Batch):
            granted += leases(driver.say(b"g", delivered(granted.pop(0))))
            answers = driver.tick(b"l")
        driver.say(b"l", saved)
        if ended == "learner":
            driver.say(b"l2", REPLACE(LEARNER, incarnation="l2", step=1))
            driver.say(b"l2", REPLACE(report, report={}), REPLACE(report, report={}))
            found = driver.journal.steps()
    if ended != "learner":
        with closing(Driver(tmp_path)) as driver:
            learner = LEARNER if ended == "coordinator" else REPLACE(LEARNER, incarnation="l2")
            told = report if ended == "coordinator" else REPLACE(report, report={})
            driver.say(b"l", REPLACE(learner, step=1), told, told)
            found = driver.journal.steps()
    [record] = found
    assert record.batch is not None
    assert (record.step, record.batch.groups) == (0, 3)
    assert record.learner.get("loss") == (0.5 if ended == "coordinator" else None)


def test_groups_that_a_rewind_finds_without_samples_are_counted_as_dropped(
    driver: Driver,
) -> None:
    granted = running(driver)
    batched = [lease.id for lease in granted[:2]]
    driver.say(b"g", *(delivered(lease) for lease in granted[:2]))
    driver.journal.batch(0, 0, batched)
    driver.journal.consume(0)
    driver.journal.delete_samples(batched[:1])
    driver.say(b"l", REPLACE(LEARNER, incarnation="l2"))
    assert driver.journal.ended() == {"deleted": 1}
    counts = driver.c.parts.leases.counts
    assert (counts.dropped, counts.events["evicted"]) == ({"deleted": 1}, 1)
    table = driver.c.parts.leases.open
    assert table.count(OpenState.DELIVERED) == 1, "the other is available again"
