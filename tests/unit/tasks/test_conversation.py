"""What an environment says, as tokens: the delimiters of real templates' shapes, and nothing else.

The templates are written here after the shape of those that the models have; the tokenizer is of
bytes, with the control tokens of each.
"""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncds.tasks.base import Chat, Message, Row, Split
from asyncds.tasks.encoding import Conversation, RewrittenHistoryError, TemplateError
from asyncds.tasks.environment import Answer, Environment, Episode
from asyncds.tiny.tokenizer import word_tokenizer

CHATML = (
    "{%- if tools %}<|im_start|>system\n{% for t in tools %}{{ t | tojson }}{% endfor %}"
    "{{- '<|im_end|>\n' }}{%- endif %}"
    "{%- for m in messages %}"
    "{%- if m.role == 'tool' %}"
    "{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}<|im_start|>user{% endif %}"
    "{{ '\n<tool_response>\n' + m.content + '\n</tool_response>' }}"
    "{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}"
    "{%- else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN3 = (
    "{%- set ns = namespace(last=-1) %}"
    "{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}"
    "{%- endfor %}"
    "{%- for m in messages %}"
    "{%- if m.role == 'assistant' %}"
    "{%- set parts = m.content.split('</think>') %}"
    "{%- set words = parts[-1].lstrip('\n') %}"
    "{%- set thought = parts[0].split('<think>')[-1].strip('\n') if parts | length > 1 else '' %}"
    "{{- '<|im_start|>assistant\n' }}"
    "{%- if loop.index0 > ns.last and (loop.last or thought) %}"
    "{{- '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}"
    "{{- words + '<|im_end|>\n' }}"
    "{%- elif m.role == 'tool' %}"
    "{{- '<|im_start|>user\n<tool_response>\n' + m.content + '\n</tool_response><|im_end|>\n' }}"
    "{%- else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}"
    "{%- endif %}{% endif %}"
)
LLAMA3 = (
    "{{- bos_token }}"
    "{%- for m in messages %}"
    "{%- set role = 'ipython' if m.role == 'tool' else m.role %}"
    "{{- '<|start_header_id|>' + role + '<|end_header_id|>\n\n' }}"
    "{%- if m.role == 'tool' %}{{ m.content | tojson }}{% else %}{{ m.content | trim }}{% endif %}"
    "{{- '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{{- bos_token }}"
    "{%- set ns = namespace(user=true) %}"
    "{%- for m in messages %}"
    "{%- if m.role in ('user', 'assistant') %}"
    "{%- if (m.role == 'user') != ns.user %}"
    "{{- raise_exception('roles must alternate') }}{% endif %}"
    "{%- set ns.user = m.role != 'user' %}{% endif %}"
    "{%- if m.role == 'user' %}{{ '[INST] ' + m.content + '[/INST]' }}"
    "{%- elif m.role == 'assistant' %}{{ ' ' + m.content | trim + eos_token }}"
    "{%- elif m.role == 'tool' %}"
    "{%- if m.tool_call_id | length != 9 %}{{ raise_exception('an id has 9 letters') }}{% endif %}"
    "{%- set ns.user = false %}"
    "{{- '[TOOL_RESULTS] {\"content\": ' + m.content | tojson + '}[/TOOL_RESULTS]' }}{% endif %}"
    "{%- endfor %}"
)
GEMMA = (
    "{{- bos_token }}"
    "{%- for m in messages %}"
    "{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
    "{%- set role = 'model' if m.role == 'assistant' else m.role %}"
    "{{- '<start_of_turn>' + role + '\n' + m.content | trim + '<end_of_turn>\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
CONTROL = {
    CHATML: ["<|im_end|>", "<|im_start|>"],
    QWEN3: ["<|im_end|>", "<|im_start|>"],
    LLAMA3: ["<|eot_id|>", "<|begin|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>"],
    MISTRAL: ["</s>", "<s>", "[INST]", "[/INST]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"],
    GEMMA: ["<end_of_turn>", "<bos>", "<start_of_turn>"],
}
SHAPES = {
    "ChatML, user": (CHATML, "user", {}, "<|im_end|>\n<|im_start|>user\nX<|im_end|>\n{}"),
    "ChatML, tool": (
        CHATML,
        "tool",
        {},
        "<|im_end|>\n<|im_start|>user\n<tool_response>\nX\n</tool_response><|im_end|>\n{}",
    ),
    "Qwen3, tool": (
        QWEN3,
        "tool",
        {},
        "<|im_end|>\n<|im_start|>user\n<tool_response>\nX\n</tool_response><|im_end|>\n{}",
    ),
    "Llama 3, user": (
        LLAMA3,
        "user",
        {},
        "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nX<|eot_id|>{}",
    ),
    "Llama 3, tool": (
        LLAMA3,
        "tool",
        {},
        '<|eot_id|><|start_header_id|>ipython<|end_header_id|>\n\n"X"<|eot_id|>{}',
    ),
    "Mistral, user": (MISTRAL, "user", {}, "</s>[INST] X[/INST]"),
    "Mistral, tool": (
        MISTRAL,
        "tool",
        {},
        '</s>[TOOL_RESULTS] {{"content": "X"}}[/TOOL_RESULTS]',
    ),
    "Gemma, user": (GEMMA, "user", {}, "<end_of_turn>\n<start_of_turn>user\nX<end_of_turn>\n{}"),
}
BEGIN = {
    CHATML: "<|im_start|>assistant\n",
    QWEN3: "<|im_start|>assistant\n",
    LLAMA3: "<|start_header_id|>assistant<|end_header_id|>\n\n",
    MISTRAL: "",
    GEMMA: "<start_of_turn>model\n",
}


class Talk(Environment):
    name, equivalences, equivalence = "talk", ("written",), "written"

    def __init__(self, *, role: str, chat: Chat, tools: Sequence[dict[str, Any]] = ()) -> None:
        self.role, self.chat, self.tools = role, chat, tools

    def rows(self, split: Split) -> Sequence[Row]:
        return [Row(0, {})]

    def prompt(self, row: Row) -> list[Message]:
        return [{"role": "user", "content": "2 + 3?"}]

    def start(self, row: Row) -> Episode:
        raise NotImplementedError


TOKENIZERS: dict[str, Any] = {}


def tokenizer_of(template: str) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    if template not in TOKENIZERS:
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        inner = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        control = CONTROL[template]
        inner.add_special_tokens([AddedToken(token, special=True) for token in control])
        made = PreTrainedTokenizerFast(
            tokenizer_object=inner, eos_token=control[0], bos_token=control[1]
        )
        made.chat_template = template
        TOKENIZERS[template] = made
    return TOKENIZERS[template]


def conversation(template: str, role: str, **arguments: Any) -> tuple[Conversation, Talk, Any]:
    tokenizer, task = tokenizer_of(template), Talk(role=role, chat=Chat(arguments=arguments))
    return Conversation(task, tokenizer), task, tokenizer


@pytest.mark.parametrize(("template", "role", "arguments", "expected"), SHAPES.values(), ids=SHAPES)
def test_the_delimiters_are_the_templates_own(
    template: str, role: str, arguments: dict[str, Any], expected: str
) -> None:
    talk, task, tokenizer = conversation(template, role, **arguments)
    prompt = task.prompt(Row(0, {}))
    talk.check(prompt)
    letter, end = tokenizer.encode("a")[0], tokenizer.eos_token_id
    whole = expected.format(BEGIN[template])
    cut = talk.after(prompt, Answer("X"), last=letter)
    assert tokenizer.decode(cut) == whole
    # The end token that was sampled is the one that the template would have put there.
    assert [end, *talk.after(prompt, Answer("X"), last=end)] == cut


@given(
    shape=st.sampled_from(list(SHAPES.values())),
    said=st.lists(st.text(st.characters(exclude_categories=("Cs", "Co"))), min_size=1, max_size=2),
    sampled=st.lists(st.integers(0, 255), min_size=1, max_size=9),
    control=st.booleans(),
)
def test_whatever_is_said_the_tokens_before_stay_and_text_makes_no_control_token(
    shape: tuple[str, str, dict[str, Any], str],
    said: list[str],
    sampled: list[int],
    control: bool,
) -> None:
    """Also where control tokens are written in what is said, or the sampled text is no Unicode."""
    template, role, arguments, _ = shape
    talk, task, tokenizer = conversation(template, role, **arguments)
    prompt = task.prompt(Row(0, {}))
    if role != "tool" and template in (MISTRAL, GEMMA):
        said = said[:1]
    texts = tuple(f"{text}{CONTROL[template][0] if control else ''}" for text in said)
    plain = talk.after(prompt, Answer(("X",) * len(said)), last=sampled[-1])
    ids = talk.after(prompt, Answer(texts), last=sampled[-1])
    special = [id for id in ids if id in tokenizer.added_tokens_decoder]
    assert special == [id for id in plain if id in tokenizer.added_tokens_decoder]
    assert ids == talk.after(prompt, Answer(texts), last=sampled[-1])


def test_an_end_token_of_another_name_stands_for_the_templates() -> None:
    talk, task, tokenizer = conversation(LLAMA3, "tool")
    eom = tokenizer.convert_tokens_to_ids("<|eom_id|>")
    ids = talk.after(task.prompt(Row(0, {})), Answer("5"), last=eom)
    assert tokenizer.decode(ids).startswith("<|start_header_id|>ipython")


def test_several_answers_are_several_turns() -> None:
    talk, task, tokenizer = conversation(CHATML, "tool")
    ids = talk.after(task.prompt(Row(0, {})), Answer(("1", "2")), last=0)
    assert tokenizer.decode(ids).count("<tool_response>") == 2


def test_tools_and_a_prefix_are_part_of_it() -> None:
    from asyncds.tasks.encoding import encode_prompt

    tokenizer = tokenizer_of(CHATML)
    task = Talk(role="tool", chat=Chat(prefix="So: "), tools=[{"name": "add"}])
    assert '{"name": "add"}' in tokenizer.decode(encode_prompt(task, Row(0, {}), tokenizer))
    ids = Conversation(task, tokenizer).after(task.prompt(Row(0, {})), Answer("5"), last=0)
    assert tokenizer.decode(ids).endswith("<|im_start|>assistant\nSo: ")


@pytest.mark.parametrize(
    ("template", "role", "arguments"),
    [(QWEN3, "user", {}), (QWEN3, "tool", {"enable_thinking": False})],
)
def test_a_template_that_rewrites_history_is_found(
    template: str, role: str, arguments: dict[str, Any]
) -> None:
    talk, task, tokenizer = conversation(template, role, **arguments)
    prompt = task.prompt(Row(0, {}))
    with pytest.raises(RewrittenHistoryError, match=r"thinking.*episodes\.rewritten_history"):
        talk.check(prompt)
    # Kept, the transcript goes on all the same.
    text = tokenizer.decode(talk.after(prompt, Answer("5"), last=0))
    assert text.startswith("<|im_end|>\n<|im_start|>user\n")


@pytest.mark.parametrize(("template", "role"), [(GEMMA, "tool"), (MISTRAL, "assistant")])
def test_a_template_that_refuses_the_role_is_found(template: str, role: str) -> None:
    talk, task, _ = conversation(template, role)
    with pytest.raises(TemplateError, match=f"role {role}: .*alternate"):
        talk.check(task.prompt(Row(0, {})))


def test_a_tokenizer_without_a_template_is_said() -> None:
    talk = Talk(role="user", chat=Chat())
    words = Conversation(talk, word_tokenizer(("1",), max_length=9))
    with pytest.raises(TemplateError, match="has no chat template, and the environment asks in"):
        words.check(talk.prompt(Row(0, {})))


def test_a_template_that_leaves_the_models_turns_out_is_found() -> None:
    talk, task, tokenizer = conversation(CHATML, "user")
    task.chat = Chat(
        template="{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    )
    talk = Conversation(task, tokenizer)
    prompt = task.prompt(Row(0, {}))
    with pytest.raises(TemplateError, match="turns out"):
        talk.check(prompt)
    with pytest.raises(TemplateError, match="as it was"):
        talk.after(prompt, Answer("5"), last=0)


def test_what_is_said_to_a_plain_prompt_is_put_there_as_it_stands() -> None:
    talk, _, tokenizer = conversation(CHATML, "user")
    talk.check("2 5 10 = 30 :")
    assert tokenizer.decode(talk.after("2 5 :", Answer(" = 12\n"), last=0)) == " = 12\n"
