"""A run's gains: its first evaluation, of the base model, against its last.

There is one for each of the temperatures.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from asyncds.telemetry.evaluations import by_temperature

Interval = Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Gain:
    """A quantity of both, as texts; result and gain are "" where there was one evaluation only.

    gain is in percentage points for shares, with its 95 % interval where both have one: that of the
    difference of independent quantities, so that for the same problems it is rather too wide.
    verdict: "" where the interval has the zero, or is not known.
    """

    name: str
    base: str
    result: str = ""
    gain: str = ""
    verdict: Literal["better", "worse", ""] = ""


def gains(evaluations: Sequence[dict[str, Any]]) -> list[Gain]:
    """The gains at each temperature.

    Pass@k for every k that both evaluations have, ascending, then distinct correct answers. Those
    grow with the number of samples, so evaluations of different numbers are not compared.
    """
    series = by_temperature(evaluations)
    return [
        replace(row, name=f"{row.name}, T {temperature:g}") if len(series) > 1 else row
        for temperature, some in series.items()
        for row in _gains(some[0], some[-1] if len(some) > 1 else None)
    ]


@dataclass(frozen=True, kw_only=True)
class SetGains:
    """The gains over one evaluation set.

    n_problems, n_failed: of the last evaluation, with samples and without.
    """

    name: str
    n_problems: int
    n_failed: int
    gains: list[Gain]


def set_gains(evaluations: Sequence[dict[str, Any]]) -> list[SetGains]:
    """The gains over each evaluation set at each temperature, for the least k and the largest.

    None where there are not several sets.
    """
    series = by_temperature(evaluations)
    found = []
    for temperature, some in series.items():
        sets = some[-1].get("sets", {})
        at = f", T {temperature:g}" if len(series) > 1 else ""
        for name, last in sets.items() if len(sets) > 1 else ():
            parts = [e["sets"][name] for e in some if name in e.get("sets", {})]
            rows = _gains(parts[0], last if len(parts) > 1 else None)
            shares = [row for row in rows if row.name.startswith("Pass@")]
            found.append(
                SetGains(
                    name=name + at,
                    n_problems=last["n_problems"],
                    n_failed=last["n_failed"],
                    gains=list(dict.fromkeys([*shares[:1], *shares[-1:]])),
                )
            )
    return found


def missing_samples(evaluations: Sequence[dict[str, Any]]) -> str:
    """A sentence about the problems that the last evaluation leaves out; "" if it has all."""
    last = evaluations[-1] if evaluations else {}
    if not (failed := last.get("n_failed", 0)):
        return ""
    return (
        f"{failed} of {failed + last['n_problems']} problems have no samples and are left out of "
        f"all numbers: {last['failure']}"
    )


def _gains(first: Mapping[str, Any], last: Mapping[str, Any] | None) -> list[Gain]:
    ends = [first] if last is None else [first, last]
    shares = [end.get("pass@k", {}) for end in ends]
    intervals = [end.get("pass@k_interval", {}) for end in ends]
    rows = [
        _row(f"Pass@{k}", [s[k] for s in shares], [i.get(k) for i in intervals], percent=True)
        for k in sorted(set.intersection(*map(set, shares)), key=int)
    ]
    distinct = [end.get("distinct_correct") for end in ends]
    if None not in distinct and len({end.get("n_samples") for end in ends}) == 1:
        intervals = [end.get("distinct_correct_interval") for end in ends]
        rows.append(_row("distinct correct", distinct, intervals))
    return rows


def _row(
    name: str,
    values: Sequence[Any],
    intervals: Sequence[Interval | None],
    *,
    percent: bool = False,
) -> Gain:
    """values: of base and result, or of the base alone."""
    scale, digits, unit = (100, 1, "%") if percent else (1, 2, "")
    base, *result = (f"{scale * value:.{digits}f}{unit}" for value in values)
    if not result:
        return Gain(name=name, base=base)
    gain = scale * (values[1] - values[0])
    halves = [scale * (ends[1] - ends[0]) / 2 for ends in intervals if ends]
    half = math.hypot(*halves) if len(halves) == 2 else math.inf
    plus = f" ± {half:.{digits}f}" if math.isfinite(half) else ""
    verdict: Literal["better", "worse"] = "better" if gain > 0 else "worse"
    return Gain(
        name=name,
        base=base,
        result=result[0],
        gain=f"{gain:+.{digits}f}{plus}",
        verdict=verdict if abs(gain) > half else "",
    )
