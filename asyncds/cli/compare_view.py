"""The tables of a comparison on the terminal."""

from collections.abc import Sequence
from itertools import pairwise

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table as View
from rich.text import Text

from asyncds.compare.comparison import Comparison
from asyncds.compare.tables import DIFFERENCES, MEANS, Column, Table, sections

WIDEST_LABEL = 24
"""Where a label is longer, tables show numbers, and a key before them."""
COUNT_WIDTH = 10
LEAST, MOST = 6, 14
"""Characters that a column of numbers has at least, whatever its heading."""
VERDICTS = {"better": "green", "worse": "red", "": ""}

Names = Sequence[str]
"""Names of the groups in tables, by their places."""


def comparison_view(comparison: Comparison, *, pairs: bool, width: int) -> RenderableType:
    """All tables, each in as many parts as the width of the terminal asks for.

    pairs: every pair too.
    """
    names, key = _names([group.label for group in comparison.groups])
    parts: list[RenderableType] = [Text(f"{MEANS} {DIFFERENCES}", style="dim"), Text(), *key]
    for section in sections(comparison):
        for table in section.tables:
            # A title of the table itself would be wrapped to the table's width.
            parts += [Text(table.title, style="bold"), *_grids(table, names, width), Text()]
            if pairs and table.pairs:
                parts.append(Text("Every pair", style="bold"))
                parts += [*_pairs(table, names, width), Text()]
    return Group(*parts)


def _names(labels: Sequence[str]) -> tuple[Names, list[RenderableType]]:
    """Labels, or where one is long numbers, and then a key to print before."""
    if max(map(len, labels)) <= WIDEST_LABEL:
        return labels, []
    key = View.grid(padding=(0, 2, 0, 0))
    for i, label in enumerate(labels, 1):
        key.add_row(Text(str(i), style="bold"), Text(label))
    return [str(i) for i in range(1, len(labels) + 1)], [key, Text()]


def _grids(table: Table, names: Names, width: int) -> list[View]:
    labels = [row.label if row.group is None else names[row.group] for row in table.rows]
    views = []
    for part in _parts(table, [*labels, "group", table.counted], width):
        view = _view(table.columns[part], table.counted)
        for label, row in zip(labels, table.rows, strict=True):
            # Where there is no room for `40.2 ±1.3` on one line, it breaks before the ±.
            cells = [Text(c.text.replace("± ", "±"), VERDICTS[c.verdict]) for c in row.cells[part]]
            view.add_row(Text(label), row.count, *cells, style="dim" if row.group is None else "")
        views.append(view)
    return views


def _pairs(table: Table, names: Names, width: int) -> list[View]:
    views = []
    first = [f"{names[pair.group]}  {pair.base}" for pair in table.pairs]
    for part in _parts(table, [*first, "seed"], width):
        view = _view(table.columns[part], "base", "seed")
        for pair in table.pairs:
            texts = pair.texts[part]
            view.add_row(Text(names[pair.group]), Text(pair.base), str(pair.seed), *texts)
        views.append(view)
    return views


def _parts(table: Table, before: Sequence[str], width: int) -> list[slice]:
    """The columns that fit beside each other, after what stands before them."""
    start, ends = max(map(len, before)) + COUNT_WIDTH, [0]
    used = start
    for i, column in enumerate(table.columns):
        used += _width(column) + 3
        if used > width and i > ends[-1]:
            ends.append(i)
            used = start + _width(column) + 3
    return [slice(a, b) for a, b in pairwise([*ends, len(table.columns)])]


def _width(column: Column) -> int:
    """The least of a column of numbers: its words are not broken, if they are not too long."""
    return max(LEAST, min(MOST, max(map(len, _heading(column).split()))))


def _heading(column: Column) -> str:
    return column.heading.replace(", ", "\n").replace("@", "\n@")


def _view(columns: Sequence[Column], *between: str) -> View:
    """An empty table: a column of labels, narrow columns and then those of numbers."""
    view = View(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    view.add_column("group", no_wrap=True)
    for name in between:
        view.add_column(name, justify="right", no_wrap=True)
    for column in columns:
        heading = Text(_heading(column))
        view.add_column(heading, justify="right", overflow="fold", min_width=_width(column))
    return view
