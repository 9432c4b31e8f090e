"""Messages that are foreign, late, or nonsense."""

import pytest

from asyncds.protocol import wire
from tests.support.coordinator_fixture import (
    GENERATOR,
    REPLACE,
    Driver,
    delivered,
    leases,
    only,
    running,
)


def test_only_who_was_granted_a_lease_can_deliver_it(driver: Driver) -> None:
    lease, *_ = running(driver)
    driver.say(b"h", REPLACE(GENERATOR, name="h", incarnation="h1"))
    assert wire.Cancel(leases=[lease.id]) in driver.say(b"h", delivered(lease))
    assert driver.c.rejected.count == 1
    assert lease.id in [row.id for row in driver.journal.leases("leased")]
    driver.say(b"g", wire.Bye())
    driver.say(b"g2", REPLACE(GENERATOR, incarnation="g2"))
    answer = driver.say(b"g2", delivered(lease))
    assert wire.Ack(leases=[lease.id]) in answer, "one of an earlier try is as good"
    assert driver.journal.counts()["delivered"] == 1


@pytest.mark.parametrize("lease", [-1, 0, 10**9, 2**63])
def test_a_lease_that_never_was_is_acknowledged_and_counted(driver: Driver, lease: int) -> None:
    first, *_ = running(driver)
    foreign = REPLACE(delivered(first), lease=lease)
    assert wire.Ack(leases=[lease]) in driver.say(b"g", foreign), "or it is said for ever"
    assert driver.c.rejected.count == 1
    assert driver.c.parts.leases.counts.events["duplicate"] == 0


def test_what_comes_late_changes_nothing(driver: Driver) -> None:
    granted = running(driver)
    driver.say(b"l", wire.BatchRequest(rank=0, step=0, report={}))
    while not only(driver.tick(b"l"), wire.Batch):
        granted = leases(driver.say(b"g", *map(delivered, granted)))
    driver.say(b"l", wire.BatchRequest(rank=0, step=1, report={}))
    assert driver.c.parts.batches.starving
    driver.say(b"l", wire.BatchRequest(rank=0, step=0, report={}))
    assert driver.c.parts.batches.starving, "the request of before is not the present one"
    staged = wire.LearnerHeartbeat(rank=0, staged=1, checkpoint=-1, phase="")
    driver.say(b"l", staged, REPLACE(staged, staged=0))
    assert driver.c.parts.weights.learner.staged == 1
    sync = driver.c.parts.weights.current
    assert sync is not None
    now = wire.Prepared(sync=sync.id, version=1, rendezvous="here")
    driver.say(b"l", now, REPLACE(now, sync=sync.id - 1, rendezvous="there"))
    (go,) = only(driver.say(b"g", wire.Prepared(sync=sync.id)), wire.Go)
    assert go.rendezvous == "here"


def test_a_flood_of_nonsense_is_counted_and_logged_once_a_minute(
    driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    for second in range(120):
        driver.c.rejected.add(b"x", "no message", float(second))
        driver.c.handle(b"x", REPLACE(GENERATOR, protocol=99), float(second))
    driver.c.rejected.add(b"y", "a line\nand" + 1000 * " another", 0.0)
    assert "line\\nand" in caplog.text, "a line can't be forged"
    assert len(caplog.records[-1].getMessage()) < 400
    assert driver.c.rejected.count == 241
    assert len([r for r in caplog.records if "rejected" in r.message]) == 3
