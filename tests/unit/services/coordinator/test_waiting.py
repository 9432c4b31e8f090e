"""What is said, and done, while somebody waits."""

from contextlib import closing
from pathlib import Path

import pytest

from asyncds.protocol import wire
from asyncds.protocol.state import State
from tests.support.coordinator_fixture import (
    GENERATOR,
    LEARNER,
    Driver,
    delivered,
    leases,
    only,
    running,
)


def test_a_stall_ends_in_a_sentence(tmp_path: Path) -> None:
    with closing(Driver(tmp_path, coordinator__stall_seconds=30)) as driver:
        running(driver)
        for _ in range(31):
            driver.now += 1
            driver.say(b"g", wire.GeneratorHeartbeat(leases=[], stats={}))
            driver.say(b"l", wire.LearnerHeartbeat(rank=0, staged=0, checkpoint=-1, phase=""))
        assert driver.c.state is State.FAILED
        assert driver.c.message.startswith("no progress for 30 s: ")


def saving(driver: Driver, *sizes: int) -> None:
    """A second each; the learner says how much of the checkpoint that it waits for is written."""
    for size in sizes:
        driver.now += 1
        driver.say(b"g", wire.GeneratorHeartbeat(leases=[], stats={}))
        beat = wire.LearnerHeartbeat(rank=0, staged=0, checkpoint=-1, saving=size, phase="")
        driver.say(b"l", beat)


def test_a_long_save_that_training_waits_for_is_no_stall(tmp_path: Path) -> None:
    with closing(Driver(tmp_path, coordinator__stall_seconds=30)) as driver:
        running(driver)
        saving(driver, *range(1, 300))
        assert driver.c.state is State.RUNNING


@pytest.mark.parametrize("stuck", [0, 7])
def test_a_save_that_gets_nowhere_is_one(tmp_path: Path, stuck: int) -> None:
    """Or that nobody waits for (0), so that something else holds everybody up."""
    with closing(Driver(tmp_path, coordinator__stall_seconds=30)) as driver:
        running(driver)
        saving(driver, 5, 6, 7, *[stuck] * 31)
        assert driver.c.state is State.FAILED
        assert driver.c.message.startswith("no progress for 30 s: ")


def test_whoever_is_there_is_asked_what_it_does_while_nothing_moves(tmp_path: Path) -> None:
    with closing(Driver(tmp_path, coordinator__watch_seconds=30)) as driver:
        driver.say(b"l", LEARNER)
        driver.say(b"g", GENERATOR)

        def said_at(seconds: int) -> list[wire.Message]:
            driver.now = seconds
            driver.say(b"l", wire.LearnerHeartbeat(rank=0, staged=-1, checkpoint=-1, phase=""))
            return driver.say(b"g", wire.GeneratorHeartbeat(leases=[], stats={}))

        quiet = [only(said_at(t), wire.Dump) for t in range(1, 30)]
        assert not any(quiet)
        assert driver.stalls == []
        [dump] = only(said_at(30), wire.Dump)
        assert dump.reason == f"no progress for 30 s: {driver.c.waiting_for()}"
        assert driver.stalls == [dump.reason]
        assert driver.c.status(driver.now).message == "no progress for 30 s"


def test_processes_that_are_being_started_are_named(tmp_path: Path) -> None:
    with closing(Driver(tmp_path)) as driver:
        driver.say(b"a", wire.Starting(name="learner-0", doing="loading the model"))
        for i in range(6):
            driver.say(b"a", wire.Starting(name=f"generator-{i}", doing="starting its engine"))
        driver.now += 45
        status = driver.c.status(driver.now)
        assert status.waiting_for == (
            "everybody waits for the learner to join "
            "(being started: generator-0, generator-1, generator-2, generator-3 and 3 more)"
        )
        assert status.learner.phase == "loading the model for 45 s"
        assert [m.name for m in status.fleet] == [f"generator-{i}" for i in range(6)]
        assert status.fleet[0].health == "starting its engine for 45 s"
        driver.say(b"l", LEARNER)
        driver.say(b"g", GENERATOR)
        assert LEARNER.name == "learner-0"
        status = driver.c.status(driver.now)
        assert status.learner.phase != "loading the model for 45 s"
        assert [m.name for m in status.fleet].count(GENERATOR.name) == 1


def test_a_run_waits_for_its_gpus_as_long_as_it_takes(tmp_path: Path) -> None:
    hour = 3600.0
    with closing(
        Driver(tmp_path, coordinator__watch_seconds=30, coordinator__stall_seconds=60)
    ) as driver:

        def turn(now: float, *peers: bytes) -> None:
            driver.now = now
            driver.c.tick(now)
            if b"l" in peers:
                driver.say(b"l", wire.LearnerHeartbeat(rank=0, staged=-1, checkpoint=-1, phase=""))
            if b"g" in peers:
                driver.say(b"g", wire.GeneratorHeartbeat(leases=[], stats={}))

        for minute in range(60):
            turn(60.0 * minute)
        driver.now = hour
        driver.say(b"l", LEARNER)
        for second in range(3600):
            turn(hour + second, b"l")
        assert driver.c.state is State.STARTING
        assert driver.c.waiting_for() == "the learner waits for a generator to join"
        assert driver.stalls == []
        driver.now = 2 * hour
        driver.say(b"g", GENERATOR)
        for second in range(59):
            turn(2 * hour + second, b"l", b"g")
        assert driver.c.state is State.STARTING
        for second in range(59, 63):
            turn(2 * hour + second, b"l", b"g")
        assert driver.c.state is State.FAILED, "all are there, and nothing moves"


@pytest.mark.parametrize(
    ("joined", "sentence"),
    [
        ([], "everybody waits for the learner to join"),
        (["l"], "the learner waits for a generator to join"),
        (["l", "g"], "nobody waits"),
    ],
)
def test_who_waits_for_whom(driver: Driver, joined: list[str], sentence: str) -> None:
    for peer in joined:
        driver.say(peer.encode(), LEARNER if peer == "l" else GENERATOR)
    assert driver.c.waiting_for() == sentence


def test_who_waits_for_whom_in_work(driver: Driver) -> None:
    granted = running(driver, evaluate=False)
    assert driver.c.waiting_for() == "evaluating version 0: 0 of 3 groups"
    while todo := [g for g in granted if g.split == "eval"]:
        granted = [g for g in granted if g.split == "train"]
        granted += leases(driver.say(b"g", *(delivered(g) for g in todo)))
    driver.say(b"l", wire.BatchRequest(rank=0, step=0, report={}))
    assert driver.c.waiting_for() == f"the learner waits for generators: {len(granted)} groups at g"
