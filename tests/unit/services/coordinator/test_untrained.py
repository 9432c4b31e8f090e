"""A run of no steps: the model is evaluated as the engines loaded it, and there is no learner."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from asyncds.fleet.membership import Health
from asyncds.protocol import wire
from asyncds.protocol.state import State
from tests.support.coordinator_fixture import (
    GENERATOR,
    LEARNER,
    REPLACE,
    Driver,
    delivered,
    leases,
    only,
)

HELLO = REPLACE(GENERATOR, capacity=8)


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    with closing(Driver(tmp_path, steps=0)) as driver:
        yield driver


def test_it_is_evaluated_once_and_finished(driver: Driver, tmp_path: Path) -> None:
    driver.tick(b"g")
    assert driver.c.state is State.STARTING
    assert driver.c.waiting_for() == "everybody waits for a generator to join"
    said = driver.say(b"g", HELLO)
    assert driver.member() is Health.HEALTHY
    granted = leases(said)
    assert [lease.split for lease in granted] == ["eval"] * 3
    for lease in granted:
        assert not driver.c.state.final
        said += driver.say(b"g", delivered(lease, correct=(True,) * lease.group_size))
    (result,) = driver.journal.evaluations()
    assert (result.version, result.step, result.n_problems) == (0, 0, 3)
    assert result.pass_at_k["1"] == 1.0
    assert (driver.c.state, driver.c.end.found_finished) == (State.FINISHED, False)
    assert only(said, wire.Drain)
    assert not only(said, wire.Prepare)

    driver.close()
    with closing(Driver(tmp_path, steps=0)) as resumed:
        resumed.tick(b"g")
        assert (resumed.c.state, resumed.c.end.found_finished) == (State.FINISHED, True)


def test_a_generator_that_comes_later_serves_too(driver: Driver) -> None:
    first, *_ = leases(driver.say(b"g", HELLO))
    driver.say(b"g", delivered(first))
    driver.say(b"g", wire.Bye(reason="preempted"))
    assert not driver.c.parts.fleet.alive()
    for lease in leases(driver.say(b"h", REPLACE(HELLO, name="h", incarnation="h1"))):
        driver.say(b"h", delivered(lease))
    assert driver.c.state is State.FINISHED
    assert driver.journal.evaluations()[0].n_problems == 3


def test_a_group_of_other_weights_is_refused(driver: Driver) -> None:
    lease, *_ = leases(driver.say(b"g", HELLO))
    driver.say(b"g", delivered(lease, versions=(1,)))
    assert driver.c.parts.leases.round is not None
    assert driver.c.parts.leases.open.undelivered(lease.id) is not None


def test_a_learner_is_refused(driver: Driver) -> None:
    (refused,) = only(driver.say(b"l", LEARNER), wire.Refused)
    assert refused.reason == "this run trains nothing (steps is 0) and has no learner"


def test_an_evaluation_goes_on_after_a_restart_with_what_is_missing(
    driver: Driver, tmp_path: Path
) -> None:
    granted = leases(driver.say(b"g", HELLO))
    right = {lease.row: (lease.row != 1,) * lease.group_size for lease in granted}
    for lease in granted[:2]:
        driver.say(b"g", delivered(lease, correct=right[lease.row]))
    driver.close()  # as if it was killed
    with closing(Driver(tmp_path, steps=0)) as again:
        (missing,) = leases(again.say(b"g", REPLACE(HELLO, leases=[granted[2].id])))
        assert (missing.row, missing.seed) == (granted[2].row, granted[2].seed)
        round = again.c.parts.leases.round
        assert round is not None
        assert (round.total, round.done, round.evaluated) == (3, 2, 2)
        again.say(b"g", delivered(missing, correct=right[missing.row]))
        (result,) = again.journal.evaluations()
        assert (result.n_problems, again.c.state) == (3, State.FINISHED)
        assert result.pass_at_k["1"] == pytest.approx(2 / 3)
        assert again.journal.counts("eval") == {"delivered": 3, "failed": 1}


def test_after_a_restart_the_missing_parts_of_a_problem_are_sampled(tmp_path: Path) -> None:
    """Each of two samples is a part, with its own seed."""
    large = {"sampling": {"max_tokens": 1_000_000}}
    with closing(Driver(tmp_path, steps=0, **large)) as first:
        granted = leases(first.say(b"g", REPLACE(HELLO, capacity=9)))
        assert [(lease.row, lease.group_size) for lease in granted] == [
            *[(0, 1), (0, 1), (1, 1), (1, 1), (2, 1), (2, 1)]
        ]
        first.say(b"g", delivered(granted[1], correct=(True,)), delivered(granted[2]))
    rest = [lease for i, lease in enumerate(granted) if i not in (1, 2)]
    with closing(Driver(tmp_path, steps=0, **large)) as again:
        missing = leases(again.say(b"g", REPLACE(HELLO, capacity=9)))
        assert [(m.row, m.seed) for m in missing] == [(lease.row, lease.seed) for lease in rest]
        again.say(b"g", *map(delivered, missing))
        (result,) = again.journal.evaluations()
        assert again.journal.evaluation_counts(result.id) == [(0, 2, 1), (1, 2, 0), (2, 2, 0)]
        assert result.pass_at_k["1"] == pytest.approx(1 / 6)


def test_an_evaluation_that_lost_its_generator_goes_on_too(driver: Driver) -> None:
    first, *others = leases(driver.say(b"g", HELLO))
    driver.say(b"g", delivered(first))
    driver.say(b"g", wire.Bye(reason="preempted"))
    again = leases(driver.say(b"h", REPLACE(HELLO, name="h", incarnation="h1")))
    assert [lease.row for lease in again] == [lease.row for lease in others]


def test_an_evaluation_that_asks_for_something_else_begins_anew(
    driver: Driver, tmp_path: Path
) -> None:
    first, *_ = leases(driver.say(b"g", HELLO))
    driver.say(b"g", delivered(first))
    driver.close()
    with closing(Driver(tmp_path, steps=0, eval__temperatures=(0.5,))) as other:
        assert [lease.row for lease in leases(other.say(b"g", HELLO))] == [0, 1, 2]


def test_a_task_without_rows_to_train_on_is_evaluated(driver: Driver) -> None:
    granted = leases(driver.say(b"g", REPLACE(HELLO, rows={"train": 0, "eval": 3})))
    assert [lease.row for lease in granted] == [0, 1, 2]
