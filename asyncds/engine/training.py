"""The DeepSpeed learner: one optimizer update from a shard, and log-probabilities of its tokens.

Every public method of TrainingEngine is a collective: all ranks call it, in the same order, with
their own shard of the same batch.
"""

import functools
import itertools
import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import deepspeed
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import PreTrainedModel

from asyncds.algo.sums import Sums
from asyncds.config.engines import LearnerConfig
from asyncds.engine.deepspeed_config import DType, deepspeed_config, lr_factor
from asyncds.engine.loading import load_policy, size_of
from asyncds.engine.lora import adapter_config, adapter_left_out
from asyncds.engine.micro_batches import (
    MicroBatch,
    ShardIndex,
    padding,
    plan_micro_batches,
    plan_updates,
)
from asyncds.engine.optimizer import make_optimizer
from asyncds.engine.policy_model import PolicyModel, TokenScores, check_head
from asyncds.engine.process_group import Patience, join
from asyncds.engine.prompt_sharing_check import shares_prompts
from asyncds.engine.shared_prompts import Members
from asyncds.protocol.batch import Float32, Int32, Shard

log = logging.getLogger(__name__)


class NonFiniteError(ArithmeticError):
    """A NaN or an infinity where training needs a number. The weights are as before the step."""


class LossFunction(Protocol):
    """The loss that is minimised, called once per micro-batch with its t sampled tokens.

    All arguments are flat, [t], on the learner's device. log_probs carries the gradient, and so
    does entropy, where asked for. sequence int64: each token's row of the batch table. token_index
    int64: its position in the shard's arrays of those. A micro-batch holds whole sequences,
    a sequence's tokens in order; t is 0 on a rank that has nothing left to do.

    Returns the *sum* of the per-token losses, and what to report, summed likewise.
    """

    def __call__(
        self,
        *,
        log_probs: Tensor,
        entropy: Tensor | None,
        old_log_probs: Tensor | None,
        reference_log_probs: Tensor | None,
        sequence: Tensor,
        token_index: Tensor,
    ) -> tuple[Tensor, Sums]: ...


@dataclass(frozen=True, kw_only=True)
class UpdateMetrics:
    """Metrics of one call of ``update``, the same on every rank but for ``seconds``.

    optimizer_steps: taken so far in the run. loss: per token of the batch. grad_norm: 2-norm of the
    whole gradient before clipping, the largest of this call's updates. clipped: the share of these
    updates whose gradient was scaled down to ``max_grad_norm``. lr: of the last update.
    tokens: sampled tokens of the batch. micro_batches: forward passes of each rank. padding: the
    share of all ranks' positions that hold nothing. sums: the loss function's, over all ranks.
    seconds: wall time of this rank by phase (forward, backward, step, reduce). deepspeed_seconds:
    of DeepSpeed's own timers on this rank, where its configuration has ``wall_clock_breakdown``.
    """

    optimizer_steps: int
    loss: float
    grad_norm: float
    clipped: float
    lr: float
    tokens: int
    micro_batches: int
    padding: float
    sums: Sums
    seconds: dict[str, float]
    deepspeed_seconds: dict[str, float]


class TrainingEngine:
    """A causal language model in training over all ranks.

    Run by torchrun, or as a single process without it. Raises UnsupportedModelError for a model
    whose logits cannot be reproduced, ValueError for settings that do not go together.
    """

    def __init__(
        self,
        settings: LearnerConfig,
        *,
        model: str | Path,
        dtype: DType,
        temperature: float,
        total_steps: int,
        seed: int,
        reference_model: str | Path | None = None,
        tokenizer: str | None = None,
    ) -> None:
        """Load the model and partition it.

        model: Hugging Face directory or hub id. tokenizer: what exports get, where it is not the
        model's. temperature: that of the sampler, which logits are
        divided by. total_steps: optimizer steps after which the learning rate's schedule ends.
        reference_model: a frozen second model for ``reference_log_probs``, loaded only if given,
        and not where it is what an adapter is trained beside.
        """
        config = deepspeed_config(settings, dtype=dtype)
        self.model_source = str(model)
        self.tokenizer_source = tokenizer or str(model)
        self.zero_stage = settings.zero_stage
        self.dtype = dtype
        self.device = join(deadline_s=settings.collective_seconds)
        self.rank = dist.get_rank()
        self._temperature = temperature
        self._max_grad_norm = settings.max_grad_norm or math.inf
        torch.manual_seed(seed)

        load = functools.partial(load_policy, dtype, config, settings.logprob_chunk_tokens)
        policy = load(model, lora=settings.lora)
        if settings.checkpoints_activations(size_of(policy)):
            policy.causal_lm.gradient_checkpointing_enable()
        factor = functools.partial(lr_factor, settings=settings, total_steps=total_steps)
        self.deepspeed, *_ = deepspeed.initialize(
            model=policy,
            optimizer=make_optimizer(policy, settings),
            lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, factor),
            config=config,
        )
        self.patience = Patience(
            {
                dist.group.WORLD,
                self.deepspeed.data_parallel_group,
                self.deepspeed.seq_data_parallel_group,
            },
            usual_s=settings.collective_seconds,
        )
        self._finish(self.deepspeed)
        self._reference: nn.Module | None = None
        if settings.lora is not None and str(reference_model) == str(model):
            self._reference = self.deepspeed
        elif reference_model is not None:
            self._reference = self._frozen(load(reference_model), config)
        # In one order on all ranks: the check is a collective. An adapter's reference is its model.
        models = [m for m in dict.fromkeys((self.deepspeed, self._reference)) if m is not None]
        shares = settings.share_prompts and all(shares_prompts(m, self.device) for m in models)
        self._plan = functools.partial(
            plan_micro_batches,
            ranks=self.ranks,
            token_budget=settings.micro_batch_tokens,
            hidden_size=self.causal_lm.config.get_text_config().hidden_size if shares else None,
        )

    @property
    def ranks(self) -> int:
        """Processes that train together."""
        return dist.get_world_size()

    @property
    def size(self) -> int:
        """Parameters that are trained, on all ranks together."""
        return size_of(self.deepspeed.module, trained=True)

    @property
    def adapter(self) -> dict[str, Any] | None:
        """The configuration of the adapter that is trained, as PEFT's files have it, if one is."""
        return adapter_config(self.causal_lm)

    @property
    def causal_lm(self) -> PreTrainedModel:
        """The Hugging Face model being trained; under ZeRO-3 its parameters are partitioned."""
        return self.deepspeed.module.causal_lm

    def close(self) -> None:
        """Release DeepSpeed's hooks and memory; the process group stays."""
        for engine in dict.fromkeys((self.deepspeed, self._reference)):
            if isinstance(engine, deepspeed.DeepSpeedEngine):
                engine.destroy()

    @property
    def optimizer_steps(self) -> int:
        """Updates applied to the weights so far."""
        return self.deepspeed.global_steps - self.deepspeed.skipped_steps

    def update(
        self,
        shard: Shard,
        loss_function: LossFunction,
        *,
        minibatches: int = 1,
        old_log_probs: Float32 | None = None,
        reference_log_probs: Float32 | None = None,
        with_entropy: bool = False,
    ) -> UpdateMetrics:
        """Train on one batch, in ``minibatches`` optimizer updates.

        The gradient is that of (Σ loss over the update's tokens on all ranks) / (their number),
        whatever the micro-batches, the ranks and the ZeRO stage. old_log_probs and
        reference_log_probs: what ``log_probs`` and ``reference_log_probs`` returned for the shard.

        Raises NonFiniteError, naming the step, for a log-probability or a gradient that is not
        finite; the weights are then as they were.
        """
        table, index = shard.table, ShardIndex(shard)
        old, reference = (
            None if flat is None else torch.tensor(flat, device=self.device)
            for flat in (old_log_probs, reference_log_probs)
        )
        seconds: dict[str, float] = {}
        timers: defaultdict[str, float] = defaultdict(float)
        timed = functools.partial(_timed, seconds)
        total_loss = torch.zeros((), dtype=torch.float64, device=self.device)
        total_sums: Sums | None = None
        grad_norms: list[float] = []
        plan: list[Members] = []
        for rows in plan_updates(table, minibatches=minibatches):
            lr = self.deepspeed.get_lr()[0]
            # DeepSpeed averages gradients over ranks; this makes it a sum over the batch.
            scale = self.ranks / int(table.sampled[rows].sum())
            of_ranks = self._plan(table, rows)
            mine = of_ranks[self.rank]
            plan += itertools.chain(*of_ranks)
            for k, members in enumerate(mine):
                batch = _on_device(index.assemble(members), self.device)
                self.deepspeed.set_gradient_accumulation_boundary(k == len(mine) - 1)
                with timed("forward"):
                    scores = self._score(self.deepspeed, batch, with_entropy=with_entropy)
                    self._require_finite(scores.log_probs, shard, batch)
                    loss, sums = loss_function(
                        log_probs=scores.log_probs,
                        entropy=scores.entropy,
                        old_log_probs=None if old is None else old[batch.token_index],
                        reference_log_probs=(
                            None if reference is None else reference[batch.token_index]
                        ),
                        sequence=batch.sequence,
                        token_index=batch.token_index,
                    )
                with timed("backward"):
                    self.deepspeed.backward(loss * scale)
                total_loss += loss.detach()
                total_sums = sums if total_sums is None else total_sums + sums
            with timed("step"):
                grad_norms.append(self._step(shard.step))
            if self.deepspeed.wall_clock_breakdown():
                for name, value in _whole(self.deepspeed.get_wall_clock_timers()).items():
                    timers[name] += value
        assert total_sums is not None
        with timed("reduce"):
            loss_sum, total_sums = _reduced(total_loss, total_sums)
        tokens = int(table.sampled.sum())
        return UpdateMetrics(
            optimizer_steps=self.optimizer_steps,
            loss=loss_sum / tokens,
            grad_norm=max(grad_norms),
            clipped=self._clipped_share(grad_norms),
            lr=lr,
            tokens=tokens,
            micro_batches=len(plan) // self.ranks,
            padding=padding(plan, table),
            sums=total_sums,
            seconds=seconds,
            deepspeed_seconds=dict(timers),
        )

    def log_probs(self, shard: Shard) -> Float32:
        """Log-probabilities [Σ sampled] of the shard's sampled tokens, under current weights."""
        return self._flat_log_probs(self.deepspeed, shard)

    def reference_log_probs(self, shard: Shard) -> Float32:
        """Log-probabilities [Σ sampled] of the same tokens under the frozen reference model.

        Raises ValueError where there is none.
        """
        if self._reference is None:
            raise ValueError("no reference model was loaded: give reference_model")
        base = self._reference is self.deepspeed
        with adapter_left_out(self._reference) if base else nullcontext():
            return self._flat_log_probs(self._reference, shard)

    def probe(self, token_ids: Int32) -> Float32:
        """Log-probabilities [n - 1] at temperature 1 of token_ids [n] after the first.

        An inference engine must agree on them once it has the same weights.
        """
        ids = torch.tensor(token_ids, dtype=torch.int64, device=self.device)
        column = torch.arange(len(ids) - 1, device=self.device)
        with _evaluating(self.deepspeed):
            scores = self.deepspeed(
                ids[None, :-1], torch.zeros_like(column), column, ids[1:], temperature=1.0
            )
        return scores.log_probs.cpu().numpy()

    def _score(
        self, model: nn.Module, batch: "_DeviceBatch", *, with_entropy: bool = False
    ) -> TokenScores:
        return model(
            batch.input_ids,
            batch.row,
            batch.column,
            batch.targets,
            position=batch.position,
            segment=batch.segment,
            temperature=self._temperature,
            with_entropy=with_entropy,
        )

    def _flat_log_probs(self, model: nn.Module, shard: Shard) -> Float32:
        index = ShardIndex(shard)
        flat = torch.zeros(len(shard.logprobs), device=self.device)
        everything = np.arange(len(shard.table), dtype=np.int32)
        with _evaluating(model):
            for members in self._plan(shard.table, everything)[self.rank]:
                batch = _on_device(index.assemble(members), self.device)
                scores = self._score(model, batch)
                self._require_finite(scores.log_probs, shard, batch)
                flat[batch.token_index] = scores.log_probs
        return flat.cpu().numpy()

    def _require_finite(self, log_probs: Tensor, shard: Shard, batch: "_DeviceBatch") -> None:
        finite = torch.isfinite(log_probs)
        if not finite.all():
            first = int(batch.sequence[~finite][0])
            raise NonFiniteError(
                f"step {shard.step}, rank {self.rank}: {int((~finite).sum())} log-probabilities "
                f"are not finite, the first in sequence {first}"
            )

    def _step(self, step: int) -> float:
        """Apply the accumulated gradient and return its norm. Raises NonFiniteError."""
        if self.zero_stage == 0:
            parameters = self.deepspeed.module.parameters()
            norm = nn.utils.clip_grad_norm_(parameters, self._max_grad_norm).item()
            applied = math.isfinite(norm)
            if applied:
                self.deepspeed.step()
            else:
                self.deepspeed.zero_grad()
        else:
            self.deepspeed.step()
            norm = float(self.deepspeed.get_global_grad_norm())
            applied = self.deepspeed.was_step_applied()
        if not applied:
            raise NonFiniteError(f"step {step}: the gradient is not finite (its norm is {norm})")
        return norm

    def _clipped_share(self, norms: list[float]) -> float:
        return sum(norm > self._max_grad_norm for norm in norms) / len(norms)

    def _frozen(self, policy: PolicyModel, config: dict[str, Any]) -> nn.Module:
        policy.requires_grad_(False)
        if self.zero_stage < 3:
            return policy.to(self.device)
        without_optimizer = {key: value for key, value in config.items() if "optimizer" not in key}
        engine, *_ = deepspeed.initialize(model=policy, config=without_optimizer)
        self._finish(engine)
        return engine

    def _finish(self, engine: deepspeed.DeepSpeedEngine) -> None:
        head = engine.module.head
        if self.zero_stage == 3:
            # DeepSpeed finds this out by itself only if the weight is not gathered at the time.
            for parameter in head.projection.parameters():
                deepspeed.zero.register_external_parameter(head, parameter)
        vocabulary = engine.module.causal_lm.config.get_text_config().vocab_size
        check_head(engine, vocabulary=vocabulary, device=self.device)


@dataclass(frozen=True, kw_only=True)
class _DeviceBatch:
    """A MicroBatch as int64 tensors on the device."""

    input_ids: Tensor
    position: Tensor | None
    segment: Tensor | None
    row: Tensor
    column: Tensor
    targets: Tensor
    sequence: Tensor
    token_index: Tensor


def _on_device(batch: MicroBatch, device: torch.device) -> _DeviceBatch:
    return _DeviceBatch(
        **{
            name: None if array is None else torch.from_numpy(array).to(device)
            for name, array in vars(batch).items()
        }
    )


def _reduced(loss: Tensor, sums: Sums) -> tuple[float, Sums]:
    """Add the loss and the sums over all ranks in one collective."""
    everything = torch.cat([loss.reshape(1), sums.table.flatten()])
    dist.all_reduce(everything)
    return everything[0].item(), Sums(sums.names, everything[1:].reshape(sums.table.shape))


def _whole(milliseconds: Mapping[str, float]) -> dict[str, float]:
    """DeepSpeed's timers of a whole update, in seconds.

    Each has a twin for micro-batches, which is the same here, where one step follows all of them.
    """
    return {k: v / 1000 for k, v in milliseconds.items() if not k.endswith("_microstep")}


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Compute without gradients, in evaluation mode, so that checkpointing does nothing."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


@contextmanager
def _timed(
    seconds: dict[str, float], phase: str, clock: Callable[[], float] = time.perf_counter
) -> Iterator[None]:
    start = clock()
    yield
    seconds[phase] = seconds.get(phase, 0.0) + clock() - start
