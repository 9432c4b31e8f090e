"""The charts of a comparison: a colour per group, the same in all of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from markupsafe import Markup

from asyncds.telemetry import charts
from asyncds.telemetry.charts import Line, Point, line_chart, scatter_chart
from asyncds.telemetry.group_comparison import (
    GroupComparison,
    Table,
    common_ks,
    ends,
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


def result_charts(comparison: GroupComparison, table: Table) -> list[CompareChart]:
    """What was reached at one temperature: the trade-off and Pass@k over k."""
    return [_trade_off(comparison, table), _over_k(comparison, table)]


def training_charts(comparison: GroupComparison) -> list[CompareChart]:
    """What happened on the way, against the step."""
    groups = comparison.groups
    found = [
        _curves(
            f"Pass@{k} while training{_at(t, comparison)}",
            "Held-out problems, on pinned weights; the first point is the base model.",
            pass_curves(groups, t, k),
            form=percent,
            markers=True,
        )
        for t in temperatures(groups)
        for k in _first_and_last(common_ks(groups, t))
    ]
    found += [
        _curves("Reward", "Mean of each training batch.", metric_curves(groups, "reward")),
        _curves(
            "Distinct correct answers",
            "Per training group: how many different right answers were found.",
            metric_curves(groups, "distinct_correct"),
        ),
        _curves(
            "Entropy",
            "Of the policy, nats per token.",
            metric_curves(groups, "learner/entropy"),
        ),
    ]
    return [chart for chart in found if chart.svg]


def picture(comparison: GroupComparison, style: str) -> str:
    """One SVG file for documents: what was reached at each temperature, and the legend."""
    gap, head, row = 24, 40, 22
    width, height = 2 * charts.WIDTH + 3 * gap, charts.HEIGHT + head + gap
    labels = [(BASE, "base"), *((i % BASE, g.label) for i, g in enumerate(comparison.groups))]
    columns = 2 if max(len(label) for _, label in labels) <= 72 else 1
    rows = math.ceil(len(labels) / columns)
    below = len(comparison.results) * height + gap // 2
    body = []
    for i, table in enumerate(comparison.results):
        for j, chart in enumerate(result_charts(comparison, table)):
            x, y = gap + j * (charts.WIDTH + gap), i * height
            title = chart.title + _at(table.temperature, comparison)
            body.append(f'<text class="title" x="{x}" y="{y + 28}">{escape(title)}</text>')
            place = f'x="{x}" y="{y + head}" width="{charts.WIDTH}" height="{charts.HEIGHT}"'
            body.append(str(chart.svg).replace("<svg ", f"<svg {place} ", 1))
    for i, (color, label) in enumerate(labels):
        column, line = divmod(i, rows)
        x, y = gap + column * (charts.WIDTH + gap), below + line * row
        mark = "" if color == BASE else str(i)
        body.append(
            f'<circle class="mark" style="fill:var(--c{color})" r="8.5" cx="{x + 9}" cy="{y + 9}"/>'
            f'<text class="number" text-anchor="middle" x="{x + 9}" y="{y + 12.5}">{mark}</text>'
            f'<text class="label" x="{x + 24}" y="{y + 13.5}">{escape(label)}</text>'
        )
    tall = below + rows * row + gap // 2
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
                results.append(Point(name=name, x=x, y=y, color=i % BASE))
        if group.label in rows:
            x, y = (rows[group.label][f"pass@{k}"].mean for k in ks)
            name = f"{group.label}, mean"
            means.append(Point(name=name, x=x, y=y, color=i % BASE, mark=str(i + 1)))
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
    lines = [_line(c, x=[math.log2(k) for k in c.x], markers=True) for c in curves]
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


def _curves(
    title: str, note: str, curves: Sequence[Curve], *, markers: bool = False, **options: Any
) -> CompareChart:
    lines = [_line(curve, x=curve.x, markers=markers) for curve in curves]
    return CompareChart(
        title=title,
        note=note,
        svg=Markup(line_chart(lines, from_zero=False, **options)),
        curves=tuple(curves),
    )


def _line(curve: Curve, *, x: Sequence[float], markers: bool) -> Line:
    return Line(
        name=curve.label,
        x=x,
        y=curve.mean,
        half=curve.half,
        color=BASE if curve.group is None else curve.group % BASE,
        markers=markers,
        mark="" if curve.group is None else str(curve.group + 1),
    )


def _first_and_last(ks: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([*ks[:1], *ks[-1:]]))


def _at(temperature: float | None, comparison: GroupComparison) -> str:
    """The temperature, if there are several to be told apart."""
    several = len(temperatures(comparison.groups)) > 1
    return f", temperature {temperature:g}" if several and temperature is not None else ""
