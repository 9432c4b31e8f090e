"""The tables of series as texts, for the terminal, Markdown and the page alike."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from asyncds.telemetry.compare_report import base_names
from asyncds.telemetry.series_comparison import (
    Quantity,
    SeriesComparison,
    SeriesRow,
    SeriesTable,
)

EXPLANATION = (
    "A row per series, a column per value of {over}. Mean over n runs ± 95 % interval (Student's "
    "t); Pass@k in percent. Distinct answers: different right ones found per problem."
)
DIFFERENCES = (
    "Differences, marked “less …”, are between n pairs of runs of the same base model and seed; of "
    "Pass@k in percentage points."
)

Cell = tuple[str, str]
"""What is shown, and `better`, `worse` or ""."""


@dataclass(frozen=True, kw_only=True)
class TextTable:
    """note: of how many runs or pairs each cell is. rows: (label, cells). pairs: (label, base
    model, seed, a difference per column)."""

    title: str
    note: str
    columns: Sequence[str]
    references: Sequence[tuple[str, Sequence[Cell]]]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    pairs: Sequence[tuple[str, str, str, Sequence[str]]] = ()


def text_tables(comparison: SeriesComparison, quantity: Quantity) -> list[TextTable]:
    """The means, and the differences that there are."""
    less = [
        (quantity.to_baseline, comparison.baseline),
        (quantity.to_first, f"itself at {comparison.leaf} {comparison.values[0]}"),
    ]
    return [
        _texts(comparison, quantity.title, quantity.means, signed=False),
        *(
            _texts(comparison, f"{quantity.title}, less {what}", table, signed=True)
            for table, what in less
            if table
        ),
    ]


def _texts(
    comparison: SeriesComparison, title: str, table: SeriesTable, *, signed: bool
) -> TextTable:
    counts = Counter(cell.n for row in table.rows for cell in row.cells if cell)
    usual = counts.most_common(1)[0][0]
    return TextTable(
        title=title,
        note=f"n = {usual}" + (" where none is given" if len(counts) > 1 else ""),
        columns=table.columns,
        references=[(row.label, _cells(row, None, signed=False)) for row in table.references],
        rows=[(row.label, _cells(row, usual, signed=signed)) for row in table.rows],
        pairs=_pairs(comparison, table),
    )


def _cells(row: SeriesRow, usual: int | None, *, signed: bool) -> list[Cell]:
    """usual: the n that goes without saying; None: any."""
    return [
        (
            row.metric.text(cell, signed=signed)
            + (f" (n={cell.n})" if cell and usual not in (None, cell.n) else ""),
            row.metric.verdict(cell) if signed else "",
        )
        for cell in row.cells
    ]


def _pairs(
    comparison: SeriesComparison, table: SeriesTable
) -> list[tuple[str, str, str, list[str]]]:
    names = base_names(comparison.series)
    found = []
    for row in table.rows:
        columns = [
            {(p.base, p.seed): p.values.get(row.metric.key) for p in column} for column in row.pairs
        ]
        for base, seed in sorted({pair for column in columns for pair in column}):
            values = [column.get((base, seed)) for column in columns]
            texts = [row.metric.difference(value) for value in values]
            found.append((row.label, names[base], str(seed), texts))
    return found
