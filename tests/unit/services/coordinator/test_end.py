"""How a run ends: finished, told to stop, resumed; and how everybody hears of it."""

from contextlib import closing
from pathlib import Path

import pytest

from asyncds.protocol import wire
from asyncds.protocol.state import State
from services.coordinator.grants import REGRANT_SECONDS
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
)


def test_stop_before_anybody_came(driver: Driver) -> None:
    driver.c.end.stop("Ctrl-C")
    assert (driver.c.state, driver.c.message) == (State.INTERRUPTED, "Ctrl-C")
    assert driver.c.end.over(0)


@pytest.mark.parametrize(("failed", "state"), [(True, "failed"), (False, "interrupted")])
def test_a_run_that_can_not_go_on_has_failed(driver: Driver, failed: bool, state: str) -> None:
    running(driver)
    driver.say(b"x", wire.Stop(reason="generator-0: no data", failed=failed))
    assert driver.c.state is State.FINISHING
    driver.say(b"l", wire.LearnerHeartbeat(rank=0, staged=0, checkpoint=9, phase=""))
    assert (driver.c.state, driver.c.message) == (State(state), "generator-0: no data")


def test_a_learner_that_dies_while_the_run_is_stopped_is_not_waited_for(tmp_path: Path) -> None:
    sim = Simulation(tmp_path, config=make_config(steps=500))
    sim.run(limit=100, until=lambda: len(sim.timeline) == 3)
    coordinator = sim.coordinator
    assert coordinator is not None
    assert sim.learner is not None
    coordinator.end.stop("Ctrl-C")
    sim.kill(sim.learner, back_after=None)
    limits = coordinator.parts.config.coordinator
    assert limits.stall_seconds > 4 * limits.dead_seconds
    sim.run(limit=4 * limits.dead_seconds)
    assert (coordinator.state, coordinator.message) == (State.INTERRUPTED, "Ctrl-C")


def test_stop_ends_after_the_checkpoint(tmp_path: Path) -> None:
    sim = Simulation(tmp_path, config=make_config(steps=500))
    sim.run(limit=100, until=lambda: len(sim.timeline) == 3)
    coordinator = sim.coordinator
    assert coordinator is not None
    assert sim.checkpoint == 2
    coordinator.end.stop("Ctrl-C")
    sim.run(limit=30)
    assert (coordinator.state, coordinator.message) == (State.INTERRUPTED, "Ctrl-C")
    assert sim.checkpoint == coordinator.parts.batches.trained >= 2
    assert sim.journal.counts().get("consumed", 0) == 0, "all that was trained is committed"


def test_an_older_checkpoint_does_not_count_as_the_last(driver: Driver) -> None:
    running(driver)
    driver.say(b"l", wire.LearnerHeartbeat(rank=0, staged=0, checkpoint=5, phase=""))
    driver.say(b"m", REPLACE(LEARNER, incarnation="l2", step=3))
    driver.say(b"m", wire.Stop(reason="enough"))
    assert driver.c.state is State.FINISHING
    driver.say(b"m", wire.LearnerHeartbeat(rank=0, staged=3, checkpoint=3, phase=""))
    assert driver.c.state is State.INTERRUPTED


def test_stopped_work_is_not_granted_again(driver: Driver) -> None:
    running(driver)
    driver.say(b"g", wire.Stop(reason="enough"))
    driver.now += REGRANT_SECONDS + 0.1
    answer = driver.say(b"g", wire.GeneratorHeartbeat(leases=[], stats={}))
    assert leases(answer) == []


def test_a_stopped_run_can_be_resumed(tmp_path: Path) -> None:
    config = make_config(steps=6)
    sim = Simulation(tmp_path, config=config)
    sim.run(limit=100, until=lambda: len(sim.timeline) == 3)
    assert sim.coordinator is not None
    sim.coordinator.end.stop("Ctrl-C")
    sim.run(limit=30)
    sim.kill_coordinator(back_after=0)
    for name in list(sim.generators):
        sim.start_generator(name)
    sim.start_learner()
    sim.turn()
    sim.run(limit=300)
    assert sim.coordinator.state is State.FINISHED
    assert sorted(sim.timeline) == list(range(6))


@pytest.mark.parametrize("turns", [0, 3, 10])
@pytest.mark.parametrize("alone", [False, True])
def test_a_stop_outlives_the_coordinator(tmp_path: Path, turns: int, alone: bool) -> None:
    """`turns` after it was told to stop it dies; `alone`, so does the learner, for good."""
    sim = Simulation(tmp_path, config=make_config(steps=500))
    sim.run(limit=100, until=lambda: len(sim.timeline) == 3)
    assert sim.coordinator is not None
    sim.coordinator.end.stop("Ctrl-C")
    for _ in range(turns):
        sim.turn()
    if alone and sim.learner is not None:
        sim.kill(sim.learner, back_after=None)
    sim.kill_coordinator(back_after=2)
    sim.run(limit=40, until=lambda: sim.coordinator is not None)
    assert sim.coordinator is not None
    assert sim.coordinator.state is State.FINISHING
    sim.run(limit=40)
    assert (sim.coordinator.state, sim.coordinator.message) == (State.INTERRUPTED, "Ctrl-C")
    assert len(sim.timeline) <= 4, "only the step in hand was finished"
    assert alone or sim.checkpoint == sim.coordinator.parts.batches.trained >= 2
    assert alone or not any(g.alive for g in sim.generators.values()), "all were told to leave"
    assert sim.journal.stop_reason() is None, "who starts it again resumes it"


def test_a_recalled_stop_grants_nothing_and_takes_what_comes(tmp_path: Path) -> None:
    with closing(Driver(tmp_path)) as driver:
        lease, other, *_ = running(driver)
        driver.say(b"l", wire.Stop(reason=""))
    with closing(Driver(tmp_path)) as driver:
        held = [lease.id, other.id]
        assert only(driver.say(b"g", REPLACE(GENERATOR, leases=held)), wire.Refused) == []
        driver.say(b"l", LEARNER)
        answer = driver.say(b"g", wire.GeneratorHeartbeat(leases=held, stats={}))
        assert only(answer, wire.Cancel) == [wire.Cancel(leases=held)]
        assert wire.Ack(leases=[lease.id]) in driver.say(b"g", delivered(lease))
        assert driver.journal.counts()["delivered"] == 1
        assert driver.c.state is State.FINISHING


def test_who_missed_the_end_is_told_again(driver: Driver) -> None:
    running(driver)
    driver.c.end.conclude(State.FAILED, "the disk is full")
    assert wire.Drain(reason="the disk is full") in driver.tick(b"g")
    heartbeat = wire.GeneratorHeartbeat(leases=[], stats={})
    assert driver.say(b"g", heartbeat) == [wire.Drain(reason="the disk is full")]
    late = driver.say(b"h", REPLACE(GENERATOR, name="h", incarnation="h1"))
    assert [type(m) for m in late] == [wire.Welcome, wire.Drain]
    assert not driver.c.end.over(0)
    driver.say(b"g", wire.Bye())
    driver.say(b"l", wire.Bye())
    assert driver.c.end.over(0)


def test_who_does_not_leave_is_not_waited_for(driver: Driver) -> None:
    running(driver)
    driver.c.end.conclude(State.FAILED, "enough")
    assert not driver.c.end.over(0)
    assert not driver.c.end.over(30)
    assert driver.c.end.over(31)


def test_a_finished_run_that_is_started_again_ends_at_once(tmp_path: Path) -> None:
    sim = Simulation(tmp_path, config=make_config())
    sim.run(limit=300)
    sim.kill_coordinator(back_after=0)
    sim.turn()
    sim.turn()
    assert sim.coordinator is not None
    assert sim.coordinator.state is State.FINISHED


def test_what_is_open_when_all_steps_are_done_ends_with_a_reason(tmp_path: Path) -> None:
    sim = Simulation(tmp_path, config=make_config(steps=500))
    sim.run(limit=100, until=lambda: len(sim.timeline) == 3)
    assert sim.coordinator is not None
    sim.coordinator.end.stop("Ctrl-C")
    sim.run(limit=30)
    left = sim.journal.counts()["leased"] + sim.journal.counts().get("delivered", 0)
    sim.kill_coordinator(back_after=0)
    sim.config = make_config(steps=sim.checkpoint + 1)
    groups = sim.config.rollout.groups_per_step
    assert left > groups, "more than the one step that is made yet can use"
    for name in list(sim.generators):
        sim.start_generator(name)
    sim.start_learner()
    sim.turn()
    sim.run(limit=200)
    assert sim.coordinator is not None
    assert sim.coordinator.state is State.FINISHED
    counts, ended = sim.journal.counts(), sim.journal.ended()
    assert counts == {"committed": groups * sim.checkpoint, "evicted": sum(ended.values())}
    assert ended["surplus"] > 0
