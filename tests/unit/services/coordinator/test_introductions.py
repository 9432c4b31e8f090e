"""Who may take part: introductions, strangers, the dead, and two of one name."""

from contextlib import closing
from pathlib import Path

import pytest

from asyncds.fleet.membership import Health
from asyncds.protocol import wire
from tests.support.coordinator_fixture import (
    GENERATOR,
    LEARNER,
    REPLACE,
    Desk,
    only,
    running,
)


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        (
            REPLACE(GENERATOR, name="h", protocol=99),
            f"protocol 99, this coordinator {wire.PROTOCOL}: install",
        ),
        (REPLACE(GENERATOR, name="h", tokenizer="other"), "tokenizer differs"),
        (REPLACE(GENERATOR, name="h", data="other"), "task data differs"),
        (REPLACE(GENERATOR, name="h", rows={"train": 0, "eval": 3}), "no rows"),
        (REPLACE(LEARNER, incarnation="l2", protocol=0), "protocol 0"),
        (REPLACE(LEARNER, incarnation="l2", tokenizer="other"), "tokenizer differs"),
        (REPLACE(LEARNER, incarnation="l2", rank=1), "rank 1 of 1"),
    ],
)
def test_who_does_not_fit_is_refused_in_a_sentence(
    desk: Desk, hello: wire.Message, reason: str
) -> None:
    desk.say(b"l", LEARNER)
    desk.say(b"g", GENERATOR)
    (refused,) = only(desk.say(b"x", hello), wire.Refused)
    assert reason in refused.reason
    assert desk.c.parts.fleet.get("h") is None


def test_a_refused_process_leaves_no_trace(desk: Desk) -> None:
    desk.say(b"x", REPLACE(GENERATOR, tokenizer="wrong", rows={}))
    assert only(desk.say(b"g", GENERATOR), wire.Welcome)


def test_strangers_are_asked_who_they_are(desk: Desk) -> None:
    heartbeat = wire.GeneratorHeartbeat(leases=[], stats={})
    assert desk.say(b"x", heartbeat) == [wire.Identify()]


def test_a_second_rank_waits_for_the_first(tmp_path: Path) -> None:
    with closing(Desk(tmp_path, learner__ranks=2)) as desk:
        first, second = REPLACE(LEARNER, ranks=2), REPLACE(LEARNER, ranks=2, rank=1)
        assert desk.say(b"l1", second) == []
        assert only(desk.say(b"l", first), wire.Welcome)
        assert only(desk.say(b"l1", second), wire.Welcome)
        for rank in (0, 7):
            desk.say(b"l1", wire.BatchRequest(rank=rank, step=0, report={}))
        assert desk.c.rejected.count == 2, "a rank can't ask for another's shard"


def test_a_late_joiner_gets_the_weights_and_serves(desk: Desk) -> None:
    running(desk)
    late = REPLACE(GENERATOR, name="h", incarnation="h1")
    assert only(desk.say(b"h", late), wire.Welcome)
    assert desk.member("h") is Health.STALE
    desk.synced("g", "h")
    assert (desk.member("g"), desk.member("h")) == (Health.HEALTHY, Health.HEALTHY)


def test_the_dead_do_not_come_back(desk: Desk) -> None:
    running(desk)
    desk.tick(b"l", seconds=100)
    assert desk.member() is Health.DEAD
    assert desk.say(b"g", wire.GeneratorHeartbeat(leases=[], stats={})) == [wire.Identify()]
    said = desk.say(b"g", REPLACE(GENERATOR, leases=[1]))
    assert only(said, wire.GivenUp)
    assert not only(said, wire.Welcome)
    assert desk.member() is Health.DEAD
    assert only(desk.say(b"g2", REPLACE(GENERATOR, incarnation="g2")), wire.Welcome)
    assert desk.member() is Health.STALE


def test_two_processes_of_one_name_do_not_fight(desk: Desk) -> None:
    desk.say(b"g", GENERATOR)
    assert only(desk.say(b"g2", REPLACE(GENERATOR, incarnation="g2")), wire.Welcome)
    (refused,) = only(desk.say(b"g", GENERATOR), wire.Refused)
    assert "another of its name" in refused.reason
    member = desk.c.parts.fleet.get("g")
    assert member is not None
    assert (member.incarnation, member.health) == ("g2", Health.STALE)


def test_two_learners_do_not_fight(tmp_path: Path) -> None:
    with closing(Desk(tmp_path)) as desk:
        desk.say(b"l", LEARNER)
        assert only(desk.say(b"m", REPLACE(LEARNER, incarnation="l2")), wire.Welcome)
    with closing(Desk(tmp_path)) as desk:  # also not after the coordinator's restart
        (refused,) = only(desk.say(b"l", LEARNER), wire.Refused)
        assert "took over" in refused.reason
        assert only(desk.say(b"m", REPLACE(LEARNER, incarnation="l2")), wire.Welcome)
