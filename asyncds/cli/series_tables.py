"""The tables of series on the terminal."""

from rich.console import Group, RenderableType
from rich.table import Table as View
from rich.text import Text

from asyncds.cli.group_tables import VERDICTS, Names, cell, short_names, view_of
from asyncds.telemetry.series_comparison import SeriesComparison
from asyncds.telemetry.series_report import explanation
from asyncds.telemetry.series_texts import TextTable, text_tables


def series_tables(comparison: SeriesComparison, *, pairs: bool) -> RenderableType:
    """Of every quantity the means, then the differences."""
    names, key = short_names([series.label for series in comparison.series])
    parts: list[RenderableType] = [Text(explanation(comparison), style="dim"), Text(), *key]
    for quantity in [*comparison.results, *comparison.measures]:
        for table in text_tables(comparison, quantity):
            # A title of the table itself would be wrapped to the table's width.
            parts.append(Text.assemble((table.title, "bold"), (f"  {table.note}", "dim")))
            parts += [_view(table, names), Text()]
            if pairs and table.pairs:
                parts += [Text("Every pair", style="bold"), _pairs(table, names), Text()]
    return Group(*parts)


def _view(table: TextTable, names: Names) -> View:
    view = view_of(None, "series", [], table.columns)
    for label, cells in table.references:
        view.add_row(label, *(cell(text) for text, _ in cells), style="dim")
    for label, cells in table.rows:
        view.add_row(Text(names[label]), *(cell(text, VERDICTS[v]) for text, v in cells))
    return view


def _pairs(table: TextTable, names: Names) -> View:
    view = view_of(None, "series", ["base", "seed"], table.columns)
    for label, base, seed, cells in table.pairs:
        view.add_row(Text(names[label]), Text(base), seed, *cells)
    return view
