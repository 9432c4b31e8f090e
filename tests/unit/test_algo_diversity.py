import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncds.algo.diversity import Diversity, correct_answers, diversity

Group = tuple[list[str], list[bool]]


def test_counts_only_correct_answers_within_the_first_samples() -> None:
    mixed: Group = (["a", "b", "a", "x", "c"], [True, True, True, False, True])
    unsolved: Group = (["x", "y", "z", "x"], [False] * 4)
    assert diversity([mixed, unsolved], n_samples=4) == Diversity(
        distinct_correct=1.0, top_share=2 / 3, n_problems=2, n_solved=1, n_samples=4
    )


def test_the_same_key_may_be_right_in_one_sample_and_wrong_in_another() -> None:
    assert correct_answers(["a", "a", ""], [True, False, True]) == {"a": 1, "": 1}


def test_nothing_solved_has_no_top_share() -> None:
    result = diversity([(["a"], [False])], n_samples=1)
    assert result.top_share is None
    assert result.distinct_correct == 0


@pytest.mark.parametrize(
    ("groups", "n_samples", "message"),
    [([], 1, "no problem"), ([(["a"], [True])], 2, "fewer than 2"), ([], 0, "at least 1")],
)
def test_refuses_what_has_no_average(groups: list[Group], n_samples: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        diversity(groups, n_samples=n_samples)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), min_size=1), st.randoms())
def test_is_bounded_and_independent_of_the_order(samples: list[tuple[str, bool]], random) -> None:  # type: ignore[no-untyped-def]
    def of(some: list[tuple[str, bool]]) -> Diversity:
        return diversity([([a for a, _ in some], [c for _, c in some])], n_samples=len(some))

    shuffled = samples.copy()
    random.shuffle(shuffled)
    result = of(samples)
    assert result == of(shuffled)
    assert result.distinct_correct == len({a for a, c in samples if c})
    if result.top_share is not None:
        assert 1 / result.distinct_correct <= result.top_share + 1e-12
        assert result.top_share <= 1
