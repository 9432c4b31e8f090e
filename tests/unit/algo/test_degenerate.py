"""Every allowed combination: its gradient by finite differences, and inputs at their limits.

The limits are tried in float32, as the learner runs.
"""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from asyncds.algo.advantages.base import Advantage
from asyncds.algo.advantages.best_of_group import BestOfGroup
from asyncds.algo.advantages.ds_grpo import DsGrpo
from asyncds.algo.advantages.gr_pkpo import GrPkpo
from asyncds.algo.advantages.grpo import Grpo
from asyncds.algo.advantages.pkpo import Pkpo
from asyncds.algo.advantages.unlikeliness import Unlikeliness
from asyncds.algo.aggregation import Aggregation, ConstantLength, SequenceMean, TokenMean
from asyncds.algo.corrections.base import Correction
from asyncds.algo.corrections.geometric_mask import GeometricMask
from asyncds.algo.corrections.icepop import IcePop
from asyncds.algo.corrections.none import NoCorrection
from asyncds.algo.corrections.sequence import SequenceTis
from asyncds.algo.corrections.sequence_mask import SequenceMask
from asyncds.algo.corrections.tis import Tis
from asyncds.algo.diagnostics import summarise
from asyncds.algo.entropy import DifferentialEntropy
from asyncds.algo.kl import KL_ESTIMATORS
from asyncds.algo.losses.base import Loss
from asyncds.algo.losses.cispo import Cispo
from asyncds.algo.losses.clip import Clip
from asyncds.algo.losses.dppo import Dppo
from asyncds.algo.losses.gspo import Gspo
from asyncds.algo.losses.reinforce import Reinforce
from asyncds.algo.objective import Objective, SequenceAdvantages
from tests.support.objectives import make_objective, table

LOSSES: list[Loss] = [
    Clip(),
    Clip(dual=None),
    Cispo(cap=1.2),
    Gspo(low=0.02, high=0.03),
    Dppo(bound=0.1, cap=1.2),
    Reinforce(),
]
CORRECTIONS: list[Correction] = [
    NoCorrection(),
    Tis(cap=1.1),
    IcePop(low=0.7, high=1.4),
    SequenceTis(cap=1.5),
    GeometricMask(low=0.9, high=1.1),
    SequenceMask(low=0.6, high=1.8),
]
AGGREGATIONS: list[Aggregation] = [TokenMean(), SequenceMean(), ConstantLength(tokens=7)]
ENTROPY = DifferentialEntropy(correct=0.3, incorrect=0.1)
SHAPINGS: dict[str, Advantage] = {
    "grpo": Grpo(),
    "grpo-leave_one_out": Grpo(baseline="leave_one_out"),
    "unlikeliness": Unlikeliness(),
    "pkpo": Pkpo(k=4),
    "pkpo-none": Pkpo(k=4, baseline="none"),
    "gr_pkpo": GrPkpo(k=4),
    "best_of_group": BestOfGroup(),
    **{
        f"ds-{form}": DsGrpo(gamma_p=0.3, gamma_n=0.1, scale="none", form=form)  # type: ignore[arg-type]
        for form in ("token", "seq_mean", "seq_sum", "reward_mean")
    },
}


def allowed(
    policy_loss: Loss, correction: Correction, ratio: str, aggregation: Aggregation
) -> Objective | None:
    """None where the configuration refuses it, or the loss has no such ratio."""
    options = policy_loss.model_dump()
    if "ratio" in options:
        options["ratio"] = ratio
    elif ratio != (policy_loss.against or "proximal"):
        return None
    try:
        return make_objective(
            advantage=DsGrpo(gamma_p=0.3, gamma_n=0.1),
            loss=options,
            correction=correction,
            aggregation=aggregation,
            kl={"coef": 0.1},
            entropy_coef=0.02,
            differential_entropy=ENTROPY,
            updates_per_batch=2,
        )
    except ValueError:
        return None


OBJECTIVES = {
    "-".join([*(type(part).__name__ for part in (loss, correction, aggregation)), ratio])
    + ("-plain" if loss == Clip(dual=None) else ""): objective
    for loss, correction, ratio, aggregation in itertools.product(
        LOSSES, CORRECTIONS, ["behaviour", "proximal"], AGGREGATIONS
    )
    if (objective := allowed(loss, correction, ratio, aggregation)) is not None
}


def same(one: Loss, other: Loss) -> bool:
    """But for the ratio."""
    return one.model_dump(exclude={"ratio"}) == other.model_dump(exclude={"ratio"})


def test_what_is_refused() -> None:
    """Five losses against μ (reinforce has no ratio), without a correction; five against π_old
    (dppo is against μ), with each of them."""
    assert len(OBJECTIVES) == (5 * 1 + 5 * len(CORRECTIONS)) * len(AGGREGATIONS)


class Batch:
    """Sequences of the given lengths, in groups of four."""

    def __init__(
        self,
        lengths: list[int],
        *,
        correct: Callable[[int], bool] = lambda i: i % 3 == 0,
        drift: float = 0.3,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        generator = torch.Generator().manual_seed(7)
        tokens = sum(lengths)

        def noise() -> Tensor:
            return torch.randn(tokens, generator=generator, dtype=dtype)

        n = len(lengths)
        self.length = torch.tensor(lengths, dtype=torch.int64)
        self.sequence = torch.repeat_interleave(torch.arange(n), self.length)
        self.correct = torch.tensor([correct(i) for i in range(n)], dtype=torch.bool)
        self.reward = self.correct.to(dtype)
        self.group = torch.arange(n) // 4
        old = -noise().abs() - 0.3
        self.policies = {
            name: (old + drift * noise()).clamp(max=0)
            for name in ("proximal", "behaviour", "reference")
        }
        self.current = (old + drift * noise()).clamp(max=0).requires_grad_()
        self.entropy = noise().abs().requires_grad_()

    def advantages(self, objective: Objective) -> SequenceAdvantages:
        n = len(self.length)
        sums = {
            name: torch.zeros(n, dtype=self.current.dtype).index_add_(
                0, self.sequence, self.policies[name]
            )
            for name in ("behaviour", "proximal")
        }
        return objective.sequence_advantages(
            table(
                reward=self.reward,
                correct=self.correct,
                group=self.group,
                length=self.length,
                logprob_sum=sums["behaviour"],
            ),
            proximal_logprob_sum=sums["proximal"].numpy(),
        )

    def loss(
        self,
        objective: Objective,
        sequences: SequenceAdvantages,
        current: Tensor | None = None,
        entropy: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        return objective.loss(
            sequences=sequences,
            sequence=self.sequence,
            current=self.current if current is None else current,
            entropy=self.entropy if entropy is None else entropy,
            **self.policies,
        )


# --- gradients ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradient(name: str) -> None:
    """By finite differences. CISPO, GSPO and DPPO hold part of what they multiply constant: their
    gradient isn't that of their value: it is written out, and the other terms are differentiated.
    """
    objective = OBJECTIVES[name]
    batch = Batch([3, 1, 0, 5, 2, 4], dtype=torch.float64)
    sequences = batch.advantages(objective)
    if not isinstance(objective.config.loss, Cispo | Gspo | Dppo):
        assert torch.autograd.gradcheck(
            lambda x, h: batch.loss(objective, sequences, x, h)[0], (batch.current, batch.entropy)
        )
        return

    loss, _ = batch.loss(objective, sequences)
    gradient, entropy_gradient = torch.autograd.grad(loss, (batch.current, batch.entropy))
    sequence = batch.sequence
    current = batch.current.detach().numpy()
    policies = {name: x.numpy() for name, x in batch.policies.items()}
    log_ratio = current - policies[objective.config.loss.against or "proximal"]
    base = sequences.base.double().numpy()[sequence]
    gamma = np.where(batch.correct[sequence], -0.3, 0.1)
    advantage = base + gamma * policies["proximal"]
    if isinstance(objective.config.loss, Cispo):
        slope = -np.minimum(np.exp(log_ratio), 1.2) * advantage
    elif isinstance(objective.config.loss, Dppo):
        moved = np.exp(current) - np.exp(policies["behaviour"])
        far = ((advantage > 0) & (moved > 0.1)) | ((advantage < 0) & (moved < -0.1))
        assert 0 < far.sum() < len(far)
        slope = np.where(far, 0, -np.minimum(np.exp(log_ratio), 1.2) * advantage)
    else:
        means = [log_ratio[sequence == i].mean() for i in sequence]
        s = np.exp(means)
        cut = np.where(advantage > 0, s > 1.03, s < 0.98)
        assert 0 < cut.sum() < len(cut)
        slope = np.where(cut, 0, -s * advantage)
    weights = objective.config.correction(
        batch.policies["behaviour"], batch.policies["proximal"], sequence
    )
    slope = slope * np.where(weights.keep, weights.weight, 0)
    kl_slope = 1 - np.exp(policies["reference"] - current)
    weight = sequences.weight.double().numpy()[sequence]
    np.testing.assert_allclose(gradient, weight * (slope + 0.1 * kl_slope), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(entropy_gradient, -sequences.entropy_weight[sequence])


# --- limits ---------------------------------------------------------------------------------------

LIMITS: dict[str, Callable[[], Batch]] = {
    "nothing": lambda: Batch([]),
    "one rollout": lambda: Batch([3], correct=lambda _: True),
    "one wrong rollout": lambda: Batch([3], correct=lambda _: False),
    "all correct": lambda: Batch([3, 1, 4, 2], correct=lambda _: True),
    "all wrong": lambda: Batch([3, 1, 4, 2], correct=lambda _: False),
    "empty responses": lambda: Batch([0, 3, 0, 1]),
    "only empty responses": lambda: Batch([0, 0, 0, 0]),
    "8192 tokens": lambda: Batch([8192, 1, 8192, 2]),
    "logits 1e4 apart": lambda: Batch([3, 1, 4, 2, 64], drift=1e4),
    "8192 tokens of logits 1e4 apart": lambda: Batch([8192, 8192], drift=1e4),
}


def check_finite(objective: Objective, batch: Batch) -> None:
    sequences = batch.advantages(objective)
    for name, x in vars(sequences).items():
        assert torch.isfinite(x).all(), name
    loss, sums = batch.loss(objective, sequences)
    assert torch.isfinite(loss)
    gradients = torch.autograd.grad(
        loss, (batch.current, batch.entropy), allow_unused=True, materialize_grads=True
    )
    for gradient in gradients:
        assert torch.isfinite(gradient).all()
    assert np.isfinite(list(summarise(sums).values())).all()


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_losses_are_finite_at_the_limits(loss: Loss, limit: str) -> None:
    mine = [o for o in OBJECTIVES.values() if same(o.config.loss, loss)]
    assert mine
    for objective in mine:
        check_finite(objective, LIMITS[limit]())


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("name", SHAPINGS)
def test_advantages_are_finite_at_the_limits(name: str, limit: str) -> None:
    check_finite(make_objective(advantage=SHAPINGS[name]), LIMITS[limit]())


@pytest.mark.parametrize("limit", ["all correct", "all wrong", "one rollout"])
@pytest.mark.parametrize("name", SHAPINGS)
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e15])
def test_rewards_of_any_size_give_advantages(name: str, limit: str, scale: float) -> None:
    batch = LIMITS[limit]()
    batch.reward = scale * (1 + torch.arange(len(batch.length), dtype=torch.float32))
    check_finite(make_objective(advantage=SHAPINGS[name]), batch)


@pytest.mark.parametrize("estimator", KL_ESTIMATORS)
def test_a_kl_penalty_is_finite_at_any_distance(estimator: Any) -> None:
    check_finite(
        make_objective(kl={"coef": 1.0, "estimator": estimator}), LIMITS["logits 1e4 apart"]()
    )


@pytest.mark.parametrize("bad", [-torch.inf, torch.inf, torch.nan])
@pytest.mark.parametrize("name", SHAPINGS)
def test_a_sum_of_logprobs_that_is_not_finite_is_named(name: str, bad: float) -> None:
    batch = Batch([2, 3])
    batch.policies["behaviour"][1] = bad
    with pytest.raises(ValueError, match="logprob_sum is not finite at 1 of 2 places"):
        batch.advantages(make_objective(advantage=SHAPINGS[name]))


@pytest.mark.parametrize("bad", [-torch.inf, torch.inf, torch.nan])
@pytest.mark.parametrize("loss", LOSSES, ids=str)
@pytest.mark.parametrize("name", ["behaviour", "proximal", "reference"])
def test_a_logprob_that_is_not_finite_is_named(name: str, loss: Loss, bad: float) -> None:
    objective = next(o for o in OBJECTIVES.values() if same(o.config.loss, loss))
    batch = Batch([2, 3])
    sequences = batch.advantages(objective)
    batch.policies[name][4] = bad
    with pytest.raises(ValueError, match=rf"{name} is not finite at 1 of 5 places.* at 4"):
        batch.loss(objective, sequences)
