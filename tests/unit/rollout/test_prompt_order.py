"""Which prompt comes next, as properties of the pure order."""

from collections import Counter
from itertools import accumulate

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from asyncds.rollout.prompt_order import PromptOrder, apportioned
from asyncds.rollout.row_sets import set_of

weights = st.floats(0.05, 20)
tasks = st.dictionaries(
    st.text("abc", min_size=1, max_size=3), st.tuples(st.integers(1, 9), weights), min_size=1
)
Tasks = dict[str, tuple[int, float]]


def order(some: Tasks, *, seed: int = 0, position: int = 0) -> PromptOrder:
    return PromptOrder(
        seed=seed,
        sets=[(name, rows) for name, (rows, _) in some.items()],
        weights={name: weight for name, (_, weight) in some.items()},
        position=position,
    )


@given(tasks, st.integers(0, 2**32 - 1), st.integers(0, 60))
def test_a_prompt_follows_from_the_seed_and_its_place(some: Tasks, seed: int, place: int) -> None:
    whole = order(some, seed=seed)
    rows = [whole.next() for _ in range(place + 20)]
    resumed = order(some, seed=seed, position=place)
    assert [resumed.next() for _ in range(20)] == rows[place:]


@given(tasks, st.integers(0, 200))
def test_every_task_has_its_share_and_all_of_its_rows(some: Tasks, n: int) -> None:
    sets = [(name, rows) for name, (rows, _) in some.items()]
    whole = order(some)
    drawn = [whole.next() for _ in range(n)]
    counts = Counter(set_of(sets, row) for row in drawn)
    total = sum(weight for _, weight in some.values())
    for name, (_, weight) in some.items():
        assert abs(counts[name] - n * weight / total) <= max(1, len(some) / 2)
    firsts = dict(zip(some, accumulate((rows for _, rows in sets), initial=0), strict=False))
    for name, (rows, _) in some.items():
        own = [row - firsts[name] for row in drawn if set_of(sets, row) == name]
        for epoch in range(0, len(own) - rows + 1, rows):
            assert sorted(own[epoch : epoch + rows]) == [*range(rows)], "each once per epoch"


def test_one_task_is_walked_through_as_its_rows_are() -> None:
    alone = PromptOrder(seed=5, sets=[("easy", 3), ("hard", 4)], weights={})
    epochs = [np.random.default_rng([5, epoch]).permutation(7) for epoch in range(3)]
    assert [alone.next() for _ in range(21)] == np.concatenate(epochs).tolist()


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.data())
def test_nobody_gets_more_places_than_there_are_problems(
    sizes: list[int], data: st.DataObject
) -> None:
    n = data.draw(st.integers(0, sum(sizes)))
    shares = apportioned(dict(enumerate(sizes)), n)
    assert sum(shares.values()) == n
    assert all(shares[i] <= size for i, size in enumerate(sizes))


@given(tasks, st.integers(0, 40))
def test_rows_that_are_not_wanted_are_passed_over(some: Tasks, n: int) -> None:
    """Their task's share stays, and if none is wanted one comes all the same."""
    whole, picky = order(some), order(some)
    sets = [(name, rows) for name, (rows, _) in some.items()]
    plain = [set_of(sets, whole.next()) for _ in range(n)]
    drawn = [picky.next(lambda row, _: row % 2 == 0) for _ in range(n)]
    assert [set_of(sets, row) for row in drawn] == plain
    resumed = PromptOrder(
        seed=0,
        sets=sets,
        weights={name: weight for name, (_, weight) in some.items()},
        position=picky.position,
        passed=picky.passed,
    )
    ahead = [picky.next(lambda row, _: row % 2 == 0) for _ in range(9)]
    assert [resumed.next(lambda row, _: row % 2 == 0) for _ in range(9)] == ahead
