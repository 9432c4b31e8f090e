"""The probe: a fixed token sequence whose log-probabilities both engines must agree on.

Checksums say that the bytes arrived. The probe says that the engine computes with them.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

PROBE_TOKENS = 64
PIECES = (
    "12 + 7 - 3 = 16",
    " 5 * (9 - 2) = 35\n",
    "A train leaves at nine in the morning and travels 120 kilometres in two hours. ",
    "How fast does it go? Divide the distance by the time: 120 / 2 = 60, so the answer is 60 "
    "kilometres an hour.\n",
    "def mean(values):\n    return sum(values) / len(values)\n",
    "Nobody had opened the window for years, and the key was no longer where she remembered it.",
)
"""Text of the kinds that language models know well, on which two engines of one model differ least:
on tokens drawn at random the smallest probabilities, and rounding errors with them, weigh most."""


def probe_tokens(
    *, tokenizer: Any, vocab_size: int, max_length: int | None
) -> npt.NDArray[np.int32]:
    """Make the probe's tokens, int32 [≤ 64]: the same for the same tokenizer and length limit.

    tokenizer: of Hugging Face; a piece of the text that it has no tokens for is left out, and where
    it has some for none, tokens are drawn from the vocabulary. max_length: tokens an engine takes
    at most, of which one is left for its answer.
    """
    length = PROBE_TOKENS if max_length is None else min(PROBE_TOKENS, max_length - 1)
    known = [id for piece in PIECES for id in _encode(tokenizer, piece) if 0 <= id < vocab_size]
    drawn = np.random.default_rng(0).integers(0, vocab_size, size=length)
    return np.array([*known, *drawn][:length] if known else drawn, dtype=np.int32)


def _encode(tokenizer: Any, text: str) -> list[int]:
    try:
        ids = tokenizer.encode(text, add_special_tokens=False)
    except Exception:  # a vocabulary without a token for the unknown: tokenizers raises no other
        return []
    return [] if tokenizer.unk_token_id in ids else ids
