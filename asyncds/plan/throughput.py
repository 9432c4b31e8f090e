"""Tokens a second of learner and generators, by a roofline.

Arithmetic or bandwidth, whichever takes longer, at a share of what the GPU's maker promises.

The shares are what well-kept systems reach; a run's own numbers are on its page. What is left out:
padding, prompts that completions share in the learner, communication between ranks, scoring,
stragglers.
"""

from dataclasses import dataclass

from asyncds.config.schema import RunConfig
from asyncds.plan.gpus import Gpu
from asyncds.plan.load import Load
from asyncds.plan.shape import ModelShape
from asyncds.plan.staging import ITEMSIZE

TRAINING_SHARE = 0.4
"""Of the promised arithmetic, in training."""
PREFILL_SHARE = 0.5
"""Of the promised arithmetic, in reading prompts and in a large decoding batch."""
BANDWIDTH_SHARE = 0.7
"""Of the promised bandwidth of a GPU's memory, in decoding."""
SPLIT_SHARE = 0.85
"""Of the speed of one GPU that each of several has, which wait for each other in every layer."""
GRAPH_SECONDS, EAGER_LAYER_SECONDS = 2e-3, 0.25e-3
"""Time of the CPU in a decoding step: with CUDA graphs, and without for each layer."""
_TRAINING_PASSES, _ADAPTER_PASSES = 3, 2
"""A forward pass, and a backward pass that is two; without gradients of the weights it is one."""


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """A generator at work. sequences: at once. tokens: a second. bound: what it waits for."""

    sequences: int
    tokens: float
    bound: str


def learner_rate(config: RunConfig, shape: ModelShape, load: Load, device: Gpu) -> float:
    """Completion tokens a second that all ranks train on."""
    length = load.prompt + load.completion
    passes = _TRAINING_PASSES if config.learner.lora is None else _ADAPTER_PASSES
    passes += config.algorithm.needs_proximal + config.algorithm.needs_reference
    passes += config.learner.checkpoints_activations(shape.parameters)
    per_sequence = passes * length * _forward(shape, length / 2)
    flops = config.learner.ranks * device.flops * TRAINING_SHARE
    return load.completion * flops / per_sequence


def decoding(
    config: RunConfig, shape: ModelShape, load: Load, device: Gpu, *, room: float
) -> Decoding:
    """How a generator decodes; room: usual sequences that its KV cache holds."""
    settings = config.generator
    itemsize = ITEMSIZE[config.dtype]
    split = settings.tensor_parallel
    speed = split * (SPLIT_SHARE if split > 1 else 1.0)
    sequences = max(1, min(load.in_flight, int(room)))
    context = load.prompt + load.completion / 2
    read = itemsize * _weights_read(shape, sequences)
    read += sequences * shape.kv_bytes(context, itemsize=itemsize)
    flops = sequences * _forward(shape, context)
    memory = read / (speed * device.bandwidth * BANDWIDTH_SHARE)
    arithmetic = flops / (speed * device.flops * PREFILL_SHARE)
    cpu = EAGER_LAYER_SECONDS * shape.layers if settings.enforce_eager else GRAPH_SECONDS
    step = max(memory, arithmetic) + cpu
    # A group's prompt is computed once, and its completions share it.
    prompt = load.prompt / config.rollout.group_size * _forward(shape, load.prompt / 2)
    reading = sequences * prompt / (speed * device.flops * PREFILL_SHARE)
    seconds = load.completion * step + reading
    bound = "bandwidth" if memory >= arithmetic else "arithmetic"
    if cpu > max(memory, arithmetic):
        bound = "the CPU: set generator.enforce_eager to false" if settings.enforce_eager else "CPU"
    return Decoding(sequences=sequences, tokens=sequences * load.completion / seconds, bound=bound)


def _forward(shape: ModelShape, context: float) -> float:
    """Operations of a token's forward pass that looks back at so many tokens."""
    windowed = min(context, shape.window) if shape.window else context
    seen = (shape.layers - shape.windowed_layers) * context + shape.windowed_layers * windowed
    return 2.0 * shape.parameters_per_token + 4.0 * shape.heads * shape.head_width * seen


def _weights_read(shape: ModelShape, sequences: int) -> float:
    """Parameters that a decoding step reads: of the experts those that any sequence is sent to."""
    dense = shape.parameters_per_token
    if not shape.experts:
        return dense
    chosen = shape.experts_per_token / shape.experts
    untouched = (1 - chosen) ** sequences
    return dense + shape.expert_parameters * (1 - untouched - chosen)
