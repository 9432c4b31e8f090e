"""A TrainingEngine's model as a Hugging Face directory: from_pretrained and vLLM load it."""

import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path

import deepspeed
from torch import Tensor
from transformers.utils import cached_file

from asyncds.engine.training import TrainingEngine

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

    They are the engine's own tensors, but for ZeRO-3: there they are copies in main memory, for
    which one parameter is gathered at a time.
    """
    if engine.zero_stage < 3:
        return engine.causal_lm.state_dict() if engine.rank == 0 else {}
    persistent = engine.causal_lm.state_dict().keys()
    weights = {
        name: buffer.to("cpu", copy=True)
        for name, buffer in engine.causal_lm.named_buffers()
        if name in persistent
    }
    for name, parameter in engine.causal_lm.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter]):
            if engine.rank == 0:
                # The gathered memory is freed on leaving.
                weights[name] = parameter.detach().to("cpu", copy=True)
    return weights if engine.rank == 0 else {}


def write_export(engine: TrainingEngine, weights: dict[str, Tensor], directory: Path) -> None:
    """Write weights, configuration and tokenizer. The engine may train meanwhile."""
    engine.causal_lm.save_pretrained(directory, state_dict=weights, max_shard_size=_SHARD)
    for file in directory.glob("*.safetensors"):
        file.chmod(0o644)  # written for the owner alone; generators may run as another user
    _copy(engine.model_source, ("generation_config.json",), directory)
    _copy(engine.tokenizer_source, _TOKENIZER_FILES, directory)


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


def _copy(source: str, names: Collection[str], directory: Path) -> None:
    """Copy files of a model or tokenizer byte for byte, as far as they are there."""
    for name in names:
        found = cached_file(
            source,
            name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if found is not None:
            shutil.copyfile(found, directory / name)
