"""The four files of a comparison, of series along the values of a setting."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from asyncds.telemetry.compare_charts import picture
from asyncds.telemetry.compare_report import (
    folded,
    left_out_list,
    markdown_table,
    plain,
    render,
    style_sheet,
    write_files,
)
from asyncds.telemetry.files import to_json
from asyncds.telemetry.run_results import LeftOut
from asyncds.telemetry.series_charts import quantity_chart
from asyncds.telemetry.series_comparison import SeriesComparison, value_of
from asyncds.telemetry.series_texts import DIFFERENCES, EXPLANATION, Cell, TextTable, text_tables


def write_series(
    comparison: SeriesComparison, left_out: Sequence[LeftOut], directory: Path
) -> list[Path]:
    """Write the four files into the directory, which is made; returns their paths."""
    by_temperature = groupby(comparison.results, key=lambda quantity: quantity.temperature)
    rows = [list(some) for _, some in by_temperature] + [list(comparison.measures)]
    charts = [[quantity_chart(comparison, quantity) for quantity in row] for row in rows if row]
    page = render(
        "compare_series.html.j2",
        groups=comparison.series,
        left_out=left_out,
        comparison=comparison,
        shown=[chart for row in charts for chart in row],
        tables=partial(text_tables, comparison),
        explanation=explanation(comparison),
    )
    labels = [series.label for series in comparison.series]
    files = {
        "compare.html": page,
        "compare.md": _markdown(comparison, left_out),
        "compare.svg": picture(charts, labels, style_sheet()),
        "compare.json": to_json(_numbers(comparison, left_out)) + "\n",
    }
    return write_files(directory, files)


def explanation(comparison: SeriesComparison) -> str:
    """How to read the tables."""
    return f"{EXPLANATION.format(over=comparison.over)} {DIFFERENCES}"


def _markdown(comparison: SeriesComparison, left_out: Sequence[LeftOut]) -> str:
    parts = [explanation(comparison)]
    for quantity in [*comparison.results, *comparison.measures]:
        for table in text_tables(comparison, quantity):
            parts += _paragraphs(table)
    return "\n\n".join([*parts, *left_out_list(left_out)]) + "\n"


def _paragraphs(table: TextTable) -> list[str]:
    rows = [[label, *_shown(cells)] for label, cells in [*table.references, *table.rows]]
    grid = markdown_table(["series", *table.columns], rows)
    found = [f"### {plain(table.title)}", table.note, grid]
    if table.pairs:
        pairs = [[label, base, seed, *cells] for label, base, seed, cells in table.pairs]
        found.append(folded("Every pair", ["series", "base", "seed", *table.columns], pairs))
    return found


def _shown(cells: Sequence[Cell]) -> list[str]:
    return [text for text, _ in cells]


def _numbers(comparison: SeriesComparison, left_out: Sequence[LeftOut]) -> dict[str, Any]:
    over = comparison.over
    return {
        "over": over,
        "values": comparison.values,
        "baseline": comparison.baseline,
        "series": [
            {
                "label": series.label,
                "settings": series.settings,
                "runs": [
                    {"path": r.path, "base": r.base, "seed": r.seed, "value": value_of(r, over)}
                    for r in series.runs
                ],
            }
            for series in comparison.series
        ],
        "left_out": [asdict(one) for one in left_out],
        "results": [asdict(quantity) for quantity in comparison.results],
        "measures": [asdict(quantity) for quantity in comparison.measures],
    }
