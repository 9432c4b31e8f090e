"""compare.html, .md, .svg and .json: a comparison as files, each complete alone."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from asyncds.compare.charts import (
    DARK,
    LIGHT,
    CompareChart,
    chip_style,
    color_variables,
    picture,
    section_charts,
    training_charts,
)
from asyncds.compare.comparison import Comparison
from asyncds.compare.runs import LeftOut
from asyncds.compare.tables import (
    DIFFERENCES,
    MEANS,
    Section,
    base_names,
    numbers,
    plain_table,
    sections,
)
from asyncds.telemetry.files import replace_file, to_json

Shown = list[tuple[Section, list[CompareChart]]]


def write_comparison(
    comparison: Comparison, left_out: Sequence[LeftOut], directory: Path
) -> list[Path]:
    """Write the four files into the directory, which is made; returns their paths."""
    shown = [(section, section_charts(comparison, section)) for section in sections(comparison)]
    training = [] if comparison.over else training_charts(comparison)
    files = {
        "compare.html": _page(comparison, left_out, shown, training),
        "compare.md": markdown(comparison, left_out),
        "compare.svg": drawn(comparison, shown),
        "compare.json": to_json(_numbers(comparison, left_out, shown, training)) + "\n",
    }
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        replace_file(directory / name, text)
    return [directory / name for name in files]


def drawn(comparison: Comparison, shown: Shown | None = None) -> str:
    """The picture for documents: a row of charts for each section that has some."""
    if shown is None:
        shown = [(section, section_charts(comparison, section)) for section in sections(comparison)]
    several = sum(section.result for section, _ in shown) > 1 and comparison.over is None
    rows = []
    for section, charts in shown:
        at = f", temperature {section.temperature:g}" if several and section.temperature else ""
        rows.append([replace(chart, title=chart.title + at) for chart in charts])
    labels = [group.label for group in comparison.groups]
    return picture([row for row in rows if row], labels, style_sheet())


def style_sheet() -> str:
    """The colours of pages and pictures, light and dark, and the classes of the charts."""
    template = _environment().get_template("compare.css.j2")
    return template.render(
        light=color_variables(LIGHT, "#667085"), dark=color_variables(DARK, "#98a2b3")
    )


def _page(
    comparison: Comparison,
    left_out: Sequence[LeftOut],
    shown: Shown,
    training: Sequence[CompareChart],
) -> str:
    template = _environment().get_template("compare.html.j2")
    return template.render(
        style=Markup(style_sheet()),
        comparison=comparison,
        left_out=left_out,
        shown=shown,
        training=training,
        chip_style=chip_style,
        bases=base_names(comparison),
        explanation=f"{MEANS} {DIFFERENCES}",
    )


def _environment() -> Environment:
    here = Path(__file__).parent
    return Environment(loader=FileSystemLoader(here), autoescape=True, undefined=StrictUndefined)


def _numbers(
    comparison: Comparison,
    left_out: Sequence[LeftOut],
    shown: Shown,
    training: Sequence[CompareChart],
) -> dict[str, Any]:
    charts = [chart for _, some in shown for chart in some] + list(training)
    return {
        "over": comparison.over,
        "values": comparison.values,
        "baseline": comparison.groups[comparison.baseline].label,
        "groups": [
            {
                "label": group.label,
                "settings": group.settings,
                "runs": [{"path": r.path, "base": r.base, "seed": r.seed} for r in group.runs],
            }
            for group in comparison.groups
        ],
        "left_out": [asdict(one) for one in left_out],
        "tables": [numbers(table) for section, _ in shown for table in section.tables],
        "curves": {c.title: [asdict(curve) for curve in c.curves] for c in charts if c.curves},
        "rows": comparison.rows.to_dict("records"),
    }


# --- Markdown -----------------------------------------------------------------------------------


def markdown(comparison: Comparison, left_out: Sequence[LeftOut]) -> str:
    """All tables, and on demand every pair."""
    parts = [f"{MEANS} {DIFFERENCES}"]
    for section in sections(comparison):
        for table in section.tables:
            parts += [f"### {plain(table.title)}", markdown_table(*plain_table(table))]
            if table.pairs:
                every = markdown_table(*plain_table(table, pairs=True))
                parts.append(f"<details><summary>Every pair</summary>\n\n{every}\n\n</details>")
    if left_out:
        parts.append("Left out:")
        parts.append("\n".join(f"- {plain(o.path)}: {plain(o.reason)}" for o in left_out))
    return "\n\n".join(parts) + "\n"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts that mean nothing in Markdown."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    lines = [[plain(cell) for cell in row] for row in [head, *rows]]
    lines.insert(1, rule)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain(text: str) -> str:
    """A person's words, escaped so that Markdown takes them for text."""
    for char in "\\`*_[]<>|":
        text = text.replace(char, "\\" + char)
    return " ".join(text.split())
