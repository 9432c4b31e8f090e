"""What differential smoothing is derived from (arXiv 2511.19942), on small discrete distributions.

A base policy b over outcomes, some of them correct (reward 1), the others not (reward 0). In NumPy,
by enumeration and numerical optimisation; the last part holds our own loss against it.
"""

from collections.abc import Callable
from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from asyncds.algo.advantages.ds_grpo import DsGrpo
from asyncds.algo.losses.base import Loss
from asyncds.algo.losses.cispo import Cispo
from asyncds.algo.losses.clip import Clip
from asyncds.algo.losses.dppo import Dppo
from asyncds.algo.losses.gspo import Gspo
from asyncds.algo.losses.reinforce import Reinforce
from asyncds.algo.objective import Objective, SequenceAdvantages
from tests.support.objectives import make_objective, table

Array = npt.NDArray[np.float64]


def normalised(weight: Array) -> Array:
    return weight / weight.sum()


def softmax(z: Array) -> Array:
    return normalised(np.exp(z - z.max()))


def kl(p: Array, q: Array) -> float:
    return float(np.sum(p * np.log(p / q)))


@st.composite
def problems(draw: st.DrawFn) -> tuple[Array, npt.NDArray[np.bool_]]:
    """b [n] and correct [n]; at least one outcome of each class."""
    n_correct, n_wrong = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    logits = st.lists(st.floats(-2, 2), min_size=n_correct + n_wrong, max_size=n_correct + n_wrong)
    return softmax(np.array(draw(logits))), np.arange(n_correct + n_wrong) < n_correct


def optimum(objective_gradient: Callable[[Array], Array], start: Array, beta: float) -> Array:
    """The maximum over distributions of a concave objective that contains −β Σ p log p.

    objective_gradient: of the unnormalised objective by p. In the logits a step of size η is a step
    of mirror ascent; η = 1/(2β) halves the distance to the optimum each time, where the log-probs
    enter with β.
    """
    z = np.log(start)
    for _ in range(200):
        p = softmax(z)
        z = np.log(p) + objective_gradient(p) / (2 * beta)
    return softmax(z)


# --- optima ---------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    problem=problems(),
    beta=st.floats(0.3, 3),
    gamma_p=st.floats(0, 0.25),
    gamma_n=st.floats(0, 0.25),
)
@pytest.mark.parametrize("reward", ["plain", "global bonus", "differential"])
def test_regularised_optima_in_closed_form(reward, problem, beta, gamma_p, gamma_n) -> None:  # type: ignore[no-untyped-def]
    """The maximum of E_π[r'] − β KL(π ‖ b) is b exp(r'/β), normalised.

    With log b in r', that is a power of b: one for all outcomes under the global bonus, below 1
    for the correct and above 1 for the incorrect ones under the differential reward.
    """
    b, correct = problem
    shift = {
        "plain": np.zeros_like(b),
        "global bonus": np.full_like(b, -gamma_p),
        "differential": np.where(correct, -gamma_p, gamma_n),
    }[reward]
    power = {
        "plain": np.ones_like(b),
        "global bonus": np.full_like(b, 1 - gamma_p / beta),
        "differential": np.where(correct, 1 - gamma_p / beta, 1 + gamma_n / beta),
    }[reward]
    closed = normalised(b**power * np.exp(correct / beta))

    def gradient(p: Array) -> Array:
        return correct + shift * np.log(b) - beta * (np.log(p / b) + 1)

    found = optimum(gradient, np.full_like(b, 1 / len(b)), beta)
    np.testing.assert_allclose(found, closed, atol=1e-9)

    def value(p: Array) -> float:
        return float(p @ (correct + shift * np.log(b))) - beta * kl(p, b)

    rng = np.random.default_rng(0)
    for _ in range(20):
        other = normalised(closed * np.exp(0.1 * rng.standard_normal(len(b))))
        assert value(other) <= value(closed) + 1e-12


@settings(deadline=None)
@given(problem=problems(), beta=st.floats(0.3, 3), gamma=st.floats(0.01, 0.25))
def test_the_differential_reward_smooths_the_correct_and_sharpens_the_rest(
    problem, beta, gamma
) -> None:  # type: ignore[no-untyped-def]
    b, correct = problem
    plain = normalised(b * np.exp(correct / beta))
    power = np.where(correct, 1 - gamma / beta, 1 + gamma / beta)
    smoothed = normalised(b**power * np.exp(correct / beta))

    def entropy(p: Array, of: npt.NDArray[np.bool_]) -> float:
        q = normalised(p[of])
        return -float(np.sum(q * np.log(q)))

    assert entropy(smoothed, correct) >= entropy(plain, correct) - 1e-12
    assert entropy(smoothed, ~correct) <= entropy(plain, ~correct) + 1e-12
    assert smoothed[correct].sum() >= plain[correct].sum() - 1e-12


@given(st.lists(st.floats(0.001, 0.999), min_size=2, max_size=6, unique=True), st.integers(1, 64))
def test_selection_bias_grows_with_the_probability(chances: list[float], n: int) -> None:
    """A correct answer can be reinforced only if one of n samples is it: 1 − (1 − b)^n, so that the
    likely ones are reinforced more often; the binomial is summed up here."""
    order = np.sort(chances)
    seen = 1 - (1 - order) ** n
    assert (np.diff(seen) >= 0).all()
    if n <= 8:
        for b, once in zip(order, seen, strict=True):
            draws = product([True, False], repeat=n)
            counted = sum(b ** sum(d) * (1 - b) ** (n - sum(d)) for d in draws if any(d))
            assert counted == pytest.approx(once)


# --- theorem 3.4 in miniature ---------------------------------------------------------------------


def with_mass(b: Array, correct: npt.NDArray[np.bool_], power: Array, mass: float) -> Array:
    """``b^power`` within each class, with the given mass on the correct one."""
    p = b**power
    return np.where(correct, mass * p / p[correct].sum(), (1 - mass) * p / p[~correct].sum())


def smallest_inverse_beta(b: Array, correct: npt.NDArray[np.bool_], a: float) -> float:
    """``log(Σ_I b^a / b(I))``: above it 1/β must be."""
    return float(np.log((b[~correct] ** a).sum() / b[~correct].sum()))


def differential_beta(
    b: Array, correct: npt.NDArray[np.bool_], a: float, mass: float
) -> float | None:
    """β of the differential reward (γ_n = 0) ∝ b^a e^{1/β} on correct, b on incorrect outcomes,
    whose mass on the correct ones is the given one; None where none is positive."""
    inverse = np.log(mass / (1 - mass) * b[~correct].sum() / (b[correct] ** a).sum())
    return 1 / float(inverse) if inverse > 0 else None


@settings(deadline=None)
@given(problem=problems(), a=st.floats(0.05, 0.95), excess=st.floats(1e-3, 5))
def test_the_differential_reward_needs_no_more_kl_than_the_global_bonus(problem, a, excess) -> None:  # type: ignore[no-untyped-def]
    """At equal mass on the correct outcomes, and equal proportions among them.

    The bonus is ∝ b^a e^{r/β}, a = 1 − γ/β. Its incorrect part moves away from b too, which the
    differential reward leaves at b: all the difference in KL is there.
    """
    b, correct = problem
    inverse_beta = smallest_inverse_beta(b, correct, a) + excess
    bonus = normalised(b**a * np.exp(correct * inverse_beta))
    mass = float(bonus[correct].sum())

    beta = differential_beta(b, correct, a, mass)
    assert beta is not None  # admissible: the same mass is reached by some β > 0
    differential = normalised(b ** np.where(correct, a, 1) * np.exp(correct / beta))
    np.testing.assert_allclose(differential[correct], bonus[correct], rtol=1e-9)
    assert kl(differential, b) <= kl(bonus, b) + 1e-12
    wrong = normalised(b[~correct])
    saved = (1 - mass) * kl(normalised(bonus[~correct]), wrong)
    assert kl(bonus, b) - kl(differential, b) == pytest.approx(saved, abs=1e-9)


def test_outside_its_condition_theorem_3_4_has_no_differential_reward() -> None:
    """A large β and many unlikely incorrect outcomes: the bonus moves mass away from the correct
    one, which no positive reward for it can do."""
    b = np.array([0.9, *[0.1 / 20] * 20])
    correct = np.arange(21) < 1
    a = 0.5
    bound = smallest_inverse_beta(b, correct, a)
    assert bound > 2
    for inverse_beta, admissible in ((0.99 * bound, False), (1.01 * bound, True)):
        bonus = normalised(b**a * np.exp(correct * inverse_beta))
        beta = differential_beta(b, correct, a, float(bonus[correct].sum()))
        assert (beta is not None) == admissible


# --- delay ----------------------------------------------------------------------------------------


def settles(gain: float, delay: int) -> bool:
    """Whether x_{t+1} = x_t − g x_{t−d} dies out: the largest root of z^{d+1} = z^d − g is within
    the unit circle; and so it does when it is run."""
    polynomial = np.zeros(delay + 2)
    polynomial[0] = 1
    polynomial[1] -= 1
    polynomial[-1] += gain
    stable = bool(np.abs(np.roots(polynomial)).max() < 1)
    x = [1.0] * (delay + 1)
    for _ in range(4000 * (delay + 1)):
        x.append(x[-1] - gain * x[-1 - delay])
    first, last = (
        np.abs(x[delay + 1 : 20 * (delay + 1)]).max(),
        np.abs(x[-20 * (delay + 1) :]).max(),
    )
    assert (last < first) == stable
    return stable


@pytest.mark.parametrize(
    ("delay", "bound"), [(0, 2.0), (1, 1.0), (2, 0.618), (4, 0.347), (8, 0.185)]
)
def test_a_delayed_feedback_is_stable_below_its_bound_only(delay: int, bound: float) -> None:
    """A shift from a policy d versions old pulls a log-prob back by g times what it was then."""
    exact = 2 * np.sin(np.pi / (2 * (2 * delay + 1)))
    assert exact == pytest.approx(bound, abs=5e-4)
    assert settles(0.99 * exact, delay)
    assert not settles(1.01 * exact, delay)


# --- our loss -------------------------------------------------------------------------------------

LOSSES: list[Loss] = [Clip(), Clip(ratio="proximal"), Cispo(), Gspo(), Dppo(), Reinforce()]


def expected_gradient(
    z: torch.Tensor, correct: npt.NDArray[np.bool_], objective: Objective, base: torch.Tensor
) -> torch.Tensor:
    """Of the loss on one-token answers, exactly: one sequence for each outcome, weighted by its
    probability. base [n] float64: the advantage of the reward."""
    ones = np.ones(len(z))
    coefficient = torch.tensor(
        objective.config.advantage.token_coefficient(table(reward=ones, correct=correct))
    )
    log_p = z.log_softmax(0)
    n, p = len(z), log_p.detach().exp()
    sequences = SequenceAdvantages(
        base=base,
        shift=torch.zeros(n),
        coefficient=coefficient,
        correct=torch.tensor(correct),
        weight=p,
        policy_weight=p,
        entropy_weight=torch.zeros(n),
    )
    loss, _ = objective.loss(
        sequences=sequences,
        sequence=torch.arange(n),
        current=log_p,
        behaviour=log_p.detach(),
    )
    return torch.autograd.grad(loss, z)[0]


@pytest.mark.parametrize("policy_loss", LOSSES, ids=str)
@settings(deadline=None, max_examples=20)
@given(problem=problems(), gamma_p=st.floats(0, 1), gamma_n=st.floats(0, 1))
def test_ds_grpo_descends_the_regularised_objective(policy_loss, problem, gamma_p, gamma_n) -> None:  # type: ignore[no-untyped-def]
    """On a bandit the token form's expected gradient is that of ``E[r] + γ_p J_correct − γ_n
    J_incorrect``, with ``J_K = −Σ_K p log p + Σ_K p``, differentiated numerically.

    E[−log p ∇log p] over the outcomes of a class K is −Σ_K log p ∇p = ∇J_K: the entropy of the
    class and its mass. Where all outcomes are of one class that mass is constant, and ∇H is left.
    """
    p, correct = problem
    z = torch.tensor(np.log(p), requires_grad=True)
    objective = make_objective(
        advantage=DsGrpo(scale="none", gamma_p=gamma_p, gamma_n=gamma_n),
        loss=policy_loss,
    )
    base = torch.tensor(correct - p[correct].sum())
    gradient = expected_gradient(z, correct, objective, base).numpy()

    def value(logits: Array) -> float:
        q = softmax(logits)
        h = q - q * np.log(q)
        return float(q[correct].sum() + gamma_p * h[correct].sum() - gamma_n * h[~correct].sum())

    step, numerical = 1e-5, np.zeros_like(p)
    for i in range(len(p)):
        e = step * (np.arange(len(p)) == i)
        numerical[i] = (value(np.log(p) + e) - value(np.log(p) - e)) / (2 * step)
    np.testing.assert_allclose(-gradient, numerical, atol=1e-6)


@settings(deadline=None, max_examples=20)
@given(problem=problems(), gamma=st.floats(0.05, 0.25), beta=st.floats(0.3, 2))
def test_the_differential_optimum_is_stationary_under_our_gradient(problem, gamma, beta) -> None:  # type: ignore[no-untyped-def]
    """With the shift taken from the base policy, and β KL(π ‖ b) from the reward, the expected
    gradient is zero at the closed form, and isn't at the base policy."""
    b, correct = problem
    power = np.where(correct, 1 - gamma / beta, 1 + gamma / beta)
    p = normalised(b**power * np.exp(correct / beta))
    ds = DsGrpo(gamma_p=gamma, gamma_n=gamma)
    shift = ds.token_coefficient(table(reward=correct, correct=correct)) * np.log(b)
    objective = make_objective(loss=Reinforce())

    def residual(q: Array) -> float:
        z = torch.tensor(np.log(q), requires_grad=True)
        reward = torch.tensor(correct + shift - beta * np.log(q / b))
        return float(expected_gradient(z, correct, objective, reward).abs().max())

    assert residual(p) < 1e-9
    assume(np.abs(p - b).max() > 1e-3)
    assert residual(b) > 1e-6
