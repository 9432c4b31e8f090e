"""The charts of series: a line for each along the values of the setting, or points where these are
names, which have no order."""

from collections.abc import Sequence
from dataclasses import replace

from markupsafe import Markup

from asyncds.telemetry import charts
from asyncds.telemetry.charts import Line, line_chart
from asyncds.telemetry.compare_charts import CompareChart, line_of
from asyncds.telemetry.group_curves import Curve
from asyncds.telemetry.numbers import number, percent
from asyncds.telemetry.run_groups import as_number
from asyncds.telemetry.series_comparison import Quantity, SeriesComparison, SeriesRow

TEXT_WIDTH = 6
"""Of a character below the x axis, about."""
SPREAD = 0.5
"""How far the series stand apart at a value, in distances between values: their intervals are seen
side by side."""


def quantity_chart(comparison: SeriesComparison, quantity: Quantity) -> CompareChart:
    """A quantity's means. The values stand evenly spaced, whatever they are."""
    place = {series.label: i for i, series in enumerate(comparison.series)}
    count = len(comparison.values)
    room = int((charts.WIDTH - charts.LEFT - charts.RIGHT) / count / TEXT_WIDTH) - 1
    base = _near_base(quantity)
    ordered = all(isinstance(as_number(value), float) for value in comparison.values)
    lines = [_line(row, None, 0.0) for row in base]
    for row in quantity.means.rows:
        group = place[row.label]
        lines.append(_line(row, group, SPREAD * ((group + 0.5) / len(place) - 0.5)))
    return CompareChart(
        title=quantity.title,
        note=f"Mean over runs, 95 % interval{'; grey: the base models' if base else ''}.",
        svg=Markup(
            line_chart(
                [replace(line, joined=ordered) for line in lines],
                form=percent if quantity.metric.scale == 100 else number,
                x_name=comparison.leaf,
                x_texts={i: _fitting(text, room) for i, text in enumerate(comparison.values)},
                x_ends=(-0.5, count - 0.6),
                from_zero=False,
            )
        ),
    )


def _line(row: SeriesRow, group: int | None, aside: float) -> Line:
    known = [(i + aside, cell) for i, cell in enumerate(row.cells) if cell]
    curve = Curve(
        label=row.label,
        group=group,
        x=tuple(x for x, _ in known),
        mean=tuple(cell.mean for _, cell in known),
        half=tuple(cell.half for _, cell in known),
    )
    return line_of(curve, x=curve.x, markers=True, bars=True)


def _near_base(quantity: Quantity) -> Sequence[SeriesRow]:
    """The row of the base models, unless the series would fill less than half of the chart."""
    base = quantity.means.references[:1]
    ours = [cell.mean for row in quantity.means.rows for cell in row.cells if cell]
    every = [*ours, *(cell.mean for row in base for cell in row.cells if cell)]
    return base if max(every) - min(every) <= 2 * (max(ours) - min(ours)) else ()


def _fitting(text: str, room: int) -> str:
    """The end of a text that is too long: there, names of models differ."""
    return text if len(text) <= room else f"…{text[1 - room :]}"
