"""The interface of tasks: rows, the prompt of each, and the judgement of a completion."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypedDict, get_args

import msgspec

from asyncds.protocol.wire import EvaluationSets

Split = Literal["train", "validation", "eval"]


class Message(TypedDict):
    """One turn of a chat."""

    role: str
    content: str


Prompt = str | list[Message]
"""Plain text, encoded as it stands, or a chat, put into words by the model's own template."""


class Chat(msgspec.Struct, frozen=True, kw_only=True):
    """How a task's chats are put into words.

    system: the text of the system turn, in place of one that the prompt has; None: as it is.
    prefix: what the assistant's turn begins with. template: a Jinja template instead of the
    tokenizer's. arguments: of the template, such as ``enable_thinking``.
    """

    system: str | None = None
    prefix: str = ""
    template: str | None = None
    arguments: dict[str, Any] = {}


def make_chat(options: Mapping[str, Any] | None) -> Chat:
    """A Chat from its fields. Raises ValueError for a ``template`` that is no Jinja and no file."""
    chat = Chat(**options or {})
    if chat.template is None or "{" in chat.template:
        return chat
    try:
        template = Path(chat.template).expanduser().read_text()
    except OSError as error:
        raise ValueError(f"chat.template {chat.template}: {error.strerror}") from None
    return msgspec.structs.replace(chat, template=template)


class Row(msgspec.Struct, frozen=True):
    """One problem: its position in its split, and the task's own fields (plain msgpack types)."""

    index: int
    fields: dict[str, Any]


class Score(msgspec.Struct, frozen=True):
    """The judgement of one completion.

    reward: what is learnt from. correct: the verifier's verdict, which is not ``reward > 0``.
    answers: a canonical form under each of the task's ``equivalences``, in their order, equal for
    answers that count as the same; () where there is no answer. parts: what the reward is made of,
    by names in the task's attribute ``reward_parts``, at most 16.
    """

    reward: float
    correct: bool
    answers: tuple[str, ...] = ()
    parts: dict[str, float] = {}


class InvalidScoreError(ValueError):
    """A reward or a task returned what is no judgement; the message says why."""


class Task(Protocol):
    """A source of prompts with verifiable answers.

    A task may also have ``sets(split)``: (name, rows) of the evaluation sets that a split consists
    of, in the order of its rows. Each then has a result of its own.

    Rows are fixed by the constructor's arguments: every process that makes the task with the same
    arguments sees the same rows. They are made when first asked for, so that a process that only
    scores does without.
    """

    @property
    def name(self) -> str: ...

    @property
    def equivalences(self) -> tuple[str, ...]:
        """Names of the notions of sameness of answers, strictest first; at least one."""
        ...

    @property
    def equivalence(self) -> str:
        """The one of ``equivalences`` that counts where one number must do."""
        ...

    def rows(self, split: Split) -> Sequence[Row]: ...

    def prompt(self, row: Row) -> Prompt: ...

    def score(self, row: Row, completion: str) -> Score:
        """Judge a completion (text without special tokens). Pure; any text is accepted."""
        ...

    def multiplicity(self, row: Row) -> dict[str, int] | None:
        """The number of different correct answers of a row, by equivalence.

        None where that is not known.
        """
        return None

    def fingerprint(self) -> str:
        """Differs between processes whose rows, prompts or equivalences differ."""
        return fingerprint(self)


def reward_parts(task: Task) -> Sequence[str]:
    """Names of the parts that a task's rewards may have: its attribute ``reward_parts``."""
    parts: Sequence[str] = getattr(task, "reward_parts", ())
    return parts


def evaluation_sets(task: Task, split: Split) -> list[tuple[str, int]]:
    """The evaluation sets that a task names by its method ``sets``, if it has one.

    Raises ValueError for names that can't be labels, or sizes that are not those of its rows.
    """
    say = getattr(task, "sets", None)
    try:
        found = msgspec.convert([*say(split)] if say is not None else [], EvaluationSets)
    except msgspec.ValidationError as error:
        raise ValueError(f"sets() of task {task.name!r}: {error}") from None
    rows = len(task.rows(split))
    if found and sum(n for _, n in found) != rows:
        raise ValueError(
            f"sets() of task {task.name!r} names sets of {sum(n for _, n in found)} rows, and the "
            f"split {split!r} has {rows}: name every row's set"
        )
    return found


class ChatTokenizer(Protocol):
    """The part of a Hugging Face tokenizer that ``encode_prompt`` uses."""

    def encode(
        self, text: str, *, add_special_tokens: bool, split_special_tokens: bool = False
    ) -> list[int]: ...

    def apply_chat_template(
        self,
        conversation: list[Message],
        *,
        add_generation_prompt: bool,
        return_dict: bool = True,
        tokenize: bool = True,
        **arguments: Any,
    ) -> Any: ...


def encode_prompt(task: Task, row: Row, tokenizer: ChatTokenizer) -> list[int]:
    """Token ids of a row's prompt.

    Plain text gets no special tokens. A chat goes through the tokenizer's template, as the task's
    attribute ``chat`` says (a Chat, if it has one), and ends where the assistant begins; ValueError
    (from the tokenizer) where there is no template. A control token that is written inside a prompt
    is text.
    """
    prompt = task.prompt(row)
    if isinstance(prompt, str):
        return _encoded(prompt, tokenizer)
    chat = _chat(task)
    if chat.system is not None:
        others = [turn for turn in prompt if turn["role"] != "system"]
        prompt = [{"role": "system", "content": chat.system}, *others]
    ids = _templated(prompt, chat, tokenizer)
    return ids + _encoded(chat.prefix, tokenizer, control=True) if chat.prefix else ids


def _chat(task: Task) -> Chat:
    chat = getattr(task, "chat", None)
    return chat if isinstance(chat, Chat) else Chat()


_MARK = re.compile("\ue000(\\d+)\ue001")


def _templated(turns: list[Message], chat: Chat, tokenizer: ChatTokenizer) -> list[int]:
    arguments = dict(chat.arguments)
    if chat.template is not None:
        arguments["chat_template"] = chat.template
    control = _control_tokens(tokenizer)
    marked: list[Message] = [
        turn
        if not any(token in turn["content"] for token in control)
        else {"role": turn["role"], "content": f"\ue000{i}\ue001"}
        for i, turn in enumerate(turns)
    ]
    if marked == turns:
        ids: list[int] = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_dict=False, **arguments
        )
        return ids
    text = tokenizer.apply_chat_template(
        marked, add_generation_prompt=True, tokenize=False, **arguments
    )
    pieces = _MARK.split(text)
    encoded = [
        _encoded(turns[int(piece)]["content"], tokenizer)
        if i % 2
        else _encoded(piece, tokenizer, control=True)
        for i, piece in enumerate(pieces)
    ]
    return [token for ids in encoded for token in ids]


def _encoded(text: str, tokenizer: ChatTokenizer, *, control: bool = False) -> list[int]:
    """Token ids of a text. control: whether a control token's text stands for the token."""
    if control or not any(token in text for token in _control_tokens(tokenizer)):
        return tokenizer.encode(text, add_special_tokens=False)
    return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)


def _control_tokens(tokenizer: ChatTokenizer) -> list[str]:
    # A tokenizer that doesn't tell them has no text for them either.
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return [str(token.content) for token in added.values() if token.special]


def fingerprint(task: Task) -> str:
    """16 hex digits over a task's name, equivalences, rows, sets and prompts, and its ``chat``."""
    digest = hashlib.sha256(task.name.encode())
    encoder = msgspec.msgpack.Encoder()
    digest.update(encoder.encode((task.equivalences, task.equivalence)))
    if (chat := _chat(task)) != Chat():
        digest.update(encoder.encode(chat))
    splits: tuple[Split, ...] = get_args(Split)
    for split in splits:
        digest.update(split.encode())
        if sets := evaluation_sets(task, split):
            digest.update(encoder.encode(sets))
        for row in task.rows(split):
            digest.update(encoder.encode((row, task.prompt(row))))
    return digest.hexdigest()[:16]
