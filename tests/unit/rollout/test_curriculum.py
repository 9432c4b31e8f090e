"""The curriculum as a pure state machine: how difficult problems are, and which are to come."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from asyncds.config.sampling import CurriculumConfig
from asyncds.protocol.records import CurriculumFacts
from asyncds.rollout.curriculum import Curriculum, Difficulty, Visit
from asyncds.rollout.prompt_order import PromptOrder

ROWS = 6


def curriculum(**settings: Any) -> Curriculum:
    return Curriculum(CurriculumConfig(enabled=True, **settings), seed=3)


@st.composite
def some_visits(draw: st.DrawFn) -> list[tuple[int, Visit]]:
    """Groups of up to four completions, with a lease each, in the order of the leases."""
    told = draw(st.lists(st.tuples(st.integers(0, ROWS - 1), st.integers(1, 4), st.floats(0, 1))))
    return [(row, Visit(lease, n, round(n * share))) for lease, (row, n, share) in enumerate(told)]


@given(some_visits(), st.integers(1, 3), st.randoms(use_true_random=False))
def test_all_follows_from_what_came_in_whatever_order(
    visits: list[tuple[int, Visit]], window: int, random: Any
) -> None:
    """So that the journal's order restores what the order of deliveries had made."""
    told, restored = curriculum(visits=window), curriculum(visits=window)
    for row, visit in random.sample(visits, len(visits)):
        told.visited(row, visit)
    restored.restore(visits)
    assert told.facts() == restored.facts()
    for row in range(ROWS):
        assert told.difficulty(row) is restored.difficulty(row)
        assert [told.wanted(row, e) for e in range(9)] == [
            restored.wanted(row, e) for e in range(9)
        ]


@given(some_visits(), st.integers(1, 3), st.sampled_from([0.0, 0.25]), st.sampled_from([0.75, 1]))
def test_a_problem_is_judged_by_its_last_visits(
    visits: list[tuple[int, Visit]], window: int, hopeless: float, solved: float
) -> None:
    judge = curriculum(visits=window, hopeless=hopeless, solved=solved)
    judge.restore(visits)
    by_row = {row: [v for r, v in visits if r == row] for row, _ in visits}
    expected = {}
    for row, its in by_row.items():
        last = its[-window:]
        share = sum(v.n_correct for v in last) / sum(v.n for v in last)
        expected[row] = Difficulty.BETWEEN
        if len(last) == window and share >= solved:
            expected[row] = Difficulty.SOLVED
        elif len(last) == window and share <= hopeless:
            expected[row] = Difficulty.HOPELESS
        assert judge.difficulty(row) is expected[row]
    n, counts = len(by_row), Counter(expected.values())
    mixed = sum(0 < its[-1].n_correct < its[-1].n for its in by_row.values())
    assert judge.facts() == (
        CurriculumFacts(
            problems=n,
            solved=counts[Difficulty.SOLVED] / n,
            hopeless=counts[Difficulty.HOPELESS] / n,
            between=counts[Difficulty.BETWEEN] / n,
            mixed=mixed / n,
        )
        if n
        else None
    )


@pytest.mark.parametrize("right", [0, 4])
def test_what_is_solved_or_hopeless_comes_as_often_as_is_said(right: int) -> None:
    judge = curriculum(least=0.2)
    rows = range(400)
    judge.restore((row, Visit(2 * row + i, 4, right)) for row in rows for i in (0, 1))
    chances = [sum(judge.wanted(row, epoch) for row in rows) / 400 for epoch in range(10)]
    assert sum(chances) / 10 == pytest.approx(0.2, abs=0.03)
    of_one = [judge.wanted(0, epoch) for epoch in range(200)]
    assert 0 < sum(of_one) < 200, "no problem is left out for ever"
    for row in rows:
        judge.visited(row, Visit(1000 + row, 4, 2))
    assert all(judge.wanted(row, epoch) for row in rows for epoch in range(3)), "it came back"


def test_nothing_is_passed_over_unless_it_is_enabled() -> None:
    off = Curriculum(CurriculumConfig(), seed=3)
    off.restore((0, Visit(i, 4, 0)) for i in range(2))
    assert off.difficulty(0) is Difficulty.HOPELESS
    assert all(off.wanted(0, epoch) for epoch in range(50))


@given(st.sets(st.integers(0, 29)), st.integers(0, 50))
def test_the_others_take_the_places_of_those_passed_over(dull: set[int], n: int) -> None:
    """A walk that is resumed anywhere goes on as one that was not interrupted."""
    judge = curriculum(least=0.1)
    judge.restore((row, Visit(2 * row + i, 4, 0)) for row in dull for i in (0, 1))

    def order(**where: Any) -> PromptOrder:
        return PromptOrder(seed=1, sets=[("", 30)], weights={}, **where)

    walk = order()
    [walk.next(judge.wanted) for _ in range(n)]
    resumed = order(position=walk.position, passed=walk.passed)
    rows = [walk.next(judge.wanted) for _ in range(40)]
    assert [resumed.next(judge.wanted) for _ in range(40)] == rows
    if len(dull) < 25:
        assert sum(row in dull for row in rows) / 40 < 0.6


def test_nothing_in_between_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"hopeless 0.5 is not below solved 0.5"):
        CurriculumConfig(hopeless=0.5, solved=0.5)
