"""Against enumeration: every k-set of a group is looked at, in exact fractions."""

from fractions import Fraction
from itertools import combinations, product
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncds.algo.advantages.base import Sequences
from asyncds.algo.advantages.best_of_group import BestOfGroup
from asyncds.algo.advantages.gr_pkpo import GrPkpo
from asyncds.algo.advantages.pkpo import Pkpo
from tests.support.objectives import table

COUNTS = [(n, c, k) for n in range(1, 7) for c in range(n + 1) for k in range(1, n + 1)]


def group_of(correct: list[bool]) -> Sequences:
    return table(reward=np.array(correct, dtype=float), group=[5] * len(correct))


def sets_with(i: int, n: int, k: int) -> list[tuple[int, ...]]:
    return [s for s in combinations(range(n), k) if i in s]


@pytest.mark.parametrize(("n", "c", "k"), COUNTS)
def test_pkpo_is_the_credit_over_all_sets(n: int, c: int, k: int) -> None:
    correct = [i < c for i in range(n)]

    def solved(s: tuple[int, ...]) -> int:
        return int(any(correct[j] for j in s))

    plain, improvement = [], []
    for i in range(n):
        mine = sets_with(i, n, k)
        plain.append(float(Fraction(sum(map(solved, mine)), comb(n, k))))
        gains = [solved(s) - solved(tuple(j for j in s if j != i)) for s in mine]
        improvement.append(float(Fraction(sum(gains), len(mine))))
    inputs = group_of(correct)
    np.testing.assert_allclose(Pkpo(k=k, baseline="none")(inputs), plain, rtol=1e-6)
    np.testing.assert_allclose(Pkpo(k=k)(inputs), improvement, rtol=1e-6)


@pytest.mark.parametrize(("baseline", "factor"), [("none", 1.0), ("leave_one_out", 4 / 3)])
def test_pkpo_climbs_pass_at_k(baseline: str, factor: float) -> None:
    """A coin that is correct with probability p, thrown n = 4 times: E Σ A_i d log π(y_i)/dp, by
    enumeration, is a multiple of the derivative of 1 − (1 − p)³."""
    n, k, p = 4, 3, 0.3
    total = 0.0
    for outcome in product([True, False], repeat=n):
        c = sum(outcome)
        advantages = Pkpo(k=k, baseline=baseline)(group_of(list(outcome))).tolist()  # type: ignore[arg-type]
        scores = [1 / p if right else -1 / (1 - p) for right in outcome]
        chance = p**c * (1 - p) ** (n - c)
        total += chance * sum(a * s for a, s in zip(advantages, scores, strict=True))
    assert total == pytest.approx(factor * k * (1 - p) ** (k - 1), rel=1e-5)


@pytest.mark.parametrize(("n", "c", "k"), COUNTS)
def test_gr_pkpo_is_the_mean_standardised_reward_of_the_sets(n: int, c: int, k: int) -> None:
    correct = [i < c for i in range(n)]
    rewards = {s: float(any(correct[j] for j in s)) for s in combinations(range(n), k)}
    values = np.array(list(rewards.values()))
    expected = np.zeros(n)
    if values.std() > 0:
        for i in range(n):
            mine = np.mean([rewards[s] for s in sets_with(i, n, k)])
            expected[i] = (mine - values.mean()) / values.std()
    ours = GrPkpo(k=k)(group_of(correct))
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
    assert abs(ours.sum()) < 1e-9


@pytest.mark.parametrize("scale", ["std", "none"])
@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(st.sampled_from([-1.0, 0.0, 0.1, 1.0]), st.integers(0, 2)), max_size=15)
)
def test_best_of_group_is_the_lead_of_the_best(scale, rows) -> None:  # type: ignore[no-untyped-def]
    expected = []
    for i, (r, g) in enumerate(rows):
        others = [x for j, (x, h) in enumerate(rows) if h == g and j != i]
        lead = max(r - max(others), 0.0) if others else 0.0
        expected.append(lead / (np.std([*others, r]) + 1e-6) if scale == "std" else lead)
    inputs = table(reward=[r for r, _ in rows], group=[g for _, g in rows])
    ours = BestOfGroup(scale=scale)(inputs)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


ALL = [Pkpo(k=3), Pkpo(k=3, baseline="none"), GrPkpo(k=3), BestOfGroup()]


@pytest.mark.parametrize("advantage", ALL, ids=str)
@settings(deadline=None)
@given(rows=st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=20), random=st.randoms())
def test_follows_a_permutation_and_groups_do_not_mix(advantage, rows, random) -> None:  # type: ignore[no-untyped-def]
    def of(some: list[tuple[bool, int]]) -> list[float]:
        inputs = table(reward=[float(r) for r, _ in some], group=[g for _, g in some])
        return advantage(inputs).tolist()

    order = list(range(len(rows)))
    random.shuffle(order)
    whole = of(rows)
    assert of([rows[i] for i in order]) == pytest.approx([whole[i] for i in order])
    for g in range(4):
        assert of([r for r in rows if r[1] == g]) == pytest.approx(
            [a for a, r in zip(whole, rows, strict=True) if r[1] == g]
        )


@pytest.mark.parametrize("advantage", [Pkpo(k=9), Pkpo(k=9, baseline="none"), GrPkpo(k=9)], ids=str)
@pytest.mark.parametrize("correct", [[True], [False], [True, True, False]], ids=str)
def test_a_group_smaller_than_k_is_taken_as_if_k_were_its_size(advantage, correct) -> None:  # type: ignore[no-untyped-def]
    smaller = type(advantage)(**{**advantage.model_dump(), "k": len(correct)})
    np.testing.assert_array_equal(advantage(group_of(correct)), smaller(group_of(correct)))


@pytest.mark.parametrize("c", [0, 1, 2048, 4095, 4096])
@pytest.mark.parametrize("k", [1, 64, 2048, 4096])
def test_large_groups_are_finite(c: int, k: int) -> None:
    inputs = group_of([i < c for i in range(4096)])
    for advantage in (Pkpo(k=k), Pkpo(k=k, baseline="none"), GrPkpo(k=k)):
        assert np.isfinite(advantage(inputs)).all()


@pytest.mark.parametrize("kind", [Pkpo, GrPkpo])
def test_k_below_1_is_refused(kind: type) -> None:
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        kind(k=0)
