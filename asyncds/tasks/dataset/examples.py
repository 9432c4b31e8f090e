"""Examples from data sets: what is asked, and what the rewards are told."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from itertools import islice
from typing import Any

import msgspec

from asyncds.tasks import data, source
from asyncds.tasks.base import Message
from asyncds.tasks.dataset.prompts import Template
from asyncds.tasks.source import Source

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Example:
    """A row that can be used. where: how messages call it. columns: to judge by."""

    where: str
    prompt: str | tuple[Message, ...]
    answer: Any
    columns: dict[str, Any]

    @property
    def words(self) -> str:
        """A prompt's text but for spaces, which makes two examples the same one."""
        texts = (t if isinstance(t, str) else t["content"] for t in self.prompt)
        return " ".join("".join(texts).split())


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """The examples of a data set, how many rows it has, and why each of the others is none."""

    source: Source
    examples: list[Example]
    rows: int
    bad: list[str]

    def sentence(self) -> str:
        """The fault of the data set's rows in a sentence, or ""."""
        if not self.bad:
            return ""
        more = f"; and {len(self.bad) - _SHOWN} more" if len(self.bad) > _SHOWN else ""
        return (
            f"{len(self.bad)} of {self.rows} rows of data set {self.source.dataset!r} can't be "
            f"used: {'; '.join(self.bad[:_SHOWN])}{more}"
        )


def load(
    origin: Source,
    *,
    prompt: str,
    answer: str | None,
    wanted: Callable[[Sequence[str], Source], set[str]],
    kept: Callable[[dict[str, Any], str], dict[str, Any]],
) -> Loaded:
    """Read a data set. Raises ValueError where it can't be read, or lacks a column.

    wanted: says which columns examples keep. kept: what they keep of these; raises ValueError for a
    row that can't be used, given how messages call it.
    """
    rows = origin.read()
    names = data.columns(rows)
    if not names:
        return Loaded(source=origin, examples=[], rows=len(rows), bad=_broken(rows))
    template = Template(prompt, names)
    if answer is not None:
        hint = "set task.answer to the right answer's column, or to null if no reward needs one"
        source.check_columns(names, [answer], origin, hint)
    needed = wanted(names, origin)
    examples, bad = [], []
    n = len(rows) if origin.n is None else origin.n
    for index, row in enumerate(islice(rows, n)):
        try:
            example = _example(row, origin.at(index), template, answer, needed)
            columns = kept(example.columns, example.where)
            examples.append(Example(example.where, example.prompt, example.answer, columns))
        except ValueError as error:
            bad.append(str(error))
    return Loaded(source=origin, examples=examples, rows=n, bad=bad)


def _broken(rows: Sequence[data.Row | data.Broken]) -> list[str]:
    return [row.why for row in rows if isinstance(row, data.Broken)]


def _example(
    row: data.Row | data.Broken,
    where: str,
    template: Template,
    answer: str | None,
    wanted: set[str],
) -> Example:
    if isinstance(row, data.Broken):
        raise ValueError(row.why)
    right = None if answer is None else _plain(data.field(row, answer))
    if answer is not None and (right is None or right == [] or not str(right).strip()):
        raise ValueError(f"{where} has no answer in {answer}")
    columns = {name: _plain(row.get(name)) for name in wanted}
    try:
        msgspec.msgpack.encode((right, columns))
    except (TypeError, OverflowError, ValueError) as error:
        raise ValueError(f"{where} has what no reward can be given: {error}") from None
    return Example(where, template.fill(row, where), right, columns)


def _plain(value: Any) -> Any:
    """A value as a person's function expects it: a number is a number, a date is ISO's text."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def each(loaded: Sequence[Loaded]) -> Iterator[Example]:
    """The examples of several data sets, one after the other."""
    for one in loaded:
        yield from one.examples
