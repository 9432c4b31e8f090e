"""From the configuration to the objective, and from a batch to what the engine minimises."""

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from asyncds.algo.advantages import DifferentialSmoothing, Grpo, Policy, Unlikeliness
from asyncds.algo.aggregation import Aggregation, ConstantLength, SequenceMean, TokenMean
from asyncds.algo.best_of_k import BestOfGroup, GrPkpo, Pkpo
from asyncds.algo.corrections import (
    Correction,
    GeometricMask,
    IcePop,
    NoCorrection,
    SequenceMask,
    SequenceTis,
    Tis,
)
from asyncds.algo.diagnostics import Parts
from asyncds.algo.losses import Cispo, Clip, Dppo, Gspo, PolicyLoss, Reinforce
from asyncds.algo.objective import (
    Advantage,
    DifferentialEntropy,
    LogLinear,
    Objective,
    SequenceAdvantages,
)
from asyncds.algo.overlong import Overlong, OverlongMask, OverlongPenalty
from asyncds.algo.sums import Sums
from asyncds.config import algorithm as words
from asyncds.engine.micro_batches import plan_updates
from asyncds.protocol.batch import Float32, Shard


def build_objective(config: words.AlgorithmConfig, *, max_tokens: int) -> Objective:
    """The objective that the configuration describes. max_tokens: where completions are cut off."""
    loss, ratio = _loss(config.loss)
    return Objective(
        advantage=_advantage(config.advantage),
        smoothing=_smoothing(config.advantage),
        policy_loss=loss,
        ratio=ratio,
        correction=_correction(config.correction),
        proximal=_proximal(config.proximal),
        kl_coefficient=config.kl.coef,
        kl_estimator=config.kl.estimator,
        entropy_coefficient=config.entropy_coef,
        differential_entropy=_differential_entropy(config.differential_entropy),
        aggregation=_aggregation(config.aggregation),
        overlong=_overlong(config.overlong, max_tokens),
        updates_per_batch=config.updates_per_batch,
    )


def _advantage(choice: words.Advantage) -> Advantage:
    match choice:
        case words.Grpo() | words.DsGrpo():
            return Grpo(scale=choice.scale, baseline=choice.baseline)
        case words.Unlikeliness():
            return Unlikeliness(
                strength=choice.strength,
                source=choice.logprob_source,
                scale=choice.scale,
                baseline=choice.baseline,
            )
        case words.Pkpo():
            return Pkpo(k=choice.k, baseline=choice.baseline)
        case words.GrPkpo():
            return GrPkpo(k=choice.k)
        case words.BestOfGroup():
            return BestOfGroup(scale=choice.scale)


def _smoothing(choice: words.Advantage) -> DifferentialSmoothing | None:
    if not isinstance(choice, words.DsGrpo):
        return None
    return DifferentialSmoothing(
        gamma_p=choice.gamma_p,
        gamma_n=choice.gamma_n,
        form=choice.form,
        source=choice.logprob_source,
    )


def _loss(choice: words.Loss) -> tuple[PolicyLoss, Policy]:
    """The loss, and the policy that its ratio is taken against."""
    match choice:
        case words.ClipLoss():
            clip = Clip(eps_low=choice.low, eps_high=choice.high, dual_clip=choice.dual)
            return clip, choice.ratio
        case words.CispoLoss():
            return Cispo(cap=choice.cap), choice.ratio
        case words.GspoLoss():
            return Gspo(eps_low=choice.low, eps_high=choice.high), choice.ratio
        case words.DppoLoss():
            dppo = Dppo(bound=choice.bound, cap=choice.cap, penalty=choice.penalty)
            return dppo, "behaviour"
        case words.ReinforceLoss():
            return Reinforce(), "proximal"


def _correction(choice: words.Correction) -> Correction:
    match choice:
        case words.NoCorrection():
            return NoCorrection()
        case words.Tis():
            return Tis(cap=choice.cap)
        case words.IcePop():
            return IcePop(low=choice.low, high=choice.high)
        case words.SequenceTis():
            return SequenceTis(cap=choice.cap)
        case words.GeometricMask():
            return GeometricMask(low=choice.low, high=choice.high)
        case words.SequenceMask():
            return SequenceMask(low=choice.low, high=choice.high)


def _proximal(choice: words.Proximal) -> LogLinear | None:
    return LogLinear(current=choice.current) if isinstance(choice, words.LogLinear) else None


def _differential_entropy(choice: words.DifferentialEntropy) -> DifferentialEntropy | None:
    if choice.correct == choice.incorrect == 0:
        return None
    return DifferentialEntropy(correct=choice.correct, incorrect=choice.incorrect)


def _aggregation(choice: words.Aggregation) -> Aggregation:
    match choice:
        case words.TokenMean():
            return TokenMean()
        case words.SequenceMean():
            return SequenceMean()
        case words.ConstantLength():
            return ConstantLength(tokens=choice.tokens)


def _overlong(choice: words.Overlong, max_tokens: int) -> Overlong | None:
    match choice:
        case words.OverlongKeep():
            return None
        case words.OverlongMask():
            return OverlongMask()
        case words.OverlongPenalty():
            return OverlongPenalty(
                max_tokens=max_tokens, buffer_tokens=choice.buffer_tokens, weight=choice.weight
            )


class BatchObjective:
    """An objective applied to one batch: what `TrainingEngine.update` calls per micro-batch."""

    def __init__(
        self,
        objective: Objective,
        shard: Shard,
        *,
        device: torch.device,
        version: int,
        max_lag: int,
        old_log_probs: Float32 | None,
    ) -> None:
        """version: of the weights that train on the batch. max_lag: bound on a token's lag to it.
        old_log_probs float32 [Σ length]: π_old of the shard, where the objective needs it."""
        table = shard.table
        self._objective = objective
        self._behaviour = torch.from_numpy(shard.logprobs.copy()).to(device)
        self._parts = _parts(shard, version=version, max_lag=max_lag, device=device)
        proximal = None
        if old_log_probs is not None:
            proximal = _sequence_sums(shard, old_log_probs, device)
        self._sequences: SequenceAdvantages = objective.sequence_advantages(
            reward=torch.from_numpy(table.reward.copy()).to(device),
            correct=torch.from_numpy(table.correct.copy()).to(device),
            group=torch.from_numpy(table.group.astype(np.int64)).to(device),
            length=torch.from_numpy(table.length.astype(np.int64)).to(device),
            behaviour_logprob_sum=torch.from_numpy(table.logprob_sum.copy()).to(device),
            proximal_logprob_sum=proximal,
            update=torch.from_numpy(_updates(shard, objective.updates_per_batch)).to(device),
            finished=torch.from_numpy(table.finished.copy()).to(device),
        )

    def __call__(
        self,
        *,
        log_probs: Tensor,
        entropy: Tensor | None,
        old_log_probs: Tensor | None,
        reference_log_probs: Tensor | None,
        sequence: Tensor,
        token_index: Tensor,
    ) -> tuple[Tensor, Sums]:
        """As `asyncds.engine.training.Objective`."""
        rows, local = torch.unique(sequence, return_inverse=True)
        if entropy is not None and not self._objective.needs_entropy:
            entropy = entropy.detach()  # for the log only
        return self._objective.loss(
            sequences=self._sequences.rows(rows),
            sequence=local,
            current=log_probs,
            behaviour=self._behaviour[token_index],
            proximal=old_log_probs,
            reference=reference_log_probs,
            entropy=entropy,
            parts=self._parts.tokens(token_index),
        )


def _parts(shard: Shard, *, version: int, max_lag: int, device: torch.device) -> Parts:
    """Tokens by lag and by generator. A rank knows the lags of its own tokens only, so that every
    lag up to the bound is a part. A token counts as 0 versions old where it is of a version that
    the learner, started again from a checkpoint, has not made again yet."""
    lag = np.clip(version - shard.versions, 0, max_lag)
    mine = shard.sequences
    generator = np.repeat(shard.table.generator[mine], shard.table.length[mine])
    index = np.stack([lag, max_lag + 1 + generator]).astype(np.int64)
    return Parts(
        names=(
            *(f"lag={i}" for i in range(max_lag + 1)),
            *(f"generator={name}" for name in shard.generators),
        ),
        index=torch.from_numpy(index).to(device),
    )


def _updates(shard: Shard, n: int) -> npt.NDArray[np.int64]:
    """Which update of the batch each sequence belongs to, int64 [N]."""
    update = np.zeros(len(shard.table), dtype=np.int64)
    for i, rows in enumerate(plan_updates(shard.table, minibatches=n)):
        update[rows] = i
    return update


def _sequence_sums(shard: Shard, flat: Float32, device: torch.device) -> Tensor:
    """Σ_t of a flat per-token array for every sequence of the batch, float [N], on every rank."""
    lengths = shard.table.length[shard.sequences]
    rows = np.repeat(shard.sequences, lengths)
    sums = np.bincount(rows, weights=flat, minlength=len(shard.table)).astype(np.float32)
    total = torch.from_numpy(sums).to(device)
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(total)
    return total
