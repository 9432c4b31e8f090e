"""Messages that are foreign, late, or nonsense."""

import pytest

from asyncds.protocol import wire
from tests.support.coordinator_fixture import (
    GENERATOR,
    REPLACE,
    Desk,
    delivered,
    leases,
    only,
    running,
)


def test_only_who_was_granted_a_lease_can_deliver_it(desk: Desk) -> None:
    lease, *_ = running(desk)
    desk.say(b"h", REPLACE(GENERATOR, name="h", incarnation="h1"))
    assert wire.Cancel(leases=[lease.id]) in desk.say(b"h", delivered(lease))
    assert desk.c.rejected.count == 1
    assert lease.id in [row.id for row in desk.journal.leases("leased")]
    desk.say(b"g", wire.Bye())
    desk.say(b"g2", REPLACE(GENERATOR, incarnation="g2"))
    answer = desk.say(b"g2", delivered(lease))
    assert wire.Ack(leases=[lease.id]) in answer, "one of an earlier try is as good"
    assert desk.journal.counts()["delivered"] == 1


@pytest.mark.parametrize("lease", [-1, 0, 10**9, 2**63])
def test_a_lease_that_never_was_is_acknowledged_and_counted(desk: Desk, lease: int) -> None:
    first, *_ = running(desk)
    foreign = REPLACE(delivered(first), lease=lease)
    assert wire.Ack(leases=[lease]) in desk.say(b"g", foreign), "or it is said for ever"
    assert desk.c.rejected.count == 1
    assert desk.c.parts.leases.counts.events["duplicate"] == 0


def test_what_comes_late_changes_nothing(desk: Desk) -> None:
    granted = running(desk)
    desk.say(b"l", wire.BatchRequest(rank=0, step=0, report={}))
    while not only(desk.tick(b"l"), wire.Batch):
        granted = leases(desk.say(b"g", *map(delivered, granted)))
    desk.say(b"l", wire.BatchRequest(rank=0, step=1, report={}))
    assert desk.c.parts.batches.starving
    desk.say(b"l", wire.BatchRequest(rank=0, step=0, report={}))
    assert desk.c.parts.batches.starving, "the request of before is not the present one"
    staged = wire.LearnerHeartbeat(rank=0, staged=1, checkpoint=-1, phase="")
    desk.say(b"l", staged, REPLACE(staged, staged=0))
    assert desk.c.parts.weights.learner.staged == 1
    sync = desk.c.parts.weights.current
    assert sync is not None
    now = wire.Prepared(sync=sync.id, version=1, rendezvous="here")
    desk.say(b"l", now, REPLACE(now, sync=sync.id - 1, rendezvous="there"))
    (go,) = only(desk.say(b"g", wire.Prepared(sync=sync.id)), wire.Go)
    assert go.rendezvous == "here"


def test_a_flood_of_nonsense_is_counted_and_logged_once_a_minute(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    for second in range(120):
        desk.c.rejected.add(b"x", "no message", float(second))
        desk.c.handle(b"x", REPLACE(GENERATOR, protocol=99), float(second))
    desk.c.rejected.add(b"y", "a line\nand" + 1000 * " another", 0.0)
    assert "line\\nand" in caplog.text, "a line can't be forged"
    assert len(caplog.records[-1].getMessage()) < 400
    assert desk.c.rejected.count == 241
    assert len([r for r in caplog.records if "rejected" in r.message]) == 3
