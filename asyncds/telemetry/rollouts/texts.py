"""Token ids to text, for people who read rollouts."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

log = logging.getLogger(__name__)

Decode = Callable[[Sequence[int]], str]


def decoder(tokenizer: str) -> Decode:
    """The tokenizer's decoder, from tokenizer.json in a directory or from the Hub's cache.

    That of the Hugging Face Hub is where the run left it. Reading rollouts never waits for the
    network.

    Without a tokenizer, texts are the ids themselves, such as `⟨5 17 3⟩`, and the log says why:
    rollouts stay readable to some degree when the model is no longer there.
    """
    return _decoder(tokenizer, _from_hub_cache)


def light_decoder(tokenizer: str) -> Decode:
    """The same without transformers: of the cache, only a tokenizer.json is read."""
    return _decoder(tokenizer, _from_hub_cache_file)


def _decoder(tokenizer: str, from_hub_cache: Callable[[str], Decode]) -> Decode:
    try:
        return _local(Path(tokenizer)) if Path(tokenizer).is_dir() else from_hub_cache(tokenizer)
    except Exception as error:  # the libraries raise many kinds, also bare Exception
        log.warning(
            "texts are shown as token ids, the tokenizer %s is missing: %s", tokenizer, error
        )
        return ids_as_text


def ids_as_text(ids: Sequence[int]) -> str:
    """The ids themselves."""
    return f"⟨{' '.join(map(str, ids))}⟩"


def _local(directory: Path) -> Decode:
    return _from_file(str(directory / "tokenizer.json"))


def _from_file(path: str) -> Decode:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(path)
    return lambda ids: tokenizer.decode(list(ids))


def _from_hub_cache_file(name: str) -> Decode:
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(name, "tokenizer.json")
    if not isinstance(path, str):
        raise FileNotFoundError("no tokenizer.json in the cache of the Hugging Face Hub")
    return _from_file(path)


def _from_hub_cache(name: str) -> Decode:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=True)
    return lambda ids: tokenizer.decode(list(ids), skip_special_tokens=True)
