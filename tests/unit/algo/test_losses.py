import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from asyncds.algo.corrections.base import TokenWeights
from asyncds.algo.corrections.none import NoCorrection
from asyncds.algo.corrections.tis import Tis
from asyncds.algo.kl import KL_ESTIMATORS, KlPenalty, k1, k2, k3
from asyncds.algo.losses.base import Loss, LossInputs
from asyncds.algo.losses.cispo import Cispo
from asyncds.algo.losses.clip import Clip
from asyncds.algo.losses.dppo import Dppo
from asyncds.algo.losses.gspo import Gspo
from asyncds.algo.losses.reinforce import Reinforce
from asyncds.algo.sums import Sums

RATIOS = [0.0, 1e-30, 0.3, 0.79, 0.81, 1.0, 1.27, 1.29, 2.9, 3.1, 50.0, math.inf]
ADVANTAGES = [-2.0, -1e-3, 0.0, 1e-3, 2.0]


def reference_clip(a: float, rho: float, low: float, high: float, dual: float | None) -> float:
    """PPO's objective as published (a maximised minimum), negated; then the dual clip's maximum."""
    rho = min(max(rho, math.exp(-20)), math.exp(20))
    objective = min(a * rho, a * min(max(rho, 1 - low), 1 + high))
    if dual is not None and a < 0:
        objective = max(objective, dual * a)
    return -objective


def evaluate(loss: Loss, log_ratio: torch.Tensor, advantage: torch.Tensor):  # type: ignore[no-untyped-def]
    return loss(inputs_of(log_ratio, log_ratio, advantage))


def inputs_of(
    logprob: torch.Tensor,
    log_ratio: torch.Tensor,
    advantage: torch.Tensor,
    sequence: torch.Tensor | None = None,
) -> LossInputs:
    """Every token a sequence of its own, unless told otherwise."""
    if sequence is None:
        sequence = torch.arange(len(logprob))
    return LossInputs(logprob=logprob, log_ratio=log_ratio, advantage=advantage, sequence=sequence)


@pytest.mark.parametrize("dual", [None, 3.0])
@pytest.mark.parametrize(("low", "high"), [(0.2, 0.28), (0.0, 0.0), (1.0, 4.0)])
def test_clip_equals_the_formula_on_a_grid(low: float, high: float, dual: float | None) -> None:
    grid = list(itertools.product(ADVANTAGES, RATIOS))
    advantage = torch.tensor([a for a, _ in grid], dtype=torch.float64)
    log_ratio = torch.tensor([rho for _, rho in grid], dtype=torch.float64).log()
    out = evaluate(Clip(low=low, high=high, dual=dual), log_ratio, advantage)
    expected = [reference_clip(a, rho, low, high, dual) for a, rho in grid]
    torch.testing.assert_close(out.loss, torch.tensor(expected, dtype=torch.float64))
    assert torch.isfinite(out.loss).all()


def test_clipped_are_exactly_the_tokens_without_gradient() -> None:
    grid = [(a, r) for a in (-2.0, 2.0) for r in RATIOS if 1e-8 < r < math.inf]
    advantage = torch.tensor([a for a, _ in grid], dtype=torch.float64)
    log_ratio = torch.tensor([r for _, r in grid], dtype=torch.float64).log().requires_grad_()
    out = evaluate(Clip(), log_ratio, advantage)
    out.loss.sum().backward()
    assert out.clipped.any()
    assert torch.equal(out.clipped, log_ratio.grad == 0)


@pytest.mark.parametrize("loss", [Clip(), Clip(dual=None), Reinforce()])
def test_gradient_by_finite_differences(loss: Loss) -> None:
    ratios = [0.3, 0.75, 0.9, 1.0, 1.1, 1.5, 2.5, 5.0]  # away from the kinks
    x = torch.tensor(ratios, dtype=torch.float64).log().requires_grad_()
    for a in (-1.5, 0.5):
        advantage = torch.full_like(x, a)
        assert torch.autograd.gradcheck(lambda y: evaluate(loss, y, advantage).loss, x)  # noqa: B023


def test_reinforce_is_minus_advantage_times_logprob() -> None:
    inputs = inputs_of(
        torch.tensor([-1.0, -2.0]), torch.tensor([9.0, 9.0]), torch.tensor([0.5, -3.0])
    )
    out = Reinforce()(inputs)
    assert out.loss.tolist() == [0.5, -6.0]
    assert not out.clipped.any()


@pytest.mark.parametrize(
    "options",
    [{"low": -0.1}, {"low": 1.1}, {"high": -0.1}, {"dual": 1.0}],
)
def test_clip_refuses_a_range_without_1(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Clip(**options)


# --- cispo, gspo, dppo ----------------------------------------------------------------------------


@pytest.fixture
def tokens() -> dict[str, torch.Tensor]:
    """Four sequences, of 3, 1, 5 and 2 tokens, with one advantage each."""
    generator = torch.Generator().manual_seed(2)
    sequence = torch.tensor([0] * 3 + [1] + [2] * 5 + [3] * 2)
    logprob = -torch.rand(11, generator=generator, dtype=torch.float64) * 2 - 0.05
    drift = torch.randn(11, generator=generator, dtype=torch.float64)
    return {
        "logprob": logprob.requires_grad_(),
        "other": logprob.detach() - drift,
        "advantage": torch.tensor([1.0, -2.0, -0.5, 0.7], dtype=torch.float64)[sequence],
        "sequence": sequence,
    }


def token_inputs(tokens: dict[str, torch.Tensor]) -> LossInputs:
    return inputs_of(
        tokens["logprob"],
        tokens["logprob"] - tokens["other"],
        tokens["advantage"],
        tokens["sequence"],
    )


def gradient_of(loss: torch.Tensor, tokens: dict[str, torch.Tensor]) -> np.ndarray:
    return torch.autograd.grad(loss.sum(), tokens["logprob"])[0].numpy()


def test_cispo_is_the_policy_gradient_by_the_truncated_ratio(
    tokens: dict[str, torch.Tensor],
) -> None:
    out = Cispo(cap=1.5)(token_inputs(tokens))
    logprob, other = (tokens[name].detach().numpy() for name in ("logprob", "other"))
    a = tokens["advantage"].numpy()
    rho = np.exp(logprob - other)
    weight = np.minimum(rho, 1.5)
    np.testing.assert_allclose(out.loss.detach(), -weight * a * logprob)
    np.testing.assert_allclose(gradient_of(out.loss, tokens), -weight * a)
    assert out.clipped.tolist() == (rho > 1.5).tolist()
    assert 0 < out.clipped.sum() < 11


@pytest.mark.parametrize(("low", "high"), [(3e-4, 4e-4), (0.1, 0.3), (0.5, 2.0)])
def test_gspo_is_the_clip_of_each_sequence(
    tokens: dict[str, torch.Tensor], low: float, high: float
) -> None:
    """Loss and gradient of |y_i| × the sequence's loss, the gradient by finite differences."""
    out = Gspo(low=low, high=high)(token_inputs(tokens))
    other, a = tokens["other"].numpy(), tokens["advantage"].numpy()
    sequence = tokens["sequence"].numpy()

    def reference(logprob: np.ndarray) -> np.ndarray:
        """Per sequence, as the paper writes it."""
        losses = []
        for i in range(4):
            mine = sequence == i
            s = np.exp((logprob[mine] - other[mine]).mean())
            mean_advantage = a[mine][0]
            gain = min(s * mean_advantage, np.clip(s, 1 - low, 1 + high) * mean_advantage)
            losses.append(-gain * mine.sum())
        return np.array(losses)

    logprob = tokens["logprob"].detach().numpy()
    ours = np.bincount(sequence, weights=out.loss.detach().numpy())
    np.testing.assert_allclose(ours, reference(logprob), rtol=1e-12)
    step = 1e-7
    numeric = [
        (reference(logprob + step * e).sum() - reference(logprob - step * e).sum()) / (2 * step)
        for e in np.eye(11)
    ]
    gradient = gradient_of(out.loss, tokens)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-7)
    assert out.clipped.tolist() == [g == 0 for g in gradient]


def test_gspo_lets_tokens_have_advantages_of_their_own(tokens: dict[str, torch.Tensor]) -> None:
    tokens["advantage"] = torch.linspace(-1, 1, 11, dtype=torch.float64)
    out = Gspo(low=1.0, high=1e9)(token_inputs(tokens))
    logprob, other = (tokens[name].detach().numpy() for name in ("logprob", "other"))
    sequence = tokens["sequence"].numpy()
    s = np.array([np.exp((logprob - other)[sequence == i].mean()) for i in sequence])
    expected = -s * tokens["advantage"].numpy()
    np.testing.assert_allclose(gradient_of(out.loss, tokens), expected)


def test_dppo_equals_the_formula_token_by_token() -> None:
    """On a grid of probabilities, by numbers in and numbers out; the gradient too."""
    grid = list(itertools.product([-1.5, 0.0, 0.5], [0.01, 0.3, 0.9], [0.002, 0.15, 0.45, 0.75]))
    a = torch.tensor([x for x, _, _ in grid], dtype=torch.float64)
    logprob = torch.tensor([p for _, p, _ in grid], dtype=torch.float64).log().requires_grad_()
    log_mu = torch.tensor([m for _, _, m in grid], dtype=torch.float64).log()
    loss = Dppo(bound=0.2, cap=4.0, penalty=0.01)
    out = loss(inputs_of(logprob, logprob - log_mu, a))
    (gradient,) = torch.autograd.grad(out.loss.sum(), logprob)
    for t, (advantage, p, mu) in enumerate(grid):
        far = (advantage > 0 and p - mu > 0.2) or (advantage < 0 and p - mu < -0.2)
        rho = p / mu
        weight = 0 if far else min(rho, 4.0)
        expected = 0.01 * math.log(rho) ** 2 - weight * advantage * math.log(p)
        assert out.loss[t].item() == pytest.approx(expected)
        slope = 0.02 * math.log(rho) - weight * advantage
        assert gradient[t].item() == pytest.approx(slope), "a capped token keeps its gradient"
        assert out.clipped[t].item() == far
    assert 0 < out.clipped.sum() < len(grid)


@pytest.mark.parametrize("loss", [Cispo(), Gspo(), Dppo()], ids=str)
def test_every_loss_is_the_policy_gradient_on_policy(
    loss: Loss, tokens: dict[str, torch.Tensor]
) -> None:
    tokens["other"] = tokens["logprob"].detach()
    out = loss(token_inputs(tokens))
    np.testing.assert_allclose(gradient_of(out.loss, tokens), -tokens["advantage"])
    assert not out.clipped.any()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Cispo, {"cap": 0.9}),
        (Gspo, {"low": -0.1}),
        (Gspo, {"high": -0.1}),
        (Dppo, {"bound": 0.0}),
        (Dppo, {"bound": 1.5}),
        (Dppo, {"cap": 0.5}),
        (Dppo, {"penalty": -1.0}),
    ],
)
def test_options_that_make_no_sense_are_refused(kind: Any, options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        kind(**options)


# --- corrections, kl, sums ------------------------------------------------------------------------


def test_tis_truncates_from_above_only_and_is_a_constant() -> None:
    w = torch.tensor([1e-12, 0.5, 1.0, 1.99, 2.01, 1e12], dtype=torch.float64)
    log_mu = torch.full_like(w, -30.0)
    log_old = (log_mu + w.log()).requires_grad_()
    weights = Tis(cap=2.0)(log_mu, log_old, torch.zeros(6, dtype=torch.int64))
    expected = torch.tensor([math.exp(-20), 0.5, 1.0, 1.99, 2.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(weights.weight, expected)
    assert weights.truncated.tolist() == [False, False, False, False, True, True]
    assert weights.keep.all()
    assert not weights.weight.requires_grad
    with pytest.raises(ValueError, match="cap"):
        Tis(cap=0.9)


def test_no_correction_changes_nothing() -> None:
    log_mu = torch.tensor([-1.0, -2.0])
    weights = NoCorrection()(log_mu, log_mu - 3, torch.tensor([0, 1]))
    loss = torch.tensor([0.7, -0.1])
    assert torch.equal(weights.apply(loss), loss)
    assert not weights.truncated.any()


def test_a_token_that_is_not_kept_contributes_nothing_whatever_its_loss() -> None:
    weights = TokenWeights(
        weight=torch.tensor([0.5, 1.0]),
        keep=torch.tensor([True, False]),
        truncated=torch.tensor([False, False]),
    )
    assert weights.apply(torch.tensor([3.0, torch.inf])).tolist() == [1.5, 0.0]


def test_kl_estimators_by_hand_and_at_the_bounds() -> None:
    log_p = torch.tensor([-1.0, -1.0, -1.0], dtype=torch.float64)
    log_q = torch.tensor([-1.0, -2.0, -0.5], dtype=torch.float64)
    torch.testing.assert_close(k1(log_p, log_q), log_p - log_q)
    torch.testing.assert_close(k2(log_p, log_q), (log_p - log_q) ** 2 / 2)
    torch.testing.assert_close(k3(log_p, log_q), (log_q - log_p).exp() - (log_q - log_p) - 1)
    for estimator in KL_ESTIMATORS.values():
        extremes = estimator(torch.tensor([-1e6, 0.0]), torch.tensor([0.0, -1e6]))
        assert torch.isfinite(extremes).all()


@pytest.mark.parametrize("reverse", [False, True])
def test_expected_values_and_gradients_of_the_kl_estimators(reverse: bool) -> None:
    """By enumeration on a softmax: k1 and k3 average to KL(p ‖ q); k1's gradient averages to
    nothing, k2's to that of KL(p ‖ q), k3's to that of KL(q ‖ p)."""
    generator = torch.Generator().manual_seed(int(reverse))
    z = torch.randn(6, generator=generator, dtype=torch.float64, requires_grad=True)
    log_p = z.log_softmax(0)
    log_q = torch.randn(6, generator=generator, dtype=torch.float64).log_softmax(0)
    p = log_p.exp().detach()
    forward = (log_p.exp() * (log_p - log_q)).sum()
    backward = (log_q.exp() * (log_q - log_p)).sum()

    def gradient(x: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(x, z, retain_graph=True)[0]

    mean = {name: (p * estimator(log_p, log_q)).sum() for name, estimator in KL_ESTIMATORS.items()}
    torch.testing.assert_close(mean["k1"], forward)
    torch.testing.assert_close(mean["k3"], forward)
    torch.testing.assert_close(gradient(mean["k1"]), torch.zeros(6, dtype=torch.float64))
    torch.testing.assert_close(gradient(mean["k2"]), gradient(forward))
    torch.testing.assert_close(gradient(mean["k3"]), gradient(backward))


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_a_token_far_off_counts_up_to_the_bound(estimator: str) -> None:
    """14 nats: k3 is a million there, with a gradient of that size."""
    log_p = torch.tensor([-15.0, -1.0], dtype=torch.float64, requires_grad=True)
    log_q = torch.tensor([-1.0, -1.5], dtype=torch.float64)
    unbounded = KL_ESTIMATORS[estimator](log_p, log_q)  # type: ignore[index]
    bounded = KlPenalty(estimator=estimator)(log_p, log_q)  # type: ignore[arg-type]
    assert abs(unbounded[0]) > abs(bounded[0]) == 10
    assert bounded[1] == unbounded[1]
    (gradient,) = torch.autograd.grad(bounded.sum(), log_p)
    assert gradient[0] == 0
    assert gradient[1] != 0
    free = KlPenalty(estimator=estimator, max_per_token=None)  # type: ignore[arg-type]
    assert torch.equal(free(log_p, log_q), unbounded)


def test_cispo_has_a_floor_if_one_is_set(tokens: dict[str, torch.Tensor]) -> None:
    out = Cispo(cap=1.5, floor=0.8)(token_inputs(tokens))
    rho = np.exp((tokens["logprob"] - tokens["other"]).detach().numpy())
    weight = np.clip(rho, 0.8, 1.5)
    np.testing.assert_allclose(gradient_of(out.loss, tokens), -weight * tokens["advantage"].numpy())
    assert out.clipped.tolist() == (weight != rho).tolist()


def test_sums_add_then_divide() -> None:
    a = Sums.of({"x": torch.tensor([1.0, 2.0]), "hit": torch.tensor([True, False, True])})
    b = Sums.of({"x": torch.tensor([6.0]), "hit": torch.tensor([], dtype=torch.bool)})
    assert a.table.tolist() == [[3.0, 2.0], [2.0, 3.0]]
    assert (a + b).means() == {"x": 3.0, "hit": pytest.approx(2 / 3)}
    assert b.means() == {"x": 6.0, "hit": 0.0}
    with pytest.raises(ValueError, match="different"):
        a + Sums.of({"y": torch.tensor([1.0])})
