import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asyncds.algo.advantages.base import Sequences
from asyncds.algo.advantages.best_of_group import BestOfGroup
from asyncds.algo.advantages.ds_grpo import DsGrpo
from asyncds.algo.advantages.gr_pkpo import GrPkpo
from asyncds.algo.advantages.grpo import Grpo
from asyncds.algo.advantages.pkpo import Pkpo
from asyncds.algo.advantages.unlikeliness import Unlikeliness
from asyncds.algo.aggregation import Aggregation, ConstantLength, SequenceMean
from asyncds.algo.corrections.geometric_mask import GeometricMask
from asyncds.algo.corrections.icepop import IcePop
from asyncds.algo.corrections.sequence import SequenceTis
from asyncds.algo.corrections.sequence_mask import SequenceMask
from asyncds.algo.corrections.tis import Tis
from asyncds.algo.diagnostics import summarise
from asyncds.algo.entropy import DifferentialEntropy
from asyncds.algo.losses.cispo import Cispo
from asyncds.algo.losses.clip import Clip
from asyncds.algo.losses.dppo import Dppo
from asyncds.algo.losses.gspo import Gspo
from asyncds.algo.losses.reinforce import Reinforce
from asyncds.algo.objective import Objective, SequenceAdvantages
from asyncds.algo.proximal import LogLinear
from asyncds.algo.quantiles import QUANTILES
from asyncds.algo.sums import Sums
from tests.support.objectives import make_objective, table

FORMS = ["token", "seq_mean", "seq_sum", "reward_mean"]
DRIFT = ("ratio", "importance_weight")


def smoothing(form: str, source: str = "proximal", scale: str = "std") -> DsGrpo:
    return DsGrpo(gamma_p=0.3, gamma_n=0.1, form=form, logprob_source=source, scale=scale)  # type: ignore[arg-type]


def with_options(objective: Objective, **options: Any) -> Objective:
    return make_objective(**{**dict(objective.config), **options})


OBJECTIVES = {
    "default": make_objective(),
    **{
        f"{form}-{source}": make_objective(advantage=smoothing(form, source, "none"))
        for form, source in itertools.product(FORMS, ["proximal", "behaviour"])
    },
    "tis": make_objective(
        loss=Clip(ratio="proximal"), correction=Tis(), advantage=smoothing("token")
    ),
    "reinforce": make_objective(loss=Reinforce(), correction=Tis()),
    "cispo": make_objective(loss=Cispo(), advantage=smoothing("token")),
    "gspo": make_objective(loss=Gspo(low=0.1, high=0.2), advantage=smoothing("token")),
    "gspo-sequence_mask": make_objective(loss=Gspo(ratio="proximal"), correction=SequenceMask()),
    "dppo": make_objective(loss=Dppo(), advantage=smoothing("token")),
    "icepop": make_objective(loss=Clip(ratio="proximal"), correction=IcePop()),
    "sequence": make_objective(loss=Clip(ratio="proximal"), correction=SequenceTis()),
    "geometric_mask": make_objective(
        loss=Clip(ratio="proximal"), correction=GeometricMask(low=0.9, high=1.1)
    ),
    "sequence_mask": make_objective(loss=Clip(ratio="proximal"), correction=SequenceMask()),
    "unlikeliness-proximal": make_objective(advantage=Unlikeliness()),
    "unlikeliness-behaviour": make_objective(advantage=Unlikeliness(logprob_source="behaviour")),
    "pkpo": make_objective(advantage=Pkpo(k=2)),
    "gr_pkpo": make_objective(advantage=GrPkpo(k=2)),
    "best_of_group": make_objective(advantage=BestOfGroup()),
    "differential_entropy": make_objective(
        entropy_coef=0.2,
        differential_entropy=DifferentialEntropy(correct=0.3, incorrect=0.1),
    ),
    "sequence_mean": make_objective(
        loss=Gspo(low=0.1, high=0.2),
        aggregation=SequenceMean(),
        kl={"coef": 0.1},
        differential_entropy=DifferentialEntropy(incorrect=0.1),
    ),
    "constant_length": make_objective(
        aggregation=ConstantLength(tokens=7),
        entropy_coef=-0.2,
        differential_entropy=DifferentialEntropy(correct=0.1),
    ),
    "everything": make_objective(
        advantage=smoothing("seq_mean"),
        kl={"coef": 0.1},
        entropy_coef=-0.05,
        updates_per_batch=2,
    ),
}


def sequences_of(
    base: list[float], correct: list[bool], coefficient: list[float] | None = None
) -> SequenceAdvantages:
    """Each token counting once. coefficient: of log-probs; default: none are added."""
    return SequenceAdvantages(
        base=torch.tensor(base),
        shift=torch.zeros(len(base)),
        coefficient=torch.tensor(coefficient or [0.0] * len(base)),
        correct=torch.tensor(correct, dtype=torch.bool),
        weight=torch.ones(len(base)),
        policy_weight=torch.ones(len(base)),
        entropy_weight=torch.zeros(len(base)),
    )


class Batch:
    """N sequences of the given lengths, three to a group, with random log-probs in float64."""

    def __init__(self, lengths: list[int], *, seed: int = 0, drift: float = 0.3) -> None:
        generator = torch.Generator().manual_seed(seed)

        def noise(scale: float) -> Tensor:
            return scale * torch.randn(sum(lengths), generator=generator, dtype=torch.float64)

        self.length = torch.tensor(lengths)
        self.sequence = torch.repeat_interleave(torch.arange(len(lengths)), self.length)
        self.group = torch.arange(len(lengths)) // 3
        self.correct = torch.rand(len(lengths), generator=generator) < 0.5
        self.reward = self.correct.float() + 0.1
        self.proximal = -noise(1.0).abs() - 1
        self.behaviour = self.proximal + noise(drift)
        self.reference = self.proximal + noise(drift)
        self.current = (self.proximal + noise(drift)).requires_grad_()
        self.entropy = noise(1.0).abs().requires_grad_()

    def logprob_sum(self, logprob: Tensor) -> Tensor:
        return torch.stack(
            [logprob[self.sequence == i].sum() for i in range(len(self.length))]
        ).detach()

    def advantages(self, objective: Objective) -> SequenceAdvantages:
        return objective.sequence_advantages(
            self.table(), proximal_logprob_sum=self.logprob_sum(self.proximal).numpy()
        )

    def table(self) -> Sequences:
        return table(
            reward=self.reward,
            correct=self.correct,
            group=self.group,
            length=self.length,
            logprob_sum=self.logprob_sum(self.behaviour),
        )

    def micro_batch(self, objective: Objective, rows: list[int]) -> tuple[Tensor, Sums]:
        """The loss of the sequences ``rows``, in that order."""
        at = [torch.nonzero(self.sequence == row).flatten() for row in rows]
        tokens = torch.cat([torch.zeros(0, dtype=torch.int64), *at])
        return objective.loss(
            sequences=self.advantages(objective).rows(torch.tensor(rows, dtype=torch.int64)),
            sequence=torch.repeat_interleave(
                torch.arange(len(rows)), self.length[torch.tensor(rows, dtype=torch.int64)]
            ),
            current=self.current[tokens],
            behaviour=self.behaviour[tokens],
            proximal=self.proximal[tokens],
            reference=self.reference[tokens] if objective.config.needs_reference else None,
            entropy=self.entropy[tokens] if objective.config.needs_entropy else None,
        )


def everything(batch: Batch, objective: Objective, parts: list[list[int]]) -> tuple[Any, ...]:
    """Loss, gradients and sums of a batch that is evaluated in parts."""
    losses, sums = zip(*(batch.micro_batch(objective, part) for part in parts), strict=True)
    total = torch.stack(losses).sum()
    gradient = torch.autograd.grad(total, (batch.current, batch.entropy), allow_unused=True)
    table = sums[0]
    for other in sums[1:]:
        table = table + other
    return total, gradient[0], gradient[1], table.table


# --- the whole against an independent computation -------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("source", ["proximal", "behaviour"])
def test_ds_grpo_against_loops_in_numpy(form: str, source: str) -> None:
    """Eq. 6 with clip against μ, dual clip, KL and entropy, written out token by token."""
    batch = Batch([3, 1, 0, 4, 2, 5], seed=4, drift=0.5)
    objective = make_objective(
        advantage=smoothing(form, source, "none"),
        kl={"coef": 0.1},
        entropy_coef=0.02,
    )
    loss, _ = batch.micro_batch(objective, list(range(6)))

    logp = (batch.proximal if source == "proximal" else batch.behaviour).numpy()
    reward, correct = batch.reward.numpy().astype(np.float64), batch.correct.numpy()
    group, sequence = batch.group.numpy(), batch.sequence.numpy()
    mean = [logp[sequence == i].mean() if (sequence == i).any() else 0.0 for i in range(6)]
    total = [logp[sequence == i].sum() for i in range(6)]
    gamma = [-0.3 if c else 0.1 for c in correct]
    if form == "reward_mean":
        reward = reward + np.array([g * m for g, m in zip(gamma, mean, strict=True)])
    expected = 0.0
    for t, i in enumerate(sequence):
        a = reward[i] - reward[group == group[i]].mean()
        a += {
            "token": gamma[i] * logp[t],
            "seq_mean": gamma[i] * mean[i],
            "seq_sum": gamma[i] * total[i],
            "reward_mean": 0.0,
        }[form]
        rho = np.exp(batch.current[t].item() - batch.behaviour[t].item())
        gain = min(a * rho, a * np.clip(rho, 0.8, 1.28))
        gain = max(gain, 3 * a) if a < 0 else gain
        d = batch.reference[t].item() - batch.current[t].item()
        expected += -gain + 0.1 * (np.exp(d) - d - 1) - 0.02 * batch.entropy[t].item()
    assert loss.item() == pytest.approx(expected, abs=1e-5)  # advantages are float32


def test_the_token_form_is_an_entropy_gradient() -> None:
    """E[−log p ∇log p] = ∇H, by enumeration on a softmax: with γ_p = 1, a correct outcome and no
    reward advantage, the expected loss falls along the entropy; an incorrect one climbs it."""
    z = torch.tensor([0.3, -1.0, 2.0, 0.0, 0.7], dtype=torch.float64, requires_grad=True)
    log_p = z.log_softmax(0)
    entropy = -(log_p.exp() * log_p).sum()
    (entropy_gradient,) = torch.autograd.grad(entropy, z, retain_graph=True)
    ds = DsGrpo(gamma_p=1.0, gamma_n=0.5)
    losses = [Clip(), Clip(ratio="proximal"), Cispo(), Gspo(), Dppo(), Reinforce()]
    for policy_loss in losses:
        objective = make_objective(advantage=ds, loss=policy_loss)
        for correct, sign in ((True, -1.0), (False, 0.5)):
            gradient = torch.zeros_like(z)
            for outcome in range(len(z)):
                loss, _ = objective.loss(
                    sequences=sequences_of([0.0], [correct], [-1.0 if correct else 0.5]),
                    sequence=torch.tensor([0]),
                    current=log_p[outcome : outcome + 1],
                    behaviour=log_p[outcome : outcome + 1].detach(),
                )
                (g,) = torch.autograd.grad(loss, z, retain_graph=True)
                gradient += log_p[outcome].exp().detach() * g
            torch.testing.assert_close(gradient, sign * entropy_gradient)


# Cispo, Gspo and Dppo hold part of what they multiply constant: their gradients are not those of
# their values, and are tested beside them.
@pytest.mark.parametrize(
    "name",
    [
        name
        for name in OBJECTIVES
        if not isinstance(OBJECTIVES[name].config.loss, Cispo | Gspo | Dppo)
    ],
)
def test_gradient_by_finite_differences(name: str) -> None:
    objective = OBJECTIVES[name]
    batch = Batch([3, 1, 2], seed=1)
    advantages = batch.advantages(objective)

    def loss(current: Tensor, entropy: Tensor) -> Tensor:
        return objective.loss(
            sequences=advantages,
            sequence=batch.sequence,
            current=current,
            behaviour=batch.behaviour,
            proximal=batch.proximal,
            reference=batch.reference,
            entropy=entropy,
        )[0]

    assert torch.autograd.gradcheck(loss, (batch.current, batch.entropy))


def test_reward_mean_centres_within_the_group_and_needs_no_tokens() -> None:
    objective = OBJECTIVES["reward_mean-behaviour"]
    batch = Batch([3, 1, 2, 4, 4, 4])
    advantages = batch.advantages(objective)
    assert advantages.shift.abs().max() > 0.01
    for group in (0, 1):
        assert advantages.shift[batch.group == group].sum().abs() < 1e-6


def test_unlikeliness_ranks_by_the_mean_over_tokens_of_its_policy() -> None:
    """The longer sequence has the smaller sum and the larger mean; μ orders them the other way."""
    for source, expected in (("proximal", [-1.0, 1.0]), ("behaviour", [1.0, -1.0])):
        objective = make_objective(advantage=Unlikeliness(logprob_source=source))  # type: ignore[arg-type]
        advantages = objective.sequence_advantages(
            table(reward=[1, 1], length=[10, 2], logprob_sum=[-30, -4]),
            proximal_logprob_sum=np.array([-10.0, -4.0]),
        )
        np.testing.assert_allclose(advantages.base, expected, atol=1e-4)


@pytest.mark.parametrize("name", ["differential_entropy", "sequence_mean", "constant_length"])
def test_entropy_terms_against_loops_in_numpy(name: str) -> None:
    """−α E[H] − a_p E[H | correct] + a_n E[H | incorrect], each expectation written as a mean."""
    objective = OBJECTIVES[name]
    lengths = [3, 1, 0, 4, 2, 5]
    batch = Batch(lengths, seed=4)
    batch.correct = torch.tensor([True, False, True, True, False, False])
    with_entropy, _ = batch.micro_batch(objective, list(range(6)))
    batch.entropy = torch.zeros_like(batch.entropy)
    without, _ = batch.micro_batch(objective, list(range(6)))

    batch = Batch(lengths, seed=4)
    correct = [True, False, True, True, False, False]
    h = [batch.entropy[batch.sequence == i].detach().numpy() for i in range(6)]

    def mean(which: list[int]) -> float:
        """Over the tokens, or over the sequences' means, of those that have tokens."""
        if name == "sequence_mean":
            return float(np.mean([h[i].mean() for i in which if len(h[i])]))
        return float(np.concatenate([h[i] for i in which]).mean())

    control = objective.config.differential_entropy
    expected = -control.correct * mean([i for i in range(6) if correct[i]])
    expected += control.incorrect * mean([i for i in range(6) if not correct[i]])
    overall = {"differential_entropy": mean(list(range(6)))}
    overall["constant_length"] = sum(x.sum() for x in h) / 6 / 7
    expected -= objective.config.entropy_coef * overall.get(name, 0.0)
    tokens = sum(lengths)
    assert (with_entropy - without).item() / tokens == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("aggregation", [SequenceMean(), ConstantLength(tokens=7)], ids=str)
def test_all_terms_of_the_loss_are_averaged_alike(aggregation: Aggregation) -> None:
    """Policy loss, KL and entropy: from the sums over single sequences."""
    lengths = [3, 1, 0, 4, 2, 5]
    batch = Batch(lengths, seed=4)
    summed = make_objective(advantage=smoothing("token"), kl={"coef": 0.1}, entropy_coef=0.02)
    loss, _ = batch.micro_batch(with_options(summed, aggregation=aggregation), list(range(6)))
    sums = [batch.micro_batch(summed, [i])[0].item() for i in range(6)]
    over = [aggregation.tokens] * 6 if isinstance(aggregation, ConstantLength) else lengths
    expected = np.mean([x / max(n, 1) for x, n in zip(sums, over, strict=True)])
    assert loss.item() / sum(lengths) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("options", [{"correct": -1.0, "incorrect": 2.0}, {"incorrect": -0.1}])
def test_differential_entropy_has_a_direction(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        DifferentialEntropy(**options)


# --- who plays which part -------------------------------------------------------------------------


def test_without_a_recomputed_proximal_the_current_policy_held_constant_takes_its_place() -> None:
    objective = OBJECTIVES["tis"]
    batch = Batch([3, 1, 2])
    advantages = batch.advantages(objective)
    tokens: dict[str, Any] = {
        "sequences": advantages,
        "sequence": batch.sequence,
        "current": batch.current,
        "behaviour": batch.behaviour,
    }
    assumed, sums = objective.loss(**tokens)
    given_, sums_given = objective.loss(**tokens, proximal=batch.current.detach())
    assert torch.equal(assumed, given_)
    assert torch.equal(sums.table, sums_given.table)
    assert summarise(sums)["ratio"] == 1.0
    (gradient,) = torch.autograd.grad(assumed, batch.current)
    shift = torch.where(batch.correct, -0.3, 0.1)[batch.sequence] * batch.current.detach()
    w = (batch.current - batch.behaviour).exp().clamp(max=2.0).detach()
    torch.testing.assert_close(gradient, -w * (advantages.base[batch.sequence] + shift))


def test_a_log_linear_proximal_splits_the_ratio_to_mu_between_clip_and_weight() -> None:
    """ρ = (π/μ)^(1 − λ) is clipped, w = (π/μ)^λ is truncated, and only ρ has a gradient."""
    objective = make_objective(
        loss=Clip(ratio="proximal"), correction=Tis(cap=1.5), proximal=LogLinear(current=0.25)
    )
    batch = Batch([3, 1, 2, 5], drift=0.8)
    sequences = batch.advantages(objective)
    loss, sums = objective.loss(
        sequences=sequences,
        sequence=batch.sequence,
        current=batch.current,
        behaviour=batch.behaviour,
    )
    (gradient,) = torch.autograd.grad(loss, batch.current)
    a = sequences.base[batch.sequence].double().numpy()
    d = (batch.current - batch.behaviour).detach().numpy()
    rho, w = np.exp(0.75 * d), np.minimum(np.exp(0.25 * d), 1.5)
    gain = np.minimum(a * rho, a * np.clip(rho, 0.8, 1.28))
    gain = np.where(a < 0, np.maximum(gain, 3 * a), gain)
    assert loss.item() == pytest.approx(-(w * gain).sum())
    cut = ((a > 0) & (rho > 1.28)) | ((a < 0) & ((rho < 0.8) | (rho > 3)))
    assert 0 < cut.sum() < len(cut)
    np.testing.assert_allclose(gradient, np.where(cut, 0, -w * a * rho), atol=1e-12)
    assert summarise(sums)["mismatch_kl"] == pytest.approx(np.mean(np.exp(d) - d - 1))
    assert not with_options(objective, updates_per_batch=4).config.needs_proximal


@pytest.mark.parametrize("share", [0.0, 1.0, float("nan")])
def test_a_log_linear_policy_lies_strictly_between(share: float) -> None:
    with pytest.raises(ValueError, match="current"):
        LogLinear(current=share)


def test_needs_proximal_exactly_when_the_current_policy_can_not_stand_in() -> None:
    token, by_mu = smoothing("token"), smoothing("token", "behaviour")
    reinforce = make_objective(loss=Reinforce())
    once = {
        "clip against μ": (make_objective(), False),
        "clip against π_old": (make_objective(loss=Clip(ratio="proximal")), True),
        "tis": (make_objective(loss=Clip(ratio="proximal"), correction=Tis()), True),
        "plain reinforce": (reinforce, False),
        "reinforce with tis": (with_options(reinforce, correction=Tis()), True),
        "DS by π_old": (make_objective(advantage=token), True),
        "DS by μ": (make_objective(advantage=by_mu), False),
    }
    for name, (objective, used) in once.items():
        assert not objective.config.needs_proximal, name
        assert with_options(objective, updates_per_batch=2).config.needs_proximal == used, name
    for name in ("reward_mean", "unlikeliness"):
        assert OBJECTIVES[f"{name}-proximal"].config.needs_proximal
        by_behaviour = OBJECTIVES[f"{name}-behaviour"]
        assert not by_behaviour.config.needs_proximal
        assert not with_options(by_behaviour, updates_per_batch=2).config.needs_proximal


@pytest.mark.parametrize(
    ("objective", "name"),
    [
        (make_objective(kl={"coef": 0.1}), "reference"),
        (make_objective(entropy_coef=0.1), "entropy"),
        (make_objective(differential_entropy=DifferentialEntropy(correct=0.1)), "entropy"),
        (make_objective(loss=Clip(ratio="proximal"), updates_per_batch=2), "proximal"),
    ],
)
def test_a_needed_input_that_is_missing_is_named(objective: Objective, name: str) -> None:
    batch = Batch([2])
    with pytest.raises(ValueError, match=f"needs the {name}"):
        objective.loss(
            sequences=batch.advantages(objective),
            sequence=batch.sequence,
            current=batch.current,
            behaviour=batch.behaviour,
        )


@pytest.mark.parametrize("name", ["reward_mean-proximal", "unlikeliness-proximal"])
def test_sequences_by_the_proximal_policy_need_its_sums(name: str) -> None:
    batch = Batch([2])
    with pytest.raises(ValueError, match="proximal_logprob_sum"):
        OBJECTIVES[name].sequence_advantages(batch.table())


# --- sums -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OBJECTIVES)
@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_neither_order_nor_micro_batches_change_loss_gradient_or_sums(name, data) -> None:  # type: ignore[no-untyped-def]
    lengths = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=9), label="lengths")
    order = data.draw(st.permutations(range(len(lengths))), label="order")
    cuts = sorted(data.draw(st.sets(st.integers(1, len(lengths))), label="cuts"))
    edges = [0, *cuts, len(lengths)]
    parts = [order[a:b] for a, b in itertools.pairwise(edges)]

    batch = Batch(lengths, seed=len(lengths))
    whole = everything(batch, OBJECTIVES[name], [list(range(len(lengths)))])
    split = everything(batch, OBJECTIVES[name], parts)
    for a, b in zip(whole, split, strict=True):
        torch.testing.assert_close(a, b, equal_nan=False)


def test_a_micro_batch_without_tokens_gives_a_zero_that_can_be_differentiated() -> None:
    nothing = torch.zeros(0)
    current = torch.zeros(0, requires_grad=True)
    for objective in OBJECTIVES.values():
        loss, sums = objective.loss(
            sequences=sequences_of([], []),
            sequence=torch.zeros(0, dtype=torch.int64),
            current=current,
            behaviour=nothing,
            proximal=nothing,
            reference=nothing,
            entropy=nothing,
        )
        loss.backward()
        assert loss.item() == 0
        assert set(summarise(sums).values()) == {0.0}


def test_metrics_by_hand() -> None:
    """Two tokens of a correct sequence, one of an incorrect; ratios to μ of 1, 2 and 1/4."""
    behaviour = torch.log(torch.tensor([0.5, 0.2, 0.4], dtype=torch.float64))
    current = torch.log(torch.tensor([0.5, 0.4, 0.1], dtype=torch.float64))
    sequences = sequences_of([1.0, -1.0], [True, False], [-0.1, 0.2])
    ds = DsGrpo(gamma_p=0.1, gamma_n=0.2, logprob_source="behaviour")
    _, sums = make_objective(advantage=ds).loss(
        sequences=sequences,
        sequence=torch.tensor([0, 0, 1]),
        current=current,
        behaviour=behaviour,
        reference=current,
        entropy=torch.tensor([1.0, 2.0, 3.0]),
    )
    metrics = summarise(sums)
    quantiles = {name: [metrics.pop(f"{name}/{q}") for q in QUANTILES] for name in DRIFT}
    shift = [-0.1 * np.log(0.5), -0.1 * np.log(0.2), 0.2 * np.log(0.4)]
    policy = [-(1 + shift[0]), -1.28 * (1 + shift[1]), 0.8 * (1 - shift[2])]
    assert metrics == {
        "policy_loss": pytest.approx(sum(policy) / 3),
        "advantage": pytest.approx((1 + sum(shift)) / 3),
        "ds_shift_correct": pytest.approx((shift[0] + shift[1]) / 2),
        "ds_shift_incorrect": pytest.approx(shift[2]),
        "ratio": pytest.approx(3.25 / 3),
        "clipped_positive": 0.5,
        "clipped_negative": 1.0,
        "truncated_positive": 0.0,
        "truncated_negative": 0.0,
        "masked_positive": 0.0,
        "masked_negative": 0.0,
        "mismatch_kl": pytest.approx(((1 - np.log(2)) + (-0.75 + np.log(4))) / 3),
        "importance_weight": pytest.approx(3.25 / 3),
        "ess": pytest.approx(3.25**2 / (3 * 5.0625)),
        "kl": pytest.approx(0.0),
        "entropy": 2.0,
        "entropy_correct": 1.5,
        "entropy_incorrect": 3.0,
    }
    expected = np.quantile([1, 2, 0.25], list(QUANTILES.values()))
    assert quantiles == {name: pytest.approx(expected, rel=0.01) for name in DRIFT}


def test_truncation_is_counted_by_the_sign_of_the_advantage() -> None:
    objective = make_objective(loss=Clip(ratio="proximal"), correction=Tis(cap=2.0))
    _, sums = objective.loss(
        sequences=sequences_of([1.0, -1.0], [True, False]),
        sequence=torch.tensor([0, 0, 1]),
        current=torch.tensor([-1.0, -1.0, -1.0], requires_grad=True),
        behaviour=torch.tensor([-3.0, -1.0, -0.1]),
    )
    assert summarise(sums)["truncated_positive"] == 0.5
    assert summarise(sums)["truncated_negative"] == 0.0


# --- degenerate inputs ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("right", [True, False], ids=["all correct", "all wrong"])
@pytest.mark.parametrize("lengths", [[4], [2, 3, 4], [0, 0, 2], [8192]], ids=str)
def test_one_rollout_or_one_class_is_finite(name: str, right: bool, lengths: list[int]) -> None:
    objective, batch = OBJECTIVES[name], Batch(lengths)
    batch.correct = torch.full_like(batch.correct, right)
    batch.reward = batch.correct.float()
    loss, sums = batch.micro_batch(objective, list(range(len(lengths))))
    loss.backward()
    assert torch.isfinite(batch.current.grad).all()
    assert np.isfinite(list(summarise(sums).values())).all()
    # Equal rewards teach nothing, but differential smoothing still acts; by reward_mean, which is
    # centred, only where the group has another sequence to differ from.
    ds = objective.config.advantage
    acts = isinstance(ds, DsGrpo) and (ds.form != "reward_mean" or len(lengths) > 1)
    # What shapes rewards by rank or count may tell equal rewards apart, too.
    if not objective.config.needs_reference and isinstance(ds, Grpo | DsGrpo):
        assert bool(batch.current.grad.any()) == acts


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_drift_beyond_any_exponential_stays_finite(name: str) -> None:
    batch = Batch([3, 2, 4], drift=200.0)
    loss, sums = batch.micro_batch(OBJECTIVES[name], [0, 1, 2])
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(batch.current.grad).all()
    assert np.isfinite(list(summarise(sums).values())).all()


@pytest.mark.parametrize("bad", [-torch.inf, torch.nan])
@pytest.mark.parametrize("name", ["current", "behaviour", "proximal", "reference", "entropy"])
def test_a_logprob_that_is_not_finite_is_named(name: str, bad: float) -> None:
    objective, batch = OBJECTIVES["everything"], Batch([2, 3])
    tensor = getattr(batch, name).detach().clone()
    tensor[3] = bad
    setattr(batch, name, tensor)
    fine = Batch([2, 3]).advantages(objective)
    with pytest.raises(ValueError, match=rf"{name} is not finite at 1 of 5 places.* at 3"):
        objective.loss(
            sequences=fine,
            sequence=batch.sequence,
            current=batch.current,
            behaviour=batch.behaviour,
            proximal=batch.proximal,
            reference=batch.reference,
            entropy=batch.entropy,
        )


def test_a_reward_that_is_not_finite_and_a_wrong_shape_are_named() -> None:
    batch = Batch([2, 3])
    batch.reward[1] = torch.nan
    with pytest.raises(ValueError, match="reward is not finite at 1 of 2 places"):
        batch.advantages(make_objective())
    batch = Batch([2, 3])
    batch.group = torch.tensor([0])
    with pytest.raises(ValueError, match="of one length"):
        batch.advantages(make_objective())
    square = torch.zeros(2, 2)
    with pytest.raises(ValueError, match="flat"):
        make_objective().loss(
            sequences=Batch([2, 3]).advantages(make_objective()),
            sequence=square.long(),
            current=square,
            behaviour=square,
        )
