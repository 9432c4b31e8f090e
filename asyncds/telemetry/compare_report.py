"""compare.html, .md, .svg and .json: groups of runs against each other, each complete alone."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from asyncds.telemetry.compare_charts import (
    DARK,
    LIGHT,
    color_variables,
    picture,
    result_charts,
    training_charts,
)
from asyncds.telemetry.files import replace_file, to_json
from asyncds.telemetry.group_comparison import GroupComparison, Metric, Row, Table
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
    directory.mkdir(parents=True, exist_ok=True)
    here = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(here), autoescape=True, undefined=StrictUndefined
    )
    style = environment.get_template("compare.css.j2").render(
        light=color_variables(LIGHT, "#667085"), dark=color_variables(DARK, "#98a2b3")
    )
    shown = [(table, result_charts(comparison, table)) for table in comparison.results]
    training = training_charts(comparison)
    page = environment.get_template("compare.html.j2").render(
        style=Markup(style),
        comparison=comparison,
        results=shown,
        training=training,
        left_out=left_out,
        colors=len(LIGHT),
        places={group.label: i for i, group in enumerate(comparison.groups)},
        bases=base_names(comparison),
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
        "compare.svg": picture(comparison, style),
        "compare.json": to_json(_numbers(comparison, left_out) | {"curves": curves}) + "\n",
    }
    for name, text in files.items():
        replace_file(directory / name, text)
    return [directory / name for name in files]


def pair_rows(comparison: GroupComparison, table: Table) -> list[tuple[str, str, int, list[str]]]:
    """(group, base model, seed, a difference per metric) of every pair."""
    names = base_names(comparison)
    return [
        (row.label, names[pair.base], pair.seed, [_signed(m, pair.values) for m in table.metrics])
        for row in table.paired
        for pair in row.pairs
    ]


def base_names(comparison: GroupComparison) -> dict[str, str]:
    """How to call the base models: by the last part of their path, if those differ."""
    bases = dict.fromkeys(run.base for group in comparison.groups for run in group.runs)
    short = {base: base.rstrip("/").rsplit("/", 1)[-1] for base in bases}
    return short if len(set(short.values())) == len(short) else {base: base for base in bases}


def _signed(metric: Metric, values: dict[str, float]) -> str:
    if metric.key not in values:
        return "–"
    return f"{metric.scale * values[metric.key]:+.{metric.digits}f}"


# --- Markdown -----------------------------------------------------------------------------------


def _markdown(comparison: GroupComparison, left_out: Sequence[LeftOut]) -> str:
    parts = [EXPLANATION]
    for table in [*comparison.results, comparison.costs]:
        names = [m.name for m in table.metrics]
        rows = [_cells(table, row) for row in [*([table.base] if table.base else []), *table.rows]]
        parts += [f"### {table.title}", _grid(["group", "runs", *names], rows)]
        if table.paired:
            parts.append(PAIRED.format(baseline=f"*{_plain(comparison.baseline)}*"))
            rows = [
                [p.label, str(len(p.pairs))]
                + [m.text(p.values.get(m.key), signed=True) for m in table.metrics]
                for p in table.paired
            ]
            parts.append(_grid(["group", "pairs", *names], rows))
            rows = [
                [label, base, str(seed), *cells]
                for label, base, seed, cells in pair_rows(comparison, table)
            ]
            pairs = _grid(["group", "base", "seed", *names], rows)
            parts.append(f"<details><summary>Every pair</summary>\n\n{pairs}\n\n</details>")
    if left_out:
        parts += [
            "Left out:",
            "\n".join(f"- {_plain(o.path)}: {_plain(o.reason)}" for o in left_out),
        ]
    return "\n\n".join(parts) + "\n"


def _cells(table: Table, row: Row) -> list[str]:
    return [row.label, str(row.n), *(m.text(row.values.get(m.key)) for m in table.metrics)]


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *[[_plain(c) for c in r] for r in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
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
