"""Leases that are granted, lost, taken back, and given up in the end."""

from contextlib import closing
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from asyncds.fleet.membership import Health
from asyncds.protocol import wire
from asyncds.rollout.attempts import (
    DEATHS_PER_FAILURE,
    AttemptBudget,
    AttemptOutcome,
    attempt_budgets,
)
from services.coordinator.grants import REGRANT_SECONDS
from tests.simulation.simulated_generator import VOCABULARY
from tests.support.coordinator_fixture import (
    GENERATOR,
    LEARNER,
    REPLACE,
    Driver,
    delivered,
    failed,
    leases,
    only,
    running,
    running_ids,
)


def test_a_lease_that_can_not_succeed_fails_at_once(driver: Driver) -> None:
    lease = running(driver)[0]
    driver.say(b"g", failed(lease, "prompt too long", permanent=True))
    assert driver.journal.ended() == {"prompt too long": 1}


def test_only_the_holder_can_fail_a_lease(driver: Driver) -> None:
    lease = running(driver)[0]
    driver.say(b"h", REPLACE(GENERATOR, name="h", incarnation="h1"))
    answer = driver.say(b"h", failed(lease, "mine?", permanent=True))
    assert wire.Ack(leases=[lease.id]) in answer
    assert lease.id in running_ids(driver)


def overrun(driver: Driver, lease: wire.Lease) -> wire.Lease:
    """The lease is taken back and granted again, to the same generator."""
    driver.now += 21
    answer = driver.say(b"g", wire.GeneratorHeartbeat(leases=[lease.id], stats={}))
    return next(g for g in leases(answer) if g.id == lease.id)


def test_news_of_an_earlier_attempt_burns_nothing(tmp_path: Path) -> None:
    with closing(Driver(tmp_path, rollout__max_attempts=3, coordinator__dead_seconds=90)) as driver:
        first = running(driver)[0]
        second = overrun(driver, first)
        assert (first.attempt, second.attempt) == (1, 2)
        for late in (failed(first, "late", permanent=True), delivered(first, token=VOCABULARY)):
            for _ in range(3):
                answer = driver.say(b"g", late)
                assert wire.Ack(leases=[first.id]) in answer
                assert [g for g in leases(answer) if g.id == first.id] == []
        assert [r.attempt for r in driver.journal.leases("leased") if r.id == first.id] == [2]
        (third,) = [g for g in leases(driver.say(b"g", failed(second, "now"))) if g.id == first.id]
        assert third.attempt == 3


def test_a_group_of_an_earlier_attempt_is_accepted_once(tmp_path: Path) -> None:
    with closing(Driver(tmp_path, coordinator__dead_seconds=90)) as driver:
        first = running(driver)[0]
        second = overrun(driver, first)
        answer = driver.say(b"g", delivered(first))
        assert wire.Ack(leases=[first.id]) in answer
        assert wire.Cancel(leases=[first.id]) in answer, "it works on the next attempt"
        assert [r.id for r in driver.journal.leases("delivered")] == [first.id]
        assert only(driver.say(b"g", delivered(second)), wire.Ack) == [wire.Ack(leases=[first.id])]
        assert driver.c.parts.leases.counts.events["duplicate"] == 1


def test_a_lease_that_overruns_goes_to_another_and_fails_in_the_end(tmp_path: Path) -> None:
    with closing(Driver(tmp_path, rollout__max_attempts=2, coordinator__dead_seconds=90)) as driver:
        lease = running(driver)[0]
        driver.now += 21
        answer = driver.say(b"g", wire.GeneratorHeartbeat(leases=[lease.id], stats={}))
        assert wire.Cancel(leases=[lease.id]) in answer
        again = next(g for g in leases(answer) if g.id == lease.id)
        assert again.attempt == 2
        driver.now += 21
        driver.say(b"g", wire.GeneratorHeartbeat(leases=[lease.id], stats={}))
        assert driver.journal.ended()["no delivery within 20 s"] >= 1
        assert lease.id not in running_ids(driver)


def test_a_lease_that_overran_for_good_is_counted_as_expired(tmp_path: Path) -> None:
    with closing(Driver(tmp_path, rollout__max_attempts=1)) as driver:
        granted = running(driver)
        heartbeat = wire.GeneratorHeartbeat(leases=[], stats={})
        for _ in range(5):
            driver.say(b"g", heartbeat)
            driver.tick(b"l", seconds=5)
        assert driver.c.parts.leases.counts.dropped == {"expired": len(granted)}


def test_a_grant_that_was_lost_is_sent_again_but_not_for_ever(driver: Driver) -> None:
    granted = running(driver)
    heartbeat = wire.GeneratorHeartbeat(leases=[], stats={})
    assert leases(driver.say(b"g", heartbeat)) == []
    repeats, attempts = 0, set()
    for _ in range(4):
        driver.now += REGRANT_SECONDS + 0.1
        again = [g for g in leases(driver.say(b"g", heartbeat)) if g.id == granted[0].id]
        repeats += len(again)
        attempts |= {g.attempt for g in again}
    assert repeats >= 3
    assert attempts == {1, 2}, "it overran although the grant was repeated"


def test_work_of_a_generator_that_left_goes_to_another(driver: Driver) -> None:
    granted = {lease.id for lease in running(driver)}
    driver.say(b"h", REPLACE(GENERATOR, name="h", incarnation="h1", capacity=100))
    driver.synced("g", "h")
    driver.tick(b"h")
    again = leases(driver.say(b"g", wire.Bye()) + driver.tick(b"h"))
    assert {g.id for g in again if g.attempt == 2} == granted
    assert driver.member("g") is Health.DEAD


def next_generator(driver: Driver, i: int, *last: wire.Message) -> set[int]:
    """Another process of that name takes over from "g", which says its last words. The leases it
    gets."""
    driver.say(b"g", *last)
    driver.say(b"g", REPLACE(GENERATOR, incarnation=f"g-{i}"))
    driver.say(b"l", wire.LearnerHeartbeat(rank=0, staged=0, checkpoint=-1, phase=""))
    driver.synced("g")
    return {lease.id for lease in leases(driver.tick(b"g"))}


def test_a_generator_that_leaves_burns_nothing(tmp_path: Path) -> None:
    with closing(Driver(tmp_path, rollout__max_attempts=1)) as driver:
        granted = {lease.id for lease in running(driver)}
        for i in range(2 * DEATHS_PER_FAILURE):
            assert next_generator(driver, i, wire.Bye()) == granted
        attempts = {r.attempt for r in driver.journal.leases("leased")}
        assert attempts == {1 + 2 * DEATHS_PER_FAILURE}


def test_a_lease_that_kills_its_generators_ends(tmp_path: Path) -> None:
    """Also across a coordinator's restart, which forgets no death."""
    attempts = 2
    with closing(Driver(tmp_path, rollout__max_attempts=attempts)) as driver:
        granted = {lease.id for lease in running(driver)}
        assert next_generator(driver, 0) == granted
    with closing(Driver(tmp_path, rollout__max_attempts=attempts)) as driver:
        driver.say(b"l", LEARNER)
        for i in range(1, attempts * DEATHS_PER_FAILURE):
            assert next_generator(driver, i) == granted
        assert driver.journal.ended() == {}
        assert not next_generator(driver, 99) & granted
        assert driver.journal.ended() == {"its generator died": len(granted)}


@given(st.lists(st.sampled_from(AttemptOutcome)))
def test_only_failures_and_deaths_in_a_row_count(outcomes: list[AttemptOutcome]) -> None:
    budget = AttemptBudget()
    for outcome in outcomes:
        budget.record(outcome)
    assert budget == attempt_budgets((7, outcome.value) for outcome in outcomes)[7]
    harmless = (AttemptOutcome.LEFT, AttemptOutcome.DISTRUSTED)
    letters = "".join(outcome.value[0] for outcome in outcomes if outcome not in harmless)
    in_a_row = sum(len(run) // DEATHS_PER_FAILURE for run in letters.split("f"))
    assert budget.failures == letters.count("f") + in_a_row


def test_what_is_not_healthy_is_not_granted_again(driver: Driver) -> None:
    running(driver)
    driver.say(b"m", REPLACE(LEARNER, incarnation="l2"))
    assert driver.member() is Health.STALE
    driver.now += REGRANT_SECONDS + 0.1
    answer = driver.say(b"g", wire.GeneratorHeartbeat(leases=[], stats={}))
    assert leases(answer) == []
