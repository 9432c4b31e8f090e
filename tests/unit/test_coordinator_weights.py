"""Weights: who is trusted with work, and whose versions count."""

from contextlib import closing
from pathlib import Path

from coordinator_desk import (
    GENERATOR,
    LEARNER,
    REPLACE,
    Desk,
    leases,
    only,
    running,
)

from asyncds.fleet.membership import Health
from asyncds.rollout import wire


def test_a_mismatch_never_serves(desk: Desk) -> None:
    desk.say(b"l", LEARNER)
    desk.say(b"g", GENERATOR)
    desk.say(b"l", wire.LearnerHeartbeat(rank=0, staged=0, checkpoint=-1, phase=""))
    sync = desk.c.weights.current
    assert sync is not None
    desk.say(b"g", wire.Prepared(sync=sync.id))
    assert only(desk.tick(b"g"), wire.Go) == []
    desk.say(b"l", wire.Prepared(sync=sync.id, version=0, rendezvous="r"))
    assert [go.rendezvous for go in only(desk.tick(b"g"), wire.Go)] == ["r"]
    ends = {"sync": sync.id, "version": 0, "probe": b"\0"}  # a probe that is cut off
    desk.say(b"g", wire.Applied(checksums=[2], pause_seconds=0, receive_seconds=0, **ends))
    desk.say(b"l", wire.Sent(checksums=[1], seconds=0, **ends))
    assert desk.member() is Health.STALE
    assert "checksums differ" in desk.c.weights.last_failure
    assert desk.c.fleet.healthy() == []


def test_a_process_is_not_blamed_for_the_one_it_replaces(desk: Desk) -> None:
    desk.say(b"l", LEARNER)
    desk.say(b"g", GENERATOR)
    desk.say(b"l", wire.LearnerHeartbeat(rank=0, staged=0, checkpoint=-1, phase=""))
    sync = desk.c.weights.current
    assert sync is not None
    desk.say(b"g", wire.Prepared(sync=sync.id))
    desk.say(b"l", wire.Prepared(sync=sync.id, version=0))
    desk.say(b"g2", REPLACE(GENERATOR, incarnation="g2"))
    desk.say(b"l", wire.SyncFailed(sync=sync.id, reason="timed out"))
    assert "replaced" in desk.c.weights.last_failure
    member = desk.c.fleet.get("g")
    assert member is not None
    assert (member.incarnation, member.failures, member.retry_at) == ("g2", 0, 0.0)


def test_numbers_of_an_earlier_coordinator_do_not_come_again(tmp_path: Path) -> None:
    ids = []
    for _ in range(2):
        with closing(Desk(tmp_path)) as desk:
            desk.say(b"l", LEARNER)
            desk.say(b"g", GENERATOR)
            desk.say(b"l", wire.LearnerHeartbeat(rank=0, staged=0, checkpoint=-1, phase=""))
            sync = desk.c.weights.current
            assert sync is not None
            ids.append((sync.id, sync.epoch))
    assert ids[1][0] > ids[0][0] + 1000
    assert ids[1][1] > ids[0][1] + 1000


def test_another_learners_weights_are_other_weights(desk: Desk) -> None:
    running(desk)
    assert desk.member() is Health.HEALTHY
    desk.say(b"m", REPLACE(LEARNER, incarnation="l2"))
    assert desk.member() is Health.STALE
    assert leases(desk.tick(b"g")) == []
    desk.say(b"m", wire.LearnerHeartbeat(rank=0, staged=0, checkpoint=-1, phase=""))
    assert only(desk.tick(b"g"), wire.Prepare), "version 0 again, but not the same version 0"
