"""Token ids to text, for people who read rollouts."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

log = logging.getLogger(__name__)

Decode = Callable[[Sequence[int]], str]
MOST_CHARACTERS = 1600
"""Of a text that is shown; the middle of a longer one is left out."""


def decoder(tokenizer: str) -> Decode:
    """The tokenizer's decoder, from tokenizer.json in a directory or from the Hub's cache.

    That of the Hugging Face Hub is where the run left it. Reading rollouts never waits for the
    network.

    Without a tokenizer, texts are the ids themselves, such as `⟨5 17 3⟩`, and the log says why:
    rollouts stay readable to some degree when the model is no longer there.
    """
    try:
        return _local(Path(tokenizer)) if Path(tokenizer).is_dir() else _from_hub_cache(tokenizer)
    except Exception as error:  # the libraries raise many kinds, also bare Exception
        log.warning(
            "texts are shown as token ids, the tokenizer %s is missing: %s", tokenizer, error
        )
        return ids_as_text


def light_decoder(tokenizer: str) -> Decode | None:
    """A decoder without transformers, or None: of the cache, only a tokenizer.json is read."""
    try:
        directory = Path(tokenizer)
        return _local(directory) if directory.is_dir() else _from_hub_cache_file(tokenizer)
    except Exception as error:  # as above
        log.info("the tokenizer %s is not here, generators send some texts: %s", tokenizer, error)
        return None


def cut(text: str) -> str:
    """A text without its middle, if it is long: a completion's answer is at its end."""
    left_out = len(text) - MOST_CHARACTERS
    if left_out <= 0:
        return text
    half = MOST_CHARACTERS // 2
    return f"{text[:half]}\n… {left_out:,} characters …\n{text[-half:]}"


def pieces(ids: Sequence[int], decode: Decode) -> list[str]:
    """The text of each token, which together are the text of all.

    "" for special tokens, and for all but the last of those that make up one character.
    """
    if decode is ids_as_text:
        return [ids_as_text([id]) for id in ids]
    found: list[str] = []
    start = end = 0  # of tokens before, which a decoder must see: it may put spaces between words
    for i in range(1, len(ids) + 1):
        before, text = decode(ids[start:end]), decode(ids[start:i])
        if text.endswith("\ufffd") and i < len(ids):
            found.append("")
            continue
        found.append(text[len(before) :])
        if found[-1]:
            start = end
        end = i
    return found


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
