"""The LoRA adapter of a model in training, as PEFT has put it in: its weights, and merged ones."""

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import Module, Parameter

NAME = "default"
"""The adapter's name within PEFT."""
CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
"""The names of PEFT's files."""
_FILE_PREFIX = "base_model.model."
_OWN = re.compile(rf"\.lora_([AB])\.{NAME}\.weight$")
_BASE = ".base_layer."
_AT_ONCE = 1 << 22
"""Elements that are merged at once: what it takes of memory does not grow with a matrix."""


def adapter_weights(model: Module) -> dict[str, Parameter]:
    """The adapter's parameters, by their names in PEFT's files; none without an adapter."""
    return {
        _FILE_PREFIX + _OWN.sub(r".lora_\1.weight", name): parameter
        for name, parameter in model.named_parameters()
        if _OWN.search(name)
    }


def base_weights(model: Module) -> dict[str, Parameter]:
    """The parameters of the model itself, by the names they have without an adapter."""
    return {
        name.replace(_BASE, "."): parameter
        for name, parameter in model.named_parameters(remove_duplicate=True)
        if not _OWN.search(name)
    }


def adapted_layers(model: Module) -> dict[str, "Adapted"]:
    """The layers that have an adapter, by the names of their base weights."""
    return {f"{name}.weight": Adapted(layer) for name, layer in _layers(model)}


class Adapted:
    """A layer with an adapter, of PEFT's."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer

    @property
    def parameters(self) -> list[Parameter]:
        """The adapter's own: A and B."""
        return [self._layer.lora_A[NAME].weight, self._layer.lora_B[NAME].weight]

    @torch.no_grad()
    def merged(self, values: torch.Tensor, start: int) -> torch.Tensor:
        """A run of W + s·B·A: ``values`` [n] are W's in row-major order, from ``start`` on.

        Summed in float32, and rounded to the dtype of W. Under ZeRO-3 A and B must be gathered.
        """
        a, b = (p.detach().float() for p in self.parameters)
        merged, width = torch.empty_like(values), a.shape[1]
        for low in range(0, len(values), _AT_ONCE):
            part = values[low : low + _AT_ONCE]
            at, end = start + low, start + low + len(part)
            first, last = at // width, -(-end // width)
            delta = (b[first:last] @ a).mul_(self._layer.scaling[NAME]).view(-1)
            skipped = at - first * width
            merged[low : low + len(part)] = part.float() + delta[skipped : skipped + len(part)]
        return merged


def _layers(model: Module) -> Iterator[tuple[str, Any]]:
    for name, module in model.named_modules():
        if NAME in getattr(module, "lora_A", ()):
            yield name, module
