"""The prompt of a row: a column, or a template with columns in braces."""

import difflib
import re
from collections.abc import Sequence

from asyncds.tasks import data, source
from asyncds.tasks.base import Message

_HOLE = re.compile(r"\{\{(?P<escaped>[^{}\n]+)\}\}|\{(?P<name>[^{}\n]+)\}")
_WORD = re.compile(r"[A-Za-z_][\w.]*")


class Template:
    """The question that a row makes.

    text: the name of a column, or a text in which ``{column}`` stands for what the row has there,
    ``outer.inner`` too. Other braces are text; ``{{word}}`` is the text ``{word}``. What a row has
    is never searched for braces. option: how messages call the text. columns: those that it reads.
    Raises ValueError for a word in braces that is no column, and for a text with none.
    """

    def __init__(self, text: str, columns: Sequence[str], *, option: str = "task.prompt") -> None:
        self._text = text
        self._columns = {*columns}
        self.is_column = self._is_column(text)
        self.columns = {text if text in self._columns else text.split(".")[0]}
        if self.is_column:
            return
        found = [match["name"] for match in _HOLE.finditer(text) if match["name"]]
        for name in found:
            if not self._is_column(name) and _WORD.fullmatch(name):
                raise ValueError(
                    f"{option} has {{{name}}}, which is no column{_hint(name, columns)}; write "
                    f"{{{{{name}}}}} for braces in the text"
                )
        if not any(map(self._is_column, found)):
            raise ValueError(
                f"{option} {text!r:.60} is neither a column nor a text with one in braces"
                f"{_hint(text, columns)}"
            )
        read = [name for name in found if self._is_column(name)]
        self.columns = {name if name in self._columns else name.split(".")[0] for name in read}

    def fill(self, row: data.Row, where: str) -> str | tuple[Message, ...]:
        """The prompt: a text, or the turns of a chat. Raises ValueError where there is none."""
        if self.is_column:
            value = data.field(row, self._text)
            if turns := source.chat(value, where):
                return turns
            return _written(row, self._text, where)

        def part(match: re.Match[str]) -> str:
            name = match["name"]
            if name is None:
                inner = match["escaped"]
                is_word = self._is_column(inner) or _WORD.fullmatch(inner)
                return f"{{{inner}}}" if is_word else match[0]
            return _written(row, name, where) if self._is_column(name) else match[0]

        return _HOLE.sub(part, self._text)

    def _is_column(self, name: str) -> bool:
        return name in self._columns or (
            _WORD.fullmatch(name) is not None and name.split(".")[0] in self._columns
        )


def _written(row: data.Row, name: str, where: str) -> str:
    """A text as it stands, spaces and all."""
    value = data.field(row, name)
    written = value if isinstance(value, str) else source.cell(row, name, where)
    if not written.strip():
        raise ValueError(f"{where} has no text in {name}")
    return written


def _hint(name: str, columns: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, columns, n=1)
    return f": did you mean {near[0]}?" if near else f": there are {', '.join(columns)}"
