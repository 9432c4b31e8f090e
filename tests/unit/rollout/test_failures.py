"""When failures are waited for, told, and end a run."""

from hypothesis import given
from hypothesis import strategies as st

from asyncds.rollout.failures import (
    FREE,
    IN_A_ROW,
    LONGEST_PAUSE_SECONDS,
    PATIENCE_SECONDS,
    WORTH_TELLING,
    Failures,
)


def fail(failures: Failures, row: int, *, now: float, permanent: bool = True) -> None:
    failures.attempt_failed(reason=f"row {row} is bad", permanent=permanent, now=now)
    failures.given_up(row)


def test_all_rows_failed() -> None:
    failures = Failures(rows=3)
    for row in (0, 1, 1, 0):
        fail(failures, row, now=0.0)
        assert failures.hopeless(0.0) == ""
    fail(failures, 2, now=0.0)
    assert failures.hopeless(0.0) == "all 3 rows failed: row 2 is bad"


def test_so_many_in_a_row_failed() -> None:
    failures = Failures(rows=10_000)
    for row in range(IN_A_ROW - 1):
        fail(failures, row, now=0.0)
        assert failures.hopeless(0.0) == ""
    fail(failures, 200, now=0.0)
    assert failures.hopeless(0.0) == f"{IN_A_ROW} groups in a row failed: row 200 is bad"
    failures.delivered()
    assert failures.hopeless(0.0) == ""


def test_what_may_pass_is_waited_for() -> None:
    failures = Failures(rows=1)
    fail(failures, 0, now=5.0, permanent=False)
    assert failures.hopeless(5.0 + PATIENCE_SECONDS - 1) == ""
    assert failures.hopeless(5.0 + PATIENCE_SECONDS) == "all 1 rows failed: row 0 is bad"


def test_people_are_told_of_more_than_a_few() -> None:
    failures = Failures(rows=10_000)
    for row in range(IN_A_ROW):
        failures.delivered() if row % 20 else fail(failures, row, now=0.0)
    assert failures.told() == ""
    for row in range(FREE):
        fail(failures, row, now=0.0)
    assert failures.told() == f"14 of the last {IN_A_ROW} groups failed: row 7 is bad"


@given(st.lists(st.booleans(), max_size=600), st.integers(1, 300), st.booleans())
def test_a_run_ends_only_if_nothing_came_for_long(
    outcomes: list[bool], rows: int, permanent: bool
) -> None:
    """Whatever came in between: what counts is what failed since."""
    failures, since = Failures(rows=rows), 0
    for i, good in enumerate(outcomes):
        if good:
            failures.delivered()
            since = 0
        else:
            fail(failures, i % rows, now=0.0, permanent=permanent)
            since += 1
        hopeless = failures.hopeless(PATIENCE_SECONDS)
        assert bool(hopeless) == (since >= min(rows, IN_A_ROW))
        assert bool(failures.hopeless(1.0)) == (bool(hopeless) and permanent)
        share = outcomes[max(0, i + 1 - IN_A_ROW) : i + 1].count(False)
        if share < WORTH_TELLING * min(i + 1, IN_A_ROW) and since < FREE:
            assert failures.told() == ""


@given(
    burst=st.integers(1, 64),
    rows=st.integers(1, 10_000),
    attempts=st.integers(1, 3),
    answer=st.floats(0.001, 0.2),
)
def test_a_set_that_can_not_be_used_costs_little(
    burst: int, rows: int, attempts: int, answer: float
) -> None:
    """Every attempt fails, `answer` seconds after it began, `burst` at a time, `attempts` for each
    group (1: for good). It ends, soon, and after few of them."""
    failures, now, begun, row = Failures(rows=rows), 0.0, 0, 0
    permanent = attempts == 1
    while not failures.hopeless(now):
        if not failures.may_begin(now):
            now += 0.01
            continue
        now += answer
        for _ in range(burst):
            begun += 1
            failures.attempt_failed(reason="", permanent=permanent, now=now)
            if begun % attempts == 0:
                failures.given_up(row % rows)
                row += 1
    needed = attempts * min(rows, IN_A_ROW)
    if permanent:
        assert begun <= needed + burst
        assert now <= IN_A_ROW * 0.35
    else:
        assert now <= PATIENCE_SECONDS + needed / burst * (LONGEST_PAUSE_SECONDS + 1)
        # The pauses: 64 at a time, eight or so times, and then once every ten seconds.
        assert begun <= FREE + needed + burst * (8 + PATIENCE_SECONDS / LONGEST_PAUSE_SECONDS)
