"""What is said, and done, while somebody waits."""

from contextlib import closing
from pathlib import Path

import pytest

from asyncds.protocol import wire
from asyncds.protocol.state import State
from tests.support.coordinator_fixture import (
    GENERATOR,
    LEARNER,
    Desk,
    delivered,
    leases,
    only,
    running,
)


def test_a_stall_ends_in_a_sentence(tmp_path: Path) -> None:
    with closing(Desk(tmp_path, coordinator__stall_seconds=30)) as desk:
        running(desk)
        for _ in range(31):
            desk.now += 1
            desk.say(b"g", wire.GeneratorHeartbeat(leases=[], stats={}))
            desk.say(b"l", wire.LearnerHeartbeat(rank=0, staged=0, checkpoint=-1, phase=""))
        assert desk.c.state is State.FAILED
        assert desk.c.message.startswith("no progress for 30 s: ")


def test_whoever_is_there_is_asked_what_it_does_while_nothing_moves(tmp_path: Path) -> None:
    with closing(Desk(tmp_path, coordinator__watch_seconds=30)) as desk:
        desk.say(b"l", LEARNER)
        desk.say(b"g", GENERATOR)

        def said_at(seconds: int) -> list[wire.Message]:
            desk.now = seconds
            desk.say(b"l", wire.LearnerHeartbeat(rank=0, staged=-1, checkpoint=-1, phase=""))
            return desk.say(b"g", wire.GeneratorHeartbeat(leases=[], stats={}))

        quiet = [only(said_at(t), wire.Dump) for t in range(1, 30)]
        assert not any(quiet)
        assert desk.stalls == []
        [dump] = only(said_at(30), wire.Dump)
        assert dump.reason == f"no progress for 30 s: {desk.c.waiting_for()}"
        assert desk.stalls == [dump.reason]
        assert desk.c.status(desk.now).message == "no progress for 30 s"


def test_processes_that_are_being_started_are_named(tmp_path: Path) -> None:
    with closing(Desk(tmp_path)) as desk:
        desk.say(b"a", wire.Starting(name="learner-0", doing="loading the model"))
        for i in range(6):
            desk.say(b"a", wire.Starting(name=f"generator-{i}", doing="starting its engine"))
        desk.now += 45
        status = desk.c.status(desk.now)
        assert status.waiting_for == (
            "everybody waits for the learner to join "
            "(being started: generator-0, generator-1, generator-2, generator-3 and 3 more)"
        )
        assert status.learner.phase == "loading the model for 45 s"
        assert [m.name for m in status.fleet] == [f"generator-{i}" for i in range(6)]
        assert status.fleet[0].health == "starting its engine for 45 s"
        desk.say(b"l", LEARNER)
        desk.say(b"g", GENERATOR)
        assert LEARNER.name == "learner-0"
        status = desk.c.status(desk.now)
        assert status.learner.phase != "loading the model for 45 s"
        assert [m.name for m in status.fleet].count(GENERATOR.name) == 1


def test_a_run_waits_for_its_gpus_as_long_as_it_takes(tmp_path: Path) -> None:
    hour = 3600.0
    with closing(
        Desk(tmp_path, coordinator__watch_seconds=30, coordinator__stall_seconds=60)
    ) as desk:

        def turn(now: float, *peers: bytes) -> None:
            desk.now = now
            desk.c.tick(now)
            if b"l" in peers:
                desk.say(b"l", wire.LearnerHeartbeat(rank=0, staged=-1, checkpoint=-1, phase=""))
            if b"g" in peers:
                desk.say(b"g", wire.GeneratorHeartbeat(leases=[], stats={}))

        for minute in range(60):
            turn(60.0 * minute)
        desk.now = hour
        desk.say(b"l", LEARNER)
        for second in range(3600):
            turn(hour + second, b"l")
        assert desk.c.state is State.STARTING
        assert desk.c.waiting_for() == "the learner waits for a generator to join"
        assert desk.stalls == []
        desk.now = 2 * hour
        desk.say(b"g", GENERATOR)
        for second in range(59):
            turn(2 * hour + second, b"l", b"g")
        assert desk.c.state is State.STARTING
        for second in range(59, 63):
            turn(2 * hour + second, b"l", b"g")
        assert desk.c.state is State.FAILED, "all are there, and nothing moves"


@pytest.mark.parametrize(
    ("joined", "sentence"),
    [
        ([], "everybody waits for the learner to join"),
        (["l"], "the learner waits for a generator to join"),
        (["l", "g"], "nobody waits"),
    ],
)
def test_who_waits_for_whom(desk: Desk, joined: list[str], sentence: str) -> None:
    for peer in joined:
        desk.say(peer.encode(), LEARNER if peer == "l" else GENERATOR)
    assert desk.c.waiting_for() == sentence


def test_who_waits_for_whom_in_work(desk: Desk) -> None:
    granted = running(desk, evaluate=False)
    assert desk.c.waiting_for() == "evaluating version 0: 0 of 3 groups"
    while todo := [g for g in granted if g.split == "eval"]:
        granted = [g for g in granted if g.split == "train"]
        granted += leases(desk.say(b"g", *(delivered(g) for g in todo)))
    desk.say(b"l", wire.BatchRequest(rank=0, step=0, report={}))
    assert desk.c.waiting_for() == f"the learner waits for generators: {len(granted)} groups at g"
