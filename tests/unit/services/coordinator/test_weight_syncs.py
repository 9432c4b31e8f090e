"""Weights: who is trusted with work, and whose versions count."""

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
    delivered,
    leases,
    only,
    running,
)


def test_a_mismatch_never_serves(driver: Driver) -> None:
    driver.say(b"l", LEARNER)
    driver.say(b"g", GENERATOR)
    driver.say(b"l", wire.LearnerHeartbeat(rank=0, staged=0, checkpoint=-1, phase=""))
    sync = driver.c.parts.weights.current
    assert sync is not None
    driver.say(b"g", wire.Prepared(sync=sync.id))
    assert only(driver.tick(b"g"), wire.Go) == []
    driver.say(b"l", wire.Prepared(sync=sync.id, version=0, rendezvous="r"))
    assert [go.rendezvous for go in only(driver.tick(b"g"), wire.Go)] == ["r"]
    ends = {"sync": sync.id, "probe": b"\0"}  # a probe that is cut off
    driver.say(b"g", wire.Applied(checksums=[2], pause_seconds=0, **ends))
    driver.say(b"l", wire.Sent(checksums=[1], seconds=0, **ends))
    assert [off.refused for off in only(driver.tick(b"g"), wire.SyncAborted)] == [True]
    assert driver.member() is Health.STALE
    assert "checksums differ" in driver.c.parts.weights.figures.last_failure
    assert driver.c.parts.fleet.healthy() == []


def test_syncs_that_fail_again_and_again_are_told_while_they_do(driver: Driver) -> None:
    driver.say(b"l", LEARNER)
    driver.say(b"g", GENERATOR)
    for n in range(3):
        assert ("weight syncs in a row failed" in driver.c.status(driver.now).message) == (n > 1)
        for _ in range(20):  # it is tried again after a while
            driver.now += 1
            driver.say(b"g", wire.GeneratorHeartbeat(leases=[], stats={}))
            driver.say(b"l", wire.LearnerHeartbeat(rank=0, staged=0, checkpoint=-1, phase=""))
            if driver.c.parts.weights.current is not None:
                break
        sync = driver.c.parts.weights.current
        assert sync is not None
        driver.say(b"g", wire.Prepared(sync=sync.id))
        driver.say(b"l", wire.Prepared(sync=sync.id, version=0, rendezvous="r"))
        ends = {"sync": sync.id, "checksums": [1]}
        far, near = b"\0\0\x80\xbf", b"\0\0\0\0"  # -1 and 0 nats
        times = {"pause_seconds": 0}
        driver.say(b"g", wire.Applied(probe=far, **times, **ends))
        driver.say(b"l", wire.Sent(probe=near, seconds=0, **ends))
        [off] = only(driver.tick(b"g"), wire.SyncAborted)
        assert off.refused
        assert off.reason.startswith("log-probs of the probe differ by 1")
    assert driver.c.status(driver.now).message.startswith(
        "3 weight syncs in a row failed: g log-probs of the probe differ by 1"
    )


def between(driver: Driver, *, right: bool) -> tuple[list[wire.Lease], wire.Applied, wire.Sent]:
    """The generator has new weights, and whether these are the learner's is not known yet: leases
    it works on, and what both are about to say."""
    granted = running(driver)
    driver.say(b"l", wire.LearnerHeartbeat(rank=0, staged=1, checkpoint=-1, phase=""))
    sync = driver.c.parts.weights.current
    assert sync is not None
    driver.say(b"g", wire.Prepared(sync=sync.id))
    driver.say(b"l", wire.Prepared(sync=sync.id, version=1))
    sums, probe = [1 if right else 2], b"\0" * 8
    applied = wire.Applied(sync=sync.id, checksums=sums, probe=probe, pause_seconds=0)
    return granted, applied, wire.Sent(sync=sync.id, checksums=[1], probe=probe, seconds=0)


def distrusted(driver: Driver) -> list[wire.Lease]:
    """The generator's weights turn out to be others, while it works on these leases."""
    granted, applied, sent = between(driver, right=False)
    driver.say(b"g", applied)
    driver.say(b"l", sent)
    assert driver.member() is Health.STALE
    return granted


def test_groups_made_by_wrong_weights_are_not_taken(tmp_path: Path) -> None:
    """Also not by the next coordinator."""
    with closing(Driver(tmp_path)) as driver:
        first, second, *_ = granted = distrusted(driver)
        cancelled = {i for m in only(driver.tick(b"g"), wire.Cancel) for i in m.leases}
        assert cancelled >= {lease.id for lease in granted}
        answer = driver.say(b"g", delivered(first, versions=(0, 1)))
        assert only(answer, wire.Cancel) == [wire.Cancel(leases=[first.id])]
        assert only(answer, wire.Ack) == []
        assert driver.c.rejected.count == 1
    with closing(Driver(tmp_path)) as driver:
        driver.say(b"g", REPLACE(GENERATOR, leases=[second.id]))
        answer = driver.say(b"g", delivered(second, versions=(0, 1)))
        assert only(answer, wire.Ack) == []
        assert driver.journal.counts().get("delivered", 0) == 0


@pytest.mark.parametrize("right", [True, False])
def test_a_group_waits_until_its_weights_are_judged(driver: Driver, right: bool) -> None:
    (old, new, *_), applied, sent = between(driver, right=right)
    assert only(driver.say(b"g", delivered(old, versions=(0,))), wire.Ack)[0].leases == [old.id]
    for message in (delivered(new, versions=(0, 1)), applied, delivered(new, versions=(0, 1))):
        answers = driver.say(b"g", message)
        assert only(answers, wire.Ack) == only(answers, wire.Cancel) == []
    driver.say(b"l", sent)
    answers = driver.tick(b"g")
    accepted = {i for ack in only(answers, wire.Ack) for i in ack.leases}
    refused = {i for cancel in only(answers, wire.Cancel) for i in cancel.leases}
    assert accepted == ({new.id} if right else set())
    assert (new.id in refused) is not right
    assert [g.lease for g in driver.journal.groups(purpose="train")] == (
        [old.id, new.id] if right else [old.id]
    )


def test_a_group_whose_generator_is_gone_does_not_wait(driver: Driver) -> None:
    (lease, *_), _, sent = between(driver, right=True)
    driver.say(b"g", delivered(lease, versions=(1,)), wire.Bye(reason="told to"))
    driver.say(b"l", sent)
    assert driver.journal.counts().get("delivered", 0) == 0
    assert driver.journal.ended() == {}, "it goes to another"


def test_the_work_of_who_is_not_trusted_goes_to_another(driver: Driver) -> None:
    """And costs it none of its attempts."""
    granted = {lease.id for lease in distrusted(driver)}
    driver.say(b"h", REPLACE(GENERATOR, name="h", incarnation="h1", capacity=100))
    driver.synced("h", version=1)
    again = [lease for lease in leases(driver.tick(b"h")) if lease.id in granted]
    assert {lease.id for lease in again} == granted
    assert {lease.attempt for lease in again} == {2}
    assert driver.journal.ended() == {}
    assert driver.say(b"h", delivered(again[0], versions=(1,)))
    assert driver.journal.counts()["delivered"] == 1


@pytest.mark.parametrize("kept", [True, False])
def test_a_transfer_that_failed_leaves_who_kept_its_weights_at_work(
    driver: Driver, kept: bool
) -> None:
    """What it delivers is taken, and it gets more to do."""
    (lease, *_), applied, _ = between(driver, right=True)
    failed = wire.SyncFailed(sync=applied.sync, reason="timed out", kept=kept)
    driver.say(b"l", failed)
    driver.say(b"g", failed)
    assert driver.member() is (Health.HEALTHY if kept else Health.STALE)
    assert driver.c.parts.weights.published == 0
    answers = driver.say(b"g", delivered(lease, versions=(0,)))
    assert only(answers, wire.Ack)[0].leases == [lease.id]
    assert bool(leases(answers)) is kept


def test_a_process_is_not_blamed_for_the_one_it_replaces(driver: Driver) -> None:
    driver.say(b"l", LEARNER)
    driver.say(b"g", GENERATOR)
    driver.say(b"l", wire.LearnerHeartbeat(rank=0, staged=0, checkpoint=-1, phase=""))
    sync = driver.c.parts.weights.current
    assert sync is not None
    driver.say(b"g", wire.Prepared(sync=sync.id))
    driver.say(b"l", wire.Prepared(sync=sync.id, version=0))
    driver.say(b"g2", REPLACE(GENERATOR, incarnation="g2"))
    driver.say(b"l", wire.SyncFailed(sync=sync.id, reason="timed out"))
    assert "replaced" in driver.c.parts.weights.figures.last_failure
    member = driver.c.parts.fleet.get("g")
    assert member is not None
    assert (member.incarnation, member.failures, member.retry_at) == ("g2", 0, 0.0)


def test_numbers_of_an_earlier_coordinator_do_not_come_again(tmp_path: Path) -> None:
    ids = []
    for _ in range(2):
        with closing(Driver(tmp_path)) as driver:
            driver.say(b"l", LEARNER)
            driver.say(b"g", GENERATOR)
            driver.say(b"l", wire.LearnerHeartbeat(rank=0, staged=0, checkpoint=-1, phase=""))
            sync = driver.c.parts.weights.current
            assert sync is not None
            ids.append((sync.id, sync.epoch))
    assert ids[1][0] > ids[0][0] + 1000
    assert ids[1][1] > ids[0][1] + 1000


def test_another_learners_weights_are_other_weights(driver: Driver) -> None:
    running(driver)
    assert driver.member() is Health.HEALTHY
    driver.say(b"m", REPLACE(LEARNER, incarnation="l2"))
    assert driver.member() is Health.STALE
    assert leases(driver.tick(b"g")) == []
    driver.say(b"m", wire.LearnerHeartbeat(rank=0, staged=0, checkpoint=-1, phase=""))
    assert only(driver.tick(b"g"), wire.Prepare), "version 0 again, but not the same version 0"


def test_the_list_of_tensors_travels_once_to_each(driver: Driver) -> None:
    """To the coordinator, and from it to a generator, unless they say that they know it."""

    def sync(layout: str, tensors: bytes, *, known: str) -> tuple[wire.Prepare, wire.Go]:
        version = driver.c.parts.weights.learner.staged + 1
        beat = wire.LearnerHeartbeat(rank=0, staged=version, checkpoint=-1, phase="")
        (prepare,) = only(driver.say(b"l", beat), wire.Prepare)
        ends = {"sync": prepare.sync, "checksums": [version], "probe": b"\0\0\0\0"}
        driver.say(b"g", wire.Prepared(sync=prepare.sync, layout=known))
        agreed = wire.Prepared(
            sync=prepare.sync, version=version, layout=layout, tensors=tensors, checksums=[version]
        )
        driver.say(b"l", agreed)
        (go,) = only(driver.tick(b"g"), wire.Go)
        assert (go.layout, go.checksums) == (layout, [version])
        driver.say(b"g", wire.Applied(pause_seconds=0, **ends))
        driver.say(b"l", wire.Sent(seconds=0, **ends))
        assert driver.c.parts.weights.published == version
        return prepare, go

    driver.say(b"l", LEARNER)
    driver.say(b"g", GENERATOR)
    prepare, go = sync("x", b"tensors", known="")
    assert (prepare.layout, go.tensors) == ("", b"tensors")
    while driver.c.parts.leases.round is not None:
        driver.c.parts.evaluations.drop()
        driver.c.parts.evaluations.plan.done()
    prepare, go = sync("x", b"", known="x")
    assert (prepare.layout, go.tensors) == ("x", b"")
    prepare, go = sync("x", b"", known="")
    assert go.tensors == b"tensors", "it is another incarnation, which knows nothing"
    prepare, go = sync("y", b"others", known="x")
    assert (prepare.layout, go.tensors) == ("x", b"others")


def test_a_learner_that_says_what_it_sends_by_a_name_nobody_knows_is_to_blame(
    driver: Driver,
) -> None:
    driver.say(b"l", LEARNER)
    driver.say(b"g", GENERATOR)
    driver.say(b"l", wire.LearnerHeartbeat(rank=0, staged=0, checkpoint=-1, phase=""))
    sync = driver.c.parts.weights.current
    assert sync is not None
    driver.say(b"g", wire.Prepared(sync=sync.id))
    driver.say(b"l", wire.Prepared(sync=sync.id, version=0, layout="x"))
    assert only(driver.tick(b"g"), wire.Go) == []
    assert driver.c.parts.weights.figures.last_failure == (
        "learner did not say which tensors it sends"
    )


def test_the_second_update_is_probed_too(driver: Driver) -> None:
    """In the first learner and engine have loaded the same files: it shows nothing of what came."""
    probe = b"\0" * 8
    running(driver)
    for version, probed in ((1, True), (2, True), (3, False)):  # every second, here
        beat = wire.LearnerHeartbeat(rank=0, staged=version, checkpoint=-1, phase="")
        prepares = only(driver.say(b"l", beat), wire.Prepare)
        assert [prepare.probe for prepare in prepares] == [probed]
        sync = prepares[0].sync
        driver.say(b"g", wire.Prepared(sync=sync))
        driver.say(b"l", wire.Prepared(sync=sync, version=version))
        driver.say(b"g", wire.Applied(sync=sync, checksums=[1], probe=probe, pause_seconds=0))
        driver.say(b"l", wire.Sent(sync=sync, checksums=[1], probe=probe, seconds=0))
