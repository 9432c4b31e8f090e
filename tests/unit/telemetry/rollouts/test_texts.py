"""Single tokens as texts, with real tokenizers of both kinds: words, and bytes of characters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE, WordLevel

from asyncds.telemetry.rollouts.texts import Decode, ids_as_text, pieces

EOS = 300


def byte_level() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<eos>"])
    return tokenizer


def decode_with(tokenizer: Tokenizer) -> Decode:
    return lambda ids: str(tokenizer.decode(list(ids)))


BYTES = byte_level()
WORDS = Tokenizer(WordLevel({"a": 0, "+": 1, "12": 2}, unk_token="a"))
WORDS.add_special_tokens(["<eos>"])


@given(st.text(), st.lists(st.integers(0, 40), max_size=3))
def test_the_pieces_are_the_text(text: str, ends: list[int]) -> None:
    ids = BYTES.encode(text).ids
    for place in ends:
        ids.insert(min(place, len(ids)), BYTES.token_to_id("<eos>"))
    parts = pieces(ids, decode_with(BYTES))
    assert len(parts) == len(ids)
    assert "".join(parts) == BYTES.decode(ids)


@given(st.lists(st.integers(0, 3)))
def test_words_keep_the_spaces_between_them(ids: list[int]) -> None:
    parts = pieces(ids, decode_with(WORDS))
    assert "".join(parts) == WORDS.decode(ids)


@given(st.lists(st.integers(0, 255)))
def test_bytes_that_are_no_text_are_shown_all_the_same(ids: list[int]) -> None:
    assert len(pieces(ids, decode_with(BYTES))) == len(ids)


def test_the_last_byte_of_a_character_has_it() -> None:
    ids = BYTES.encode("a😀b").ids
    assert pieces(ids, decode_with(BYTES)) == ["a", "", "", "", "😀", "b"]


@pytest.mark.parametrize("ids", [[], [5], [5, 17]])
def test_without_a_tokenizer_they_are_ids(ids: list[int]) -> None:
    assert pieces(ids, ids_as_text) == [f"⟨{id}⟩" for id in ids]
