"""Parts of data sets that tasks are made of, and what their cells hold: texts and chats."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar

from asyncds.tasks import data
from asyncds.tasks.base import Message

T = TypeVar("T")
_NO_LABEL = re.compile(r"[^\w.-]", re.ASCII)
_SUFFIX = re.compile(
    rf"({'|'.join(map(re.escape, data.FORMATS))})?({'|'.join(map(re.escape, data.COMPRESSIONS))})?$"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A data set, or a part of one (see ``data.read``).

    n: only the first ``n`` rows. name: of the evaluation set that it is, or is a part of.
    """

    dataset: str
    subset: str | None = None
    split: str = "train"
    n: int | None = None
    name: str | None = None

    def read(self) -> Sequence[data.Row | data.Broken]:
        """The rows of the source. Raises ValueError, also where there are fewer than ``n``."""
        rows = data.read(self.dataset, subset=self.subset, split=self.split)
        if self.n is not None and self.n > len(rows):
            raise ValueError(f"data set {self.dataset!r} has {len(rows)} rows, not {self.n}")
        return rows

    def at(self, index: int) -> str:
        """How messages call a row."""
        return f"row {index} of data set {self.dataset!r}"


def set_names(sources: Sequence[Source]) -> list[str]:
    """The name of each source's evaluation set: its own, or one that no other has."""
    found: list[str] = []
    taken = {source.name for source in sources if source.name}
    for source in sources:
        name = source.name or next(one for one in _candidates(source) if one not in taken)
        taken.add(name)
        found.append(name)
    return found


def _candidates(source: Source) -> Iterator[str]:
    last = _SUFFIX.sub("", source.dataset.rstrip("/").rpartition("/")[2])
    short = _NO_LABEL.sub("-", last).lstrip("-.")[:30] or "set"
    yield short
    yield from (_NO_LABEL.sub("-", f"{short}-{m}")[:40] for m in (source.subset, source.split) if m)
    yield from (f"{short}-{i}" for i in count(2))


def check_columns(names: Sequence[str], wanted: Iterable[str], source: Source, hint: str) -> None:
    """Raises ValueError unless a data set has the wanted columns; "outer.inner" needs "outer"."""
    missing = {name.split(".")[0] for name in wanted if name not in names} - set(names)
    if missing:
        raise ValueError(
            f"data set {source.dataset!r} has no column {' or '.join(sorted(missing))}, but "
            f"{', '.join(names)}: {hint}"
        )


def chat(value: Any, where: str) -> tuple[Message, ...]:
    """The turns of a chat; () for a value that is none. Raises ValueError for a broken one."""
    if not isinstance(value, list) or not value or not all(isinstance(t, dict) for t in value):
        return ()
    turns: list[Message] = []
    for turn in value:
        role, content = turn.get("role"), turn.get("content")
        if not isinstance(role, str) or not isinstance(content, str):
            raise ValueError(f"{where} has a turn without the texts role and content")
        turns.append({"role": role, "content": content})
    if turns[-1]["role"] == "assistant":
        raise ValueError(f"{where} has a chat that ends with an answer: end it with the question")
    return tuple(turns)


def cell(row: data.Row, name: str, where: str) -> str:
    """The text of a cell, "" where there is none. Raises ValueError for what is no text."""
    try:
        return data.text(data.field(row, name))
    except ValueError as error:
        raise ValueError(f"{where} can't be used: in {name}, {error}") from None


def without(items: Iterable[T], others: Iterable[T], key: Callable[[T], str]) -> list[T]:
    """The items that are none of the others, by what makes two of them the same one."""
    left_out = {key(item) for item in others}
    return [item for item in items if key(item) not in left_out]
