"""A table of model directories that can't be used, each with its sentence, and of some that can."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncds.launch.model_directory import check_model
from asyncds.tiny.recipe import copy_shipped

Change = Callable[[Path], None]


def config(**fields: Any) -> Change:
    def change(model: Path) -> None:
        file = model / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))

    return change


def written(name: str, content: Any) -> Change:
    text = content if isinstance(content, str) else json.dumps(content)
    return lambda model: (model / name).write_text(text) and None


def cut(model: Path) -> None:
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def renamed(old: str, new: str, *more: Change) -> Change:
    def change(model: Path) -> None:
        (model / old).rename(model / new)
        for other in more:
            other(model)

    return change


ADAPTER = {"base_model_name_or_path": "Qwen/Qwen2.5-7B", "peft_type": "LORA"}
INDEX = {"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}

REFUSED: list[tuple[Change, str]] = [
    (
        renamed(
            "model.safetensors",
            "adapter_model.safetensors",
            written("adapter_config.json", ADAPTER),
        ),
        "is an adapter of Qwen/Qwen2.5-7B, not a model: merge it",
    ),
    (
        renamed("config.json", "adapter_config.json", cut, written("adapter_config.json", "[]")),
        "has no config.json",
    ),
    (config(quantization_config={"quant_method": "gptq", "bits": 4}), "is quantised (gptq)"),
    (config(quantization_config={"quant_method": "awq"}), "is quantised (awq)"),
    (config(quantization_config={"quant_method": "fp8"}), "is quantised (fp8)"),
    (config(compression_config={"format": "x"}), "is quantised (by what its files say)"),
    (written("quantize_config.json", {"bits": 4}), "is quantised"),
    (config(model_type="t5"), "is a t5, of which transformers has no causal language model"),
    (config(model_type="mistral3"), "is a mistral3, of which transformers has no causal language"),
    (config(model_type="own", auto_map={"AutoModel": "m.M"}), "code of its own is not run"),
    (config(is_encoder_decoder=True), "with an encoder"),
    (written("config.json", {"hidden_size": 1}), "has no model_type"),
    (written("config.json", "[1]"), "config.json can't be read: it does not hold an object"),
    (written("config.json", "{"), "config.json can't be read"),
    (written("generation_config.json", "{nope"), "generation_config.json can't be read"),
    (
        written("generation_config.json", {"do_sample": False, "num_return_sequences": 5}),
        "generation_config.json is refused by vLLM: Greedy methods",
    ),
    (written("model.safetensors", "abc"), "model.safetensors that is not whole: its head is cut"),
    (written("model.safetensors", "version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    (cut, "a model.safetensors that lacks 100 bytes"),
    (written("model.safetensors.index.json", INDEX), "beside an index of other files"),
    (
        renamed("model.safetensors", "x.bin", written("model.safetensors.index.json", INDEX)),
        "lacks weights that its index lists: model-00001-of-00002.safetensors",
    ),
    (
        renamed("model.safetensors", "x", written("model.safetensors.index.json", "[]")),
        "has an index of weights that can't be read",
    ),
    (renamed("model.safetensors", "model.gguf"), "has no weights"),
    (config(num_hidden_layers=9), "has weights of 3 layers, and its config.json asks for 9"),
    (config(hidden_size=64), "has an embedding of width 128, and its config.json asks for 64"),
]


@pytest.mark.parametrize(("change", "sentence"), REFUSED, ids=[s for _, s in REFUSED])
def test_refused(tmp_path: Path, change: Change, sentence: str) -> None:
    model = tmp_path / "model"
    copy_shipped(model)
    change(model)
    problems, _ = check_model(str(model), None)
    assert any(sentence in problem for problem in problems), problems
    assert all(problem.startswith(f"model {model}") for problem in problems)


FINE: list[Change] = [
    lambda model: None,
    written("pytorch_model.bin.index.json", {"weight_map": {"a": "gone.bin"}}),
    written("generation_config.json", {"do_sample": False, "temperature": 0.7}),
    written("generation_config.json", {"pad_token_id": -1}),
    config(temperature=0.7),
    config(num_hidden_layers=2),  # what is more is left alone
    config(vocab_size="many"),
    written("adapter_config.json", ADAPTER),
    renamed(
        "model.safetensors",
        "model-00001-of-00002.safetensors",
        written("model.safetensors.index.json", INDEX),
    ),
]


@pytest.mark.parametrize("change", FINE)
def test_taken(tmp_path: Path, change: Change) -> None:
    model = tmp_path / "model"
    copy_shipped(model)
    change(model)
    problems, facts = check_model(str(model), None)
    assert problems == []
    assert facts is not None
    assert facts.parameter_bytes > 0
