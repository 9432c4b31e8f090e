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
    Desk,
    delivered,
    leases,
    only,
    running,
    running_ids,
)


def test_a_group_sent_before_the_learner_is_back_is_kept(tmp_path: Path) -> None:
    with closing(Desk(tmp_path)) as desk:
        lease = running(desk)[0]
    with closing(Desk(tmp_path)) as desk:
        desk.say(b"g", REPLACE(GENERATOR, leases=[lease.id]))
        assert wire.Ack(leases=[lease.id]) in desk.say(b"g", delivered(lease))
        assert [g.lease for g in desk.journal.groups(purpose="train")] == [lease.id]


def test_work_goes_on_across_a_coordinators_restart(tmp_path: Path) -> None:
    with closing(Desk(tmp_path)) as desk:
        granted = running(desk)
        ids = running_ids(desk)
    with closing(Desk(tmp_path)) as desk:
        desk.say(b"g", REPLACE(GENERATOR, leases=[g.id for g in granted]))
        desk.say(b"l", LEARNER)
        answer = desk.say(b"g", wire.GeneratorHeartbeat(leases=ids, stats={}))
        assert only(answer, wire.Cancel) == []
        member = desk.c.parts.fleet.get("g")
        assert member is not None
        assert desk.c.parts.leases.open.leases_of(member.name) == len(granted)


def test_leases_in_work_do_not_age_by_a_coordinators_restart(tmp_path: Path) -> None:
    with closing(Desk(tmp_path, steps=20)) as desk:
        granted = running(desk)
        for step in range(5):
            id = 1000 + step
            desk.journal.add_lease(id=id, purpose="train", row=1, attempt=1, evaluation=None)
            desk.journal.batch(step, step, [id])
            desk.journal.consume(step)
        ids = running_ids(desk)
    with closing(Desk(tmp_path, steps=20)) as desk:
        desk.say(b"g", REPLACE(GENERATOR, leases=[g.id for g in granted]))
        desk.say(b"l", REPLACE(LEARNER, step=5))
        desk.say(b"l", wire.BatchRequest(rank=0, step=5, report={}))
        assert desk.c.parts.scheduler.step == 5
        assert set(ids) <= set(running_ids(desk)), "how old their tokens are is not known yet"


@pytest.mark.parametrize("lost", [False, True])
def test_what_was_too_old_is_refilled_across_a_coordinators_restart(
    tmp_path: Path, lost: bool
) -> None:
    """Also if a generator was lost with it, and another made it."""
    calm = {"steps": 20, "eval": {"n_problems": 3, "n_samples": 2}}
    with closing(Desk(tmp_path, **calm)) as desk:
        old = running(desk)[0]
        if lost:
            desk.say(b"g", wire.Bye(), REPLACE(GENERATOR, incarnation="g2"))
            desk.synced("g")
            old = next(g for g in leases(desk.tick(b"g")) if g.id == old.id)
            assert old.attempt == 2
        desk.say(b"g", delivered(old))
        for step in range(5):
            id = 1000 + step
            desk.journal.add_lease(id=id, purpose="train", row=1, attempt=1, evaluation=None)
            desk.journal.batch(step, step, [id])
            desk.journal.consume(step)
    learner = REPLACE(LEARNER, step=5)
    with closing(Desk(tmp_path, **calm)) as desk:
        desk.say(b"l", learner)
        desk.say(b"l", wire.BatchRequest(rank=0, step=5, report={}))
        assert desk.journal.ended() == {"stale": 1}
    with closing(Desk(tmp_path, **calm)) as desk:
        for lease in desk.journal.leases("leased"):
            desk.journal.end_lease(lease.id, "failed", "out of the way")
        desk.c.parts.leases.restore(5)
        desk.say(b"l", learner)
        desk.say(b"g", GENERATOR)
        desk.synced("g", version=5)
        granted = leases(desk.tick(b"g"))
        assert [(g.row, g.attempt) for g in granted if g.attempt == 2] == [(old.row, 2)]
    with closing(Desk(tmp_path, **calm)) as desk:
        assert desk.journal.meta("refills") == "[]", "once"


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
    with closing(Desk(tmp_path)) as desk:
        granted = running(desk)
        desk.say(b"l", wire.BatchRequest(rank=0, step=0, report={}))
        answers = desk.tick(b"l")
        while not only(answers, wire.Batch):
            granted += leases(desk.say(b"g", delivered(granted.pop(0))))
            answers = desk.tick(b"l")
        desk.say(b"l", saved)
        if ended == "learner":
            desk.say(b"l2", REPLACE(LEARNER, incarnation="l2", step=1))
            desk.say(b"l2", REPLACE(report, report={}), REPLACE(report, report={}))
            found = desk.journal.steps()
    if ended != "learner":
        with closing(Desk(tmp_path)) as desk:
            learner = LEARNER if ended == "coordinator" else REPLACE(LEARNER, incarnation="l2")
            told = report if ended == "coordinator" else REPLACE(report, report={})
            desk.say(b"l", REPLACE(learner, step=1), told, told)
            found = desk.journal.steps()
    [record] = found
    assert record.batch is not None
    assert (record.step, record.batch.groups) == (0, 3)
    assert record.learner.get("loss") == (0.5 if ended == "coordinator" else None)


def test_groups_that_a_rewind_finds_without_samples_are_counted_as_dropped(desk: Desk) -> None:
    granted = running(desk)
    batched = [lease.id for lease in granted[:2]]
    desk.say(b"g", *(delivered(lease) for lease in granted[:2]))
    desk.journal.batch(0, 0, batched)
    desk.journal.consume(0)
    desk.journal.delete_samples(batched[:1])
    desk.say(b"l", REPLACE(LEARNER, incarnation="l2"))
    assert desk.journal.ended() == {"deleted": 1}
    counts = desk.c.parts.leases.counts
    assert (counts.dropped, counts.events["evicted"]) == ({"deleted": 1}, 1)
    table = desk.c.parts.leases.open
    assert table.count(OpenState.DELIVERED) == 1, "the other is available again"
