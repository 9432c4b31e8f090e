"""The coordinator, one situation at a time."""

import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from coordinator_simulation import VOCABULARY, Faults, Simulation, make_config
from hypothesis import given
from hypothesis import strategies as st
from rollout_groups import make_group

from asyncds.fleet.membership import Health
from asyncds.rollout import wire
from asyncds.rollout.codec import pack_group
from asyncds.rollout.journal import Journal, JournalError
from services.coordinator.coordinator import Coordinator
from services.coordinator.dynamic_sampling import DynamicSampling, Verdict
from services.coordinator.leases import REGRANT_SECONDS
from services.coordinator.state import State
from services.coordinator.tries import DEATHS_PER_FAILURE, Budget, Outcome, budgets

GENERATOR = wire.GeneratorHello(
    name="g",
    incarnation="g1",
    protocol=wire.PROTOCOL,
    workers=1,
    capacity=4,
    tokenizer="t",
    data="d",
    rows={"train": 9, "eval": 3},
    multiplicity={"written": [2, 0]},
    leases=[],
)
LEARNER = wire.LearnerHello(
    name="learner-0",
    incarnation="l1",
    protocol=wire.PROTOCOL,
    rank=0,
    ranks=1,
    step=0,
    tokenizer="t",
    vocab_size=VOCABULARY,
)
REPLACE = msgspec.structs.replace
DYNAMIC_SAMPLING = {
    "rollout__dynamic_sampling": {"enabled": True, "max_dropped": 1},
    "algorithm": {"advantage": {"kind": "grpo"}},
}


class Desk:
    """A coordinator, and what it said to each peer since it was last asked."""

    def __init__(self, path: Path, **config: Any) -> None:
        self.journal = Journal(path / "journal.db")
        self.now = 0.0
        self._sent: list[tuple[bytes, wire.Message]] = []
        self.stalls: list[str] = []
        self.c = Coordinator(
            config=make_config(**config),
            journal=self.journal,
            send=lambda peer, message: self._sent.append((peer, message)),
            on_step=lambda metrics: None,
            on_evaluation=lambda result: None,
            on_rewind=lambda: None,
            on_broadcast=lambda outcome, now: None,
            on_stall=self.stalls.append,
            now=0.0,
        )

    def close(self) -> None:
        self.journal.close()

    def say(self, peer: bytes, *messages: wire.Message) -> list[wire.Message]:
        """Handle messages of one peer, then a tick; what was sent to it."""
        for message in messages:
            self.c.handle(peer, message, self.now)  # type: ignore[arg-type]
        return self.tick(peer)

    def tick(self, peer: bytes, seconds: float = 0.0) -> list[wire.Message]:
        self.now += seconds
        self.c.tick(self.now)
        sent = [m for p, m in self._sent if p == peer]
        self._sent = [(p, m) for p, m in self._sent if p != peer]
        return sent

    def member(self, name: str = "g") -> Health:
        found = self.c.fleet.get(name)
        assert found is not None
        return found.health

    def synced(self, *names: str, version: int = 0) -> None:
        """Take the broadcast under way to its good end."""
        staged = wire.LearnerHeartbeat(rank=0, staged=version, checkpoint=-1, phase="")
        self.say(b"l", staged)
        sync = self.c.weights.current
        assert sync is not None
        assert set(sync.places) == set(names)
        probe = b"\0\0\0\0"
        for name in names:
            self.say(name.encode(), wire.Prepared(sync=sync.id))
        self.say(b"l", wire.Prepared(sync=sync.id, version=version))
        for name in names:
            applied = wire.Applied(
                sync=sync.id,
                version=version,
                checksums=[1],
                probe=probe,
                pause_seconds=0,
                receive_seconds=0,
            )
            self.say(name.encode(), applied)
        sent = wire.Sent(sync=sync.id, version=version, checksums=[1], probe=probe, seconds=0)
        self.say(b"l", sent)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with closing(Desk(tmp_path)) as desk:
        yield desk


def only(messages: list[wire.Message], kind: type) -> list[Any]:
    return [m for m in messages if isinstance(m, kind)]


def leases(messages: list[wire.Message]) -> list[wire.Lease]:
    return [lease for grant in only(messages, wire.Grant) for lease in grant.leases]


def delivered(lease: wire.Lease, **changes: Any) -> wire.Delivered:
    group = pack_group(make_group(n=lease.group_size, prompt=(lease.id,), **changes))
    return wire.Delivered(
        lease=lease.id, attempt=lease.attempt, group=group, sample_seconds=0, score_seconds=0
    )


def failed(lease: wire.Lease, reason: str, *, permanent: bool = False) -> wire.LeaseFailed:
    return wire.LeaseFailed(
        lease=lease.id, attempt=lease.attempt, reason=reason, permanent=permanent
    )


def running(desk: Desk, *, evaluate: bool = True) -> list[wire.Lease]:
    """Join both, sync, and answer the base evaluation; the first training leases."""
    desk.say(b"l", LEARNER)
    desk.say(b"g", GENERATOR)
    desk.synced("g")
    granted = leases(desk.tick(b"g"))
    assert desk.c.state is State.RUNNING
    while evaluate and any(lease.purpose == "eval" for lease in granted):
        done = [delivered(lease) for lease in granted if lease.purpose == "eval"]
        train = [lease for lease in granted if lease.purpose == "train"]
        granted = train + leases(desk.say(b"g", *done))
    return granted


# --- introductions ------------------------------------------------------------------------------


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
    assert desk.c.fleet.get("h") is None


def test_a_refused_process_leaves_no_trace(desk: Desk) -> None:
    desk.say(b"x", REPLACE(GENERATOR, tokenizer="wrong", rows={}))
    assert only(desk.say(b"g", GENERATOR), wire.Welcome)


def test_strangers_are_asked_who_they_are(desk: Desk) -> None:
    heartbeat = wire.GeneratorHeartbeat(version=0, leases=[], stats={})
    assert desk.say(b"x", heartbeat) == [wire.Identify()]


def test_a_second_rank_waits_for_the_first(tmp_path: Path) -> None:
    with closing(Desk(tmp_path, learner__ranks=2)) as desk:
        first, second = REPLACE(LEARNER, ranks=2), REPLACE(LEARNER, ranks=2, rank=1)
        assert desk.say(b"l1", second) == []
        assert only(desk.say(b"l", first), wire.Welcome)
        assert only(desk.say(b"l1", second), wire.Welcome)
        for rank in (0, 7):
            desk.say(b"l1", wire.BatchRequest(rank=rank, step=0, report={}))
        assert desk.c.rejected_frames == 2, "a rank can't ask for another's shard"


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
    assert desk.say(b"g", wire.GeneratorHeartbeat(version=0, leases=[], stats={})) == [
        wire.Identify()
    ]
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
    member = desk.c.fleet.get("g")
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


# --- leases -------------------------------------------------------------------------------------


def test_delivered_twice_is_acknowledged_twice_and_kept_once(desk: Desk) -> None:
    lease = running(desk)[0]
    for _ in range(2):
        assert wire.Ack(leases=[lease.id]) in desk.say(b"g", delivered(lease))
    assert desk.journal.counts()["delivered"] == 1
    assert desk.c.leases.counts.events["duplicate"] == 1


def test_a_group_without_signal_is_dropped_and_another_prompt_comes(tmp_path: Path) -> None:
    with closing(Desk(tmp_path, **DYNAMIC_SAMPLING)) as desk:
        first, second, *_ = granted = running(desk)
        answer = desk.say(b"g", delivered(first), delivered(second, correct=(True, False)))
        acks = only(answer, wire.Ack)
        assert acks == [wire.Ack(leases=[first.id]), wire.Ack(leases=[second.id])]
        assert desk.journal.ended() == {"zero_signal": 1}
        assert [r.id for r in desk.journal.leases("delivered")] == [second.id]
        assert desk.c.leases.counts.dropped == {"zero_signal": 1}
        assert desk.c.leases.counts.events["kept_without_signal"] == 0
        assert {new.row for new in leases(answer)}.isdisjoint({g.row for g in granted})
        assert wire.Ack(leases=[first.id]) in desk.say(b"g", delivered(first)), "known already"


def test_a_hopeless_task_does_not_starve_the_learner(tmp_path: Path) -> None:
    """Across restarts: what was dropped for this batch is not forgotten."""
    verdicts = []
    for _ in range(4):
        with closing(Journal(tmp_path / "journal.db")) as journal:
            sampling = DynamicSampling(config=make_config(**DYNAMIC_SAMPLING), journal=journal)
            verdicts += [sampling.judge(make_group()) for _ in range(2)]
    drop, excused = Verdict.DROP, Verdict.EXCUSED
    assert verdicts == [drop, drop, drop, excused, excused, excused, drop, drop]


@pytest.mark.parametrize("lost", [False, True])
def test_what_was_too_old_is_refilled_across_a_coordinators_restart(
    tmp_path: Path, lost: bool
) -> None:
    """Also if a generator was lost with it, and another made it."""
    calm = {"steps": 20, "eval": {"n_problems": 3, "n_samples": 2}}
    with closing(Desk(tmp_path, **calm)) as desk:
        old = running(desk)[0]
        if lost:
            desk.say(b"g", wire.Bye(leases=[]), REPLACE(GENERATOR, incarnation="g2"))
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
        desk.c.leases.restore(5)
        desk.say(b"l", learner)
        desk.say(b"g", GENERATOR)
        desk.synced("g", version=5)
        granted = leases(desk.tick(b"g"))
        assert [(g.row, g.attempt) for g in granted if g.attempt == 2] == [(old.row, 2)]
    with closing(Desk(tmp_path, **calm)) as desk:
        assert not desk.c.leases._refills, "once"


def test_a_malformed_group_is_retried_then_failed_with_its_reason(tmp_path: Path) -> None:
    with closing(Desk(tmp_path, rollout__max_attempts=2)) as desk:
        lease = running(desk)[0]
        still = desk.c.watchdog.still(desk.now)
        desk.now += 5.0
        answer = desk.say(b"g", delivered(lease, token=VOCABULARY))
        assert wire.Ack(leases=[lease.id]) in answer
        (again,) = [g for g in leases(answer) if g.id == lease.id]
        assert again.attempt == 2
        desk.say(b"g", delivered(again, token=VOCABULARY))
        assert desk.journal.ended() == {
            f"malformed: token id {VOCABULARY} outside the vocabulary of {VOCABULARY}": 1
        }
        assert desk.c.watchdog.still(desk.now) == still + 5, "what is thrown away is no progress"


def test_weights_that_were_never_sent_are_malformed(tmp_path: Path) -> None:
    """What was sent is known after a coordinator died and a learner went back to a checkpoint."""
    with closing(Desk(tmp_path)) as desk:
        first, second, *_ = running(desk)
        desk.say(b"g", delivered(first, versions=(0, 1)))
        (reason,) = [row[0] for row in desk.journal._db.execute("SELECT reason FROM tries")]
        assert reason == "malformed: weights 1, newer than any that were sent (0)"
        desk.say(b"l", wire.LearnerHeartbeat(rank=0, staged=1, checkpoint=-1, phase=""))
        desk.synced("g", version=1)
    with closing(Desk(tmp_path)) as desk:
        desk.say(b"l", REPLACE(LEARNER, incarnation="l2"))
        desk.say(b"g", REPLACE(GENERATOR, leases=[first.id, second.id]))
        desk.synced("g", version=0)
        desk.say(b"g", delivered(second, versions=(0, 2)), delivered(first, versions=(0, 1)))
        assert [r.id for r in desk.journal.leases("delivered")] == [first.id]


@pytest.mark.parametrize("n", [1, 3])
def test_a_group_of_the_wrong_size_is_malformed(desk: Desk, n: int) -> None:
    lease = running(desk)[0]
    desk.say(b"g", delivered(REPLACE(lease, group_size=n)))
    assert desk.journal.counts() == {"leased": len(running_ids(desk))}


def running_ids(desk: Desk) -> list[int]:
    return [row.id for row in desk.journal.leases("leased")]


def test_a_lease_that_can_not_succeed_fails_at_once(desk: Desk) -> None:
    lease = running(desk)[0]
    desk.say(b"g", failed(lease, "prompt too long", permanent=True))
    assert desk.journal.ended() == {"prompt too long": 1}


def test_only_the_holder_can_fail_a_lease(desk: Desk) -> None:
    lease = running(desk)[0]
    desk.say(b"h", REPLACE(GENERATOR, name="h", incarnation="h1"))
    answer = desk.say(b"h", failed(lease, "mine?", permanent=True))
    assert wire.Ack(leases=[lease.id]) in answer
    assert lease.id in running_ids(desk)


def overrun(desk: Desk, lease: wire.Lease) -> wire.Lease:
    """The lease is taken back and granted again, to the same generator."""
    desk.now += 21
    answer = desk.say(b"g", wire.GeneratorHeartbeat(version=0, leases=[lease.id], stats={}))
    return next(g for g in leases(answer) if g.id == lease.id)


def test_news_of_an_earlier_attempt_burns_nothing(tmp_path: Path) -> None:
    with closing(Desk(tmp_path, rollout__max_attempts=3, coordinator__dead_seconds=90)) as desk:
        first = running(desk)[0]
        second = overrun(desk, first)
        assert (first.attempt, second.attempt) == (1, 2)
        for late in (failed(first, "late", permanent=True), delivered(first, token=VOCABULARY)):
            for _ in range(3):
                answer = desk.say(b"g", late)
                assert wire.Ack(leases=[first.id]) in answer
                assert [g for g in leases(answer) if g.id == first.id] == []
        assert [r.attempt for r in desk.journal.leases("leased") if r.id == first.id] == [2]
        (third,) = [g for g in leases(desk.say(b"g", failed(second, "now"))) if g.id == first.id]
        assert third.attempt == 3


def test_a_group_of_an_earlier_attempt_is_accepted_once(tmp_path: Path) -> None:
    with closing(Desk(tmp_path, coordinator__dead_seconds=90)) as desk:
        first = running(desk)[0]
        second = overrun(desk, first)
        answer = desk.say(b"g", delivered(first))
        assert wire.Ack(leases=[first.id]) in answer
        assert wire.Cancel(leases=[first.id]) in answer, "it works on the next attempt"
        assert [r.id for r in desk.journal.leases("delivered")] == [first.id]
        assert only(desk.say(b"g", delivered(second)), wire.Ack) == [wire.Ack(leases=[first.id])]
        assert desk.c.leases.counts.events["duplicate"] == 1


def test_a_lease_that_overruns_goes_to_another_and_fails_in_the_end(tmp_path: Path) -> None:
    with closing(Desk(tmp_path, rollout__max_attempts=2, coordinator__dead_seconds=90)) as desk:
        lease = running(desk)[0]
        desk.now += 21
        answer = desk.say(b"g", wire.GeneratorHeartbeat(version=0, leases=[lease.id], stats={}))
        assert wire.Cancel(leases=[lease.id]) in answer
        again = next(g for g in leases(answer) if g.id == lease.id)
        assert again.attempt == 2
        desk.now += 21
        desk.say(b"g", wire.GeneratorHeartbeat(version=0, leases=[lease.id], stats={}))
        assert desk.journal.ended()["no delivery within 20 s"] >= 1
        assert lease.id not in running_ids(desk)


def test_a_grant_that_was_lost_is_sent_again_but_not_for_ever(desk: Desk) -> None:
    granted = running(desk)
    heartbeat = wire.GeneratorHeartbeat(version=0, leases=[], stats={})
    assert leases(desk.say(b"g", heartbeat)) == []
    repeats, attempts = 0, set()
    for _ in range(4):
        desk.now += REGRANT_SECONDS + 0.1
        again = [g for g in leases(desk.say(b"g", heartbeat)) if g.id == granted[0].id]
        repeats += len(again)
        attempts |= {g.attempt for g in again}
    assert repeats >= 3
    assert attempts == {1, 2}, "it overran although the grant was repeated"


def test_work_of_a_generator_that_left_goes_to_another(desk: Desk) -> None:
    granted = {lease.id for lease in running(desk)}
    desk.say(b"h", REPLACE(GENERATOR, name="h", incarnation="h1", capacity=100))
    desk.synced("g", "h")
    desk.tick(b"h")
    again = leases(desk.say(b"g", wire.Bye(leases=[])) + desk.tick(b"h"))
    assert {g.id for g in again if g.attempt == 2} == granted
    assert desk.member("g") is Health.DEAD


def next_generator(desk: Desk, i: int, *last: wire.Message) -> set[int]:
    """Another process of that name takes over from "g", which says its last words. The leases it
    gets."""
    desk.say(b"g", *last)
    desk.say(b"g", REPLACE(GENERATOR, incarnation=f"g-{i}"))
    desk.say(b"l", wire.LearnerHeartbeat(rank=0, staged=0, checkpoint=-1, phase=""))
    desk.synced("g")
    return {lease.id for lease in leases(desk.tick(b"g"))}


def test_a_generator_that_leaves_burns_nothing(tmp_path: Path) -> None:
    with closing(Desk(tmp_path, rollout__max_attempts=1)) as desk:
        granted = {lease.id for lease in running(desk)}
        for i in range(2 * DEATHS_PER_FAILURE):
            assert next_generator(desk, i, wire.Bye(leases=[])) == granted
        attempts = {r.attempt for r in desk.journal.leases("leased")}
        assert attempts == {1 + 2 * DEATHS_PER_FAILURE}


def test_a_lease_that_kills_its_generators_ends(tmp_path: Path) -> None:
    """Also across a coordinator's restart, which forgets no death."""
    attempts = 2
    with closing(Desk(tmp_path, rollout__max_attempts=attempts)) as desk:
        granted = {lease.id for lease in running(desk)}
        assert next_generator(desk, 0) == granted
    with closing(Desk(tmp_path, rollout__max_attempts=attempts)) as desk:
        desk.say(b"l", LEARNER)
        for i in range(1, attempts * DEATHS_PER_FAILURE):
            assert next_generator(desk, i) == granted
        assert desk.journal.ended() == {}
        assert not next_generator(desk, 99) & granted
        assert desk.journal.ended() == {"its generator died": len(granted)}


@given(st.lists(st.sampled_from(Outcome)))
def test_only_failures_and_deaths_in_a_row_count(outcomes: list[Outcome]) -> None:
    budget = Budget()
    for outcome in outcomes:
        budget.record(outcome)
    assert budget == budgets((7, outcome.value) for outcome in outcomes)[7]
    letters = "".join(outcome.value[0] for outcome in outcomes if outcome is not Outcome.LEFT)
    in_a_row = sum(len(run) // DEATHS_PER_FAILURE for run in letters.split("f"))
    assert budget.failures == letters.count("f") + in_a_row


def test_a_group_sent_before_the_learner_is_back_is_kept(tmp_path: Path) -> None:
    with closing(Desk(tmp_path)) as desk:
        lease = running(desk)[0]
    with closing(Desk(tmp_path)) as desk:
        desk.say(b"g", REPLACE(GENERATOR, leases=[lease.id]))
        assert wire.Ack(leases=[lease.id]) in desk.say(b"g", delivered(lease))
        assert [g.lease for g in desk.journal.groups("l.purpose = 'train'")] == [lease.id]


def test_work_goes_on_across_a_coordinators_restart(tmp_path: Path) -> None:
    with closing(Desk(tmp_path)) as desk:
        granted = running(desk)
        ids = running_ids(desk)
    with closing(Desk(tmp_path)) as desk:
        desk.say(b"g", REPLACE(GENERATOR, leases=[g.id for g in granted]))
        desk.say(b"l", LEARNER)
        answer = desk.say(b"g", wire.GeneratorHeartbeat(version=0, leases=ids, stats={}))
        assert only(answer, wire.Cancel) == []
        member = desk.c.fleet.get("g")
        assert member is not None
        assert desk.c.leases.held_by(member) == len(granted)


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
        assert desk.c.scheduler.step == 5
        assert set(ids) <= set(running_ids(desk)), "how old their tokens are is not known yet"


def test_what_is_not_healthy_is_not_granted_again(desk: Desk) -> None:
    running(desk)
    desk.say(b"m", REPLACE(LEARNER, incarnation="l2"))
    assert desk.member() is Health.STALE
    desk.now += REGRANT_SECONDS + 0.1
    answer = desk.say(b"g", wire.GeneratorHeartbeat(version=0, leases=[], stats={}))
    assert leases(answer) == []


# --- weights ------------------------------------------------------------------------------------


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


# --- evaluation ---------------------------------------------------------------------------------


def test_weights_stay_put_while_an_evaluation_is_open(desk: Desk) -> None:
    granted = running(desk, evaluate=False)
    round = desk.c.leases.round
    assert round is not None
    desk.say(b"l", wire.LearnerHeartbeat(rank=0, staged=1, checkpoint=-1, phase=""))
    assert desk.c.weights.current is None
    for lease in [g for g in granted if g.purpose == "eval"]:
        granted += leases(desk.say(b"g", delivered(lease)))
        assert desk.c.weights.current is None
    for lease in [g for g in granted if g.purpose == "eval"]:
        desk.say(b"g", delivered(lease))
    assert desk.c.leases.round is None
    desk.tick(b"l")
    assert desk.c.weights.current is not None
    (result,) = desk.journal.evaluations()
    assert (result["version"], result["n_problems"], result["pass@k"]["1"]) == (0, 3, 0.0)


def test_whoever_dies_the_base_model_is_evaluated_first(tmp_path: Path) -> None:
    sim = Simulation(tmp_path, config=make_config())

    def half_done() -> bool:
        round = sim.coordinator and sim.coordinator.leases.round
        return round is not None and 0 < round.done < round.total

    sim.run(limit=100, until=half_done)
    sim.kill_coordinator(back_after=5)
    sim.run(limit=100, until=half_done)
    for generator in sim.generators.values():
        sim.kill(generator, back_after=5)
    sim.turn()
    sim.run(limit=100, until=half_done)
    assert sim.learner is not None
    sim.kill(sim.learner, back_after=5)
    sim.turn()
    sim.run(limit=300)
    assert sim.coordinator is not None
    assert sim.coordinator.state is State.FINISHED
    evaluated = [(e["version"], e["step"]) for e in sim.journal.evaluations()]
    assert evaluated == [(0, 0), (3, 3), (6, 6)]


def test_an_evaluation_on_other_weights_is_malformed(desk: Desk) -> None:
    granted = running(desk, evaluate=False)
    lease = next(g for g in granted if g.purpose == "eval")
    desk.say(b"g", delivered(lease, versions=(0, 1)))
    again = desk.journal.leases("leased", purpose="eval")
    assert [r.attempt for r in again if r.id == lease.id] == [2]


def test_answers_under_an_equivalence_nobody_named_are_malformed(desk: Desk) -> None:
    granted = running(desk, evaluate=False)
    lease = next(g for g in granted if g.purpose == "eval")
    group = make_group(n=lease.group_size, prompt=(lease.id,))
    group.answers["loose"] = group.answers.pop("written")
    message = wire.Delivered(
        lease=lease.id,
        attempt=lease.attempt,
        group=pack_group(group),
        sample_seconds=0,
        score_seconds=0,
    )
    desk.say(b"g", message)
    again = desk.journal.leases("leased", purpose="eval")
    assert [r.attempt for r in again if r.id == lease.id] == [2]


def test_a_generator_without_the_evaluated_split_is_refused(tmp_path: Path) -> None:
    with closing(
        Desk(tmp_path, eval__split="validation", task={"kind": "countdown", "n_validation": 2})
    ) as desk:
        (refused,) = only(desk.say(b"g", GENERATOR), wire.Refused)
        assert "no rows in the split 'validation'" in refused.reason


def test_an_evaluation_nobody_can_finish_is_given_up_and_made_again(desk: Desk) -> None:
    running(desk, evaluate=False)
    desk.say(b"g", wire.Bye(leases=[]))
    assert desk.c.leases.round is None
    assert desk.journal.counts("eval") == {"failed": 3}
    desk.say(b"g2", REPLACE(GENERATOR, incarnation="g2"))
    # 0 is published already; who comes gets it at once.
    sync = desk.c.weights.current
    assert sync is not None


def test_a_learners_restart_drops_the_evaluation_of_the_other_learner(desk: Desk) -> None:
    running(desk, evaluate=False)
    desk.say(b"m", REPLACE(LEARNER, incarnation="l2"))
    assert desk.c.leases.round is None
    assert desk.journal.counts("eval") == {"failed": 3}


# --- the end ------------------------------------------------------------------------------------


def test_stop_before_anybody_came(desk: Desk) -> None:
    desk.c.stop("Ctrl-C")
    assert (desk.c.state, desk.c.message) == (State.INTERRUPTED, "Ctrl-C")
    assert desk.c.over(0)


def test_stop_ends_after_the_checkpoint(tmp_path: Path) -> None:
    sim = Simulation(tmp_path, config=make_config(steps=500))
    sim.run(limit=100, until=lambda: len(sim.timeline) == 3)
    coordinator = sim.coordinator
    assert coordinator is not None
    assert sim.checkpoint == 2
    coordinator.stop("Ctrl-C")
    sim.run(limit=30)
    assert (coordinator.state, coordinator.message) == (State.INTERRUPTED, "Ctrl-C")
    assert sim.checkpoint == coordinator.batches.trained >= 3
    assert sim.journal.counts().get("consumed", 0) == 0, "all that was trained is committed"


def test_an_older_checkpoint_does_not_count_as_the_last(desk: Desk) -> None:
    running(desk)
    desk.say(b"l", wire.LearnerHeartbeat(rank=0, staged=0, checkpoint=5, phase=""))
    desk.say(b"m", REPLACE(LEARNER, incarnation="l2", step=3))
    desk.say(b"m", wire.Stop(reason="enough"))
    assert desk.c.state is State.FINISHING
    desk.say(b"m", wire.LearnerHeartbeat(rank=0, staged=3, checkpoint=3, phase=""))
    assert desk.c.state is State.INTERRUPTED


def test_stopped_work_is_not_granted_again(desk: Desk) -> None:
    running(desk)
    desk.say(b"g", wire.Stop(reason="enough"))
    desk.now += REGRANT_SECONDS + 0.1
    answer = desk.say(b"g", wire.GeneratorHeartbeat(version=0, leases=[], stats={}))
    assert leases(answer) == []


def test_a_stopped_run_can_be_resumed(tmp_path: Path) -> None:
    config = make_config(steps=6)
    sim = Simulation(tmp_path, config=config)
    sim.run(limit=100, until=lambda: len(sim.timeline) == 3)
    assert sim.coordinator is not None
    sim.coordinator.stop("Ctrl-C")
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
    sim.coordinator.stop("Ctrl-C")
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
    assert alone or sim.checkpoint == sim.coordinator.batches.trained >= 2
    assert alone or not any(g.alive for g in sim.generators.values()), "all were told to leave"
    assert sim.journal.stop_reason() is None, "who starts it again resumes it"


def test_a_recalled_stop_grants_nothing_and_takes_what_comes(tmp_path: Path) -> None:
    with closing(Desk(tmp_path)) as desk:
        lease, other, *_ = running(desk)
        desk.say(b"l", wire.Stop(reason=""))
    with closing(Desk(tmp_path)) as desk:
        held = [lease.id, other.id]
        assert only(desk.say(b"g", REPLACE(GENERATOR, leases=held)), wire.Refused) == []
        desk.say(b"l", LEARNER)
        answer = desk.say(b"g", wire.GeneratorHeartbeat(version=0, leases=held, stats={}))
        assert only(answer, wire.Cancel) == [wire.Cancel(leases=held)]
        assert wire.Ack(leases=[lease.id]) in desk.say(b"g", delivered(lease))
        assert desk.journal.counts()["delivered"] == 1
        assert desk.c.state is State.FINISHING


def test_a_stall_ends_in_a_sentence(tmp_path: Path) -> None:
    sim = Simulation(
        tmp_path,
        config=make_config(coordinator__stall_seconds=30),
        faults=Faults(failed_lease=1.0),
        generators=1,
    )
    sim.run(limit=200)
    assert sim.coordinator is not None
    assert sim.coordinator.state is State.FAILED
    assert sim.coordinator.message.startswith("no progress for 30 s: ")


def test_whoever_is_there_is_asked_what_it_does_while_nothing_moves(tmp_path: Path) -> None:
    with closing(Desk(tmp_path, coordinator__watch_seconds=30)) as desk:
        desk.say(b"l", LEARNER)
        desk.say(b"g", GENERATOR)

        def said_at(seconds: int) -> list[wire.Message]:
            desk.now = seconds
            desk.say(b"l", wire.LearnerHeartbeat(rank=0, staged=-1, checkpoint=-1, phase=""))
            return desk.say(b"g", wire.GeneratorHeartbeat(version=-1, leases=[], stats={}))

        quiet = [only(said_at(t), wire.Dump) for t in range(1, 30)]
        assert not any(quiet)
        assert desk.stalls == []
        [dump] = only(said_at(30), wire.Dump)
        assert dump.reason == f"no progress for 30 s: {desk.c.waiting_for()}"
        assert desk.stalls == [dump.reason]
        assert desk.c.status(desk.now)["message"] == "no progress for 30 s"


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
    while todo := [g for g in granted if g.purpose == "eval"]:
        granted = [g for g in granted if g.purpose == "train"]
        granted += leases(desk.say(b"g", *(delivered(g) for g in todo)))
    desk.say(b"l", wire.BatchRequest(rank=0, step=0, report={}))
    assert desk.c.waiting_for() == f"the learner waits for generators: {len(granted)} groups at g"


def test_who_missed_the_end_is_told_again(desk: Desk) -> None:
    running(desk)
    desk.c._conclude(State.FAILED, "the disk is full")
    assert wire.Drain(reason="the disk is full") in desk.tick(b"g")
    heartbeat = wire.GeneratorHeartbeat(version=0, leases=[], stats={})
    assert desk.say(b"g", heartbeat) == [wire.Drain(reason="the disk is full")]
    late = desk.say(b"h", REPLACE(GENERATOR, name="h", incarnation="h1"))
    assert [type(m) for m in late] == [wire.Welcome, wire.Drain]
    assert not desk.c.over(0)
    desk.say(b"g", wire.Bye(leases=[]))
    desk.say(b"l", wire.Bye(leases=[]))
    assert desk.c.over(0)


def test_who_does_not_leave_is_not_waited_for(desk: Desk) -> None:
    running(desk)
    desk.c._conclude(State.FAILED, "enough")
    assert not desk.c.over(0)
    assert not desk.c.over(30)
    assert desk.c.over(31)


def test_a_finished_run_that_is_started_again_ends_at_once(tmp_path: Path) -> None:
    sim = Simulation(tmp_path, config=make_config())
    sim.run(limit=300)
    sim.kill_coordinator(back_after=0)
    sim.turn()
    sim.turn()
    assert sim.coordinator is not None
    assert sim.coordinator.state is State.FINISHED


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


# --- hostile and late messages ------------------------------------------------------------------


def test_only_who_was_granted_a_lease_can_deliver_it(desk: Desk) -> None:
    lease, *_ = running(desk)
    desk.say(b"h", REPLACE(GENERATOR, name="h", incarnation="h1"))
    assert wire.Cancel(leases=[lease.id]) in desk.say(b"h", delivered(lease))
    assert desk.c.rejected_frames == 1
    assert lease.id in [row.id for row in desk.journal.leases("leased")]
    desk.say(b"g", wire.Bye(leases=[]))
    desk.say(b"g2", REPLACE(GENERATOR, incarnation="g2"))
    answer = desk.say(b"g2", delivered(lease))
    assert wire.Ack(leases=[lease.id]) in answer, "one of an earlier try is as good"
    assert desk.journal.counts()["delivered"] == 1


@pytest.mark.parametrize("lease", [-1, 0, 10**9, 2**63])
def test_a_lease_that_never_was_is_acknowledged_and_counted(desk: Desk, lease: int) -> None:
    first, *_ = running(desk)
    foreign = REPLACE(delivered(first), lease=lease)
    assert wire.Ack(leases=[lease]) in desk.say(b"g", foreign), "or it is said for ever"
    assert desk.c.rejected_frames == 1
    assert desk.c.leases.counts.events["duplicate"] == 0


def test_rewards_and_log_probabilities_without_end_do_no_harm(desk: Desk) -> None:
    first, second, *_ = running(desk)
    most = float(np.finfo(np.float32).max)
    group = make_group(prompt=(first.id,))
    huge = REPLACE(
        delivered(first), group=pack_group(replace(group, rewards=np.full(2, most, np.float32)))
    )
    desk.say(b"g", huge)
    (row,) = desk.journal.groups("l.purpose = 'train'")
    assert row.reward == pytest.approx(most)
    endless = replace(group, logprobs=np.full_like(group.logprobs, -most))
    desk.say(b"g", REPLACE(delivered(second), group=pack_group(endless)))
    assert desk.c.rejected_frames == 1


def test_what_comes_late_changes_nothing(desk: Desk) -> None:
    granted = running(desk)
    desk.say(b"l", wire.BatchRequest(rank=0, step=0, report={}))
    while not only(desk.tick(b"l"), wire.Batch):
        granted = leases(desk.say(b"g", *map(delivered, granted)))
    desk.say(b"l", wire.BatchRequest(rank=0, step=1, report={}))
    assert desk.c.batches.starving
    desk.say(b"l", wire.BatchRequest(rank=0, step=0, report={}))
    assert desk.c.batches.starving, "the request of before is not the present one"
    staged = wire.LearnerHeartbeat(rank=0, staged=1, checkpoint=-1, phase="")
    desk.say(b"l", staged, REPLACE(staged, staged=0))
    assert desk.c.weights.staged == 1
    sync = desk.c.weights.current
    assert sync is not None
    now = wire.Prepared(sync=sync.id, version=1, rendezvous="here", layout=b"{}")
    desk.say(b"l", now, REPLACE(now, sync=sync.id - 1, rendezvous="there"))
    (go,) = only(desk.say(b"g", wire.Prepared(sync=sync.id)), wire.Go)
    assert go.rendezvous == "here"


def test_a_flood_of_nonsense_is_counted_and_logged_once_a_minute(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    for second in range(120):
        desk.c.reject(b"x", "no message", float(second))
        desk.c.handle(b"x", REPLACE(GENERATOR, protocol=99), float(second))
    desk.c.reject(b"y", "a line\nand" + 1000 * " another", 0.0)
    assert "line\\nand" in caplog.text, "a line can't be forged"
    assert len(caplog.records[-1].getMessage()) < 400
    assert desk.c.rejected_frames == 241
    assert len([r for r in caplog.records if "rejected" in r.message]) == 3


def test_a_lease_that_overran_for_good_is_counted_as_expired(tmp_path: Path) -> None:
    with closing(Desk(tmp_path, rollout__max_attempts=1)) as desk:
        granted = running(desk)
        heartbeat = wire.GeneratorHeartbeat(version=0, leases=[], stats={})
        for _ in range(5):
            desk.say(b"g", heartbeat)
            desk.tick(b"l", seconds=5)
        assert desk.c.leases.counts.dropped == {"expired": len(granted)}


# --- checkpoints --------------------------------------------------------------------------------


def test_the_best_checkpoint_is_kept_also_after_a_restart(tmp_path: Path) -> None:
    sim = Simulation(
        tmp_path,
        config=make_config(
            steps=12,
            eval={"every": 2, "n_problems": 3, "n_samples": 2, "interim_samples": 2},
            checkpoint={"every": 2, "keep_last": 1},
        ),
        chance=0.0,
    )
    sim.run(limit=300, until=lambda: any(e["step"] == 2 for e in sim.evaluations))
    sim.chance = 1.0
    sim.run(limit=300, until=lambda: any(e["step"] == 4 for e in sim.evaluations))
    sim.chance = 0.0
    assert sim.coordinator is not None
    assert sim.coordinator.checkpoints.best == 4
    sim.kill_coordinator(back_after=0)
    sim.run(limit=300)
    assert sim.coordinator.checkpoints.best == 4
    assert sim.checkpoints == [4, 12]


def test_without_keep_best_the_last_are_kept(tmp_path: Path) -> None:
    sim = Simulation(
        tmp_path,
        config=make_config(checkpoint={"every": 1, "keep_last": 2, "keep_best": False}),
    )
    sim.run(limit=300)
    assert sim.checkpoints == [5, 6]


def test_what_the_learner_lost_is_not_the_best(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(Desk(tmp_path)) as desk:
        running(desk)
        for step, chance in ((2, 0.5), (4, 0.9)):
            id = desk.journal.add_evaluation(version=step, step=step, n_samples=2)
            result = {"version": step, "step": step, "temperature": 1.0, "pass@k": {"1": chance}}
            desk.journal.finish_evaluation(id, result)
            desk.say(b"l", wire.LearnerHeartbeat(rank=0, staged=0, checkpoint=step, phase=""))
        assert desk.c.checkpoints.best == 4
        beat = wire.LearnerHeartbeat(rank=0, staged=0, checkpoint=2, phase="")
        (ack, *_) = only(desk.say(b"l", beat), wire.LearnerAck)
        assert set(ack.keep) == {3, 4}, "the best, and the one that is evaluated next"
        assert not ack.evaluating
        desk.say(b"m", REPLACE(LEARNER, incarnation="l2", step=2))
        assert desk.c.checkpoints.best == 2
        assert "starts at step 2 although step 4 was saved" in caplog.text


def test_a_learner_is_told_that_an_evaluation_is_under_way(desk: Desk) -> None:
    granted = running(desk, evaluate=False)
    beat = wire.LearnerHeartbeat(rank=0, staged=0, checkpoint=-1, phase="")
    assert only(desk.say(b"l", beat), wire.LearnerAck)[0].evaluating
    while granted := [lease for lease in granted if lease.purpose == "eval"]:
        granted = leases(desk.say(b"g", *map(delivered, granted)))
    assert not only(desk.say(b"l", beat), wire.LearnerAck)[0].evaluating


def test_a_group_that_rotted_in_the_journal_is_named(desk: Desk) -> None:
    granted = running(desk)
    while len(desk.journal.leases("delivered")) < 3:
        granted = leases(desk.say(b"g", *map(delivered, granted)))
    lease = desk.journal.leases("delivered")[0].id
    desk.journal._db.execute("UPDATE groups SET payload = x'c1' WHERE lease = ?", (lease,))
    crc = (zlib.crc32(b"\xc1"), lease)
    desk.journal._db.execute("UPDATE checksums SET crc32 = ? WHERE lease = ?", crc)
    with pytest.raises(
        JournalError, match=rf"lease {lease} in the journal .*journal\.db is damaged"
    ):
        desk.say(b"l", wire.BatchRequest(rank=0, step=0, report={}))
