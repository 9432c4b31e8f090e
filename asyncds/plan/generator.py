"""The memory of a generator's GPU: vLLM's share, and how many sequences it has room for."""

from dataclasses import dataclass

from asyncds.config.schema import RunConfig
from asyncds.plan.gpus import GIB, Gpu
from asyncds.plan.load import Load
from asyncds.plan.parts import Part, total
from asyncds.plan.shape import ModelShape
from asyncds.plan.staging import ITEMSIZE, received

STEP_TOKENS = 8192
"""Tokens vLLM computes in one step at most, by its own default on a GPU."""
GRAPHS = 1.0 * GIB
"""What CUDA graphs take, where they are not turned off by enforce_eager."""
CONTEXT = 1.0 * GIB
"""What CUDA and NCCL take beside vLLM's share, and what lies unused between tensors."""
LIBRARIES = 1.0 * GIB
"""What a process takes of main memory with vLLM loaded."""
BLOCK = 16
"""Tokens in a block of the KV cache."""


@dataclass(frozen=True, kw_only=True)
class GeneratorMemory:
    """The parts, the KV cache among them, and what that has room for.

    whole: sequences of the longest kind that fit at once; usual: sequences half through a usual
    completion. smallest: bytes of a cache for one longest sequence, without which vLLM does not
    start.
    """

    parts: list[Part]
    whole: float
    usual: float
    smallest: float

    @property
    def starts(self) -> bool:
        """Whether the cache holds one longest sequence."""
        return self.whole >= 1


def generator_memory(
    config: RunConfig, shape: ModelShape, load: Load, device: Gpu
) -> GeneratorMemory:
    """The memory of each GPU of a generator."""
    settings = config.generator
    itemsize = ITEMSIZE[config.dtype]
    tensor, pipeline = settings.tensor_parallel, settings.pipeline_parallel
    weights = itemsize * shape.parameters / (tensor * pipeline)
    parts = [
        Part("weights", weights, f"{itemsize} B a parameter" + _of(tensor * pipeline)),
        Part("a step's activations", _step(config, shape, itemsize), "allowance"),
        *received(config, shape, device),
    ]
    if device.shared:
        parts.append(Part("Python and libraries", LIBRARIES, "allowance"))
        cache = settings.kv_cache_gb * GIB
        why = "generator.kv_cache_gb"
    else:
        if not settings.enforce_eager:
            parts.append(Part("CUDA graphs", GRAPHS, "allowance"))
        parts.append(Part("CUDA, NCCL", CONTEXT, "allowance"))
        share = settings.gpu_memory_utilization
        cache = max(0.0, share * device.memory - total(parts))
        why = f"what is left of {share:.0%} (generator.gpu_memory_utilization)"
    parts.append(Part("KV cache", cache, why))
    # Heads of keys and values are split over GPUs as far as there are heads.
    split = min(tensor, shape.kv_heads) * pipeline
    longest = shape.kv_bytes(load.longest + BLOCK, itemsize=itemsize) / split
    usual = shape.kv_bytes(load.prompt + load.completion / 2 + BLOCK, itemsize=itemsize) / split
    return GeneratorMemory(
        parts=parts, whole=cache / longest, usual=cache / usual, smallest=longest
    )


def _step(config: RunConfig, shape: ModelShape, itemsize: int) -> float:
    """Activations of the largest step, and the sampler's float32 logits and log-probabilities."""
    settings = config.generator
    given = settings.engine_args.get("max_num_batched_tokens")
    tokens = int(given) if given else min(STEP_TOKENS, settings.max_num_seqs * 64)
    inner = 2 * (shape.mlp_width * shape.experts_per_token) / settings.tensor_parallel
    activations = tokens * (4 * shape.width + inner) * itemsize
    return activations + 4 * settings.max_num_seqs * shape.vocabulary * 4


def _of(workers: int) -> str:
    return f" / {workers} GPUs" if workers > 1 else ""
