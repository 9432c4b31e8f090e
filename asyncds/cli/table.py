"""The table at the end of a run, from summary.json."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from asyncds.telemetry.gains import gains, missing_samples, set_gains
from asyncds.telemetry.numbers import duration, number, percent

_STYLE = {"better": "green", "worse": "red", "": ""}


def final_table(summary: dict[str, Any]) -> RenderableType:
    """Base and result, or the only evaluation there is, then what the run took.

    Missing values are left out.
    """
    parts: list[RenderableType] = []
    evaluations = summary.get("eval") or []
    compared = gains(evaluations)
    for part in set_gains(evaluations):
        compared += [replace(row, name=f"{part.name}, {row.name}") for row in part.gains]
    if compared:
        view = Table(box=None, padding=(0, 3, 0, 0), header_style="bold")
        several = any(row.result for row in compared)
        view.add_column("")
        for name in ("base", "result", "gain") if several else ("model",):
            view.add_column(name, justify="right")
        for row in compared:
            gain = Text(row.gain, style=_STYLE[row.verdict])
            view.add_row(row.name, row.base, *((row.result, gain) if several else ()))
        parts += [view, Text()]
    if missing := missing_samples(evaluations):
        parts += [Text(missing, style="red"), Text()]
    facts = Table.grid(padding=(0, 3, 0, 0))
    for name, value in _facts(summary):
        facts.add_row(Text(name, style="dim"), value)
    return Group(*parts, facts)


def _facts(summary: dict[str, Any]) -> list[tuple[str, str]]:
    lag, sync = summary.get("lag") or {}, summary.get("weight_sync_seconds") or {}
    dropped = summary.get("groups_dropped") or {}
    clipped = (summary.get("diagnostics") or {}).get("updates_clipped") or {}
    rows: list[tuple[str, Any, Callable[[Any], str]]] = [
        ("status", summary.get("status"), str),
        ("steps", summary.get("steps"), number),
        ("wall time", summary.get("wall_seconds"), duration),
    ]
    trained: list[tuple[str, Any, Callable[[Any], str]]] = [
        ("trained tokens/s", summary.get("tokens_per_second"), number),
        ("lag, mean", lag.get("mean"), number),
        ("lag, largest", lag.get("max"), number),
        ("learner waited", summary.get("learner_idle_fraction"), percent),
        ("generators paused", summary.get("generator_pause_fraction"), percent),
        ("weight sync, median", sync.get("p50"), "{:.2f} s".format),
        ("updates clipped", clipped.get("mean"), percent),
        ("best checkpoint", summary.get("best_checkpoint"), "step {}".format),
        ("groups dropped", sum(dropped.values()) or None, number),
    ]
    shown = rows + trained if summary.get("steps") else rows
    return [(name, form(value)) for name, value, form in shown if value is not None]
