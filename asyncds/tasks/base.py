"""The interface of tasks: rows, the prompt of each, and the judgement of a completion."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypedDict, get_args

import msgspec

from asyncds.protocol.wire import EvaluationSets
from asyncds.sandbox.sandbox import Sandbox

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
    of, in the order of its rows. Each then has a result of its own. One that runs programs of a
    model has its ``Sandbox`` as attribute ``sandbox``: without one nothing starts.

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


def sandbox_problem(task: Task) -> str:
    """Why the task's sandbox can't be made on this machine, or ""; a task may need none."""
    sandbox = getattr(task, "sandbox", None)
    return sandbox.problem() if isinstance(sandbox, Sandbox) else ""


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


def chat_of(task: Task) -> Chat:
    """How a task's chats are put into words: its attribute ``chat``, if it has one."""
    chat = getattr(task, "chat", None)
    return chat if isinstance(chat, Chat) else Chat()


def fingerprint(task: Task) -> str:
    """16 hex digits over a task's name, equivalences, rows, sets, prompts, ``chat``, ``tools``."""
    digest = hashlib.sha256(task.name.encode())
    encoder = msgspec.msgpack.Encoder()
    digest.update(encoder.encode((task.equivalences, task.equivalence)))
    if (chat := chat_of(task)) != Chat():
        digest.update(encoder.encode(chat))
    if tools := getattr(task, "tools", ()):
        digest.update(encoder.encode(list(tools)))
    splits: tuple[Split, ...] = get_args(Split)
    for split in splits:
        digest.update(split.encode())
        if sets := evaluation_sets(task, split):
            digest.update(encoder.encode(sets))
        for row in task.rows(split):
            digest.update(encoder.encode((row, task.prompt(row))))
    return digest.hexdigest()[:16]
