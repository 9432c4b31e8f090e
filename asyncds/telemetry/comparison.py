"""The base model against the result: the first evaluation of a run and the last, at each of the
temperatures."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from asyncds.telemetry.evaluations import by_temperature


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A quantity of both, as texts; result and gain are "" where there was one evaluation only.
    gain is in percentage points for shares."""

    name: str
    base: str
    result: str
    gain: str
    better: bool


def compare(evaluations: Sequence[dict[str, Any]]) -> list[Compared]:
    """For each temperature Pass@k for every k that both evaluations have, ascending, then distinct
    correct answers. Those grow with the number of samples, so evaluations of different numbers are
    not compared."""
    series = by_temperature(evaluations)
    return [
        replace(row, name=f"{row.name}, T {temperature:g}") if len(series) > 1 else row
        for temperature, some in series.items()
        for row in _compare(some)
    ]


def _compare(evaluations: Sequence[dict[str, Any]]) -> list[Compared]:
    """Of one temperature."""
    first, last = evaluations[0], evaluations[-1]
    several = len(evaluations) > 1
    base, result = first.get("pass@k", {}), last.get("pass@k", {})
    rows = [
        _share(f"Pass@{k}", base[k], result[k] if several else None)
        for k in sorted(base.keys() & result.keys(), key=int)
    ]
    distinct = first.get("distinct_correct")
    if distinct is not None and first.get("n_samples") == last.get("n_samples"):
        after = last.get("distinct_correct") if several else None
        rows.append(_count("distinct correct", distinct, after))
    return rows


def _share(name: str, base: float, result: float | None) -> Compared:
    if result is None:
        return Compared(name=name, base=f"{100 * base:.1f}%", result="", gain="", better=True)
    gain = 100 * (result - base)
    return Compared(
        name=name,
        base=f"{100 * base:.1f}%",
        result=f"{100 * result:.1f}%",
        gain=f"{gain:+.1f}",
        better=gain >= 0,
    )


def _count(name: str, base: float, result: float | None) -> Compared:
    if result is None:
        return Compared(name=name, base=f"{base:.2f}", result="", gain="", better=True)
    return Compared(
        name=name,
        base=f"{base:.2f}",
        result=f"{result:.2f}",
        gain=f"{result - base:+.2f}",
        better=result >= base,
    )
