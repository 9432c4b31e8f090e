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
    Driver,
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
    driver: Driver, hello: wire.Message, reason: str
) -> None:
    driver.say(b"l", LEARNER)
    driver.say(b"g", GENERATOR)
    (refused,) = only(driver.say(b"x", hello), wire.Refused)
    assert reason in refused.reason
    assert driver.c.parts.fleet.get("h") is None


def test_a_refused_process_leaves_no_trace(driver: Driver) -> None:
    driver.say(b"x", REPLACE(GENERATOR, tokenizer="wrong", rows={}))
    assert only(driver.say(b"g", GENERATOR), wire.Welcome)


def test_strangers_are_asked_who_they_are(driver: Driver) -> None:
    heartbeat = wire.GeneratorHeartbeat(leases=[], stats={})
    assert driver.say(b"x", heartbeat) == [wire.Identify()]


def test_a_second_rank_waits_for_the_first(tmp_path: Path) -> None:
    with closing(Driver(tmp_path, learner__ranks=2)) as driver:
        first, second = REPLACE(LEARNER, ranks=2), REPLACE(LEARNER, ranks=2, rank=1)
        assert driver.say(b"l1", second) == []
        assert only(driver.say(b"l", first), wire.Welcome)
        assert only(driver.say(b"l1", second), wire.Welcome)
        for rank in (0, 7):
            driver.say(b"l1", wire.BatchRequest(rank=rank, step=0, report={}))
        assert driver.c.rejected.count == 2, "a rank can't ask for another's shard"


def test_a_late_joiner_gets_the_weights_and_serves(driver: Driver) -> None:
    running(driver)
    late = REPLACE(GENERATOR, name="h", incarnation="h1")
    assert only(driver.say(b"h", late), wire.Welcome)
    assert driver.member("h") is Health.STALE
    driver.synced("g", "h")
    assert (driver.member("g"), driver.member("h")) == (Health.HEALTHY, Health.HEALTHY)


def test_the_dead_do_not_come_back(driver: Driver) -> None:
    running(driver)
    driver.tick(b"l", seconds=100)
    assert driver.member() is Health.DEAD
    assert driver.say(b"g", wire.GeneratorHeartbeat(leases=[], stats={})) == [wire.Identify()]
    said = driver.say(b"g", REPLACE(GENERATOR, leases=[1]))
    assert only(said, wire.GivenUp)
    assert not only(said, wire.Welcome)
    assert driver.member() is Health.DEAD
    assert only(driver.say(b"g2", REPLACE(GENERATOR, incarnation="g2")), wire.Welcome)
    assert driver.member() is Health.STALE


def test_two_processes_of_one_name_do_not_fight(driver: Driver) -> None:
    driver.say(b"g", GENERATOR)
    assert only(driver.say(b"g2", REPLACE(GENERATOR, incarnation="g2")), wire.Welcome)
    (refused,) = only(driver.say(b"g", GENERATOR), wire.Refused)
    assert "another of its name" in refused.reason
    member = driver.c.parts.fleet.get("g")
    assert member is not None
    assert (member.incarnation, member.health) == ("g2", Health.STALE)


def test_two_learners_do_not_fight(tmp_path: Path) -> None:
    with closing(Driver(tmp_path)) as driver:
        driver.say(b"l", LEARNER)
        assert only(driver.say(b"m", REPLACE(LEARNER, incarnation="l2")), wire.Welcome)
    with closing(Driver(tmp_path)) as driver:  # also not after the coordinator's restart
        (refused,) = only(driver.say(b"l", LEARNER), wire.Refused)
        assert "took over" in refused.reason
        assert only(driver.say(b"m", REPLACE(LEARNER, incarnation="l2")), wire.Welcome)
