"""The charts of a comparison: a colour per group, the same in all of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

from markupsafe import Markup

from asyncds.telemetry import charts
from asyncds.telemetry.charts import (
    Line,
    Point,
    dot_style,
    line_chart,
    number_style,
    scatter_chart,
)
from asyncds.telemetry.group_comparison import (
    GroupComparison,
    Table,
    common_ks,
    ends,
    first_and_last,
    temperatures,
)
from asyncds.telemetry.group_curves import Curve, metric_curves, pass_at_k, pass_curves
from asyncds.telemetry.numbers import percent

# Neighbours differ in hue and in lightness, so that they are told apart by those who see few hues.
LIGHT = (
    *("#3b6fd8", "#e07a2f", "#1a9988", "#9357c9", "#d6336c", "#7a8b00"),
    *("#0b3c8c", "#a3541a", "#57b8e8", "#5b2a86", "#f08fb0", "#2f6b2f"),
)
DARK = (
    *("#7aa2f7", "#f0a060", "#4fd1bd", "#c39bf0", "#f77aa5", "#c3d13c"),
    *("#4a7fd6", "#c97a3d", "#9adcff", "#9a6ad0", "#ffc2d6", "#6dbf6d"),
)
BASE = len(LIGHT)
"""The colour of the base models: the one after those of the groups."""
DASHES = ("", "5 4", "1 4")
"""Of the first groups that have all colours, the next ones, and the ones after those."""


@dataclass(frozen=True, kw_only=True)
class CompareChart:
    """A chart with its title, one sentence on how to read it, and the curves it was made of."""

    title: str
    note: str
    svg: Markup
    curves: tuple[Curve, ...] = ()


def color_variables(colors: Sequence[str], base: str) -> Markup:
    """The declarations of `--c0`, `--c1`, … in CSS."""
    named = [f"--c{i}: {color};" for i, color in enumerate([*colors, base])]
    return Markup(" ".join(named))


def chip_style(group: int | None) -> str:
    """The style of a group's number in a page, by its place among the groups; None: the base
    models."""
    color, dash = (BASE, "") if group is None else (group % BASE, _dash(group))
    if not dash:
        return f"background:var(--c{color})"
    outline = "dashed" if dash == DASHES[1] else "dotted"
    return f"border:2px {outline} var(--c{color});color:var(--c{color});line-height:14px"


def result_charts(comparison: GroupComparison, table: Table) -> list[CompareChart]:
    """What was reached at one temperature: the trade-off and Pass@k over k."""
    return [_trade_off(comparison, table), _over_k(comparison, table)]


def training_charts(comparison: GroupComparison) -> list[CompareChart]:
    """What happened on the way, against the step."""
    groups = comparison.groups
    found = [
        curve_chart(
            f"Pass@{k} while training{_at(t, comparison)}",
            "Held-out problems, on pinned weights; the first point is the base model.",
            pass_curves(groups, t, k),
            form=percent,
            markers=True,
        )
        for t in temperatures(groups)
        for k in first_and_last(common_ks(groups, t))
    ]
    found += [
        curve_chart("Reward", "Mean of each training batch.", metric_curves(groups, "reward")),
        curve_chart(
            "Distinct correct answers",
            "Per training group: how many different right answers were found.",
            metric_curves(groups, "distinct_correct"),
        ),
        curve_chart(
            "Entropy",
            "Of the policy, nats per token.",
            metric_curves(groups, "learner/entropy"),
        ),
    ]
    return [chart for chart in found if chart.svg]


def group_picture(comparison: GroupComparison, style: str) -> str:
    """What was reached, a row per temperature."""
    rows = []
    for table in comparison.results:
        at = _at(table.temperature, comparison)
        shown = result_charts(comparison, table)
        rows.append([replace(chart, title=chart.title + at) for chart in shown])
    return picture(rows, [group.label for group in comparison.groups], style)


def picture(rows: Sequence[Sequence[CompareChart]], labels: Sequence[str], style: str) -> str:
    """One SVG file for documents: rows of charts, and the legend of the groups."""
    gap, head, line = 24, 40, 22
    across = max(map(len, rows))
    width, height = across * (charts.WIDTH + gap) + gap, charts.HEIGHT + head + gap
    legend = [(BASE, "", "base"), *((i, str(i + 1), label) for i, label in enumerate(labels))]
    columns = across if max(map(len, labels)) <= 72 else 1
    per_column = math.ceil(len(legend) / columns)
    below = len(rows) * height + gap // 2
    body = []
    for i, row in enumerate(rows):
        for j, chart in enumerate(row):
            x, y = gap + j * (charts.WIDTH + gap), i * height
            body.append(f'<text class="title" x="{x}" y="{y + 28}">{escape(chart.title)}</text>')
            place = f'x="{x}" y="{y + head}" width="{charts.WIDTH}" height="{charts.HEIGHT}"'
            body.append(str(chart.svg).replace("<svg ", f"<svg {place} ", 1))
    for i, (group, mark, label) in enumerate(legend):
        color, dash = (group % BASE, _dash(group)) if mark else (BASE, "")
        column, place_in_column = divmod(i, per_column)
        x, y = gap + column * (charts.WIDTH + gap), below + place_in_column * line
        body.append(
            f'<circle class="mark" style="{dot_style(color, dash)}" r="8.5" '
            f'cx="{x + 9}" cy="{y + 9}"/>'
            f'<text class="number" {number_style(color, dash)}text-anchor="middle" '
            f'x="{x + 9}" y="{y + 12.5}">{mark}</text>'
            f'<text class="label" x="{x + 24}" y="{y + 13.5}">{escape(label)}</text>'
        )
    tall = below + per_column * line + gap // 2
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {tall}" width="{width}">'
        f'<style>{style}</style><rect class="page" width="{width}" height="{tall}"/>'
        f"{''.join(body)}</svg>\n"
    )


def _trade_off(comparison: GroupComparison, table: Table) -> CompareChart:
    keys = [m.key for m in table.metrics if m.key.startswith("pass@")]
    ks = [key.removeprefix("pass@") for key in (keys[0], keys[-1])]
    rows = {row.label: row.values for row in table.rows}
    results: list[Point] = []
    means: list[Point] = []
    for i, group in enumerate(comparison.groups):
        for run in group.runs:
            if table.temperature in run.temperatures:
                x, y = (ends(run, table.temperature)[1]["pass@k"][k] for k in ks)
                name = f"{group.label}, {run.base}, seed {run.seed}"
                results.append(Point(name=name, x=x, y=y, color=i % BASE, dash=_dash(i)))
        if group.label in rows:
            x, y = (rows[group.label][f"pass@{k}"].mean for k in ks)
            name = f"{group.label}, mean"
            means.append(Point(name=name, x=x, y=y, color=i % BASE, mark=str(i + 1), dash=_dash(i)))
    low, high = (f"Pass@{k}" for k in ks)
    return CompareChart(
        title=f"{low} against {high}",
        note=f"A point per run, numbered ones for groups' means; dashed: base {high}.",
        svg=Markup(
            scatter_chart(
                [*results, *means],
                x_name=low,
                y_name=high,
                form=percent,
                bound=table.base.values[keys[-1]].mean if table.base else None,
            )
        ),
    )


def _over_k(comparison: GroupComparison, table: Table) -> CompareChart:
    curves = pass_at_k(comparison, table)
    ks = curves[0].x
    lines = [line_of(c, x=[math.log2(k) for k in c.x], markers=True) for c in curves]
    return CompareChart(
        title="Pass@k over k",
        note="Share of held-out problems solved within k attempts; grey: the base models.",
        svg=Markup(
            line_chart(
                lines,
                form=percent,
                x_name="k",
                x_texts={math.log2(k): f"{k:g}" for k in ks},
                from_zero=False,
            )
        ),
        curves=tuple(curves),
    )


def curve_chart(
    title: str, note: str, curves: Sequence[Curve], *, markers: bool = False, **options: Any
) -> CompareChart:
    """A line for each curve. options: those of `line_chart`."""
    lines = [line_of(curve, x=curve.x, markers=markers) for curve in curves]
    return CompareChart(
        title=title,
        note=note,
        svg=Markup(line_chart(lines, from_zero=False, **options)),
        curves=tuple(curves),
    )


def line_of(curve: Curve, *, x: Sequence[float], markers: bool, bars: bool = False) -> Line:
    """A curve as it is drawn, with the colour of its group. x: its places on the axis."""
    return Line(
        name=curve.label,
        x=x,
        y=curve.mean,
        half=curve.half,
        bars=bars,
        color=BASE if curve.group is None else curve.group % BASE,
        markers=markers,
        mark="" if curve.group is None else str(curve.group + 1),
        dash="" if curve.group is None else _dash(curve.group),
    )


def _dash(group: int) -> str:
    return DASHES[group // BASE % len(DASHES)]


def _at(temperature: float | None, comparison: GroupComparison) -> str:
    """The temperature, if there are several to be told apart."""
    several = len(temperatures(comparison.groups)) > 1
    return f", temperature {temperature:g}" if several and temperature is not None else ""
