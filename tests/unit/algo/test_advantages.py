import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from asyncds.algo.advantages.base import Sequences
from asyncds.algo.advantages.ds_grpo import DsGrpo
from asyncds.algo.advantages.grpo import Grpo
from asyncds.algo.advantages.unlikeliness import Unlikeliness
from asyncds.algo.segments import segment_mean, segment_sum
from tests.support.objectives import make_objective, table

FORMS = ["token", "seq_mean", "seq_sum", "reward_mean"]


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
    ours = Grpo(scale=scale, baseline=baseline)(table(reward=reward, group=group))
    expected = reference_grpo(reward.astype(np.float64), group, scale, baseline)
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0, 1e6])
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize("baseline", ["mean", "leave_one_out"])
def test_equal_rewards_give_no_advantage(value: float, size: int, baseline: str) -> None:
    advantage = Grpo(baseline=baseline)(table(reward=np.full(size, value)))  # type: ignore[arg-type]
    assert not advantage.any()


@settings(deadline=None)
@given(st.permutations(range(12)))
def test_grpo_follows_a_permutation_of_the_sequences(order: list[int]) -> None:
    reward, group = np.random.default_rng(0).random(12), np.arange(12) % 3
    permuted = Grpo()(table(reward=reward[order], group=group[order]))
    np.testing.assert_allclose(Grpo()(table(reward=reward, group=group))[order], permuted)


# --- differential smoothing -----------------------------------------------------------------------


def token_shift(
    ds: DsGrpo, logprob: list[float], sequence: list[int], correct: list[bool]
) -> torch.Tensor:
    """What the objective adds to the advantage of each token, where rewards give none."""
    objective = make_objective(advantage=ds, loss={"kind": "reinforce"})
    current = torch.tensor(logprob, dtype=torch.float64).requires_grad_()
    n = len(correct)
    sequences = objective.sequence_advantages(
        table(
            reward=np.zeros(n),
            correct=correct,
            group=np.arange(n),
            length=np.bincount(sequence, minlength=n),
        ),
        proximal_logprob_sum=np.zeros(n),
    )
    loss, _ = objective.loss(
        sequences=sequences,
        sequence=torch.tensor(sequence, dtype=torch.int64),
        current=current,
        behaviour=current.detach(),
        proximal=current.detach(),
    )
    # A policy gradient: what a token's log-prob is multiplied by is its advantage.
    return -torch.autograd.grad(loss, current)[0]


def test_shifts_by_hand() -> None:
    # Sequence 0 is correct and has two tokens, 1 is incorrect and has three, 2 is empty.
    logprob = [-1.0, -3.0, -2.0, -4.0, -6.0]
    correct = [True, False, True]

    def shift(form: str) -> list[float]:
        scale = "none" if form == "reward_mean" else "std"
        ds = DsGrpo(gamma_p=0.5, gamma_n=0.25, form=form, scale=scale)  # type: ignore[arg-type]
        return token_shift(ds, logprob, [0, 0, 1, 1, 1], correct).tolist()

    assert shift("token") == [0.5, 1.5, -0.5, -1.0, -1.5]
    assert shift("seq_mean") == [1.0, 1.0, -1.0, -1.0, -1.0]
    assert shift("seq_sum") == [2.0, 2.0, -3.0, -3.0, -3.0]
    assert shift("reward_mean") == [0.0] * 5
    ds = DsGrpo(gamma_p=0.5, gamma_n=0.25, form="reward_mean", scale="none")
    shifted = ds.sequence_shift(
        table(reward=np.zeros(3), correct=correct, length=[2, 3, 0], logprob_sum=[-4, -12, 0])
    )
    assert shifted.tolist() == [1.0, -1.0, 0.0]  # their mean is 0


@pytest.mark.parametrize("form", FORMS)
def test_only_reward_mean_shifts_rewards_and_all_others_shift_tokens(form: str) -> None:
    scale = "none" if form == "reward_mean" else "std"
    ds = DsGrpo(gamma_p=1.0, gamma_n=1.0, form=form, scale=scale)  # type: ignore[arg-type]
    pair = table(reward=[1, 1], logprob_sum=[-1, -3])
    assert (ds.sequence_shift(pair).any(), ds.token_coefficient(pair).any()) == (
        (True, False) if form == "reward_mean" else (False, True)
    )
    assert (ds.sequence_policy, ds.token_policy) == (
        ("proximal", None) if form == "reward_mean" else (None, "proximal")
    )


@pytest.mark.parametrize("form", FORMS[:3])
@settings(deadline=None)
@given(logprob=st.lists(st.floats(-50, 0, width=32), min_size=1, max_size=20), right=st.booleans())
def test_the_sign_is_never_against_the_class(form, logprob, right) -> None:  # type: ignore[no-untyped-def]
    ds = DsGrpo(gamma_p=0.03, gamma_n=0.01, form=form)
    shift = token_shift(ds, logprob, [0] * len(logprob), [right])
    assert (shift >= 0).all() if right else (shift <= 0).all()


def test_ds_positive_and_ds_negative_leave_the_other_class_alone() -> None:
    positive, negative = DsGrpo(gamma_p=1.0, gamma_n=0.0), DsGrpo(gamma_p=0.0, gamma_n=1.0)
    assert token_shift(positive, [-1.0, -2.0], [0, 1], [True, False]).tolist() == [1.0, 0.0]
    assert token_shift(negative, [-1.0, -2.0], [0, 1], [True, False]).tolist() == [0.0, -2.0]


@pytest.mark.parametrize("gamma", [-0.1, float("nan")])
def test_a_gamma_below_zero_is_refused(gamma: float) -> None:
    for name in ("gamma_p", "gamma_n"):
        with pytest.raises(ValidationError, match=name):
            DsGrpo(**{name: gamma})


def test_class_weights_multiply_the_advantage_of_the_reward_and_not_the_shift() -> None:
    rewards = table(reward=[1, 0, 0, 0], logprob_sum=[-1, -2, -3, -4])
    plain = make_objective(advantage=DsGrpo()).sequence_advantages(rewards)
    weights = {"correct": 0.5, "incorrect": 0}
    weighted = make_objective(advantage=DsGrpo(), class_weights=weights)
    result = weighted.sequence_advantages(rewards)
    factor = torch.tensor([0.5, 0, 0, 0])
    assert torch.equal(result.base, plain.base * factor)
    assert torch.equal(result.coefficient, plain.coefficient)
    only_right = weighted.config.class_weights(rewards.correct)
    assert Grpo().signal(rewards, weight=only_right).tolist() == [True, False, False, False]


# --- unlikeliness ---------------------------------------------------------------------------------

SEQUENCES = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.1, 1.0]),
        st.sampled_from([-3.0, -1.0, -0.5, 0.0]),
        st.integers(0, 2),
    ),
    max_size=20,
)


def sequences(rows: list[tuple[float, float, int]]) -> Sequences:
    """Reward, mean log-prob and group of each."""
    return table(
        reward=[r for r, _, _ in rows],
        logprob_sum=[x for _, x, _ in rows],
        group=[g for _, _, g in rows],
    )


@settings(deadline=None)
@given(rows=SEQUENCES)
def test_a_rank_counts_the_smaller_and_half_of_the_equal_others(rows) -> None:  # type: ignore[no-untyped-def]
    inputs = sequences(rows)
    expected = [
        sum((y < x) + 0.5 * (y == x) for _, y, h in rows if h == g) - 0.5 for _, x, g in rows
    ]
    assert inputs.rank(inputs.mean_logprob).tolist() == expected


@pytest.mark.parametrize("scale", ["std", "none"])
@pytest.mark.parametrize("baseline", ["mean", "leave_one_out"])
@settings(deadline=None)
@given(rows=SEQUENCES)
def test_unlikeliness_equals_the_formula(scale, baseline, rows) -> None:  # type: ignore[no-untyped-def]
    reward, group = np.array([r for r, _, _ in rows]), np.array([g for _, _, g in rows])
    for i, (r, x, g) in enumerate(rows):
        mates = [y for _, y, h in rows if h == g]
        rank = sum(y < x for y in mates) + (sum(y == x for y in mates) - 1) / 2
        if r == 1:  # correct
            reward[i] = r * (1 - 0.4 * rank / len(mates))
    ours = Unlikeliness(strength=0.4, scale=scale, baseline=baseline)(sequences(rows))
    expected = reference_grpo(reward, group, scale, baseline)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


def test_unlikeliness_by_hand() -> None:
    """All correct: the least likely is worth 1, the next 3/4, the likeliest 1/2; mean 3/4."""
    rows = [(1.0, -1.0, 0), (1.0, -3.0, 0), (1.0, -2.0, 0)]
    ours = Unlikeliness(strength=0.75, scale="none")(sequences(rows))
    assert ours.tolist() == [-0.25, 0.25, 0.0]


def test_unlikeliness_leaves_the_reward_of_wrong_answers_alone() -> None:
    """A group that is all wrong and well-formed teaches nothing; beside correct ones 0.1 stays."""
    wrong = sequences([(0.1, -1.0, 0), (0.1, -3.0, 0), (0.1, -2.0, 0)])
    assert not Unlikeliness(strength=1.0)(wrong).any()
    mixed = Unlikeliness(strength=0.5, scale="none")(sequences([(1.0, -3.0, 0), (0.1, -1.0, 0)]))
    np.testing.assert_allclose(mixed, [0.45, -0.45])


def test_the_sample_std_divides_by_one_less() -> None:
    reward = np.array([1.0, 0, 0, 0, 0.1, 1])
    ours = Grpo(std="sample")(table(reward=reward))
    np.testing.assert_allclose(ours, (reward - reward.mean()) / (reward.std(ddof=1) + 1e-6))
    assert Grpo(std="sample")(table(reward=[1.0])).tolist() == [0.0]


def test_unlikeliness_of_no_strength_is_grpo() -> None:
    inputs = sequences([(1.0, -1.0, 0), (0.1, -3.0, 0), (1.0, -2.0, 1), (0.0, -2.0, 1)])
    np.testing.assert_array_equal(Unlikeliness(strength=0.0)(inputs), Grpo()(inputs))


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_unlikeliness_refuses_a_strength_that_turns_the_sign(strength: float) -> None:
    with pytest.raises(ValidationError, match="strength"):
        Unlikeliness(strength=strength)


def test_empty_segments_have_sum_and_mean_zero() -> None:
    values, segment = torch.tensor([2.0, 4.0]), torch.tensor([2, 2])
    assert segment_sum(values, segment, 4).tolist() == [0, 0, 6, 0]
    assert segment_mean(values, segment, 4).tolist() == [0, 0, 3, 0]
