"""What an adapter is said to have, against what PEFT makes; and what a plan makes of it."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from asyncds.config.load import parse_config
from asyncds.config.schema import RunConfig
from asyncds.engine.lora import add_adapter
from asyncds.plan.adapters import sent_parameters, trained_parameters
from asyncds.plan.families import model_shape
from asyncds.plan.gpus import find_gpu
from asyncds.plan.plan import Site, make_plan
from asyncds.plan.published import PUBLISHED
from asyncds.weights.adapter import adapter_weights

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
KINDS: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "llama": {},
    "qwen3": {"head_dim": 8},
    "gemma3_text": {"head_dim": 8},
    "phi3": {"pad_token_id": 0},
    "phi": {},
    "mixtral": {"num_local_experts": 4},
}


def run(model: str = "m", **lora: Any) -> RunConfig:
    return parse_config({"model": model, "learner": {"lora": lora}})


@pytest.mark.parametrize("kind", KINDS)
def test_as_many_parameters_as_peft_makes(kind: str) -> None:
    config = AutoConfig.for_model(kind, **SIZES, **KINDS[kind])
    shape = model_shape(config.to_dict())
    names = {
        "phi3": ["qkv_proj", "gate_up_proj"],
        "phi": ["q_proj", "dense", "fc1"],
        "mixtral": ["q_proj", "o_proj"],
    }
    targets: list[Any] = ["all-linear", names.get(kind, ["q_proj", "gate_proj", "down_proj"])]
    for chosen in targets:
        settings = run(rank=3, target_modules=chosen)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        assert settings.learner.lora is not None
        add_adapter(model, settings.learner.lora, source="m")
        made = sum(p.numel() for p in adapter_weights(model).values())
        assert trained_parameters(settings, shape) == made


def test_a_plan_counts_the_adapter_where_it_counted_the_model() -> None:
    name = "Qwen/Qwen2.5-7B"
    shape, gpu = model_shape(PUBLISHED[name]), find_gpu("a100-80")
    site = Site(learner=gpu, generator=gpu)
    config = run(name, rank=32)
    full = config.model_copy(update={"learner": config.learner.model_copy(update={"lora": None})})
    n = trained_parameters(config, shape)
    assert 50e6 < n < 100e6
    adapter, whole = make_plan(config, shape, site), make_plan(full, shape, site)
    parts = {part.name: part.nbytes for part in adapter.learner}
    assert (parts["float32 weights"], parts["AdamW's moments"]) == (4 * n, 8 * n)
    assert (parts["weights"], parts["adapter"]) == (2 * shape.parameters, 2 * n)
    assert adapter.fits
    assert not whole.fits
    assert adapter.sync.nbytes == 2 * n
    assert adapter.disk.checkpoint < whole.disk.checkpoint / 50
    assert adapter.pace is not None
    assert whole.pace is not None
    merged = run(name, rank=32, publish="merge")
    assert sent_parameters(merged, shape) == shape.parameters == sent_parameters(full, shape)
    served = {p.name: p.nbytes for p in make_plan(run(name, rank=9), shape, site).generator.parts}
    assert served["adapter"] == pytest.approx(2 * trained_parameters(run(name, rank=16), shape))
