"""Shapes of models: parameters against transformers' own models, which hold no memory here."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from asyncds.plan.families import FAMILIES, UnknownModelError, model_shape
from asyncds.plan.published import PUBLISHED

# What the models' pages say.
KNOWN = {
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen2.5-72B": 72_706_203_648,
    "Qwen/Qwen3-30B-A3B": 30_532_122_624,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "mistralai/Ministral-8B-Instruct-2410": 8_019_808_256,
    "google/gemma-3-1b-it": 999_885_952,
    "microsoft/phi-4": 14_659_507_200,
}
SMALL = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 130,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
# Fields by which a family's tensors differ, besides the sizes.
VARIANTS = [
    *[{"model_type": name} for name in FAMILIES],
    *[{"model_type": name, "tie_word_embeddings": True} for name in ("llama", "qwen2", "qwen3")],
    {"model_type": "gemma2", "tie_word_embeddings": False},
    {"model_type": "llama", "attention_bias": True, "mlp_bias": True, "head_dim": 16},
    {"model_type": "mistral", "head_dim": 16, "sliding_window": 32},
    {"model_type": "qwen3", "attention_bias": True, "head_dim": 16},
    {"model_type": "qwen3_moe", "num_experts": 4, "moe_intermediate_size": 24},
    {"model_type": "qwen3_moe", "num_experts": 4, "mlp_only_layers": [0], "decoder_sparse_step": 2},
]


def on_meta(fields: dict[str, object]) -> torch.nn.Module:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**fields))


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_parameters_are_those_of_the_real_model(variant: dict[str, object]) -> None:
    fields = {**SMALL, **variant}
    if fields["model_type"] == "qwen3_moe":
        fields.setdefault("moe_intermediate_size", 24)
        fields.setdefault("num_experts", 8)
    if fields["model_type"] == "mixtral":
        fields["num_local_experts"] = 4
    if fields["model_type"] == "ministral":
        fields["head_dim"] = 16  # transformers' own default does not make a model
    shape, real = model_shape(fields), on_meta(fields)
    sizes = [parameter.numel() for parameter in real.parameters()]
    assert shape.parameters == sum(sizes)
    assert shape.largest_tensor == max(sizes)
    assert sorted(t.size for t in shape.tensors for _ in range(t.count)) == sorted(sizes)


@pytest.mark.parametrize("fields", [PUBLISHED[name] for name in KNOWN], ids=KNOWN)
def test_public_models_have_the_parameters_their_pages_say(fields: dict[str, object]) -> None:
    names = {id(PUBLISHED[name]): count for name, count in KNOWN.items()}
    assert model_shape(fields).parameters == names[id(fields)]


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-Math-7B", "Qwen/Qwen3-30B-A3B"])
def test_published_fields_make_the_real_model_too(name: str) -> None:
    real = sum(parameter.numel() for parameter in on_meta(dict(PUBLISHED[name])).parameters())
    assert model_shape(PUBLISHED[name]).parameters == real


def test_sizes_that_are_left_out_are_the_familys() -> None:
    left_out = {"model_type": "gemma3_text", **SMALL}
    for field in ("num_attention_heads", "num_key_value_heads", "vocab_size"):
        del left_out[field]
    real = sum(parameter.numel() for parameter in on_meta(left_out).parameters())
    assert model_shape(left_out).parameters == real


def test_the_language_model_of_several_modalities_is_what_counts() -> None:
    text = {"model_type": "gemma3_text", **SMALL}
    assert model_shape({"model_type": "gemma3", "text_config": text}) == model_shape(text)


def test_a_token_meets_its_experts_and_the_output_projection() -> None:
    fields = {**SMALL, "model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 2}
    shape = model_shape({**fields, "moe_intermediate_size": 24})
    unused = shape.expert_parameters * 6 / 8 + 130 * 48
    assert shape.parameters_per_token == shape.parameters - unused
    tied = model_shape({**SMALL, "model_type": "qwen2", "tie_word_embeddings": True})
    assert tied.parameters_per_token == tied.parameters


def test_windowed_layers_keep_a_windows_tokens() -> None:
    fields = {**SMALL, "model_type": "gemma3_text", "head_dim": 8, "sliding_window": 10}
    shape = model_shape(fields)
    assert (shape.window, shape.windowed_layers) == (10, 5)
    per_layer = 2 * 2 * 8 * 2
    assert shape.kv_bytes(25, itemsize=2) == per_layer * (25 + 5 * 10)
    assert shape.kv_bytes(8, itemsize=2) == per_layer * 6 * 8


def test_a_family_that_is_not_known_is_named() -> None:
    with pytest.raises(UnknownModelError, match=r"type mamba: .*llama, .*qwen3"):
        model_shape({**SMALL, "model_type": "mamba"})
    with pytest.raises(UnknownModelError, match="lacks 'hidden_size'"):
        model_shape({"model_type": "llama", "num_attention_heads": 4})
