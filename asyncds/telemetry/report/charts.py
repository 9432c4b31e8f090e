"""The charts of a report: those that metrics declare, drawn from the records of a run."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from asyncds.telemetry.charts import Format, Line, Number, line_chart
from asyncds.telemetry.evaluations import by_temperature
from asyncds.telemetry.metrics import charts
from asyncds.telemetry.metrics.catalogue import drawn
from asyncds.telemetry.metrics.declaration import Chart, Metric, Role, Section
from asyncds.telemetry.metrics.values import Values, batch_values, evaluation_values
from asyncds.telemetry.numbers import number, percent
from asyncds.telemetry.report import held_out
from asyncds.telemetry.report.held_out import COLORS

MOST_PARTS = 5
"""Values of a label, such as lags, that have a curve of their own."""

MetricsLine = dict[str, Any]
Evaluation = dict[str, Any]

_LINES = {
    charts.HELD_OUT_DISTINCT: held_out.distinct_lines,
    charts.PASS_BY_SET: held_out.set_lines,
}
"""Charts of evaluations whose lines are chosen, rather than one for each metric."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A chart with its title, how to read it, and its legend (color, name).

    svg: markup, whose texts are escaped; "" if there is nothing to draw.
    """

    section: str
    title: str
    note: str
    legend: list[tuple[int, str]]
    svg: str


def report_charts(
    lines: Sequence[MetricsLine],
    evaluations: Sequence[Evaluation],
    config: dict[str, Any],
    *,
    last: str = "result",
) -> list[Picture]:
    """The pictures of a run, in the order of their sections.

    config: of config.yaml. last: what the last evaluation is called.
    """
    steps = [line.get("step", i + 1) for i, line in enumerate(lines)]
    roles: tuple[Role, ...] = ("coordinator", "learner")
    values = {role: [batch_values(line, role) for line in lines] for role in roles}
    pictures: list[Picture] = []
    for chart, metrics in drawn().items():
        if chart is charts.PASS_AT_K_BOUND:
            continue  # whiskers of Pass@k
        if chart is charts.PASS_AT_K:
            pictures += _by_temperature(chart, evaluations, last)
        elif chart in _LINES:
            pictures += [
                _picture(chart, _LINES[chart](some), at=at, form=_form(metrics), x_name="version")
                for at, some in _series(evaluations)
            ]
        elif metrics[0].record == "evaluation":
            curves = list(_by_version(metrics, evaluations))
            pictures.append(_picture(chart, curves, form=_form(metrics), x_name="version"))
        else:
            curves = list(_over_steps(chart, metrics, steps, values))
            bound = _look_up(config, chart.bound)
            pictures.append(_picture(chart, curves, form=_form(metrics), bound=bound))
    waits = Chart(
        title="Who waits",
        note="Share of each step: the learner for a batch, the generators for new weights.",
        section=Section.TIME,
    )
    return [*pictures, _picture(waits, _waits(lines, steps), form=percent)]


def by_section(pictures: Iterable[Picture]) -> list[tuple[str, list[Picture]]]:
    """(section, its pictures) of those that show something."""
    shown = (picture for picture in pictures if picture.svg)
    return [(name, list(some)) for name, some in groupby(shown, key=lambda p: p.section)]


def _picture(
    chart: Chart,
    curves: Sequence[Line],
    *,
    at: str = "",
    form: Format = number,
    **options: Any,
) -> Picture:
    seen = [curve for curve in curves if any(v is not None for v in curve.y)]
    return Picture(
        section=chart.section,
        title=chart.title + at,
        note=chart.note,
        legend=[(curve.color, curve.name) for curve in seen],
        svg=line_chart(seen, top=chart.top, form=form, **options),
    )


def _form(metrics: Sequence[Metric]) -> Format:
    """Shares are shown in per cent."""
    return percent if all(metric.unit == "fraction" for metric in metrics) else number


# --- over the steps of a run --------------------------------------------------------------------


def _over_steps(
    chart: Chart,
    metrics: Sequence[Metric],
    steps: Sequence[int],
    values: dict[Role, list[Values]],
) -> Iterable[Line]:
    color = 0
    for metric in metrics:
        rows = values[metric.role]
        found = metric.found_in({key: None for row in rows for key in row})
        if metric.open:
            found = found[:MOST_PARTS] if len(found) >= chart.least_parts else []
        for labels, key in found:
            if chart.few and not set(labels.values()) <= set(chart.few):
                continue
            yield Line(
                name=metric.curve.format(**labels),
                x=steps,
                y=[row.get(key) for row in rows],
                color=color % COLORS,
                smooth=metric.smooth,
                thin=not metric.smooth,
            )
            color += 1


def _look_up(config: dict[str, Any], path: str) -> float | None:
    """The value at `path` of the configuration, None where there is none."""
    value: Any = config
    for name in filter(None, path.split(".")):
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, int | float) else None


def _waits(lines: Sequence[MetricsLine], steps: Sequence[int]) -> list[Line]:
    learner: list[Number] = []
    generators: list[Number] = []
    before = 0.0
    for line in lines:
        learner.append(_share(line.get("learner/seconds_wait"), line.get("learner/seconds_total")))
        now = line.get("wall_seconds")
        generators.append(_share(line.get("pause_seconds"), None if now is None else now - before))
        before = before if now is None else now
    return [
        Line(name="learner waits", x=steps, y=learner, color=0, smooth=True),
        Line(name="generators paused", x=steps, y=generators, color=1, smooth=True),
    ]


def _share(part: Number, whole: Number) -> Number:
    return None if part is None or not whole else min(1.0, part / whole)


# --- over evaluations ---------------------------------------------------------------------------


def _series(evaluations: Sequence[Evaluation]) -> list[tuple[str, list[Evaluation]]]:
    """(what to add to a title, evaluations) of each temperature."""
    found = by_temperature(evaluations)
    several = len(found) > 1
    return [(f", T {t:g}" if several else "", some) for t, some in found.items()]


def _by_temperature(
    chart: Chart, evaluations: Sequence[Evaluation], last: str
) -> Iterable[Picture]:
    """Pass@k of base and result, and while training."""
    for at, some in _series(evaluations):
        legend, svg = held_out.pass_bars(some, last)
        yield Picture(
            section=chart.section,
            title=f"Pass@k, base and {last}{at}",
            note="Share of held-out problems solved within k attempts, with 95 % intervals over "
            "problems.",
            legend=legend,
            svg=svg,
        )
    for at, some in _series(evaluations):
        yield _picture(chart, held_out.pass_lines(some), at=at, form=percent, x_name="version")


def _by_version(metrics: Sequence[Metric], evaluations: Sequence[Evaluation]) -> Iterable[Line]:
    """A curve for each metric and temperature that was evaluated more than once."""
    color = 0
    for metric in metrics:
        for at, some in _series(evaluations):
            if len(some) < 2:
                continue
            rows = [evaluation_values(evaluation) for evaluation in some]
            yield Line(
                name=metric.curve.removesuffix(", T {temperature}") + at,
                x=[evaluation["version"] for evaluation in some],
                y=[row.get(metric.key) for row in rows],
                color=color % COLORS,
                markers=True,
            )
            color += 1
