"""Charts as inline SVG: no library, no script, colours from the page's style sheet (light, dark).

The page defines the colours `--c0`, `--c1`, … and the classes of the charts that it shows: `grid`,
`axis`, `line`, `thin`, `raw`, `bound`, `bar`, `whisker`, `band`, `end`, `dot`, `mark` and `number`.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import combinations, groupby

from asyncds.telemetry.numbers import number

WIDTH, HEIGHT = 520, 230
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 10, 30
MOST_POINTS = 400
MARK_HEIGHT = 11
"""Distance of words at the ends of curves; closer they would overlap."""
MARK_WIDTH = 16
MARK_RADIUS = 8.5
MOST_LABELLED = 6
"""Groups of bars with their values above them; more would overlap."""

Number = float | int | None
Interval = Sequence[float]
"""(low, high)"""
Format = Callable[[float], str]
Scale = Callable[[float], float]


@dataclass(frozen=True, kw_only=True)
class Line:
    """A curve: x [n] ascending, y [n], None where there is no value. color: of the page's.

    smooth: draw a moving mean, and the values themselves faintly behind it.
    thin: draw the values thin. markers: a dot at each value. joined: draw the line between them.
    half: half the width [n] of a band around y, None where there is none; with bars, of whiskers.
    mark: written beside the curve's end. dash: lengths of dashes and gaps; "": a solid line.
    interval: ends [n] of a whisker at each value, None where there is none.
    """

    name: str
    x: Sequence[float]
    y: Sequence[Number]
    color: int
    smooth: bool = False
    thin: bool = False
    markers: bool = False
    joined: bool = True
    half: Sequence[Number] = ()
    bars: bool = False
    mark: str = ""
    dash: str = ""
    interval: Sequence[Interval | None] = ()


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point of a scatter chart.

    mark: shown inside a larger dot; "": a small dot. dash: that of the line it belongs to; the dot
    is filled if that is solid.
    """

    name: str
    x: float
    y: float
    color: int
    mark: str = ""
    dash: str = ""


def line_chart(
    lines: Sequence[Line],
    *,
    form: Format = number,
    top: float | None = None,
    bound: float | None = None,
    x_name: str = "step",
    x_texts: Mapping[float, str] | None = None,
    x_ends: tuple[float, float] | None = None,
    from_zero: bool = True,
) -> str:
    """An SVG of curves over a common x.

    top: the y axis ends there at least. bound: a dashed horizontal line. x_texts: what stands at
    which x, instead of round numbers; values near one belong to it. x_ends: of the x axis, instead
    of the least and the largest x; the marks then stand at its end. from_zero: the y axis has the
    0. A band that leaves the chart is cut. Returns "" if no line has a value.
    """
    values = [float(v) for line in lines for v in line.y if v is not None]
    values += [end for line in lines for ends in line.interval if ends for end in ends]
    xs = [x for line in lines for x in line.x]
    if not values:
        return ""
    low = min([*values, *([0.0] if from_zero else [])])
    high = max([*values, *(v for v in (top, bound) if v is not None)])
    y_ticks = _ticks(low, high if high > low else low + 1)
    texts = x_texts or {t: number(t) for t in _ticks(min(xs), max(xs)) if min(xs) <= t <= max(xs)}
    right = WIDTH - RIGHT - MARK_WIDTH * _mark_columns(lines)
    sx = _scale(*(x_ends or (min(xs), max(xs))), LEFT, right)
    sy = _scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    body = [_y_axis(y_ticks, sy, form)]
    body += [_text(sx(t), HEIGHT - 14, text) for t, text in texts.items()]
    body.append(_text(WIDTH - RIGHT, HEIGHT - 3, x_name, anchor="end"))
    body += [_interval(line, sx, sy) for line in lines if any(h is not None for h in line.half)]
    if bound is not None:
        body.append(_bound(sy(bound)))
    for line in lines:
        body += _curve(line, sx, sy, form, x_name, x_texts or {})
    body += _marks(lines, sx, sy, right - 3 if x_ends else None)
    return _svg(body)


def bar_chart(
    groups: Sequence[str],
    bars: Sequence[tuple[str, int, Sequence[Number]]],
    *,
    form: Format = number,
    intervals: Sequence[Sequence[Interval | None]] = (),
) -> str:
    """Grouped bars.

    bars: (name, color, one value per group). intervals: of those values, for whiskers. Returns ""
    without values.
    """
    values = [float(v) for _, _, column in bars for v in column if v is not None]
    values += [end for column in intervals for ends in column if ends for end in ends]
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
            ends = intervals[j][i] if intervals else None
            if ends:
                body.append(_whisker(x + width / 2, ends, sy))
            if len(groups) <= MOST_LABELLED:
                top = min(y, sy(ends[1])) if ends else y
                body.append(_text(x + width / 2, top - 4, form(value)))
    return _svg(body)


def scatter_chart(
    points: Sequence[Point],
    *,
    x_name: str,
    y_name: str,
    form: Format = number,
    bound: float | None = None,
) -> str:
    """Points in the plane, later ones on top; both axes enclose the values closely.

    Marks that would cover each other stand apart, on a line from their place. bound: a dashed
    horizontal line. Returns "" without points.
    """
    if not points:
        return ""
    x_ticks = _ticks(min(p.x for p in points), max(p.x for p in points))
    ys = [*(p.y for p in points), *([] if bound is None else [bound])]
    y_ticks = _ticks(min(ys), max(ys))
    sx = _scale(x_ticks[0], x_ticks[-1], LEFT, WIDTH - RIGHT - 12)
    sy = _scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP + 12)
    body = [_y_axis(y_ticks, sy, form)]
    body += [_text(sx(t), HEIGHT - 14, form(t)) for t in x_ticks]
    body.append(_text(WIDTH - RIGHT, HEIGHT - 3, x_name, anchor="end"))
    body.append(_text(LEFT, TOP, y_name, anchor="start"))
    if bound is not None:
        body.append(_bound(sy(bound)))
    places = [(sx(p.x), sy(p.y)) for p in points]
    marked = [i for i, p in enumerate(points) if p.mark]
    moved = dict(zip(marked, _spread([places[i] for i in marked]), strict=True))
    for i, (p, (x, y)) in enumerate(zip(points, places, strict=True)):
        title = f"{p.name}: {x_name} {form(p.x)}, {y_name} {form(p.y)}"
        at = moved.get(i, (x, y))
        if math.dist(at, (x, y)) > MARK_RADIUS:
            body.append(
                f'<path class="whisker" style="stroke:var(--c{p.color})" '
                f'd="M{x:.1f} {y:.1f}L{at[0]:.1f} {at[1]:.1f}"/>'
            )
        body.append(
            f'<circle class="{"mark" if p.mark else "dot"}" style="{dot_style(p.color, p.dash)}" '
            f'r="{MARK_RADIUS if p.mark else 3.5}" cx="{at[0]:.1f}" cy="{at[1]:.1f}">'
            f"<title>{escape(title)}</title></circle>"
        )
        if p.mark:
            body.append(
                f'<text class="number" {number_style(p.color, p.dash)}text-anchor="middle" '
                f'x="{at[0]:.1f}" y="{at[1] + 3.5:.1f}">{escape(p.mark)}</text>'
            )
    return _svg(body)


def _spread(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Places of marks, pushed apart where these would cover each other; all stay in the chart."""
    found = [list(place) for place in places]
    least = 2 * MARK_RADIUS + 1
    for _ in range(200):
        near = [
            (a, b)
            for a, b in combinations(range(len(found)), 2)
            if math.dist(found[a], found[b]) < least - 1e-6
        ]
        if not near:
            break
        for a, b in near:
            apart = math.dist(found[a], found[b])
            # Marks at one place have no direction: each pair takes another.
            turn = 2.4 * (a + 1) * (b + 2)
            dx, dy = (
                ((found[b][i] - found[a][i]) / apart for i in (0, 1))
                if apart > 1e-6
                else (math.cos(turn), math.sin(turn))
            )
            push = (least - apart) / 2
            for mark, sign in ((a, -1), (b, 1)):
                x, y = found[mark][0] + sign * push * dx, found[mark][1] + sign * push * dy
                found[mark] = [min(max(x, LEFT), WIDTH - RIGHT), min(max(y, TOP), HEIGHT - BOTTOM)]
    return [(x, y) for x, y in found]


def dot_style(color: int, dash: str) -> str:
    """The style of a dot: filled, or where lines are dashed an outline."""
    return f"fill:var(--card);stroke:var(--c{color})" if dash else f"fill:var(--c{color})"


def number_style(color: int, dash: str) -> str:
    """The attribute of a number inside such a dot; the page's class colours it in a filled one."""
    return f'style="fill:var(--c{color})" ' if dash else ""


def moving_mean(values: Sequence[Number], window: int) -> list[Number]:
    """Centred mean of the values there are, over `window` places; None where there is none."""
    half, means = window // 2, list[Number]()
    for i, value in enumerate(values):
        near = [v for v in values[max(0, i - half) : i + half + 1] if v is not None]
        means.append(None if value is None else sum(near) / len(near))
    return means


def _curve(
    line: Line, sx: Scale, sy: Scale, form: Format, x_name: str, x_texts: Mapping[float, str]
) -> Iterator[str]:
    style = f'style="stroke:var(--c{line.color})"'
    dashed = f'{style[:-1]};stroke-dasharray:{line.dash}"' if line.dash else style
    smooth = line.smooth and len(line.y) >= 20
    if smooth:
        yield f'<path class="raw" {style} d="{_path(line.x, line.y, sx, sy)}"/>'
    y = moving_mean(line.y, max(5, len(line.y) // 20)) if smooth else line.y
    kind = "thin" if line.thin else "line"
    if line.joined:
        yield f'<path class="{kind}" {dashed} d="{_path(line.x, y, sx, sy)}"/>'
    for x, ends in zip(line.x, line.interval, strict=False):
        if ends:
            yield _whisker(sx(x), ends, sy, style)
    points = [(a, b) for a, b in zip(line.x, line.y, strict=True) if b is not None]
    if line.markers or len(points) == 1:
        for a, b in points:
            nearest = x_texts[min(x_texts, key=lambda x: abs(x - a))] if x_texts else number(a)
            title = f"{line.name}, {x_name} {nearest}: {form(b)}"
            yield (
                f'<circle style="fill:var(--c{line.color})" r="3.5" '
                f'cx="{sx(a):.1f}" cy="{sy(b):.1f}"><title>{escape(title)}</title></circle>'
            )


def _marks(lines: Sequence[Line], sx: Scale, sy: Scale, end: float | None) -> Iterator[str]:
    """The words at the ends of the curves, moved apart where they would overlap.

    They are in several columns if they don't fit into one. end: where, instead of at the last value
    of each.
    """
    ends = []
    for line in lines:
        points = [(x, y) for x, y in zip(line.x, line.y, strict=True) if y is not None]
        if line.mark and points:
            ends.append((sy(points[-1][1]), sx(points[-1][0]) if end is None else end, line))
    ends.sort(key=lambda end: end[0])
    columns = _mark_columns(lines)
    for column in range(columns):
        here = ends[column::columns]
        for place, (_, x, line) in zip(_apart([y for y, _, _ in here]), here, strict=True):
            yield (
                f'<text class="end" style="fill:var(--c{line.color})" '
                f'x="{x + 7 + MARK_WIDTH * column:.1f}" '
                f'y="{place + 3.5:.1f}">{escape(line.mark)}</text>'
            )


def _mark_columns(lines: Sequence[Line]) -> int:
    count = sum(bool(line.mark) for line in lines)
    return math.ceil(count * MARK_HEIGHT / (HEIGHT - BOTTOM - TOP + MARK_HEIGHT))


def _apart(ys: Sequence[float]) -> list[float]:
    """Ascending places, as near to these as they go without touching."""
    places: list[float] = []
    for y in ys:
        places.append(max(y, places[-1] + MARK_HEIGHT) if places else y)
    # Pushed below the axis: all that touch move up again.
    floor = float(HEIGHT - BOTTOM)
    for i in reversed(range(len(places))):
        places[i] = min(places[i], floor)
        floor = places[i] - MARK_HEIGHT
    return places


def _interval(line: Line, sx: Scale, sy: Scale) -> str:
    if not line.bars:
        return _band(line, sx, sy)
    style = f'style="stroke:var(--c{line.color})"'
    whiskers = [
        _whisker(sx(x), (y - half, y + half), sy, style)
        for x, y, half in zip(line.x, line.y, line.half, strict=True)
        if y is not None and half is not None
    ]
    return "".join(whiskers)


def _band(line: Line, sx: Scale, sy: Scale) -> str:
    """The area around the curve, a shape for every stretch without a gap."""
    every = math.ceil(len(line.x) / MOST_POINTS)
    known = [
        (sx(x), _inside(sy(y + half)), _inside(sy(y - half)))
        if y is not None and half is not None
        else None
        for x, y, half in list(zip(line.x, line.y, line.half, strict=True))[::every]
    ]
    shapes = []
    for there, stretch in groupby(known, key=lambda point: point is not None):
        if there:
            points = [point for point in stretch if point is not None]
            upper = [f"{x:.1f} {high:.1f}" for x, high, _ in points]
            lower = [f"{x:.1f} {low:.1f}" for x, _, low in reversed(points)]
            shapes.append(f"M{'L'.join(upper + lower)}Z")
    return f'<path class="band" style="fill:var(--c{line.color})" d="{"".join(shapes)}"/>'


def _whisker(x: float, ends: Interval, sy: Scale, style: str = "") -> str:
    low, high = (f"{_inside(sy(end)):.1f}" for end in ends)
    caps = "".join(f"M{x - 3:.1f} {sy(end):.1f}h6" for end in ends if _inside(sy(end)) == sy(end))
    return f'<path class="whisker" {style} d="M{x:.1f} {low}V{high}{caps}"/>'


def _inside(y: float) -> float:
    return min(max(y, TOP), HEIGHT - BOTTOM)


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


def _bound(y: float) -> str:
    return f'<line class="bound" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'


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
