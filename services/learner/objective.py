"""An objective applied to a batch: what the engine minimises, micro-batch by micro-batch."""

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from asyncds.algo.advantages.base import Float, Sequences
from asyncds.algo.diagnostics import Parts
from asyncds.algo.objective import Objective
from asyncds.algo.sums import Sums
from asyncds.engine.micro_batches import plan_updates
from asyncds.protocol.batch import Float32, Shard


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
        """Compute the advantages of the batch.

        version: of the weights that train on it. max_lag: bound on a token's lag to it.
        old_log_probs float32 [Σ sampled]: π_old of the shard, where the objective needs it.
        """
        table = shard.table
        self._objective = objective
        self._behaviour = torch.from_numpy(shard.logprobs.copy()).to(device)
        self._parts = _parts(shard, version=version, max_lag=max_lag, device=device)
        sums = None if old_log_probs is None else _sequence_sums(shard, old_log_probs, device)
        self._sequences = objective.sequence_advantages(
            Sequences(
                reward=table.reward.astype(np.float64),
                correct=table.correct,
                group=table.group.astype(np.int64),
                length=table.sampled.astype(np.int64),
                logprob_sum=table.logprob_sum.astype(np.float64),
            ),
            proximal_logprob_sum=sums,
            update=_updates(shard, objective.config.updates_per_batch),
            finished=table.finished,
        ).to(device)

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
        """The loss of a micro-batch, as `asyncds.engine.training.Objective` has it."""
        rows, local = torch.unique(sequence, return_inverse=True)
        if entropy is not None and not self._objective.config.needs_entropy:
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
    """Split the batch's sampled tokens by lag and by generator.

    A rank knows the lags of its own tokens only, so that every lag up to the bound is a part. A
    token counts as 0 versions old where it is of a version that the learner, started again from a
    checkpoint, has not made again yet.
    """
    lag = np.clip(version - shard.versions, 0, max_lag)
    mine = shard.sequences
    generator = np.repeat(shard.table.generator[mine], shard.table.sampled[mine])
    index = np.stack([lag, max_lag + 1 + generator]).astype(np.int64)
    return Parts(
        names=(
            *(f"lag={i}" for i in range(max_lag + 1)),
            *(f"generator={name}" for name in shard.generators),
        ),
        index=torch.from_numpy(index).to(device),
    )


def _updates(shard: Shard, n: int) -> npt.NDArray[np.int64]:
    """The update of the batch that each sequence belongs to, int64 [N]."""
    update = np.zeros(len(shard.table), dtype=np.int64)
    for i, rows in enumerate(plan_updates(shard.table, minibatches=n)):
        update[rows] = i
    return update


def _sequence_sums(shard: Shard, flat: Float32, device: torch.device) -> Float:
    """Σ_t of a flat array of sampled tokens for every sequence of the batch, [N], on every rank."""
    lengths = shard.table.sampled[shard.sequences]
    rows = np.repeat(shard.sequences, lengths)
    sums = np.bincount(rows, weights=flat, minlength=len(shard.table)).astype(np.float64)
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return sums
    total = torch.from_numpy(sums).to(device)
    dist.all_reduce(total)
    result: Float = total.cpu().numpy()
    return result
