"""Rows of data sets as prompts and answers, in tokens."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from asyncds.config.sft import SftConfig, SftData
from asyncds.config.tasks import DataSource
from asyncds.protocol.batch import Int32
from asyncds.tasks import data, source
from asyncds.tasks.base import Prompt, Row, make_chat
from asyncds.tasks.dataset.examples import Loaded
from asyncds.tasks.dataset.prompts import Template
from asyncds.tasks.encoding import encode_prompt
from asyncds.tasks.source import Source
from asyncds.tasks.splits import hold_out

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Example:
    """A prompt and its answer, which ends with the tokenizer's end of a sequence; int32 each."""

    prompt: Int32
    answer: Int32

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The examples to train on, and those whose loss is measured."""

    train: list[Example]
    eval: list[Example]


def read_rows(config: SftConfig, tokenizer: Any, *, longest: int | None) -> Rows:
    """Read and encode all data.

    longest: what the model has positions for. Raises ValueError, with a sentence for what can't be
    read or used.
    """
    settings = config.data
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no end-of-sequence token, with which answers end")
    encoder = _Encoder(
        settings, tokenizer, min(filter(None, (settings.max_tokens, longest)), default=None)
    )
    train, evaluated = (
        [example for origin in origins for example in _examples(origin, settings, encoder)]
        for origins in (settings.train, settings.eval)
    )
    if settings.n_eval:
        if settings.n_eval >= len(train):
            raise ValueError(
                f"data.n_eval {settings.n_eval} leaves none of {len(train)} rows to train on: "
                "lower it, or give more rows"
            )
        train, evaluated = hold_out(train, settings.n_eval, seed=config.seed)
    if len(train) < config.batches.size:
        raise ValueError(
            f"{len(train)} rows are fewer than a batch of batches.size {config.batches.size}: "
            "lower it, or give more rows"
        )
    if 0 < len(evaluated) < config.learner.ranks:
        raise ValueError(f"{len(evaluated)} rows to evaluate on are fewer than learner.ranks")
    return Rows(train=train, eval=evaluated)


class _Encoder:
    """Turns prompts and answers into tokens, as generators see them in a run."""

    def __init__(self, settings: SftData, tokenizer: Any, most: int | None) -> None:
        self.chat = make_chat(settings.chat.model_dump())
        self._is_chat = settings.prompt_style == "chat"
        self._tokenizer = tokenizer
        self._most = most

    def prompt(self, row: Row) -> Prompt:
        """The prompt of a row, as a task has it."""
        prompt: Prompt = row.fields["prompt"]
        if isinstance(prompt, str) and self._is_chat and not row.fields.get("as_it_stands"):
            return [{"role": "user", "content": prompt}]
        return prompt

    def encode(self, prompt: Prompt, answer: str, where: str) -> Example:
        """Raises ValueError for an answer without text, and for a sequence that is too long."""
        if not answer.strip():
            raise ValueError(f"{where} has no answer")
        asked = Row(0, {"prompt": prompt})
        said = Row(0, {"prompt": answer, "as_it_stands": True})
        ids, answered = (encode_prompt(self, row, self._tokenizer) for row in (asked, said))  # type: ignore[arg-type]
        example = Example(
            prompt=np.array(ids, dtype=np.int32),
            answer=np.array([*answered, self._tokenizer.eos_token_id], dtype=np.int32),
        )
        if not ids:
            raise ValueError(f"{where} has an empty prompt")
        if self._most is not None and len(example) > self._most:
            raise ValueError(f"{where} has {len(example)} tokens, more than {self._most}")
        return example


def _examples(origin: DataSource, settings: SftData, encoder: _Encoder) -> list[Example]:
    found = Source(**origin.model_dump())
    rows = found.read()
    names = data.columns(rows)
    columns = [settings.messages or settings.completion]
    if names:
        hint = "set data.messages, or data.completion to the answer's column"
        source.check_columns(names, columns, found, hint)
    template = Template(settings.prompt, names) if names and not settings.messages else None
    examples: list[Example] = []
    bad: list[str] = []
    n = len(rows) if found.n is None else found.n
    for index in range(n):
        try:
            examples += _of_row(rows[index], found.at(index), template, settings, encoder)
        except ValueError as error:
            bad.append(str(error))
    loaded = Loaded(source=found, examples=[], rows=n, bad=bad)
    if why := loaded.sentence():
        if settings.bad_rows == "refuse":
            raise ValueError(f"{why}: mend them, or set data.bad_rows to skip")
        log.warning("%s: they are left out", why)
    return examples


def _of_row(
    row: data.Row | data.Broken,
    where: str,
    template: Template | None,
    settings: SftData,
    encoder: _Encoder,
) -> list[Example]:
    if isinstance(row, data.Broken):
        raise ValueError(row.why)
    if template is None:
        turns = data.field(row, settings.messages or "")
        return [encoder.encode(asked, said, where) for asked, said in _answers(turns, where)]
    value = data.field(row, settings.completion)
    answer = value if isinstance(value, str) else source.cell(row, settings.completion, where)
    prompt = template.fill(row, where)
    return [encoder.encode(prompt if isinstance(prompt, str) else list(prompt), answer, where)]


def _answers(turns: Any, where: str) -> Iterator[tuple[Prompt, str]]:
    """Every turn of the assistant that answers something, with the turns before it."""
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError(f"{where} has no chat: a list of turns with role and content is needed")
    places = [i for i, turn in enumerate(turns) if i and turn.get("role") == "assistant"]
    if not places:
        raise ValueError(f"{where} has a chat without an answer of the assistant")
    for place in places:
        # One that begins with an answer, or has two in a row, is no question.
        asked = source.chat(turns[:place], where)
        content = turns[place].get("content")
        if not isinstance(content, str):
            raise ValueError(f"{where} has a turn without the texts role and content")
        yield list(asked), content


def total_tokens(examples: Sequence[Example]) -> int:
    """Tokens of prompts and answers."""
    return sum(map(len, examples))
