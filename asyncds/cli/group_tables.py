"""The tables of groups on the terminal."""

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table as View
from rich.text import Text

from asyncds.telemetry.compare_report import EXPLANATION, PAIRED, pair_rows
from asyncds.telemetry.group_comparison import GroupComparison, Table

WIDEST_LABEL = 24
"""Where a label is longer, tables show numbers, and a key before them."""
VERDICTS = {"better": "green", "worse": "red", "": ""}

Names = dict[str, str]


def group_tables(comparison: GroupComparison, *, pairs: bool) -> RenderableType:
    """Means, then differences to the baseline, for every temperature, and what the runs took."""
    names, key = short_names([group.label for group in comparison.groups])
    parts: list[RenderableType] = [Text(EXPLANATION, style="dim"), Text(), *key]
    for table in [*comparison.results, comparison.costs]:
        parts += [_means(table, names), Text()]
        if table.paired:
            parts += [_differences(table, names, comparison.baseline), Text()]
        if pairs and table.paired:
            parts += [_pairs(table, names, comparison), Text()]
    return Group(*parts)


def short_names(labels: Sequence[str]) -> tuple[Names, list[RenderableType]]:
    """What tables call the groups: their labels, or numbers, and then a key to print before."""
    if max(map(len, labels)) <= WIDEST_LABEL:
        return {label: label for label in labels}, []
    key = View.grid(padding=(0, 2, 0, 0))
    for i, label in enumerate(labels, 1):
        key.add_row(Text(str(i), style="bold"), Text(label))
    return {label: str(i) for i, label in enumerate(labels, 1)}, [key, Text()]


def view_of(title: Text | None, first: str, between: Sequence[str], columns: Sequence[str]) -> View:
    """An empty table: a column of labels, narrow columns and then those of numbers."""
    view = View(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title=title,
        title_justify="left",
        header_style="bold",
    )
    view.add_column(first, no_wrap=True)
    for name in between:
        view.add_column(name, justify="right", no_wrap=True)
    for name in columns:
        view.add_column(Text(name), justify="right", overflow="fold", min_width=6)
    return view


def cell(text: str, style: str = "") -> Text:
    """Where there is no room for `40.2 ±1.3` on one line, it breaks before the ±."""
    return Text(text.replace("± ", "±"), style=style)


def _means(table: Table, names: Names) -> View:
    view = _view(table, table.title, "runs")
    if table.base:
        cells = [cell(m.text(table.base.values.get(m.key))) for m in table.metrics]
        view.add_row("base", str(table.base.n), *cells, style="dim")
    for row in table.rows:
        cells = [cell(m.text(row.values.get(m.key))) for m in table.metrics]
        view.add_row(Text(names[row.label]), str(row.n), *cells)
    return view


def _differences(table: Table, names: Names, baseline: str) -> View:
    name = baseline if names[baseline] == baseline else f"group {names[baseline]}"
    view = _view(table, PAIRED.format(baseline=name), "pairs")
    for row in table.paired:
        values = [(m, row.values.get(m.key)) for m in table.metrics]
        cells = [cell(m.text(v, signed=True), VERDICTS[m.verdict(v)]) for m, v in values]
        view.add_row(Text(names[row.label]), str(len(row.pairs)), *cells)
    return view


def _pairs(table: Table, names: Names, comparison: GroupComparison) -> View:
    view = _view(table, "Every pair", "base", "seed")
    for label, base, seed, cells in pair_rows(comparison, table):
        view.add_row(Text(names[label]), Text(base), str(seed), *cells)
    return view


def _view(table: Table, title: str, *between: str) -> View:
    columns = [metric.name.replace(", ", "\n") for metric in table.metrics]
    return view_of(Text(title, style="bold"), "group", between, columns)
