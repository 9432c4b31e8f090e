"""From a shard to what the engine minimises: what it divides by must give the chosen mean."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from asyncds.algo.aggregation import Aggregation, ConstantLength, SequenceMean, TokenMean
from asyncds.algo.diagnostics import summarise
from asyncds.algo.entropy import DifferentialEntropy
from asyncds.algo.losses.reinforce import Reinforce
from asyncds.algo.objective import Objective
from asyncds.algo.sums import Sums
from asyncds.engine.micro_batches import plan_updates
from asyncds.protocol.batch import SequenceTable, Shard
from services.learner.objective import BatchObjective
from tests.support.objectives import make_objective

LENGTH = np.array([3, 1, 4, 2, 5, 1], dtype=np.int32)
GROUP = np.array([0, 0, 1, 1, 2, 2], dtype=np.int32)
REWARD = np.array([1, 0, 1, 0, 1, 0], dtype=np.float32)
TOKEN_ROW = np.repeat(np.arange(6), LENGTH)
LOG_PROBS = -np.random.default_rng(0).random(16).astype(np.float32)
ENTROPY = np.random.default_rng(1).random(16).astype(np.float32)


def shard() -> Shard:
    """Sequences of LENGTH sampled tokens and a given one each."""
    return Shard(
        step=0,
        rank=0,
        leases=[1, 2, 3],
        table=SequenceTable(
            group=GROUP,
            reward=REWARD,
            correct=REWARD == 1,
            prompt_length=np.full(6, 2, dtype=np.int32),
            length=LENGTH + 1,
            sampled=LENGTH,
            logprob_sum=np.bincount(TOKEN_ROW, weights=LOG_PROBS).astype(np.float32),
            rank=np.zeros(6, dtype=np.int32),
            finished=np.ones(6, dtype=np.bool_),
            generator=np.zeros(6, dtype=np.int32),
        ),
        generators=["g"],
        sequences=np.arange(6, dtype=np.int32),
        prompt_ids=np.zeros(12, dtype=np.int32),
        completion_ids=np.zeros(22, dtype=np.int32),
        logprobs=LOG_PROBS,
        versions=np.zeros(16, dtype=np.int32),
        given=np.stack([np.cumsum(LENGTH + 1) - 1, np.ones(6)], axis=1).astype(np.int32),
    )


def per_token(objective: Objective, rows: np.ndarray) -> float:
    """The loss of an update as the engine has it: a sum over single-row micro-batches over T."""
    whole = shard()
    batch = BatchObjective(
        objective,
        whole,
        device=torch.device("cpu"),
        version=0,
        max_lag=0,
        old_log_probs=None,
    )
    total = 0.0
    for row in rows:
        at = torch.from_numpy(np.flatnonzero(row == TOKEN_ROW))
        loss, _ = batch(
            log_probs=torch.from_numpy(LOG_PROBS)[at],
            entropy=torch.from_numpy(ENTROPY)[at],
            old_log_probs=None,
            reference_log_probs=None,
            sequence=torch.full_like(at, int(row)),
            token_index=at,
        )
        total += loss.item()
    return total / int(LENGTH[rows].sum())


@pytest.mark.parametrize("updates", [1, 2, 3])
@pytest.mark.parametrize(
    "aggregation", [TokenMean(), SequenceMean(), ConstantLength(tokens=8)], ids=str
)
def test_every_update_is_the_chosen_mean(aggregation: Aggregation, updates: int) -> None:
    """REINFORCE with advantages ±1, and entropy by class, written out as means."""
    objective = make_objective(
        loss=Reinforce(),
        aggregation=aggregation,
        updates_per_batch=updates,
    )
    controlled = make_objective(
        **{
            **dict(objective.config),
            "differential_entropy": DifferentialEntropy(correct=0.5, incorrect=0.25),
        }
    )
    for rows in plan_updates(shard().table, minibatches=updates):
        losses, entropies = {}, {}
        for row in rows:
            sign = 1 if REWARD[row] else -1
            losses[row] = -sign * LOG_PROBS[row == TOKEN_ROW].astype(np.float64)
            entropies[row] = ENTROPY[row == TOKEN_ROW].astype(np.float64)
        match aggregation:
            case TokenMean():
                mean = np.concatenate(list(losses.values())).mean()
            case SequenceMean():
                mean = np.mean([x.mean() for x in losses.values()])
            case ConstantLength():
                mean = np.mean([x.sum() / 8 for x in losses.values()])
        assert per_token(objective, rows) == pytest.approx(mean, abs=1e-5)

        of_class = []
        for verdict in (1, 0):
            mine = [entropies[row] for row in rows if REWARD[row] == verdict]
            if isinstance(aggregation, SequenceMean):
                of_class.append(np.mean([x.mean() for x in mine]))
            else:
                of_class.append(np.concatenate(mine).mean())
        mean += -0.5 * of_class[0] + 0.25 * of_class[1]
        assert per_token(controlled, rows) == pytest.approx(mean, abs=1e-5)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_lags_and_generators_add_up_over_ranks(ranks: int) -> None:
    """Versions 1 … 5 of weights at version 4, of which one is ahead, and the bound is 3; the
    learner has moved by 0.1 nats per version."""
    versions = np.random.default_rng(2).integers(1, 6, 16).astype(np.int32)
    lag = np.maximum(4 - versions, 0)
    generator = np.array([0, 0, 1, 1, 0, 0], dtype=np.int32)
    owner = np.arange(6, dtype=np.int32) % ranks
    table = replace(shard().table, generator=generator, rank=owner)
    total: Sums | None = None
    for rank in range(ranks):
        mine = np.flatnonzero(owner == rank).astype(np.int32)
        at = np.isin(TOKEN_ROW, mine)
        part = replace(
            shard(),
            rank=rank,
            table=table,
            generators=["g", "other"],
            sequences=mine,
            logprobs=LOG_PROBS[at],
            versions=versions[at],
        )
        batch = BatchObjective(
            make_objective(),
            part,
            device=torch.device("cpu"),
            version=4,
            max_lag=3,
            old_log_probs=None,
        )
        for row in mine:
            index = torch.from_numpy(np.flatnonzero(TOKEN_ROW[at] == row))
            _, sums = batch(
                log_probs=torch.from_numpy((LOG_PROBS - 0.1 * lag)[at])[index],
                entropy=None,
                old_log_probs=None,
                reference_log_probs=None,
                sequence=torch.full_like(index, int(row)),
                token_index=index,
            )
            total = sums if total is None else total + sums
    assert total is not None
    result = summarise(total)
    for i in range(4):
        assert result[f"tokens/lag={i}"] == (lag == i).sum() > 0
        assert result[f"ratio/lag={i}"] == pytest.approx(np.exp(-0.1 * i), rel=1e-5)
        assert result[f"importance_weight/lag={i}"] == pytest.approx(np.exp(-0.1 * i), rel=1e-5)
        assert result[f"ess/lag={i}"] == pytest.approx(1, rel=1e-5)
    for i, name in enumerate(("g", "other")):
        mine = lag[generator[TOKEN_ROW] == i]
        assert result[f"tokens/generator={name}"] == len(mine)
        expected = np.mean(np.exp(-0.1 * mine) + 0.1 * mine - 1)
        assert result[f"mismatch_kl/generator={name}"] == pytest.approx(expected, rel=1e-3)
    assert result["ratio/p50"] == pytest.approx(np.median(np.exp(-0.1 * lag)), rel=0.01)
