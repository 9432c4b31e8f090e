"""Memory of weights on their way: little of a GPU, one version of main memory at each end.

A version is copied into main memory, and travels from there through a few buckets on the GPU. Every
worker of a generator receives it likewise, into main memory, where it waits to be loaded.
"""

from asyncds.config.schema import RunConfig
from asyncds.plan.adapters import sent_parameters
from asyncds.plan.gpus import Gpu
from asyncds.plan.parts import Part
from asyncds.plan.shape import ModelShape

LANES = 2
"""Buckets on a GPU: one is broadcast while the other is copied."""
ITEMSIZE = {"float32": 4, "bfloat16": 2}


def version_bytes(config: RunConfig, shape: ModelShape) -> float:
    """Bytes of one version of the weights."""
    return ITEMSIZE[config.dtype] * sent_parameters(config, shape)


def staged(config: RunConfig, shape: ModelShape, device: Gpu) -> list[Part]:
    """Bytes that the rank that sends holds of a version, where it computes."""
    if device.shared:
        return [Part("staged weights", version_bytes(config, shape), "the version that is sent")]
    return _lanes(config)


def received(config: RunConfig, shape: ModelShape, device: Gpu) -> list[Part]:
    """Bytes that a worker holds of a version that arrives, where it computes.

    On a CPU it is loaded beside the model, into tensors of its own; on a GPU from main memory, a
    layer at a time. An adapter has a place of its own in vLLM, made for the next larger rank that
    vLLM knows.
    """
    size = version_bytes(config, shape)
    if lora := config.sent_adapter:
        workers = config.generator.tensor_parallel * config.generator.pipeline_parallel
        served = size * lora.served_rank / lora.rank / workers
        arriving = [Part("adapter that arrives", size, "learner.lora")] if device.shared else []
        return [
            *(arriving or _lanes(config)),
            Part("adapter", served, f"beside the model, of rank {lora.served_rank}"),
        ]
    if device.shared:
        return [
            Part("weights that arrive", size, "a version beside the model"),
            Part("their twin", size, "the version that is made ready"),
        ]
    layer = max(shape.largest_tensor, shape.layer_parameters) / config.generator.tensor_parallel
    return [
        *_lanes(config),
        Part("weights that are loaded", ITEMSIZE[config.dtype] * layer, "one layer"),
    ]


def _lanes(config: RunConfig) -> list[Part]:
    if config.weights.transport == "gloo":
        return []
    return [Part("weights on their way", LANES * config.weights.bucket_mb * (1 << 20), "buckets")]
