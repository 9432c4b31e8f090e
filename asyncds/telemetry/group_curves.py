"""Quantities of groups along their runs: the mean over runs at every step, and its interval."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from asyncds.telemetry.charts import Number, moving_mean
from asyncds.telemetry.estimate import estimate
from asyncds.telemetry.group_comparison import GroupComparison, Table
from asyncds.telemetry.run_groups import RunGroup
from asyncds.telemetry.run_results import RunResult

Series = dict[float, float]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """mean and half [n] at x [n], ascending. half: of the 95 % interval, None where only one run
    has a value. group: its place among the groups; None: the base models."""

    label: str
    group: int | None
    x: tuple[float, ...]
    mean: tuple[float, ...]
    half: tuple[Number, ...]


def metric_curves(groups: Sequence[RunGroup], key: str) -> list[Curve]:
    """A value of metrics.jsonl against the step. Each run is smoothed over a twentieth of its
    steps, so that the band shows how runs differ and not how batches do."""

    def series(run: RunResult) -> Series:
        values = [line.get(key) for line in run.lines]
        if len(values) >= 20:
            values = moving_mean(values, max(5, len(values) // 20))
        steps = [line.get("step", i + 1) for i, line in enumerate(run.lines)]
        return {s: v for s, v in zip(steps, values, strict=True) if v is not None}

    return _curves(groups, series)


def pass_curves(groups: Sequence[RunGroup], temperature: float | None, k: str) -> list[Curve]:
    """Pass@k of every evaluation that has this k, against the step."""

    def series(run: RunResult) -> Series:
        shares = {float(e["step"]): e["pass@k"].get(k) for e in run.evaluations(temperature)}
        return {step: share for step, share in shares.items() if share is not None}

    return _curves(groups, series)


def pass_at_k(comparison: GroupComparison, table: Table) -> list[Curve]:
    """Pass@k against k, of the base models and of every group."""
    place = {group.label: i for i, group in enumerate(comparison.groups)}
    keys = [m.key for m in table.metrics if m.key.startswith("pass@")]
    return [
        Curve(
            label=row.label,
            group=None if row is table.base else place[row.label],
            x=tuple(float(key.removeprefix("pass@")) for key in keys),
            mean=tuple(row.values[key].mean for key in keys),
            half=tuple(row.values[key].half for key in keys),
        )
        for row in [*([table.base] if table.base else []), *table.rows]
    ]


def _curves(groups: Sequence[RunGroup], series: Callable[[RunResult], Series]) -> list[Curve]:
    curves = []
    for i, group in enumerate(groups):
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
