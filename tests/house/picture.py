"""The house in one picture, drawn from its imports: ``python -m tests.house.picture``.

Rooms are drawn above those they know. An arrow that others already imply is left out.
"""

import ast
import textwrap
from xml.sax.saxutils import escape

from tests.house.measure import PURE_ROOMS, ROOMS, ROOT, Graph, House

PICTURE = ROOT / "docs" / "house.svg"
_WIDTH, _HEIGHT, _GAP, _ROW, _EDGE = 152, 84, 14, 138, 20


def known(house: House) -> Graph:
    """The rooms that each room knows, itself left out; from the ground up."""
    graph: Graph = {
        room: set() for room in ROOMS if room in {m.room for m in house.modules.values()}
    }
    for name, targets in house.imports.items():
        room = house.modules[name].room
        if room in graph:
            graph[room] |= {house.modules[target].room for target in targets} & set(graph) - {room}
    return graph


def draw(house: House) -> str:
    """The picture as SVG."""
    graph = known(house)
    rows = _rows(graph)
    columns = max(map(len, rows))
    width = columns * (_WIDTH + _GAP) - _GAP + 2 * _EDGE
    height = (len(rows) - 1) * _ROW + _HEIGHT + 2 * _EDGE
    place = {
        room: (
            width / 2 + (column - len(row) / 2) * (_WIDTH + _GAP) + _GAP / 2,
            height - _EDGE - _HEIGHT - level * _ROW,
        )
        for level, row in enumerate(rows)
        for column, room in enumerate(row)
    }
    arrows = [
        _arrow(place[room], place[target])
        for room in graph
        for target in sorted(_needed(graph, room))
    ]
    boxes = [_box(room, _purpose(house, room), *xy) for room, xy in place.items()]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            'font-family="sans-serif">',
            "<title>The rooms of asyncds: arrows lead to what a room knows</title>",
            f'<rect width="{width}" height="{height}" rx="8" fill="#fff"/>',
            *arrows,
            *boxes,
            "</svg>",
            "",
        ]
    )


def _needed(graph: Graph, room: str) -> set[str]:
    """The rooms it knows, but for those that it knows through another."""
    return {
        target
        for target in graph[room]
        if not any(target in _below(graph, other) for other in graph[room] - {target})
    }


def _below(graph: Graph, room: str) -> set[str]:
    return graph[room].union(*(_below(graph, target) for target in graph[room]))


def _rows(graph: Graph) -> list[list[str]]:
    """Rooms by the longest way down from them; neighbours in a row know similar rooms."""
    level: dict[str, int] = {}
    for room in graph:
        level[room] = max(
            (level[target] + 1 for target in graph[room] if target in level), default=0
        )
    rows = [[room for room in graph if level[room] == n] for n in range(max(level.values()) + 1)]
    at = {room: float(n) for row in rows for n, room in enumerate(row)}
    for _ in range(4):
        for row in rows:
            near = {
                room: _needed(graph, room) | {r for r in graph if room in _needed(graph, r)}
                for room in row
            }
            row.sort(key=lambda r: sum(at[n] for n in near[r]) / len(near[r]) if near[r] else at[r])
            middle = (len(row) - 1) / 2
            at.update({room: n - middle for n, room in enumerate(row)})
    return rows


def _purpose(house: House, room: str) -> str:
    """The first line of the room's docstring."""
    name = room if room in house.modules else f"asyncds.{room}"
    text = ast.get_docstring(house.modules[name].tree) if name in house.modules else None
    return (text or "").partition("\n")[0].rstrip(".").replace("`", "")


def _box(room: str, purpose: str, x: float, y: float) -> str:
    fill = "#e8f1e4" if room in PURE_ROOMS else "#eef1f8"
    lines = textwrap.wrap(purpose, 24)
    spans = "".join(
        f'<text x="{x + _WIDTH / 2:g}" y="{y + 34 + 13 * n:g}" font-size="11" fill="#444" '
        f'text-anchor="middle">{escape(line)}</text>'
        for n, line in enumerate(lines)
    )
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{_WIDTH}" height="{_HEIGHT}" rx="6" fill="{fill}" '
        f'stroke="#8a94a6"/><text x="{x + _WIDTH / 2:g}" y="{y + 18:g}" font-size="14" '
        f'font-weight="bold" fill="#222" text-anchor="middle">{room}</text>{spans}'
    )


def _arrow(above: tuple[float, float], below: tuple[float, float]) -> str:
    x, y = above[0] + _WIDTH / 2, above[1] + _HEIGHT
    to_x, to_y = below[0] + _WIDTH / 2, below[1]
    bend = (to_y - y) / 2
    return (
        f'<path d="M{x:g} {y:g}C{x:g} {y + bend:g} {to_x:g} {to_y - bend:g} {to_x:g} {to_y:g}" '
        f'fill="none" stroke="#8a94a6"/><path d="M{to_x - 4:g} {to_y - 7:g}L{to_x:g} {to_y:g}'
        f'L{to_x + 4:g} {to_y - 7:g}" fill="none" stroke="#8a94a6"/>'
    )


if __name__ == "__main__":
    PICTURE.write_text(draw(House.read()))
