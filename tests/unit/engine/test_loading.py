"""Models whose files and config.json do not belong together."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from asyncds.engine.loading import load_policy
from asyncds.tiny.model import save_untrained

ZERO: dict[str, Any] = {
    "zero_optimization": {"stage": 1},
    "train_micro_batch_size_per_gpu": 1,
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_untrained(tmp_path / "model", seed=0)
    return tmp_path / "model"


def configure(model: Path, **changes: Any) -> None:
    file = model / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_whole_model_is_loaded(model: Path) -> None:
    assert load_policy("float32", ZERO, 8, model).causal_lm.config.tie_word_embeddings


def test_weights_of_another_width_are_told(model: Path) -> None:
    configure(model, intermediate_size=8)
    told = f"weights of {re.escape(str(model))} do not fit .*mlp.*, and should be .*8"
    with pytest.raises(ValueError, match=told):
        load_policy("float32", ZERO, 8, model)


def test_settings_of_sampling_are_none_of_its_business(model: Path) -> None:
    (model / "generation_config.json").write_text('{"num_return_sequences": 5, "top_k": -3}')
    assert load_policy("float32", ZERO, 8, model)


def test_layers_that_are_not_there_are_not_made_up(model: Path) -> None:
    layers = json.loads((model / "config.json").read_text())["num_hidden_layers"]
    configure(model, num_hidden_layers=layers + 1, layer_types=None)
    told = rf"lack \d+ weights that its config.json asks for, such as model.layers.{layers}"
    with pytest.raises(ValueError, match=told):
        load_policy("float32", ZERO, 8, model)


def test_a_tensor_that_is_not_there_is_not_made_up(model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lack 1 weights .* such as model\.norm\.weight"):
        load_policy("float32", ZERO, 8, model)
