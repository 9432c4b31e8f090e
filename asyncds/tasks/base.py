"""What a task is: rows, the prompt that each row makes, and the judgement of a completion."""

import hashlib
from collections.abc import Sequence
from typing import Any, Literal, Protocol, TypedDict, get_args

import msgspec

Split = Literal["train", "validation", "eval"]


class Message(TypedDict):
    """One turn of a chat."""

    role: str
    content: str


Prompt = str | list[Message]
"""Plain text, encoded as it stands, or a chat, put into words by the model's own template."""


class Row(msgspec.Struct, frozen=True):
    """One problem: its position in its split, and the task's own fields (plain msgpack types)."""

    index: int
    fields: dict[str, Any]


class Score(msgspec.Struct, frozen=True):
    """The judgement of one completion.

    reward: what is learnt from. correct: the verifier's verdict, which is not ``reward > 0``.
    answers: a canonical form under each of the task's ``equivalences``, in their order, equal for
    answers that count as the same; () where there is no answer.
    """

    reward: float
    correct: bool
    answers: tuple[str, ...] = ()


class Task(Protocol):
    """A source of prompts with verifiable answers.

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
        """How many different correct answers the row has, under each of ``equivalences``; None
        where that is not known."""
        ...

    def fingerprint(self) -> str:
        """Differs between processes whose rows, prompts or equivalences differ (see
        ``fingerprint``)."""
        ...


class ChatTokenizer(Protocol):
    """The part of a Hugging Face tokenizer that ``encode_prompt`` uses."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...

    def apply_chat_template(
        self, conversation: list[Message], *, add_generation_prompt: bool, return_dict: bool
    ) -> list[int]: ...


def encode_prompt(task: Task, row: Row, tokenizer: ChatTokenizer) -> list[int]:
    """Token ids of a row's prompt.

    Plain text gets no special tokens. A chat goes through the tokenizer's template and ends where
    the assistant begins; ValueError (from the tokenizer) where it has no template.
    """
    prompt = task.prompt(row)
    if isinstance(prompt, str):
        return tokenizer.encode(prompt, add_special_tokens=False)
    return tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)


def fingerprint(task: Task) -> str:
    """16 hex digits over a task's name, its equivalences and all its rows and prompts."""
    digest = hashlib.sha256(task.name.encode())
    encoder = msgspec.msgpack.Encoder()
    digest.update(encoder.encode((task.equivalences, task.equivalence)))
    splits: tuple[Split, ...] = get_args(Split)
    for split in splits:
        digest.update(split.encode())
        for row in task.rows(split):
            digest.update(encoder.encode((row, task.prompt(row))))
    return digest.hexdigest()[:16]
