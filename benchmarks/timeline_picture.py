"""Draws docs/timeline.svg from the timeline of a run on one machine with one generator:

python -m benchmarks.timeline_picture RUN FROM SECONDS
"""

import json
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from asyncds.telemetry.traces.timeline import FILE

OUT = Path(__file__).resolve().parents[1] / "docs" / "timeline.svg"
WIDTH, LEFT, ROW, GAP = 1000, 205, 22, 8
Events = list[dict[str, Any]]


ROWS = {
    "coordinator: handles messages": ("turn", "#7c8aa5"),
    "coordinator: commits": ("commit", "#b8860b"),
    "generator: receives weights": ("receive", "#2b9d8f"),
    "generator: engine pauses": ("pause for a version", "#c2413b"),
    "learner: sends weights": ("send", "#2b9d8f"),
    "learner: waits for a batch": ("wait", "#c2413b"),
    "learner: trains": ("train", "#3b6fd8"),
    "learner: copies weights": ("publish", "#9357c9"),
}


def spans(events: Events, name: str) -> Iterator[tuple[float, float]]:
    """(start, end) in microseconds of the spans of that name."""
    begun: dict[str, float] = {}
    for event in events:
        if event["name"] != name:
            continue
        if event["ph"] == "X":
            yield event["ts"], event["ts"] + event["dur"]
        elif event["ph"] == "b":
            begun[event["id"]] = event["ts"]
        elif event["ph"] == "e" and event["id"] in begun:
            yield begun.pop(event["id"]), event["ts"]


def draw(events: Events, *, start: float, seconds: float) -> str:
    """The window from `start`, in seconds from the first event."""
    scale = (WIDTH - LEFT - 10) / seconds
    low, high = start * 1e6, (start + seconds) * 1e6

    def x(ts: float) -> float:
        return LEFT + (min(max(ts, low), high) - low) / 1e6 * scale

    parts, y = [], 28.0
    running = [e for e in events if e["ph"] == "C" and low <= e["ts"] <= high]
    most = max((e["args"]["running"] for e in running), default=1) or 1
    parts.append(_label(f"generator: requests (0 to {most})", y + 30))
    points = " ".join(
        f"{x(e['ts']):.1f},{y + 44 - 44 * e['args']['running'] / most:.1f}" for e in running
    )
    parts.append(f'<polyline points="{points}" fill="none" stroke="#0e8a5f" stroke-width="1.5"/>')
    y += 44 + GAP
    for label, (name, color) in ROWS.items():
        parts.append(_label(label, y + 15))
        for begin, end in {s for s in spans(events, name) if s[1] > low and s[0] < high}:
            width = max(x(end) - x(begin), 0.6)
            parts.append(
                f'<rect x="{x(begin):.1f}" y="{y}" width="{width:.1f}" height="{ROW - 4}" '
                f'rx="2" fill="{color}"/>'
            )
        y += ROW
    ticks = [
        f'<text x="{x(low + i * 1e5 * 2):.1f}" y="16" text-anchor="middle">{i * 200} ms</text>'
        for i in range(int(seconds * 5) + 1)
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 6:.0f}" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#3a4350">'
        f'<rect width="{WIDTH}" height="{y + 6:.0f}" fill="#ffffff"/>{"".join(ticks + parts)}'
        "</svg>\n"
    )


def _label(text: str, y: float) -> str:
    return f'<text x="{LEFT - 8}" y="{y}" text-anchor="end">{escape(text)}</text>'


if __name__ == "__main__":
    run, begin, length = sys.argv[1:]
    shown: Events = json.loads((Path(run) / FILE).read_text("utf-8"))["traceEvents"]
    OUT.write_text(draw(shown, start=float(begin), seconds=float(length)), "utf-8")
