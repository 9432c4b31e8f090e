"""Prompts, and what environments say, as token ids."""

import re
from collections.abc import Sequence
from typing import Any, Protocol

from asyncds.tasks.base import Chat, Message, Prompt, Row, Task, chat_of
from asyncds.tasks.environment import Answer, Environment, turns_of
from asyncds.tasks.mixture import own


class ChatTokenizer(Protocol):
    """The part of a Hugging Face tokenizer that is used here."""

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


class TemplateError(ValueError):
    """A chat template that the transcripts of an environment can't be made with; says why."""


def encode_prompt(task: Task, row: Row, tokenizer: ChatTokenizer) -> list[int]:
    """Token ids of a row's prompt.

    Plain text gets no special tokens. A chat goes through the tokenizer's template, as the task's
    attribute ``chat`` says (a Chat, if it has one), and ends where the assistant begins; ValueError
    (from the tokenizer) where there is no template. A control token that is written inside a prompt
    is text.
    """
    task, row = own(task, row)
    prompt = task.prompt(row)
    if isinstance(prompt, str):
        return _encoded(prompt, tokenizer)
    chat = chat_of(task)
    turns, arguments = _turns(prompt, chat), _arguments(task, chat)
    marked = _marked(turns, tokenizer)
    if marked == turns:
        ids: list[int] = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_dict=False, **arguments
        )
    else:
        text = tokenizer.apply_chat_template(
            marked, add_generation_prompt=True, tokenize=False, **arguments
        )
        ids = _unmarked(text, turns, tokenizer)
    return ids + _encoded(chat.prefix, tokenizer, control=True) if chat.prefix else ids


_REPLY = "\ue002reply\ue003"
_OTHER_REPLY = "\ue002another\ue003"
_THOUGHT = "\ue002thought\ue003"


class Conversation:
    """Encodes what an environment says, once, as the tokens that follow a sampled completion.

    What was sampled is never encoded again. The delimiters are those of the model's chat template:
    what it puts after an assistant's turn, up to where the next one begins, in a conversation in
    which that turn is a mark that can be found.
    """

    def __init__(self, task: Environment, tokenizer: ChatTokenizer) -> None:
        self._role = task.role
        self._chat = chat_of(task)
        self._arguments = _arguments(task, self._chat)
        self._tokenizer = tokenizer
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self._control = {id for id, token in added.items() if token.special}

    def after(self, prompt: Prompt, answer: Answer, *, last: int) -> list[int]:
        """Token ids of an answer and of the beginning of the next completion.

        last: the token that was sampled last. If that is the model's end token, it stands for the
        one with which the template ends a turn. Raises TemplateError.
        """
        if isinstance(prompt, str):
            return _encoded("".join(answer.texts), self._tokenizer)
        said = turns_of(answer, self._role)
        turns = [*_turns(prompt, self._chat), _assistant(_REPLY), *said]
        text = self._text(_marked(turns, self._tokenizer))
        if text.count(_REPLY) != 1:
            raise TemplateError(
                "the chat template does not repeat the model's turn as it was, so that what "
                "follows it can't be found"
            )
        ids = _unmarked(text.partition(_REPLY)[2], turns, self._tokenizer)
        if ids and last in self._control and ids[0] in self._control:
            ids = ids[1:]
        return ids + _encoded(self._chat.prefix, self._tokenizer, control=True)

    def check(self, prompt: Prompt) -> None:
        """Compare what the template makes of a conversation with the transcript of an episode.

        Raises TemplateError with a sentence for one that can't go on after an answer, or that
        writes earlier turns otherwise than they were, such as without their thinking.
        """
        if isinstance(prompt, str):
            return
        if not (self._chat.template or getattr(self._tokenizer, "chat_template", None)):
            raise TemplateError(
                "the tokenizer has no chat template, and the environment asks in chats: give its "
                "prompts as texts, or a template (chat.template)"
            )
        begun, said = _turns(prompt, self._chat), turns_of(Answer("answer"), self._role)
        try:
            before = self._text(begun)
            after = self._text([*begun, _assistant(_REPLY), *said])
            twice = [*begun, _assistant(_REPLY), *said, _assistant(_OTHER_REPLY), *said]
            longer = self._text(twice)
            thought = f"<think>\n{_THOUGHT}\n</think>\n\n"
            thoughtful = self._text([*begun, _assistant(thought + _REPLY), *said])
        except Exception as error:  # Jinja's, or what a template raises by itself
            raise TemplateError(
                f"the chat template refuses an answer of the environment in the role {self._role}: "
                f"{error}"
            ) from error
        head, _, tail = after.partition(_REPLY)
        if not tail:
            raise TemplateError("the chat template leaves the model's own turns out")
        opened = before.rstrip().endswith("<think>")
        expected = before + (thought.removeprefix("<think>\n") if opened else thought)
        thinks = "</think>" in self._source
        if not (opened or _same(head, before)) or (
            thinks and not _same(thoughtful, expected + _REPLY + tail)
        ):
            raise RewrittenHistoryError(
                f"the chat template rewrites earlier turns of the model, such as their thinking, "
                f"once a turn of the role {self._role} follows, and the transcript of an episode "
                "keeps what was sampled: let the environment answer in another role, turn thinking "
                "off (chat.arguments, chat.template), or set episodes.rewritten_history to keep"
            )
        if not opened and not _same(longer, before + _REPLY + tail + _OTHER_REPLY + tail):
            raise RewrittenHistoryError(
                "the chat template writes earlier turns otherwise when the conversation goes on, "
                "and the transcript of an episode keeps what was sampled: give another "
                "chat.template or set episodes.rewritten_history to keep"
            )

    @property
    def _source(self) -> str:
        own = self._arguments.get("chat_template") or getattr(self._tokenizer, "chat_template", "")
        return str(own)

    def _text(self, turns: list[Message]) -> str:
        text: str = self._tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, tokenize=False, **self._arguments
        )
        return text


class RewrittenHistoryError(TemplateError):
    """A chat template that shows a model its earlier turns otherwise than it wrote them."""


def _same(text: str, other: str) -> bool:
    """Whether texts are the same but for white space: a turn's is what the model samples."""
    return "".join(text.split()) == "".join(other.split())


def _assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


def _turns(prompt: list[Message], chat: Chat) -> list[Message]:
    if chat.system is None:
        return prompt
    others = [turn for turn in prompt if turn["role"] != "system"]
    return [{"role": "system", "content": chat.system}, *others]


def _arguments(task: Task, chat: Chat) -> dict[str, Any]:
    """Arguments of the chat template."""
    arguments = dict(chat.arguments)
    if chat.template is not None:
        arguments["chat_template"] = chat.template
    if tools := getattr(task, "tools", ()):
        arguments["tools"] = list(tools)
    return arguments


_MARK = re.compile("\ue000(\\d+)\ue001")


def _marked(turns: list[Message], tokenizer: ChatTokenizer) -> list[Message]:
    """Turns with a mark for each content in which a control token is written."""
    control = _control_tokens(tokenizer)
    return [
        {**turn, "content": f"\ue000{i}\ue001"}
        if any(token in turn["content"] for token in control)
        else turn
        for i, turn in enumerate(turns)
    ]


def _unmarked(text: str, turns: Sequence[Message], tokenizer: ChatTokenizer) -> list[int]:
    """Token ids of a template's text, with the contents of marked turns as text."""
    encoded = [
        _encoded(turns[int(piece)]["content"], tokenizer)
        if i % 2
        else _encoded(piece, tokenizer, control=True)
        for i, piece in enumerate(_MARK.split(text))
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
