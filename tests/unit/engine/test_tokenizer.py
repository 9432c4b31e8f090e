"""Tokenizers that transformers does not load, whatever it raises."""

import json
from pathlib import Path

import pytest

from asyncds.engine.tokenizer import UnusableTokenizerError, load_tokenizer
from asyncds.tiny.tokenizer import save_tokenizer, word_tokenizer


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        # Ours names no class under auto_map, which is passed over for Qwen2 alone.
        ({"config.json": {"model_type": "llama"}}, "NoneType"),
        ({"tokenizer.json": {}}, "added_tokens"),
        ({"tokenizer_config.json": []}, "list"),
    ],
)
def test_it_is_named_with_the_reason(tmp_path: Path, broken: dict[str, object], why: str) -> None:
    save_tokenizer(word_tokenizer(("7",), max_length=64), tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    assert load_tokenizer(str(tmp_path)).eos_token
    for name, content in broken.items():
        (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(UnusableTokenizerError) as caught:
        load_tokenizer(str(tmp_path))
    said = str(caught.value)
    assert said.startswith(f"the tokenizer of {tmp_path} can't be loaded: ")
    assert why in said
    assert "\n" not in said
