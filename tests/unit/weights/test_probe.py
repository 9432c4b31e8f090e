"""The tokens of the probe: a text as far as a tokenizer has tokens for it, the same everywhere."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from asyncds.tiny.tokenizer import word_tokenizer
from asyncds.weights.probe import PIECES, PROBE_TOKENS, probe_tokens


def byte_tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@given(max_length=st.none() | st.integers(2, 200))
def test_a_text_is_its_first_tokens(max_length: int | None) -> None:
    tokenizer = byte_tokenizer()
    tokens = probe_tokens(tokenizer=tokenizer, vocab_size=256, max_length=max_length)
    assert tokens.dtype == np.int32
    assert len(tokens) == min(PROBE_TOKENS, (max_length or 1000) - 1)
    ids = [id for piece in PIECES for id in tokenizer.encode(piece)]
    assert tokens.tolist() == ids[: len(tokens)]


def test_pieces_that_a_vocabulary_lacks_are_left_out_and_the_rest_is_drawn() -> None:
    words = (*(str(n) for n in range(100)), *"+-*/()=")
    tokenizer = word_tokenizer(words, max_length=64)
    tokens = probe_tokens(tokenizer=tokenizer, vocab_size=len(words) + 2, max_length=None)
    said = tokenizer.encode(PIECES[0]) + tokenizer.encode(PIECES[1])
    assert len(tokens) == PROBE_TOKENS
    assert tokens.tolist()[: len(said)] == said
    again = probe_tokens(tokenizer=tokenizer, vocab_size=len(words) + 2, max_length=None)
    assert tokens.tolist() == again.tolist()


@pytest.mark.parametrize("unknown", [None, "<unk>"])
def test_where_it_has_none_of_them_all_are_drawn(unknown: str | None) -> None:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"<unk>": 0, "x": 1}, unk_token="<unk>")),
        unk_token=unknown,
    )
    if unknown is None:
        tokenizer = word_tokenizer(("x",), max_length=64)
    tokens = probe_tokens(tokenizer=tokenizer, vocab_size=2, max_length=9)
    assert len(tokens) == 8
    assert set(tokens.tolist()) <= {0, 1}
