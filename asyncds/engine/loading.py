"""Loading of a policy from a Hugging Face directory or the hub."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.integrations import HfDeepSpeedConfig

from asyncds.config.lora import LoraConfig
from asyncds.engine.deepspeed_config import DType
from asyncds.engine.lora import add_adapter
from asyncds.engine.policy_model import PolicyModel


def load_policy(
    dtype: DType,
    config: dict[str, Any],
    chunk_tokens: int,
    source: str | Path,
    *,
    lora: LoraConfig | None = None,
) -> PolicyModel:
    """Load a model; under ZeRO-3 it is partitioned while it is built, never whole on a rank.

    lora: what to put into it, if anything. Raises ValueError where that can't be done, or the files
    are not what config.json asks for.
    """
    # Transformers looks for a living HfDeepSpeedConfig to know that it loads for ZeRO-3.
    alive = HfDeepSpeedConfig(config)
    causal_lm = load_causal_lm(source, getattr(torch, dtype))
    del alive
    if lora is not None:
        add_adapter(causal_lm, lora, source=str(source))
    return PolicyModel(causal_lm=causal_lm, chunk_tokens=chunk_tokens)


def load_causal_lm(source: str | Path, dtype: torch.dtype) -> PreTrainedModel:
    """Load a model, without its settings of sampling.

    Raises ValueError where its files are not what config.json asks for.
    """
    causal_lm, found = AutoModelForCausalLM.from_pretrained(
        source,
        dtype=dtype,
        attn_implementation=_attention(source),
        ignore_mismatched_sizes=True,  # it would say no more than that there are some
        output_loading_info=True,
        generation_config=GenerationConfig(),  # not that of its files, which may be invalid
    )
    _must_be_whole(source, found)
    _without_sampling(causal_lm)
    return causal_lm


def _must_be_whole(source: str | Path, found: Mapping[str, Any]) -> None:
    """Raise ValueError where a model's files are not what its config.json asks for.

    The library would make up what is not there.
    """
    if wrong := sorted(found["mismatched_keys"]):
        name, there, asked = wrong[0]
        raise ValueError(
            f"the weights of {source} do not fit its config.json ({len(wrong)} of them): {name} is "
            f"{list(there)}, and should be {list(asked)}; put files together that belong together"
        )
    if missing := sorted(found["missing_keys"]):
        raise ValueError(
            f"the files of {source} lack {len(missing)} weights that its config.json asks for, "
            f"such as {missing[0]}: get the model anew"
        )


def _attention(source: str | Path) -> str | None:
    """The implementation of attention that a model needs, None for the library's choice.

    A soft cap on attention logits (Gemma 2), which engines apply, is in the eager one alone.
    """
    text = AutoConfig.from_pretrained(source).get_text_config()
    return "eager" if getattr(text, "attn_logit_softcapping", None) else None


def _without_sampling(causal_lm: PreTrainedModel) -> None:
    """Take out what says how to sample, which the library may refuse to write.

    A run says so itself, and an export gets the model's own generation_config.json.
    """
    causal_lm.generation_config = GenerationConfig.from_model_config(causal_lm.config)
    for name in causal_lm.config._get_generation_parameters():
        delattr(causal_lm.config, name)
        setattr(causal_lm.generation_config, name, getattr(GenerationConfig(), name, None))


def size_of(model: nn.Module, *, trained: bool = False) -> int:
    """Parameters of the whole model, also where this rank has a part of each.

    trained: of these those that are trained.
    """
    counted = (p for p in model.parameters() if p.requires_grad or not trained)
    return sum(getattr(p, "ds_numel", p.numel()) for p in counted)
