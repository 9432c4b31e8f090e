"""Memory that weights which wait to be sent take of the rank that sends them."""

from asyncds.config.schema import RunConfig
from asyncds.plan.gpus import Gpu
from asyncds.plan.parts import Part
from asyncds.plan.shape import ModelShape


def staging(config: RunConfig, shape: ModelShape, device: Gpu) -> list[Part]:
    """A copy of the weights, in buckets, where they are sent from: a GPU under NCCL."""
    itemsize = {"float32": 4, "bfloat16": 2}[config.dtype]
    size = itemsize * shape.parameters
    if device.shared or config.weights.transport != "gloo":
        return [Part("staged weights", size, "a version that waits to be sent")]
    return []


def received(config: RunConfig, shape: ModelShape, device: Gpu) -> list[Part]:
    """Bytes a generator holds of weights that arrive, beside the model: a bucket at a time."""
    itemsize = {"float32": 4, "bfloat16": 2}[config.dtype]
    size = itemsize * max(shape.largest_tensor, shape.layer_parameters)
    return [Part("weights that arrive", size, "a bucket and what of a layer came before it")]
