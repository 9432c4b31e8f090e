"""Names that are sent are those that a model's saved files have, and so are the values."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from asyncds.weights.names import UnknownNamesError, check_names, names_in
from asyncds.weights.source import iterate_weights, weight_specs
from asyncds.weights.staging import StagedWeights

TINY = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "vocab_size": 40,
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 12, "decoder_sparse_step": 1}
KINDS: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "qwen3": {"tie_word_embeddings": True},
    "qwen3_moe": {"num_experts": 4, **EXPERTS},
    "qwen2_moe": {"num_experts": 4, "shared_expert_intermediate_size": 20, **EXPERTS},
    "mixtral": {"num_local_experts": 3, "num_experts_per_tok": 2},
    "gemma3_text": {"layer_types": ["sliding_attention", "full_attention"]},
    "mistral": {},
    # Wrapped: the text model of one that sees.
    "gemma3": {
        "text_config": {**TINY, "layer_types": ["sliding_attention", "full_attention"]},
        "vision_config": {
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 16,
            "patch_size": 8,
        },
        "mm_tokens_per_image": 1,
    },
}


@pytest.fixture(scope="module", params=KINDS)
def saved(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[PreTrainedModel, Path]:
    """A random model as it is loaded from its files, and the files."""
    torch.manual_seed(0)
    fields = KINDS[request.param]
    config = AutoConfig.for_model(
        request.param, **fields | ({} if "text_config" in fields else TINY)
    )
    directory = tmp_path_factory.mktemp(request.param)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    return AutoModelForCausalLM.from_pretrained(directory), directory


def test_every_tensor_of_the_files_is_sent_by_its_name(saved: tuple[PreTrainedModel, Path]) -> None:
    model, directory = saved
    there = load_file(directory / "model.safetensors")
    specs = weight_specs(model)
    assert {spec.name: spec.shape for spec in specs} == {
        name: tuple(tensor.shape) for name, tensor in there.items()
    }
    for places in (1, 3):
        region = None
        for place in range(places):
            staged = StagedWeights(
                specs=specs, bucket_bytes=512, region=region, place=place, places=places
            )
            region = staged._region
            staged.copy(
                iterate_weights(model, gather_bytes=512, place=place, places=places), version=1
            )
        for name, values in staged.tensors:
            assert torch.equal(values, there[name]), name
    assert names_in(str(directory)) == there.keys()
    check_names([spec.name for spec in specs], str(directory))


def test_names_that_the_files_lack_are_refused(saved: tuple[PreTrainedModel, Path]) -> None:
    _, directory = saved
    said = r"1 weights would be sent .* such as model\.experts\.gate_up_proj"
    with pytest.raises(UnknownNamesError, match=said):
        check_names([*names_in(str(directory)), "model.experts.gate_up_proj"], str(directory))
    bare = [f"bare.{name}" for name in names_in(str(directory))]
    check_names(bare, str(directory), prefix="bare")


def test_a_parameter_that_is_no_rows_of_the_files_is_refused() -> None:
    """A reversal that transposes, standing for whatever a new kind of model may do."""
    from transformers.core_model_loading import Transpose, WeightConverter

    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen2", **TINY))
    model._weight_conversions = [
        WeightConverter(
            source_patterns="mlp.down_proj.weight",
            target_patterns="mlp.down_proj.weight",
            operations=[Transpose(0, 1)],
        )
    ]
    with pytest.raises(UnknownNamesError, match="the weights of a qwen2 can't be sent"):
        weight_specs(model)
