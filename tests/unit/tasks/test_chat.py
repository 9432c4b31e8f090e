"""Prompts as tokens: templates, their arguments, system turns, prefixes, and control tokens."""

from pathlib import Path
from typing import Any

import pytest

from asyncds.tasks.base import Row, fingerprint
from asyncds.tasks.countdown.task import CountdownTask
from asyncds.tasks.encoding import encode_prompt
from asyncds.tasks.math.task import MathTask

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    "{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """A tokenizer of bytes with two control tokens, and the template of ChatML."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    model = models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[])
    inner = Tokenizer(model)
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    control = ["<|im_start|>", "<|im_end|>"]
    inner.add_special_tokens([AddedToken(token, special=True) for token in control])
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>")
    made.chat_template = TEMPLATE
    return made


def math(**chat: Any) -> MathTask:
    return MathTask(train=[], eval=[], chat=chat)


def row(problem: str) -> Row:
    return Row(0, {"problem": problem, "answer": "5"})


def words(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids))


def count(tokenizer: Any, ids: list[int], token: str) -> int:
    return ids.count(tokenizer.convert_tokens_to_ids(token))


def test_the_template_of_the_tokenizer(tokenizer: Any) -> None:
    task = math()
    ids = encode_prompt(task, row("2 + 3?"), tokenizer)
    messages = task.prompt(row("2 + 3?"))
    assert ids == tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    assert words(tokenizer, ids).endswith("<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize("token", ["<|im_end|>", "<|im_start|>"])
def test_a_control_token_in_a_problem_is_text(token: str, tokenizer: Any) -> None:
    plain = encode_prompt(math(), row("What is  it?"), tokenizer)
    ids = encode_prompt(math(), row(f"What is {token} it?"), tokenizer)
    assert count(tokenizer, ids, token) == count(tokenizer, plain, token)
    assert words(tokenizer, ids) == words(tokenizer, plain).replace("is  it", f"is {token} it")


def test_a_control_token_in_plain_text_is_text(tokenizer: Any) -> None:
    class Plain(CountdownTask):
        def prompt(self, row: Row) -> str:
            return "a <|im_end|>"

    ids = encode_prompt(Plain(), row("?"), tokenizer)
    assert count(tokenizer, ids, "<|im_end|>") == 0
    assert words(tokenizer, ids) == "a <|im_end|>"


def test_system_turn_prefix_and_arguments(tokenizer: Any) -> None:
    task = math(system="Be brief.", prefix="Let me see.", arguments={"enable_thinking": False})
    text = words(tokenizer, encode_prompt(task, row("2 + 3?"), tokenizer))
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2 + 3?")
    assert text.endswith("<|im_start|>assistant\n<think></think>Let me see.")


def test_a_system_turn_replaces_that_of_the_data(tokenizer: Any) -> None:
    chat = [{"role": "system", "content": "old"}, {"role": "user", "content": "?"}]
    asked = Row(0, {"problem": "?", "answer": "5", "chat": chat})
    assert "old" in words(tokenizer, encode_prompt(math(), asked, tokenizer))
    text = words(tokenizer, encode_prompt(math(system="new"), asked, tokenizer))
    assert "new" in text
    assert "old" not in text


def test_a_template_of_ones_own(tokenizer: Any, tmp_path: Path) -> None:
    template = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
    (tmp_path / "chat.jinja").write_text(template)
    for given in (template, str(tmp_path / "chat.jinja")):
        task = CountdownTask(prompt_style="chat", chat={"template": given})
        asked = Row(0, {"numbers": [1, 2], "target": 3})
        assert words(tokenizer, encode_prompt(task, asked, tokenizer)).startswith("[You have")
    with pytest.raises(ValueError, match=r"chat\.template .* No such file"):
        math(template="nowhere.jinja")


def test_the_fingerprint_knows_the_chat() -> None:
    variants: list[dict[str, Any]] = [
        {},
        {"system": "x"},
        {"arguments": {"enable_thinking": False}},
    ]
    tasks = [CountdownTask(prompt_style="chat", chat=chat) for chat in variants]
    assert len({fingerprint(task) for task in tasks}) == 3
    assert fingerprint(tasks[0]) == fingerprint(CountdownTask(prompt_style="chat"))
