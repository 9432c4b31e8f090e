"""The charts of a comparison: a colour per group, the same in all of them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import escape

from markupsafe import Markup

from asyncds.compare.comparison import Comparison
from asyncds.compare.estimate import estimate
from asyncds.compare.groups import as_number
from asyncds.compare.metrics import Metric, common_ks, temperatures
from asyncds.compare.runs import RunResult
from asyncds.compare.tables import Section
from asyncds.telemetry import charts
from asyncds.telemetry.charts import (
    Format,
    Line,
    Number,
    Point,
    dot_style,
    line_chart,
    moving_mean,
    number_style,
    scatter_chart,
)
from asyncds.telemetry.numbers import number, percent

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
"""Dashes of the first groups that have all colours, the next ones, and the ones after."""


TEXT_WIDTH = 6
"""Width of a character below the x axis, about."""
SPREAD = 0.5
"""How far the groups stand apart at a value, in distances between values: their intervals are seen
side by side."""

Series = dict[float, float]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """mean and half [n] at x [n], ascending.

    half: of the 95 % interval, None where only one run has a value. group: its place among the
    groups; None: the base models.
    """

    label: str
    group: int | None
    x: tuple[float, ...]
    mean: tuple[float, ...]
    half: tuple[Number, ...]


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
    """The style of a group's number in a page.

    By the group's place among the groups; None: the base models.
    """
    color, dash = (BASE, "") if group is None else (group % BASE, _dash(group))
    if not dash:
        return f"background:var(--c{color})"
    outline = "dashed" if dash == DASHES[1] else "dotted"
    return f"border:2px {outline} var(--c{color});color:var(--c{color});line-height:14px"


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


def section_charts(comparison: Comparison, section: Section) -> list[CompareChart]:
    """The charts of a section.

    Over a setting a chart per metric; else, of results, the trade-off and Pass@k over k.
    """
    if comparison.over is not None:
        return [_along_values(comparison, metric) for metric in section.metrics]
    if not section.result:
        return []
    ks = [m for m in section.metrics if m.key.startswith("pass@")]
    return [_trade_off(comparison, ks[0], ks[-1]), _over_k(comparison, ks)]


def training_charts(comparison: Comparison) -> list[CompareChart]:
    """Charts of what happened on the way, against the step."""
    runs = comparison.runs
    several = len(temperatures(runs)) > 1
    found = []
    for t in temperatures(runs):
        at = f", temperature {t:g}" if several and t is not None else ""
        ks = common_ks(runs, t)
        for k in dict.fromkeys([*ks[:1], *ks[-1:]]):
            curves = pass_curves(comparison, t, k)
            title = f"Pass@{k} while training{at}"
            note = "Held-out problems, on pinned weights; the first point is the base model."
            found.append(_curve_chart(title, note, curves, form=percent, markers=True))
    for title, note, key in (
        ("Reward", "Mean of each training batch.", "reward"),
        (
            "Distinct correct answers",
            "Per training group: how many different right answers were found.",
            "distinct_correct",
        ),
        ("Entropy", "Of the policy, nats per token.", "learner/entropy"),
    ):
        found.append(_curve_chart(title, note, metric_curves(comparison, key)))
    return [chart for chart in found if chart.svg]


def metric_curves(comparison: Comparison, key: str) -> list[Curve]:
    """A value of metrics.jsonl against the step.

    Each run is smoothed over a twentieth of its steps, so that the band shows how runs differ and
    not how batches do.
    """

    def series(run: RunResult) -> Series:
        values = [line.get(key) for line in run.lines]
        if len(values) >= 20:
            values = moving_mean(values, max(5, len(values) // 20))
        steps = [line.get("step", i + 1) for i, line in enumerate(run.lines)]
        return {s: v for s, v in zip(steps, values, strict=True) if v is not None}

    return _curves(comparison, series)


def pass_curves(comparison: Comparison, temperature: float | None, k: str) -> list[Curve]:
    """Pass@k of every evaluation that has this k, against the step."""

    def series(run: RunResult) -> Series:
        shares = {float(e["step"]): e["pass@k"].get(k) for e in run.evaluations(temperature)}
        return {step: share for step, share in shares.items() if share is not None}

    return _curves(comparison, series)


def _curves(comparison: Comparison, series: Callable[[RunResult], Series]) -> list[Curve]:
    curves = []
    for i, group in enumerate(comparison.groups):
        runs = [series(run) for run in group.runs]
        x = sorted({step for run in runs for step in run})
        points = [estimate([run[step] for run in runs if step in run]) for step in x]
        if points:
            curves.append(
                Curve(
                    label=group.label,
                    group=i,
                    x=tuple(x),
                    mean=tuple(p.mean for p in points),
                    half=tuple(p.half for p in points),
                )
            )
    return curves


def _read(comparison: Comparison, cells: Sequence[tuple[float, int, Metric]]) -> list[Curve]:
    """The base models and every group along cells: (x, place of the setting's value, metric)."""
    everything = {(None, *key): value for key, value in comparison.base_means().items()}
    everything |= comparison.means()
    curves = []
    for group in (None, *range(len(comparison.groups))):
        known = [(x, everything.get((group, at, m.id))) for x, at, m in cells]
        points = [(x, value) for x, value in known if value]
        curves.append(
            Curve(
                label="base" if group is None else comparison.groups[group].label,
                group=group,
                x=tuple(x for x, _ in points),
                mean=tuple(value.mean for _, value in points),
                half=tuple(value.half for _, value in points),
            )
        )
    return [curve for curve in curves if curve.x]


def _trade_off(comparison: Comparison, low: Metric, high: Metric) -> CompareChart:
    rows = comparison.rows[comparison.rows["stage"] == "result"]
    wide = rows.pivot(index=["group", "base", "seed", "run"], columns="metric", values="value")
    points = [
        _point(comparison, group, f"{base}, seed {seed}", x, y)
        for (group, base, seed, _), x, y in wide[[low.id, high.id]].dropna().itertuples()
    ]
    means, known = comparison.means(), comparison.base_means().get((0, high.id))
    for i in range(len(comparison.groups)):
        if (i, 0, low.id) in means:
            x, y = (means[i, 0, metric.id].mean for metric in (low, high))
            points.append(_point(comparison, i, "mean", x, y, mark=str(i + 1)))
    return CompareChart(
        title=f"{low.name} against {high.name}",
        note=f"A point per run, numbered ones for groups' means; dashed: base {high.name}.",
        svg=Markup(
            scatter_chart(
                points,
                x_name=low.name,
                y_name=high.name,
                form=percent,
                bound=known.mean if known else None,
            )
        ),
    )


def _point(
    comparison: Comparison, group: int, what: str, x: float, y: float, *, mark: str = ""
) -> Point:
    name = f"{comparison.groups[group].label}, {what}"
    return Point(name=name, x=x, y=y, color=group % BASE, mark=mark, dash=_dash(group))


def _over_k(comparison: Comparison, metrics: Sequence[Metric]) -> CompareChart:
    """The k stand evenly: their logarithm is the place."""
    ks = {math.log2(int(m.key.removeprefix("pass@"))): m for m in metrics}
    curves = _read(comparison, [(x, 0, m) for x, m in ks.items()])
    return CompareChart(
        title="Pass@k over k",
        note="Share of held-out problems solved within k attempts; grey: the base models.",
        svg=Markup(
            line_chart(
                [_line_of(c, markers=True) for c in curves],
                form=percent,
                x_name="k",
                x_texts={x: m.key.removeprefix("pass@") for x, m in ks.items()},
                from_zero=False,
            )
        ),
        curves=tuple(curves),
    )


def _along_values(comparison: Comparison, metric: Metric) -> CompareChart:
    """A metric along the values of the setting, evenly spaced whatever they are.

    Names, which have no order, are not joined by lines.
    """
    values, count = comparison.values, len(comparison.values)
    room = int((charts.WIDTH - charts.LEFT - charts.RIGHT) / count / TEXT_WIDTH) - 1
    ordered = all(isinstance(as_number(value), float) for value in values)
    curves = _near_base(_read(comparison, [(i, i, metric) for i in range(count)]))
    lines = []
    for curve in curves:
        place = 0.5 if curve.group is None else (curve.group + 0.5) / len(comparison.groups)
        moved = tuple(x + SPREAD * (place - 0.5) for x in curve.x)
        line = _line_of(replace(curve, x=moved), markers=True, bars=True)
        lines.append(replace(line, joined=ordered))
    grey = "; grey: the base models" if curves[0].group is None else ""
    at = "" if metric.temperature is None else f" at temperature {metric.temperature:g}"
    return CompareChart(
        title=f"{metric.name[0].upper()}{metric.name[1:]}{at}",
        note=f"Mean over runs, 95 % interval{grey}.",
        svg=Markup(
            line_chart(
                lines,
                form=percent if metric.scale == 100 else number,
                x_name=comparison.leaf,
                x_texts={i: _fitting(text, room) for i, text in enumerate(values)},
                x_ends=(-0.5, count - 0.6),
                from_zero=False,
            )
        ),
        curves=tuple(curves),
    )


def _near_base(curves: Sequence[Curve]) -> list[Curve]:
    """All, without the base models if the groups would fill less than half of the chart."""
    ours = [y for curve in curves if curve.group is not None for y in curve.mean]
    every = [y for curve in curves for y in curve.mean]
    near = max(every) - min(every) <= 2 * (max(ours) - min(ours))
    return [curve for curve in curves if near or curve.group is not None]


def _fitting(text: str, room: int) -> str:
    """The end of a text that is too long: there, names of models differ."""
    return text if len(text) <= room else f"…{text[1 - room :]}"


def _curve_chart(
    title: str,
    note: str,
    curves: Sequence[Curve],
    *,
    markers: bool = False,
    form: Format = number,
) -> CompareChart:
    """A line for each curve, against the step."""
    lines = [_line_of(curve, markers=markers) for curve in curves]
    svg = Markup(line_chart(lines, from_zero=False, form=form))
    return CompareChart(title=title, note=note, svg=svg, curves=tuple(curves))


def _line_of(curve: Curve, *, markers: bool, bars: bool = False) -> Line:
    """A curve as it is drawn, with the colour of its group."""
    return Line(
        name=curve.label,
        x=curve.x,
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
