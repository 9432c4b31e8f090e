from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncds.algo.diversity import (
    Diversity,
    correct_answers,
    diversity,
    normalised_variance,
    self_overlap,
)

Policy = dict[str, float]
POLICIES: list[Policy] = [
    {"a": 0.5, "b": 0.2, "c": 0.1, "wrong": 0.2},
    {"a": 0.25, "b": 0.25, "c": 0.25, "wrong": 0.25},
    {"a": 0.3, "b": 0.0, "c": 0.0, "wrong": 0.7},
]


def test_only_correct_answers_count() -> None:
    answers, correct = ["a", "b", "a", "x", "c"], [True, True, True, False, True]
    assert diversity(answers, correct) == Diversity(3, 2 / 4, 1 / 6)


def test_the_same_key_may_be_right_in_one_sample_and_wrong_in_another() -> None:
    assert correct_answers(["a", "a", ""], [True, False, True]) == {"a": 1, "": 1}


def test_what_is_not_defined_is_none() -> None:
    assert diversity(["a", "b"], [False, False]) == Diversity(0, None, None)
    assert diversity(["a", "b"], [True, False]) == Diversity(1, 1.0, None)


def expected_overlap(policy: Policy, n: int) -> float:
    """E[estimate | two or more of n samples are correct], over every outcome of n samples."""
    mass = mean = 0.0
    for outcome in product(policy, repeat=n):
        chance = float(np.prod([policy[answer] for answer in outcome]))
        found = self_overlap(Counter(a for a in outcome if a != "wrong"))
        if found is not None:
            mass, mean = mass + chance, mean + chance * found
    return mean / mass


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("n", [2, 3, 5])
def test_self_overlap_is_unbiased(policy: Policy, n: int) -> None:
    right = np.array([p for answer, p in policy.items() if answer != "wrong"])
    truth = float(((right / right.sum()) ** 2).sum())
    assert expected_overlap(policy, n) == pytest.approx(truth, rel=1e-12)


@pytest.mark.parametrize("policy", POLICIES)
def test_normalised_variance_is_that_of_the_definition(policy: Policy) -> None:
    right = np.array([p for answer, p in policy.items() if answer != "wrong"])
    truth = right.var() / right.sum() ** 2
    estimate = normalised_variance(expected_overlap(policy, 3), len(right))
    assert estimate == pytest.approx(truth, abs=1e-12)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), min_size=1), st.randoms())
def test_is_bounded_and_independent_of_the_order(samples: list[tuple[str, bool]], random) -> None:  # type: ignore[no-untyped-def]
    def of(some: list[tuple[str, bool]]) -> Diversity:
        return diversity([a for a, _ in some], [c for _, c in some])

    shuffled = samples.copy()
    random.shuffle(shuffled)
    result = of(samples)
    assert result == of(shuffled)
    assert result.distinct == len({a for a, c in samples if c})
    if result.top_share is not None:
        assert 1 / result.distinct <= result.top_share + 1e-12
        assert result.top_share <= 1
    if result.self_overlap is not None:
        assert result.top_share is not None
        # Agreeing pairs are at most those with the most frequent answer.
        assert 0 <= result.self_overlap <= result.top_share + 1e-12
