"""Panels of the charts that metrics declare (asyncds/telemetry/metrics)."""

import re

from panels import Panel, Query, Steps, graph
from queries import last, of_batch

from asyncds.telemetry.metrics.catalogue import drawn, metrics
from asyncds.telemetry.metrics.declaration import Chart, Metric, Section

UNITS = {"fraction": "percentunit", "seconds": "s", "bytes": "bytes", "rate": "sci"}
"""Grafana's names of those units that it has."""

_NAMES = {metric.series: metric for metric in metrics() if metric.name}
_NAME = re.compile(r"asyncds_[a-z_]+")


def section(
    name: Section,
    *,
    more: dict[str, tuple[Query, ...]] | None = None,
    steps: dict[str, Steps] | None = None,
    dashed: tuple[str, ...] = (),
) -> tuple[Panel, ...]:
    """The panels of a section. more: other curves, and steps: lines of alerts, by title."""
    added, lines = more or {}, steps or {}
    shown = {chart: exported for chart, some in drawn().items() if (exported := _exported(some))}
    here = {chart: some for chart, some in shown.items() if chart.section is name}
    assert {*added, *lines} <= {chart.title for chart in here}, "a title that no chart has"
    return tuple(
        _panel(
            chart,
            some,
            *added.get(chart.title, ()),
            steps=lines.get(chart.title, ()),
            dashed=dashed,
        )
        for chart, some in here.items()
    )


def explained(description: str, queries: tuple[Query, ...]) -> str:
    """A panel's description, with what the metrics in it are."""
    shown = [query.partition(" and on ")[0] for query, _ in queries]  # what follows is a condition
    names = dict.fromkeys(name for query in shown for name in _NAME.findall(query))
    lines = [f"- {m.series}: {m.text}" for name in names if (m := _metric(name)) is not None]
    return "\n".join([description, *([""] if lines else []), *lines])


def _exported(declared: list[Metric]) -> list[Metric]:
    return [metric for metric in declared if metric.name]


def _panel(
    chart: Chart,
    shown: list[Metric],
    *more: Query,
    steps: Steps,
    dashed: tuple[str, ...],
) -> Panel:
    units = {UNITS.get(metric.unit, "short") for metric in shown}
    assert len(units) == 1, f"{chart.title} has metrics of several units"
    return graph(
        chart.title,
        chart.note,
        *(_query(metric) for metric in shown),
        *more,
        unit=units.pop(),
        steps=steps,
        top=chart.top,
        dashed=dashed,
    )


def _query(metric: Metric) -> Query:
    of = of_batch if metric.record == "batch" else last
    legend = metric.curve.replace("{", "{{").replace("}", "}}")
    return of(f"{metric.role}_{metric.name}", *metric.labels), f"{{{{run}}}} {legend}"


def _metric(name: str) -> Metric | None:
    """The metric that a name in a query is of; histograms have three."""
    for end in ("", "_bucket", "_sum", "_count"):
        if found := _NAMES.get(name.removesuffix(end)):
            return found
    return None
