"""Checks of a Hugging Face model directory that read its small files only."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asyncds.config.one_line import one_line
from asyncds.launch.declared import keys_of

_USUAL = {
    *("bos_token_id", "eos_token_id", "pad_token_id", "do_sample", "temperature", "top_k", "top_p"),
    *("repetition_penalty", "max_length", "use_cache"),
    *("transformers_version", "_from_model_config"),
}
"""Settings of generation_config.json that contradict none: those that models come with."""
_LAYER, _EMBEDDING = re.compile(r"\.layers\.(\d+)\."), re.compile(r"\bembed_tokens\.weight$")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """Facts from the small files of a model.

    vocab: token → id, None if there is no tokenizer to read. positions: longest sequence.
    parameter_bytes: size of the weights' files.
    """

    vocab_size: int | None
    positions: int | None
    vocab: dict[str, int] | None
    parameter_bytes: int


def check_model(
    model: str, tokenizer: str | None, key: str = "model"
) -> tuple[list[str], ModelFacts | None]:
    """Problems, and the facts of a local directory (None for a hub id, or where it is not there).

    key: how messages call the setting.
    """
    directory = Path(model).expanduser()
    if not directory.is_dir():
        return _not_a_directory(model, key), None
    if adapter := _adapter(directory):
        return [f"{key} {model} {adapter}"], None
    problems = []
    config: dict[str, Any] = {}
    try:
        config = json.loads((directory / "config.json").read_text())
        if not isinstance(config, dict):
            raise ValueError("it does not hold an object")
    except FileNotFoundError:
        problems.append(
            f"{key} {model} has no config.json: it is not a Hugging Face model directory"
        )
    except (OSError, ValueError) as error:
        problems.append(f"{key} {model}: config.json can't be read: {error}")
        config = {}
    if config and (why := _unsuitable(directory, config)):
        problems.append(f"{key} {model} {why}")
    if why := _generation_config(directory):
        problems.append(f"{key} {model}: generation_config.json {why}")
    weights, why = _weights(directory)
    if why:
        problems.append(f"{key} {model} {why}")
    vocab, more = _vocab(key, model) if tokenizer is None else _vocab("tokenizer", tokenizer)
    problems += more
    text = (config.get("text_config") or {}) | config
    if not why and (why := _unlike(text, weights)):
        problems.append(f"{key} {model} {why}")
    facts = ModelFacts(
        vocab_size=_number(text, "vocab_size"),
        positions=_number(text, "max_position_embeddings"),
        vocab=vocab,
        parameter_bytes=sum(f.stat().st_size for f in weights),
    )
    return problems + _fits(key, model, facts), facts


def _not_a_directory(model: str, key: str) -> list[str]:
    path = Path(model)
    if path.name == "tiny-countdown":
        return [f"{key} {model} is not there: make it with `asyncds tiny-model {model}`"]
    if path.name.startswith("tiny-"):
        return [
            f"{key} {model} is not there: `asyncds tiny-model` makes tiny models, and `make study` "
            "those of the studies"
        ]
    looks_local = (
        model.startswith((".", "/", "~"))
        or _HUB_ID.fullmatch(model) is None
        or (len(path.parts) > 1 and Path(path.parts[0]).is_dir())
    )
    if looks_local:
        return [f"{key} {model} is not there: give a Hugging Face model directory or a hub id"]
    return _not_on_the_hub(model, key)


def _not_on_the_hub(model: str, key: str) -> list[str]:
    """Whether a hub id can be loaded: from the cache, or from the hub, which gets ten seconds."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError

    if isinstance(try_to_load_from_cache(model, "config.json"), str):
        return []
    try:
        get_hf_file_metadata(hf_hub_url(model, "config.json"), timeout=10)
    except GatedRepoError:
        return [f"{key} {model} is gated: ask for access on the hub, then `hf auth login`"]
    except (RepositoryNotFoundError, EntryNotFoundError):
        return [f"{key} {model} is neither a directory here nor a model on the Hugging Face hub"]
    except Exception as error:  # whatever the HTTP library of the day raises: it is reported
        return [
            f"{key} {model} is neither a directory nor in the Hugging Face cache, and the hub "
            f"can't be reached ({one_line(error)}): give a model directory, or download it first"
        ]
    return []


def _number(fields: dict[str, Any], name: str) -> int | None:
    value = fields.get(name)
    return value if isinstance(value, int) else None


def _generation_config(directory: Path) -> str:
    """The reason why an engine could not take the settings of sampling, or "".

    It reads them for the tokens that end a completion, and fails where the library finds others of
    them to contradict each other.
    """
    file = directory / "generation_config.json"
    if not file.exists():
        return ""  # not every model has one
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        return f"can't be read: {error}"
    if isinstance(content, dict) and content.keys() <= _USUAL:
        return ""  # the library takes seconds to import
    from transformers import GenerationConfig
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what it warns of it takes
    try:
        GenerationConfig.from_pretrained(directory)
    except Exception as error:  # whatever the library raises: it is reported
        return f"is refused by vLLM: {one_line(error)} Take that out of it"
    finally:
        logging.set_verbosity(verbosity)
    return ""


def _adapter(directory: Path) -> str:
    """The reason why a directory is an adapter and no model, or ""."""
    file = directory / "adapter_config.json"
    if not file.exists() or any(directory.glob("model*.safetensors")):
        return ""
    try:
        base = json.loads(file.read_text()).get("base_model_name_or_path") or "its base model"
    except (OSError, ValueError, AttributeError):
        base = "its base model"
    return (
        f"is an adapter of {base}, not a model: merge it (`asyncds export` does for a run's, "
        "else peft: merge_and_unload, then save_pretrained) and give the merged model"
    )


def _unsuitable(directory: Path, config: dict[str, Any]) -> str:
    """The reason why a model of this config.json can't be trained, or ""."""
    quantised = config.get("quantization_config") or config.get("compression_config")
    if quantised or (directory / "quantize_config.json").exists():
        method = quantised.get("quant_method") if isinstance(quantised, dict) else None
        return (
            f"is quantised ({method or 'by what its files say'}), and can't be trained: give the "
            "model that it was made from"
        )
    kind = config.get("model_type")
    if not isinstance(kind, str):
        return "has no model_type in its config.json: it is not a model that transformers can load"
    known = keys_of(
        "transformers", "models/auto/modeling_auto.py", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"
    )
    if known and kind not in known:
        own = " (code of its own is not run)" if config.get("auto_map") else ""
        return f"is a {kind}, of which transformers has no causal language model{own}: give another"
    if config.get("is_encoder_decoder"):
        return f"is a {kind} with an encoder: give a causal language model"
    return ""


_FILES = ("model.safetensors", "model.safetensors.index.json")
_OLD_FILES = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def _weights(directory: Path) -> tuple[list[Path], str]:
    """The files that are loaded, or why they can't be.

    An index beside a whole file of its kind, or of an older kind, is not read.
    """
    for whole, index in (_FILES, _OLD_FILES):
        if (directory / index).exists() and not (directory / whole).exists():
            return _sharded(directory, directory / index)
        if (
            (directory / index).exists()
            and index in _FILES
            and _sharded(directory, directory / index)[1]
        ):
            return (
                [],
                f"has a {whole} beside an index of other files, {index}: remove the wrong one",
            )
        if (directory / whole).exists():
            return [directory / whole], _broken(directory / whole)
    files = sorted(directory.glob("*.safetensors")) or sorted(directory.glob("pytorch_model*.bin"))
    if not files:
        return [], "has no weights: neither *.safetensors nor *.bin is there"
    return files, next(filter(None, map(_broken, files)), "")


def _sharded(directory: Path, index: Path) -> tuple[list[Path], str]:
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return [], f"has an index of weights that can't be read: {index.name}: {error}"
    missing = [name for name in names if not (directory / name).exists()]
    if missing:
        return [], f"lacks weights that its index lists: {', '.join(missing)}"
    files = [directory / name for name in names]
    return files, next(filter(None, map(_broken, files)), "")


def _unlike(config: dict[str, Any], files: list[Path]) -> str:
    """The reason why whole files are not those of this configuration, or "".

    By what is told at a glance: the number of layers, and the width of the embedding.
    """
    shapes: dict[str, Any] = {}
    for file in files:
        if file.suffix == ".safetensors":
            with file.open("rb") as opened:
                length = int.from_bytes(opened.read(8), "little")
                shapes |= json.loads(opened.read(length))
    layers, asked = _number(config, "num_hidden_layers"), _number(config, "hidden_size")
    there = [int(found[1]) + 1 for name in shapes if (found := _LAYER.search(name))]
    if layers and there and max(there) < layers:
        return f"has weights of {max(there)} layers, and its config.json asks for {layers}"
    widths = {t["shape"][-1] for name, t in shapes.items() if _EMBEDDING.search(name)}
    if asked and widths and asked not in widths:
        return f"has an embedding of width {min(widths)}, and its config.json asks for {asked}"
    return ""


def _broken(file: Path) -> str:
    """The reason why a file of weights is not whole, by its size and its head, or ""."""
    with file.open("rb") as opened:
        head = opened.read(8)
        if head.startswith(b"version "):
            return f"has a pointer of Git LFS in place of {file.name}: fetch it with git lfs pull"
        if file.suffix != ".safetensors":
            return ""
        length = int.from_bytes(head, "little")
        try:
            if len(head) < 8 or length > file.stat().st_size:
                raise ValueError("its head is cut off")
            tensors = json.loads(opened.read(length))
            ends = [t["data_offsets"][1] for name, t in tensors.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return f"has a {file.name} that is not whole: {error}"
    lacking = 8 + length + max(ends, default=0) - file.stat().st_size
    return f"has a {file.name} that lacks {lacking} bytes" if lacking > 0 else ""


def _vocab(key: str, tokenizer: str) -> tuple[dict[str, int] | None, list[str]]:
    """Token → id with the added tokens, or why there is none. A hub id is taken on trust."""
    directory = Path(tokenizer).expanduser()
    if not directory.is_dir():
        return None, _not_a_directory(tokenizer, key)
    try:
        content = json.loads((directory / "tokenizer.json").read_text())
        vocab = content["model"]["vocab"]
        # A Unigram model lists [token, score] in the order of ids.
        tokens = vocab if isinstance(vocab, dict) else {t: i for i, (t, _) in enumerate(vocab)}
        added = {t["content"]: t["id"] for t in content.get("added_tokens", [])}
    except FileNotFoundError:
        return None, [f"{key} {tokenizer} has no tokenizer.json: save the fast tokenizer there"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return None, [f"{key} {tokenizer}: tokenizer.json can't be read: {error}"]
    return tokens | added, []


def _fits(key: str, model: str, facts: ModelFacts) -> list[str]:
    if facts.vocab_size is None or not facts.vocab:
        return []
    highest = max(facts.vocab.values())
    if highest < facts.vocab_size:
        return []
    return [
        f"{key} {model}: the tokenizer has token ids up to {highest}, the model's vocabulary "
        f"ends at {facts.vocab_size - 1}: they do not belong together"
    ]


def chat_template_problems(tokenizer: str, *, where: str = "task") -> list[str]:
    """Whether a tokenizer's directory has a chat template; a hub id is taken on trust.

    where: of the configuration asks in chats.
    """
    directory = Path(tokenizer).expanduser()
    if not directory.is_dir() or any(directory.glob("chat_template*")):
        return []
    try:
        settings = json.loads((directory / "tokenizer_config.json").read_text())
    except (OSError, ValueError):
        settings = {}
    if isinstance(settings, dict) and settings.get("chat_template"):
        return []
    if (directory / "additional_chat_templates").is_dir():
        return []
    return [
        f"{tokenizer} has no chat template, and the task asks in chats: set "
        f"{where}.chat.template to one, or train an instruct model"
    ]
