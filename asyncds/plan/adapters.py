"""Sizes of a LoRA adapter, from the model's shape: what is trained, and sent, of it."""

from asyncds.config.schema import RunConfig
from asyncds.plan.shape import ModelShape, Tensor

_ADAPTED = ("attention.", "mlp.")
"""The first parts of the names of tensors that may have an adapter: those of linear layers. Experts
lie in one tensor, which PEFT's adapters of linear layers leave alone."""
_TENSORS = {
    "q_proj": "attention.q",
    "k_proj": "attention.k",
    "v_proj": "attention.v",
    "qkv_proj": "attention.qkv",
    "o_proj": "attention.out",
    "dense": "attention.out",
    "gate_proj": "mlp.up",
    "up_proj": "mlp.up",
    "gate_up_proj": "mlp.up",
    "fc1": "mlp.up",
    "down_proj": "mlp.down",
    "fc2": "mlp.down",
}
"""The tensors of a shape that modules of those names have."""


def trained_parameters(config: RunConfig, shape: ModelShape) -> int:
    """Parameters that are trained: the adapter's, or all."""
    lora = config.learner.lora
    if lora is None:
        return shape.parameters
    linear = [t for t in shape.tensors if len(t.shape) == 2 and t.name.startswith(_ADAPTED)]
    if lora.target_modules == "all-linear":
        return sum(_size(t, lora.rank) * t.count for t in linear)
    # Gate and up are tensors of one kind, each with half of their number.
    both = 2 if shape.gated and "gate_up_proj" not in lora.target_modules else 1
    return sum(
        _size(t, lora.rank) * t.count // (both if t.name == "mlp.up" else 1)
        for target in lora.target_modules
        for t in linear
        if t.name == _TENSORS.get(target)
    )


def sent_parameters(config: RunConfig, shape: ModelShape) -> int:
    """Parameters that a version has on its way to engines."""
    whole = config.sent_adapter is None
    return shape.parameters if whole else trained_parameters(config, shape)


def _size(tensor: Tensor, rank: int) -> int:
    return rank * sum(tensor.shape)
