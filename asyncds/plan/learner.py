"""The memory of a learner rank, part by part, at its fullest moment.

That moment is in the backward pass of a micro-batch that is not the first, when gradients,
activations and the scratch of one step of the computation are there together; or, where it is
larger, the optimizer's step.
"""

from collections.abc import Iterator
from typing import Any

from asyncds.config.schema import RunConfig
from asyncds.engine.deepspeed_config import deepspeed_config
from asyncds.engine.shared_prompts import widest_row
from asyncds.plan.activations import head_scratch, kept_by_layer, scratch_of_layer
from asyncds.plan.adapters import trained_parameters
from asyncds.plan.gpus import GIB, Gpu
from asyncds.plan.load import Load
from asyncds.plan.parts import Part, total
from asyncds.plan.shape import ModelShape
from asyncds.plan.staging import ITEMSIZE, staged

MASTER, MOMENTS = 4, 8
"""Bytes a parameter of the float32 weights that AdamW updates, and of its two moments."""
CONTEXT = 1.5 * GIB
"""What CUDA, cuBLAS and NCCL take of a GPU before the first tensor, and their buffers."""
LIBRARIES = 0.5 * GIB
"""What a process takes of main memory with PyTorch and DeepSpeed loaded."""
_GRADIENT = 4
"""Gradients are summed, and travel, in float32."""


class _Zero:
    """DeepSpeed's settings of ZeRO, its own defaults where the configuration has none."""

    def __init__(self, config: RunConfig) -> None:
        made = deepspeed_config(config.learner, dtype=config.dtype)
        self._given: dict[str, Any] = made["zero_optimization"]
        self.stage = config.learner.zero_stage

    @property
    def bucket(self) -> int:
        """Elements of the buffer that gradients are reduced in."""
        return int(self._given.get("reduce_bucket_size", 500_000_000))

    @property
    def gathered(self) -> int:
        """Most elements of partitioned weights that are gathered at a time."""
        live = self._given.get("stage3_max_live_parameters", 1_000_000_000)
        return int(live) + int(self._given.get("stage3_prefetch_bucket_size", 50_000_000))

    @property
    def sub_group(self) -> int:
        """Elements that a step of stage 3 updates at a time."""
        return int(self._given.get("sub_group_size", 1_000_000_000))


def learner_memory(
    config: RunConfig, shape: ModelShape, load: Load, device: Gpu, *, sends: bool = True
) -> list[Part]:
    """The parts of one rank's memory; sends: whether it is rank 0, which sends the weights."""
    zero = _Zero(config)
    static = [*_weights(config, shape, zero), *_optimizer(config, shape, zero, device)]
    backward = [*_backward(config, shape, load, zero)]
    after = max(_after(config, shape, zero, device), key=lambda part: part.nbytes)
    busy = backward if total(backward) >= after.nbytes else [after]
    sent = staged(config, shape, device) if sends else []
    return [*static, *busy, *sent, _libraries(device)]


def _libraries(device: Gpu) -> Part:
    if device.shared:
        return Part("Python and libraries", LIBRARIES, "allowance")
    return Part("CUDA, cuBLAS, NCCL", CONTEXT, "allowance")


def _weights(config: RunConfig, shape: ModelShape, zero: _Zero) -> Iterator[Part]:
    itemsize, ranks = ITEMSIZE[config.dtype], config.learner.ranks
    share = ranks if zero.stage == 3 else 1
    size = itemsize * shape.parameters / share
    yield Part("weights", size, _of(f"{itemsize} B a parameter", share))
    if config.learner.lora is not None:
        yield Part("adapter", itemsize * trained_parameters(config, shape) / share, "learner.lora")
    elif config.algorithm.needs_reference:
        yield Part("reference model", size, "algorithm.kl.coef above 0")


def _optimizer(config: RunConfig, shape: ModelShape, zero: _Zero, device: Gpu) -> Iterator[Part]:
    ranks, p = config.learner.ranks, trained_parameters(config, shape)
    mixed = config.dtype == "bfloat16"
    share = ranks if zero.stage else 1
    if zero.stage:
        yield Part("float32 weights", MASTER * p / share, _of("4 B a parameter", share))
    yield Part("AdamW's moments", MOMENTS * p / share, _of("8 B a parameter", share))
    kept = ranks if zero.stage >= 2 else 1
    yield Part("gradients", _GRADIENT * p / kept, _of("4 B a parameter, float32", kept))
    if zero.stage == 1 and mixed:
        yield Part("gradients of a pass", 2 * p, "2 B a parameter, before they are summed")
    if _bucketed(config, zero):
        # Main memory that nothing is written to is not taken.
        bucket = min(zero.bucket, p) if device.shared else zero.bucket
        yield Part("bucket of gradients", _GRADIENT * bucket, "reduce_bucket_size, float32")


def _bucketed(config: RunConfig, zero: _Zero) -> bool:
    """Whether gradients are averaged over ranks bucket by bucket in the backward pass.

    Otherwise that is done after it, where they are summed.
    """
    return zero.stage > 1 or (zero.stage == 1 and config.dtype == "float32")


def _in_a_bucket(config: RunConfig, shape: ModelShape, zero: _Zero) -> float:
    """Bytes of the gradients that are averaged at a time: a bucket, or one larger tensor."""
    trained = trained_parameters(config, shape)
    return _GRADIENT * min(trained, max(shape.largest_tensor, zero.bucket))


def _backward(config: RunConfig, shape: ModelShape, load: Load, zero: _Zero) -> Iterator[Part]:
    itemsize, tokens = ITEMSIZE[config.dtype], load.micro_batch
    if zero.stage == 3:
        most = min(shape.parameters, max(zero.gathered, 2 * shape.largest_tensor))
        yield Part("gathered weights", itemsize * most, "stage3_max_live_parameters")
    if _bucketed(config, zero):
        # What a rank keeps of them is copied from what all have sent.
        copies = 1 + 1 / config.learner.ranks if zero.stage == 3 else 1
        yield Part(
            "gradients on their way", copies * _in_a_bucket(config, shape, zero), "of a bucket"
        )
    layer = tokens * kept_by_layer(shape, itemsize)
    if config.learner.checkpoints_activations(shape.parameters):
        kept = shape.layers * tokens * shape.width * itemsize
        yield Part("activations", kept, f"{tokens:,} tokens, a layer's input each")
        working = layer + tokens * scratch_of_layer(shape, itemsize)
    else:
        yield Part("activations", shape.layers * layer, f"{tokens:,} tokens, all of every layer")
        working = tokens * scratch_of_layer(shape, itemsize)
    if config.learner.share_prompts and not shape.windowed_layers:
        width = min(widest_row(tokens), load.longest * config.rollout.group_size)
        # As truth values, and once more as what is added to the scores.
        mask = tokens * width * (1 + itemsize)
        yield Part("attention mask", mask, f"of shared prompts, {width:,} tokens a row at most")
    rows = min(config.learner.logprob_chunk_tokens, load.scored)
    head = head_scratch(shape, rows=rows, itemsize=itemsize)
    if head >= working:
        yield Part("scratch", head, f"output projection, {rows:,} × {shape.vocabulary:,} logits")
    else:
        yield Part("scratch", working, "one layer's backward pass")


def _after(config: RunConfig, shape: ModelShape, zero: _Zero, device: Gpu) -> Iterator[Part]:
    """Memory after the backward pass, when its activations are gone."""
    p = trained_parameters(config, shape)
    if zero.stage == 0:
        yield Part(
            "gradients on their way", _in_a_bucket(config, shape, zero), "reduce_bucket_size"
        )
    share = _GRADIENT * p / (config.learner.ranks if zero.stage else 1)
    if zero.stage == 3:
        share = min(share, _GRADIENT * zero.sub_group)
    # AdamW computes on all of a rank's share at once, with one more tensor of that size on a GPU,
    # two on a CPU. Where gradients are not flat already they are made so first, and then freed.
    scratch = share * (2 if device.shared else 1)
    if zero.stage == 3:
        scratch += share
    elif zero.stage and config.dtype == "float32":
        scratch = share + max(0.0, scratch - _GRADIENT * p)
    yield Part("optimizer's step", scratch, "AdamW, on the share of a rank")


def _of(what: str, share: int) -> str:
    return f"{what} / {share} ranks" if share > 1 else what
