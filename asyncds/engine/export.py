"""A TrainingEngine's model as a Hugging Face directory: from_pretrained and vLLM load it.

Where an adapter is trained the directory is the adapter's, as PEFT writes them.
"""

import json
import shutil
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

import deepspeed
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Parameter
from transformers import PreTrainedModel
from transformers.utils import cached_file

from asyncds.engine.training import TrainingEngine
from asyncds.weights.adapter import CONFIG_FILE, WEIGHTS_FILE, adapter_weights

_SHARD = "5GB"
"""Files are no larger, so that several are hashed at a time."""
# Copied byte for byte, so that learner and generators can compare them.
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
)


class ExportError(RuntimeError):
    """A model that its own library does not write; the message names it."""


def full_weights(engine: TrainingEngine) -> dict[str, Tensor]:
    """All weights by name on rank 0, nothing on the others. A collective.

    Where an adapter is trained they are the adapter's. They are the engine's own tensors, but for
    ZeRO-3: there they are copies in main memory, for which one parameter is gathered at a time.
    """
    if engine.adapter is not None:
        return _adapter(engine)
    if engine.zero_stage < 3:
        return engine.causal_lm.state_dict() if engine.rank == 0 else {}
    persistent = engine.causal_lm.state_dict().keys()
    weights = {
        name: buffer.to("cpu", copy=True)
        for name, buffer in engine.causal_lm.named_buffers()
        if name in persistent
    }
    return {**weights, **_gathered(engine, dict(engine.causal_lm.named_parameters()))}


def _adapter(engine: TrainingEngine) -> dict[str, Tensor]:
    adapter = adapter_weights(engine.causal_lm)
    if engine.zero_stage == 3:
        return _gathered(engine, adapter)
    return {name: p.detach() for name, p in adapter.items()} if engine.rank == 0 else {}


def _gathered(engine: TrainingEngine, parameters: Mapping[str, Parameter]) -> dict[str, Tensor]:
    weights = {}
    for name, parameter in parameters.items():
        with deepspeed.zero.GatheredParameters([parameter]):
            if engine.rank == 0:
                # The gathered memory is freed on leaving.
                weights[name] = parameter.detach().to("cpu", copy=True)
    return weights


def write_export(engine: TrainingEngine, weights: dict[str, Tensor], directory: Path) -> None:
    """Write weights, configuration and tokenizer. The engine may train meanwhile."""
    if engine.adapter is None:
        write_model(engine.causal_lm, weights, directory, source=engine.model_source)
    else:
        (directory / CONFIG_FILE).write_text(json.dumps(engine.adapter, indent=1))
        whole = {name: tensor.contiguous() for name, tensor in weights.items()}
        save_file(whole, directory / WEIGHTS_FILE, metadata={"format": "pt"})
        _make_readable(directory)
    copy_tokenizer(engine.tokenizer_source, directory)


def write_model(
    model: PreTrainedModel, weights: dict[str, Tensor] | None, directory: Path, *, source: str
) -> None:
    """Write a model, by default with its own weights, and the generation settings of its source."""
    model.save_pretrained(directory, state_dict=weights, max_shard_size=_SHARD)
    _make_readable(directory)
    _copy(source, ("generation_config.json",), directory)


def copy_tokenizer(source: str, directory: Path) -> None:
    """Copy a tokenizer's files byte for byte, as far as they are there."""
    _copy(source, _TOKENIZER_FILES, directory)


def try_export(engine: TrainingEngine) -> None:
    """Write what is beside the weights of an export, and remove it.

    Raises ExportError: what the writer refuses is told before anything is trained.
    """
    with tempfile.TemporaryDirectory() as directory:
        try:
            engine.causal_lm.config.save_pretrained(directory)
            if engine.causal_lm.generation_config is not None:
                engine.causal_lm.generation_config.save_pretrained(directory)
        except Exception as error:  # whatever the library raises: it is reported
            why = " ".join(str(error).split())[:300]
            raise ExportError(
                f"the model {engine.model_source} could not be written to a checkpoint: {why}"
            ) from error


def _make_readable(directory: Path) -> None:
    """Let others read the weights, which are written for the owner alone."""
    for file in directory.glob("*.safetensors"):
        file.chmod(0o644)


def _copy(source: str, names: Collection[str], directory: Path) -> None:
    for name in names:
        found = cached_file(
            source,
            name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if found is not None:
            shutil.copyfile(found, directory / name)
