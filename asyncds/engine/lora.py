"""LoRA in the learner, by PEFT: an adapter is put into a model, left out of it, and described."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from asyncds.config.lora import LoraConfig
from asyncds.weights.adapter import NAME, adapter_weights

ALL = "all-linear"


def add_adapter(causal_lm: PreTrainedModel, settings: LoraConfig, *, source: str) -> None:
    """Put an adapter into a model, whose own parameters are not trained from then on.

    source: the model's directory or hub id, which the adapter's configuration names. Raises
    ValueError for a target that is no linear layer of the model.
    """
    # PEFT takes seconds to import, and who trains whole models does not need it.
    import peft

    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        use_rslora=settings.rank_stabilised,
        target_modules=_targets(causal_lm, settings),
        task_type="CAUSAL_LM",
        base_model_name_or_path=source,
    )
    peft.inject_adapter_in_model(config, causal_lm, adapter_name=NAME)
    # PEFT makes them float32, which ZeRO-3 does not mix with a model in bfloat16.
    for parameter in adapter_weights(causal_lm).values():
        parameter.data = parameter.data.to(causal_lm.dtype)


def adapter_config(causal_lm: Any) -> dict[str, Any] | None:
    """The contents of the adapter's adapter_config.json, None for a model without an adapter."""
    config = getattr(causal_lm, "peft_config", {}).get(NAME)
    if config is None:
        return None
    found = {
        key: sorted(value) if isinstance(value, set) else value
        for key, value in config.to_dict().items()
        if key != "runtime_config"
    }
    return {**found, "inference_mode": True}


@contextmanager
def adapter_left_out(model: nn.Module) -> Iterator[None]:
    """Compute with the model as it was before its adapter.

    Not by PEFT's own switch: that makes the adapter untrainable meanwhile, which DeepSpeed's hooks
    would have to live through.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def _targets(causal_lm: PreTrainedModel, settings: LoraConfig) -> list[str]:
    head = causal_lm.get_output_embeddings()
    known = {
        name.rsplit(".", 1)[-1]
        for name, module in causal_lm.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }
    if settings.target_modules == ALL:
        return sorted(known)
    if unknown := sorted(set(settings.target_modules) - known):
        raise ValueError(
            f"learner.lora.target_modules: {', '.join(unknown)} are no linear layers of "
            f"{causal_lm.config.name_or_path}: choose from {', '.join(sorted(known))}"
        )
    return sorted(settings.target_modules)
