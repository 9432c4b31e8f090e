"""compare.html, .md, .svg and .json: groups of runs against each other, each complete alone."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from asyncds.telemetry.compare_charts import (
    DARK,
    LIGHT,
    chip_style,
    color_variables,
    group_picture,
    result_charts,
    training_charts,
)
from asyncds.telemetry.files import replace_file, to_json
from asyncds.telemetry.group_comparison import GroupComparison, Row, Table
from asyncds.telemetry.run_groups import RunGroup, last_parts
from asyncds.telemetry.run_results import LeftOut

EXPLANATION = (
    "Mean over runs ± 95 % interval (Student's t); Pass@k in percent. distinct: different right "
    "answers found per problem."
)
PAIRED = (
    "Differences to {baseline}, of runs of the same base model and seed: mean over pairs ± 95 % "
    "interval; Pass@k in percentage points."
)


def write_comparison(
    comparison: GroupComparison, left_out: Sequence[LeftOut], directory: Path
) -> list[Path]:
    """Write the four files into the directory, which is made; returns their paths."""
    shown = [(table, result_charts(comparison, table)) for table in comparison.results]
    training = training_charts(comparison)
    page = render(
        "compare.html.j2",
        groups=comparison.groups,
        left_out=left_out,
        comparison=comparison,
        results=shown,
        training=training,
        pairs=partial(pair_rows, comparison),
        explanation=EXPLANATION,
        paired=PAIRED.format(baseline=comparison.baseline),
    )
    curves = {
        chart.title: [asdict(curve) for curve in chart.curves]
        for _, charts in shown
        for chart in [*charts, *training]
        if chart.curves
    }
    files = {
        "compare.html": page,
        "compare.md": _markdown(comparison, left_out),
        "compare.svg": group_picture(comparison, style_sheet()),
        "compare.json": to_json(_numbers(comparison, left_out) | {"curves": curves}) + "\n",
    }
    return write_files(directory, files)


def write_files(directory: Path, files: Mapping[str, str]) -> list[Path]:
    """Write the texts into the directory, which is made; returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        replace_file(directory / name, text)
    return [directory / name for name in files]


def render(
    template: str, *, groups: Sequence[RunGroup], left_out: Sequence[LeftOut], **values: Any
) -> str:
    """A page of `compare_page.html.j2` about these groups."""
    return (
        _environment()
        .get_template(template)
        .render(
            style=Markup(style_sheet()),
            groups=groups,
            left_out=left_out,
            base_style=chip_style(None),
            styles={group.label: chip_style(i) for i, group in enumerate(groups)},
            places={group.label: i for i, group in enumerate(groups)},
            bases=base_names(groups),
            **values,
        )
    )


def style_sheet() -> str:
    """The colours of pages and pictures, light and dark, and the classes of the charts."""
    return (
        _environment()
        .get_template("compare.css.j2")
        .render(light=color_variables(LIGHT, "#667085"), dark=color_variables(DARK, "#98a2b3"))
    )


def _environment() -> Environment:
    here = Path(__file__).parent
    return Environment(loader=FileSystemLoader(here), autoescape=True, undefined=StrictUndefined)


def pair_rows(comparison: GroupComparison, table: Table) -> list[tuple[str, str, int, list[str]]]:
    """(group, base model, seed, a difference per metric) of every pair."""
    names = base_names(comparison.groups)
    return [
        (
            row.label,
            names[pair.base],
            pair.seed,
            [m.difference(pair.values.get(m.key)) for m in table.metrics],
        )
        for row in table.paired
        for pair in row.pairs
    ]


def base_names(groups: Sequence[RunGroup]) -> dict[str, str]:
    """How to call the base models of all runs."""
    return last_parts(run.base for group in groups for run in group.runs)


# --- Markdown -----------------------------------------------------------------------------------


def _markdown(comparison: GroupComparison, left_out: Sequence[LeftOut]) -> str:
    parts = [EXPLANATION]
    for table in [*comparison.results, comparison.costs]:
        names = [m.name for m in table.metrics]
        rows = [_cells(table, row) for row in [*([table.base] if table.base else []), *table.rows]]
        parts += [f"### {table.title}", markdown_table(["group", "runs", *names], rows)]
        if table.paired:
            parts.append(PAIRED.format(baseline=f"*{plain(comparison.baseline)}*"))
            rows = [
                [p.label, str(len(p.pairs))]
                + [m.text(p.values.get(m.key), signed=True) for m in table.metrics]
                for p in table.paired
            ]
            parts.append(markdown_table(["group", "pairs", *names], rows))
            rows = [
                [label, base, str(seed), *cells]
                for label, base, seed, cells in pair_rows(comparison, table)
            ]
            parts.append(folded("Every pair", ["group", "base", "seed", *names], rows))
    return "\n\n".join([*parts, *left_out_list(left_out)]) + "\n"


def _cells(table: Table, row: Row) -> list[str]:
    return [row.label, str(row.n), *(m.text(row.values.get(m.key)) for m in table.metrics)]


def left_out_list(left_out: Sequence[LeftOut]) -> list[str]:
    """The runs that are not compared, in paragraphs of Markdown."""
    if not left_out:
        return []
    return ["Left out:", "\n".join(f"- {plain(o.path)}: {plain(o.reason)}" for o in left_out)]


def folded(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that is shown on demand."""
    table = markdown_table(head, rows)
    return f"<details><summary>{title}</summary>\n\n{table}\n\n</details>"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Of texts that mean nothing in Markdown."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    lines = [[plain(cell) for cell in row] for row in [head, *rows]]
    lines.insert(1, rule)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain(text: str) -> str:
    """What a person wrote, so that Markdown takes it for text."""
    for char in "\\`*_[]<>|":
        text = text.replace(char, "\\" + char)
    return " ".join(text.split())


# --- JSON ---------------------------------------------------------------------------------------


def _numbers(comparison: GroupComparison, left_out: Sequence[LeftOut]) -> dict[str, Any]:
    return {
        "baseline": comparison.baseline,
        "groups": [
            {
                "label": group.label,
                "settings": group.settings,
                "runs": [{"path": r.path, "base": r.base, "seed": r.seed} for r in group.runs],
            }
            for group in comparison.groups
        ],
        "left_out": [asdict(one) for one in left_out],
        "results": [asdict(table) for table in comparison.results],
        "costs": asdict(comparison.costs),
    }
