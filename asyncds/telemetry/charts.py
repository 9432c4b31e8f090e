"""Charts as inline SVG: no library, no script, colours from the page's style sheet (light, dark).

The page defines the colours `--c0` … `--c3` and the classes `grid`, `axis`, `line`, `thin`, `raw`,
`bound` and `bar`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from asyncds.telemetry.numbers import number

WIDTH, HEIGHT = 520, 230
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 10, 30
MOST_POINTS = 400

Number = float | int | None
Format = Callable[[float], str]
Scale = Callable[[float], float]


@dataclass(frozen=True, kw_only=True)
class Line:
    """A curve: x [n] ascending, y [n], None where there is no value. color 0 … 3.

    smooth: draw a moving mean, and the values themselves faintly behind it.
    thin: draw the values thin. markers: a dot at each value.
    """

    name: str
    x: Sequence[float]
    y: Sequence[Number]
    color: int
    smooth: bool = False
    thin: bool = False
    markers: bool = False


def line_chart(
    lines: Sequence[Line],
    *,
    form: Format = number,
    top: float | None = None,
    bound: float | None = None,
    x_name: str = "step",
) -> str:
    """An SVG of curves over a common x. top: the y axis ends there at least. bound: a dashed
    horizontal line. Returns "" if no line has a value."""
    values = [float(v) for line in lines for v in line.y if v is not None]
    xs = [x for line in lines for x in line.x]
    if not values:
        return ""
    low = min(0.0, *values)
    high = max([*values, *(v for v in (top, bound) if v is not None)])
    y_ticks = _ticks(low, high if high > low else low + 1)
    x_ticks = [t for t in _ticks(min(xs), max(xs)) if min(xs) <= t <= max(xs)]
    sx = _scale(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    sy = _scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    body = [_y_axis(y_ticks, sy, form)]
    body += [_text(sx(t), HEIGHT - 14, number(t)) for t in x_ticks]
    body.append(_text(WIDTH - RIGHT, HEIGHT - 1, x_name, anchor="end"))
    if bound is not None:
        y = f"{sy(bound):.1f}"
        body.append(f'<line class="bound" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
    for line in lines:
        body += _curve(line, sx, sy, form, x_name)
    return _svg(body)


def bar_chart(
    groups: Sequence[str],
    bars: Sequence[tuple[str, int, Sequence[Number]]],
    *,
    form: Format = number,
) -> str:
    """Grouped bars. bars: (name, color, one value per group). Returns "" without values."""
    values = [float(v) for _, _, column in bars for v in column if v is not None]
    if not values:
        return ""
    ticks = _ticks(0.0, max(*values, 1e-9))
    sy = _scale(ticks[0], ticks[-1], HEIGHT - BOTTOM, TOP + 8)
    body = [_y_axis(ticks, sy, form)]
    place = (WIDTH - LEFT - RIGHT) / len(groups)
    width = min(46.0, 0.72 * place / len(bars))
    for i, group in enumerate(groups):
        middle = LEFT + place * (i + 0.5)
        body.append(_text(middle, HEIGHT - 12, group))
        for j, (name, color, column) in enumerate(bars):
            if (value := column[i]) is None:
                continue
            x, y = middle + (j - len(bars) / 2) * width, sy(value)
            body.append(
                f'<rect class="bar" style="fill:var(--c{color})" x="{x + 1.5:.1f}" y="{y:.1f}" '
                f'width="{width - 3:.1f}" height="{sy(0) - y:.1f}" rx="2">'
                f"<title>{escape(f'{name}, {group}: {form(value)}')}</title></rect>"
            )
            body.append(_text(x + width / 2, y - 4, form(value)))
    return _svg(body)


def moving_mean(values: Sequence[Number], window: int) -> list[Number]:
    """Centred mean of the values there are, over `window` places; None where there is none."""
    half, means = window // 2, list[Number]()
    for i, value in enumerate(values):
        near = [v for v in values[max(0, i - half) : i + half + 1] if v is not None]
        means.append(None if value is None else sum(near) / len(near))
    return means


def _curve(line: Line, sx: Scale, sy: Scale, form: Format, x_name: str) -> Iterator[str]:
    style = f'style="stroke:var(--c{line.color})"'
    smooth = line.smooth and len(line.y) >= 20
    if smooth:
        yield f'<path class="raw" {style} d="{_path(line.x, line.y, sx, sy)}"/>'
    y = moving_mean(line.y, max(5, len(line.y) // 20)) if smooth else line.y
    kind = "thin" if line.thin else "line"
    yield f'<path class="{kind}" {style} d="{_path(line.x, y, sx, sy)}"/>'
    points = [(a, b) for a, b in zip(line.x, line.y, strict=True) if b is not None]
    if line.markers or len(points) == 1:
        yield from (
            f'<circle style="fill:var(--c{line.color})" r="3.5" cx="{sx(a):.1f}" cy="{sy(b):.1f}">'
            f"<title>{escape(f'{line.name}, {x_name} {number(a)}: {form(b)}')}</title></circle>"
            for a, b in points
        )


def _path(xs: Sequence[float], ys: Sequence[Number], sx: Scale, sy: Scale) -> str:
    """A polyline with gaps where y is None, thinned to what can be seen."""
    every = math.ceil(len(xs) / MOST_POINTS)
    parts, pen = [], "M"
    for i, (x, y) in enumerate(zip(xs, ys, strict=True)):
        if i % every and i != len(xs) - 1:
            continue
        if y is None:
            pen = "M"
            continue
        parts.append(f"{pen}{sx(x):.1f} {sy(y):.1f}")
        pen = "L"
    return "".join(parts)


def _y_axis(ticks: Sequence[float], sy: Scale, form: Format) -> str:
    return "".join(
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{sy(t):.1f}" y2="{sy(t):.1f}"/>'
        + _text(LEFT - 6, sy(t) + 4, form(t), anchor="end")
        for t in ticks
    )


def _text(x: float, y: float, text: str, *, anchor: str = "middle") -> str:
    return (
        f'<text class="axis" text-anchor="{anchor}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
    )


def _svg(body: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(body)}</svg>'


def _scale(low: float, high: float, start: float, end: float) -> Scale:
    span = high - low or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers that enclose low … high."""
    step = _round_step((high - low) / 4 or 1.0)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, max(last, first + 1) + 1)]


def _round_step(step: float) -> float:
    size = 10.0 ** math.floor(math.log10(step))
    return size * next(r for r in (1.0, 2.0, 2.5, 5.0, 10.0) if r * size >= step * (1 - 1e-9))
