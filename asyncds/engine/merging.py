"""Merging: an adapter's directory becomes that of a model which has it in its weights."""

import json
from pathlib import Path

from peft import PeftModel
from safetensors import safe_open

from asyncds.engine.export import copy_tokenizer, write_model
from asyncds.engine.loading import load_causal_lm
from asyncds.weights.adapter import CONFIG_FILE, WEIGHTS_FILE


def write_merged(adapter: Path, directory: Path) -> None:
    """Write the model that an adapter belongs to with the adapter in its weights, and a tokenizer.

    In the adapter's dtype, and by way of main memory, which must hold the model. Raises OSError,
    also where the model is not there any more, and ValueError where it is not whole.
    """
    source = json.loads((adapter / CONFIG_FILE).read_text())["base_model_name_or_path"]
    with safe_open(adapter / WEIGHTS_FILE, "pt") as file:
        dtype = file.get_tensor(next(iter(file.keys()))).dtype
    base = load_causal_lm(source, dtype)
    model = PeftModel.from_pretrained(base, adapter).merge_and_unload()
    write_model(model, None, directory, source=source)
    copy_tokenizer(str(adapter), directory)
