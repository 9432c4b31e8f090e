"""The tokenizer of a run, and a way to see whether two processes have the same one."""

import hashlib
from collections.abc import Mapping
from typing import Any

from transformers import AutoTokenizer

from asyncds.config.one_line import one_line


class UnusableTokenizerError(ValueError):
    """A tokenizer that transformers does not load; the message names it."""


def load_tokenizer(source: str) -> Any:
    """A Hugging Face tokenizer from a directory or hub id. Raises UnusableTokenizerError."""
    try:
        return AutoTokenizer.from_pretrained(source)
    except Exception as error:  # it raises anything for files that don't fit
        raise UnusableTokenizerError(
            f"the tokenizer of {source} can't be loaded: {one_line(error)}"
        ) from error


def vocabulary_fingerprint(vocabulary: Mapping[str, int]) -> str:
    """16 hex digits that differ when any token has another id."""
    digest = hashlib.sha256()
    for token, id in sorted(vocabulary.items(), key=lambda item: (item[1], item[0])):
        digest.update(f"{id}\t{token}\n".encode())
    return digest.hexdigest()[:16]
