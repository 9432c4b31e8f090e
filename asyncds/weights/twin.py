"""A twin of a model inside vLLM: the same modules with tensors of their own, loaded beside it.

vLLM's reload works on the modules that decode, so they stand still for it; and on a CPU loading
takes several times as long as receiving, because every layer is packed for its kernels. So there it
is done to a twin, while the model goes on. What is left for the pause is to hand the twin's tensors
over: no byte is copied. The model's parameters stay the objects they are.
"""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch.nn import Module
from vllm.config import ModelConfig
from vllm.model_executor.model_loader.mtp_validation import disable_mtp_completeness_check
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)
from vllm.model_executor.model_loader.reload.layerwise import LAYERWISE_INFO, get_layerwise_info
from vllm.model_executor.model_loader.reload.meta import to_meta_tensor

STRUCTURE = {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"}
"""Attributes of a module that a twin has for itself."""


class Twin:
    """The twin of ``model``, for one version."""

    def __init__(self, model: Module) -> None:
        self._pairs: dict[int, tuple[Module, Module]] = {}
        self._tensors: dict[int, torch.Tensor] = {}
        self.root = self._of(model)
        self._before = {id(twin): dict(twin.__dict__) for _, twin in self._pairs.values()}

    def load(self, tensors: Iterable[tuple[str, torch.Tensor]], config: ModelConfig) -> None:
        """Load a version into the twin."""
        try:
            load_version(self.root, tensors, config)
        finally:
            # What vLLM notes of a module refers to it: it would never be freed.
            for _, twin in self._pairs.values():
                LAYERWISE_INFO.pop(twin, None)

    def hand_over(self) -> None:
        """Give the model the twin's tensors, and what loading made besides.

        Nothing may run on the model meanwhile.
        """
        for model, twin in self._pairs.values():
            before = self._before[id(twin)]
            for name, value in twin.__dict__.items():
                if name not in STRUCTURE and (name not in before or before[name] is not value):
                    model.__dict__[name] = value
            for ours, theirs in (
                (model._parameters, twin._parameters),
                (model._buffers, twin._buffers),
            ):
                for name, tensor in theirs.items():
                    if tensor is not None and ours.get(name) is not None:
                        ours[name].data = tensor.data

    def _of(self, model: Module) -> Module:
        """The twin of a module, made once: modules may be part of several others."""
        if id(model) in self._pairs:
            return self._pairs[id(model)][1]
        twin = copy.copy(model)
        self._pairs[id(model)] = model, twin
        twin.__dict__.update(
            _parameters={n: self._tensor(p) for n, p in model._parameters.items()},
            _buffers={n: self._tensor(b) for n, b in model._buffers.items()},
            _non_persistent_buffers_set=set(model._non_persistent_buffers_set),
        )
        twin.__dict__["_modules"] = {
            n: None if child is None else self._of(child) for n, child in model._modules.items()
        }
        if "quant_method" in twin.__dict__:  # loading may leave something in it
            twin.__dict__["quant_method"] = copy.copy(twin.__dict__["quant_method"])
        theirs, ours = get_layerwise_info(model), get_layerwise_info(twin)
        # Copies: a reload binds what is noted of a module's parameters to the module.
        parameters, buffers = (
            {name: to_meta_tensor(tensor) for name, tensor in noted.items()}
            for noted in theirs.restore_metadata
        )
        ours.restore_metadata = parameters, buffers
        ours.restore_device = theirs.restore_device
        return twin

    def _tensor(self, tensor: Any) -> Any:
        """A tensor like this one, of the same values; tied ones stay one."""
        if tensor is None:
            return None
        if id(tensor) not in self._tensors:
            twin = tensor.data.clone()
            twin.__class__ = tensor.__class__
            twin.__dict__ = tensor.__dict__.copy()
            self._tensors[id(tensor)] = twin
        return self._tensors[id(tensor)]


def load_version(
    model: Module, tensors: Iterable[tuple[str, torch.Tensor]], config: ModelConfig
) -> None:
    """Load a whole version by vLLM's layerwise reload.

    When that fails the model holds a mixture of two versions. The half-loaded layers are closed,
    so that the next version starts clean.
    """
    initialize_layerwise_reload(model)
    try:
        # What is trained has no speculative head.
        with disable_mtp_completeness_check():
            model.load_weights(tensors)
    finally:
        # vLLM keeps what it buffered for layers that are not complete; left there, it would be
        # counted as part of the next version and end a layer before all of it has arrived.
        finalize_layerwise_reload(model, config)
    _refresh_tied_head(model, config)
    _pack_experts(model)


def _refresh_tied_head(model: Module, config: ModelConfig) -> None:
    """Pack a tied output projection again.

    The reload refreshes the embedding that it is tied to, but on CPU the projection computes with a
    packed copy that only its own ``process_weights_after_loading`` makes.
    """
    head: Any = getattr(model, "lm_head", None)
    if config.hf_text_config.tie_word_embeddings and hasattr(head, "quant_method"):
        head.quant_method.process_weights_after_loading(head)


def _pack_experts(model: Module) -> None:
    """Pack the experts of a mixture for a CPU's kernels.

    vLLM does so after the first loading of a layer; at a reload it leaves them as they are in the
    files, and the kernels read them as if they were packed.
    """
    for module in model.modules():
        method: Any = getattr(module, "quant_method", None)
        kernel = getattr(method, "moe_kernel", None)
        if kernel is not None and next(module.parameters()).device.type == "cpu":
            kernel.fused_experts.process_weights_after_loading(module)
