"""The tokenizer of a tiny base model: every word is a token, and there are no others."""

import json
from pathlib import Path

from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Sequence, Split, WhitespaceSplit
from transformers import PreTrainedTokenizerFast

EOS = "<eos>"
PAD = "<pad>"


def word_tokenizer(words: tuple[str, ...], *, max_length: int) -> PreTrainedTokenizerFast:
    """A fast tokenizer of ``words``, then EOS and PAD. Decoding separates tokens with one space.

    words: whole numbers and single characters. There is no token for the unknown: encoding anything
    else raises, instead of giving the model a prompt that says something else.
    """
    ids = {word: i for i, word in enumerate((*words, EOS, PAD))}
    tokenizer = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Sequence(
        [WhitespaceSplit(), Split(Regex(r"[0-9]+|[^0-9]"), behavior="isolated")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the tokenizer so that ``AutoTokenizer`` reads it back beside a Qwen2 model.

    transformers 5 gives every ``qwen2`` model its own Qwen2Tokenizer, which would cut our numbers
    into digits, except where the directory names a tokenizer of its own under ``auto_map``; that
    entry is then passed over in favour of ``tokenizer_class``, unless remote code is trusted.
    """
    tokenizer.save_pretrained(out)
    file = out / "tokenizer_config.json"
    config = json.loads(file.read_text())
    config["auto_map"] = {"AutoTokenizer": [None, None]}
    file.write_text(json.dumps(config, indent=2) + "\n")
