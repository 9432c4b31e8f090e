import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncds.algo.advantages import AdvantageInputs, DifferentialSmoothing, Grpo, Unlikeliness
from asyncds.algo.segments import rank_within, segment_mean, segment_sum

FORMS = ["token", "seq_mean", "seq_sum", "reward_mean"]


def by_reward(reward: torch.Tensor, group: torch.Tensor) -> AdvantageInputs:
    return AdvantageInputs(
        reward=reward,
        group=group,
        correct=torch.zeros_like(group, dtype=torch.bool),
        mean_logprob=torch.zeros_like(reward),
    )


def reference_grpo(reward: np.ndarray, group: np.ndarray, scale: str, baseline: str) -> np.ndarray:
    """The formula, one sequence at a time."""
    advantage = np.zeros(len(reward))
    for i, g in enumerate(group):
        mates = reward[group == g]
        others = np.delete(mates, np.flatnonzero(np.flatnonzero(group == g) == i))
        if baseline == "mean" or len(others) == 0:
            advantage[i] = reward[i] - mates.mean()
        else:
            advantage[i] = reward[i] - others.mean()
        if scale == "std":
            advantage[i] /= np.sqrt(((mates - mates.mean()) ** 2).mean()) + 1e-6
    return advantage


@pytest.mark.parametrize("scale", ["std", "none"])
@pytest.mark.parametrize("baseline", ["mean", "leave_one_out"])
@settings(deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from([0.0, 0.1, 1.0, -3.0]), st.sampled_from([7, 0, 3])), max_size=24
    )
)
def test_grpo_equals_the_formula(scale, baseline, rows) -> None:  # type: ignore[no-untyped-def]
    reward = np.array([r for r, _ in rows], dtype=np.float32)
    group = np.array([g for _, g in rows], dtype=np.int64)
    ours = Grpo(scale=scale, baseline=baseline)(
        by_reward(torch.tensor(reward), torch.tensor(group))
    )
    assert ours.dtype == torch.float32
    expected = reference_grpo(reward.astype(np.float64), group, scale, baseline)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0, 1e6])
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize("baseline", ["mean", "leave_one_out"])
def test_equal_rewards_give_no_advantage(value: float, size: int, baseline: str) -> None:
    advantage = Grpo(baseline=baseline)(  # type: ignore[arg-type]
        by_reward(torch.full((size,), value), torch.zeros(size, dtype=torch.int64))
    )
    assert advantage.abs().max() < 1e-3


@settings(deadline=None)
@given(st.permutations(range(12)))
def test_grpo_follows_a_permutation_of_the_sequences(order: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    reward = torch.rand(12, generator=generator)
    group = torch.arange(12) % 3
    index = torch.tensor(order)
    torch.testing.assert_close(
        Grpo()(by_reward(reward, group))[index], Grpo()(by_reward(reward[index], group[index]))
    )


def test_shifts_by_hand() -> None:
    # Sequence 0 is correct and has two tokens, 1 is incorrect and has three, 2 is empty.
    logprob = torch.tensor([-1.0, -3.0, -2.0, -4.0, -6.0])
    sequence = torch.tensor([0, 0, 1, 1, 1])
    correct = torch.tensor([True, False, True])

    def shift(form: str) -> list[float]:
        ds = DifferentialSmoothing(gamma_p=0.5, gamma_n=0.25, form=form)  # type: ignore[arg-type]
        return ds.token_shift(logprob, sequence, correct).tolist()

    assert shift("token") == [0.5, 1.5, -0.5, -1.0, -1.5]
    assert shift("seq_mean") == [1.0, 1.0, -1.0, -1.0, -1.0]
    assert shift("seq_sum") == [2.0, 2.0, -3.0, -3.0, -3.0]
    assert shift("reward_mean") == [0.0] * 5
    ds = DifferentialSmoothing(gamma_p=0.5, gamma_n=0.25, form="reward_mean")
    mean_logprob = torch.tensor([-2.0, -4.0, 0.0])
    assert ds.reward_shift(mean_logprob, correct).tolist() == [1.0, -1.0, 0.0]


@pytest.mark.parametrize("form", FORMS)
def test_only_reward_mean_shifts_rewards_and_all_others_shift_tokens(form: str) -> None:
    ds = DifferentialSmoothing(gamma_p=1.0, gamma_n=1.0, form=form)  # type: ignore[arg-type]
    one, zero = torch.tensor([-1.0]), torch.tensor([0])
    correct = torch.tensor([True])
    by_reward = ds.reward_shift(one, correct).item()
    by_token = ds.token_shift(one, zero, correct).item()
    assert (by_reward, by_token) == ((1.0, 0.0) if form == "reward_mean" else (0.0, 1.0))


@pytest.mark.parametrize("form", FORMS[:3])
@settings(deadline=None)
@given(logprob=st.lists(st.floats(-50, 0, width=32), min_size=1, max_size=20), right=st.booleans())
def test_the_sign_is_never_against_the_class(form, logprob, right) -> None:  # type: ignore[no-untyped-def]
    shift = DifferentialSmoothing(gamma_p=0.03, gamma_n=0.01, form=form).token_shift(
        torch.tensor(logprob),
        torch.zeros(len(logprob), dtype=torch.int64),
        torch.tensor([right]),
    )
    assert (shift >= 0).all() if right else (shift <= 0).all()


def test_ds_positive_and_ds_negative_leave_the_other_class_alone() -> None:
    logprob, sequence = torch.tensor([-1.0, -2.0]), torch.tensor([0, 1])
    correct = torch.tensor([True, False])
    positive = DifferentialSmoothing(gamma_p=1.0, gamma_n=0.0)
    negative = DifferentialSmoothing(gamma_p=0.0, gamma_n=1.0)
    assert positive.token_shift(logprob, sequence, correct).tolist() == [1.0, 0.0]
    assert negative.token_shift(logprob, sequence, correct).tolist() == [0.0, -2.0]


@pytest.mark.parametrize("form", FORMS[:3])
def test_no_gradient_flows_through_a_shift(form: str) -> None:
    logprob = torch.tensor([-1.0], requires_grad=True)
    ds = DifferentialSmoothing(gamma_p=1.0, gamma_n=1.0, form=form)  # type: ignore[arg-type]
    assert not ds.token_shift(logprob, torch.tensor([0]), torch.tensor([True])).requires_grad


@pytest.mark.parametrize("gamma", [-0.1, float("nan")])
def test_a_gamma_below_zero_is_refused(gamma: float) -> None:
    with pytest.raises(ValueError, match="gamma_p"):
        DifferentialSmoothing(gamma_p=gamma, gamma_n=0.0)
    with pytest.raises(ValueError, match="gamma_n"):
        DifferentialSmoothing(gamma_p=0.0, gamma_n=gamma)


# --- unlikeliness ---------------------------------------------------------------------------------

SEQUENCES = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.1, 1.0]),
        st.sampled_from([-3.0, -1.0, -0.5, 0.0]),
        st.integers(0, 2),
    ),
    max_size=20,
)


def sequences(rows: list[tuple[float, float, int]]) -> AdvantageInputs:
    return AdvantageInputs(
        reward=torch.tensor([r for r, _, _ in rows]),
        mean_logprob=torch.tensor([x for _, x, _ in rows]),
        group=torch.tensor([g for _, _, g in rows], dtype=torch.int64),
        correct=torch.tensor([r == 1 for r, _, _ in rows], dtype=torch.bool),
    )


@settings(deadline=None)
@given(rows=SEQUENCES)
def test_a_rank_counts_the_smaller_and_half_of_the_equal_others(rows) -> None:  # type: ignore[no-untyped-def]
    inputs = sequences(rows)
    expected = [
        sum((y < x) + 0.5 * (y == x) for _, y, h in rows if h == g) - 0.5 for _, x, g in rows
    ]
    assert rank_within(inputs.mean_logprob, inputs.group, 3).tolist() == expected


@pytest.mark.parametrize("scale", ["std", "none"])
@pytest.mark.parametrize("baseline", ["mean", "leave_one_out"])
@settings(deadline=None)
@given(rows=SEQUENCES)
def test_unlikeliness_equals_the_formula(scale, baseline, rows) -> None:  # type: ignore[no-untyped-def]
    reward, group = np.array([r for r, _, _ in rows]), np.array([g for _, _, g in rows])
    for i, (r, x, g) in enumerate(rows):
        mates = [y for _, y, h in rows if h == g]
        rank = sum(y < x for y in mates) + (sum(y == x for y in mates) - 1) / 2
        reward[i] = np.float32(r) * (1 - 0.4 * rank / len(mates))
    ours = Unlikeliness(strength=0.4, scale=scale, baseline=baseline)(sequences(rows))
    expected = reference_grpo(reward, group, scale, baseline)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_unlikeliness_by_hand() -> None:
    """All correct: the least likely is worth 1, the next 3/4, the likeliest 1/2; mean 3/4."""
    rows = [(1.0, -1.0, 0), (1.0, -3.0, 0), (1.0, -2.0, 0)]
    ours = Unlikeliness(strength=0.75, scale="none")(sequences(rows))
    assert ours.tolist() == [-0.25, 0.25, 0.0]


def test_unlikeliness_of_no_strength_is_grpo() -> None:
    inputs = sequences([(1.0, -1.0, 0), (0.1, -3.0, 0), (1.0, -2.0, 1), (0.0, -2.0, 1)])
    assert torch.equal(Unlikeliness(strength=0.0)(inputs), Grpo()(inputs))


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_unlikeliness_refuses_a_strength_that_turns_the_sign(strength: float) -> None:
    with pytest.raises(ValueError, match="strength"):
        Unlikeliness(strength=strength)


def test_empty_segments_have_sum_and_mean_zero() -> None:
    values, segment = torch.tensor([2.0, 4.0]), torch.tensor([2, 2])
    assert segment_sum(values, segment, 4).tolist() == [0, 0, 6, 0]
    assert segment_mean(values, segment, 4).tolist() == [0, 0, 3, 0]
