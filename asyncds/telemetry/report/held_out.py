"""A report's charts of evaluations with their intervals: Pass@k and distinct answers."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from asyncds.telemetry.charts import MOST_LABELLED, Interval, Line, bar_chart
from asyncds.telemetry.numbers import percent

COLORS = 6

Evaluation = dict[str, Any]


def pass_bars(evaluations: Sequence[Evaluation], last: str) -> tuple[list[tuple[int, str]], str]:
    """Legend (color, name) and markup of Pass@k of the first evaluation and of the last."""
    ends = [("base", 0, evaluations[0])]
    ends += [(last, 1, evaluations[-1])] if len(evaluations) > 1 else []
    ks = list(evaluations[0].get("pass@k", {}))
    bars = [(name, color, [e.get("pass@k", {}).get(k) for k in ks]) for name, color, e in ends]
    svg = bar_chart(
        [f"k = {k}" if len(ks) <= MOST_LABELLED else k for k in ks],
        bars,
        form=percent,
        intervals=[[_interval(e, k) for k in ks] for _, _, e in ends],
    )
    return [(color, name) for name, color, _ in bars], svg


def pass_lines(evaluations: Sequence[Evaluation]) -> list[Line]:
    """A line for each of up to four k; evaluations of fewer samples lack the larger ones."""
    if len(evaluations) < 2:
        return []
    lines = []
    ks = list(evaluations[0].get("pass@k", {}))
    chosen = np.linspace(0, len(ks) - 1, min(len(ks), 4)).round().astype(int)
    for i, k in enumerate(ks[place] for place in chosen):
        known = [e for e in evaluations if k in e.get("pass@k", {})]
        lines.append(
            Line(
                name=f"Pass@{k}",
                x=[e["version"] for e in known],
                y=[e["pass@k"][k] for e in known],
                color=i,
                markers=True,
                interval=[_interval(e, k) for e in known],
            )
        )
    return lines


def set_lines(evaluations: Sequence[Evaluation]) -> list[Line]:
    """A line for each evaluation set, of the smallest k; none where there is one set only."""
    sets = list(evaluations[-1].get("sets", {}))
    if len(evaluations) < 2 or len(sets) < 2:
        return []
    lines = []
    for i, name in enumerate(sets):
        known = [(e["version"], e["sets"][name]) for e in evaluations if name in e.get("sets", {})]
        k = next(iter(known[0][1]["pass@k"]), "")
        lines.append(
            Line(
                name=f"{name}, Pass@{k}",
                x=[version for version, _ in known],
                y=[its["pass@k"].get(k) for _, its in known],
                color=i % COLORS,
                markers=True,
            )
        )
    return lines


def _interval(evaluation: Evaluation, k: str) -> Interval | None:
    return evaluation.get("pass@k_interval", {}).get(k)


def _usual_samples(evaluations: Sequence[Evaluation]) -> int:
    """The number of samples most evaluations have; only those of one number compare."""
    return Counter(e["n_samples"] for e in evaluations).most_common(1)[0][0]


def distinct_lines(evaluations: Sequence[Evaluation]) -> list[Line]:
    """A line for each equivalence, of the evaluations that have the usual number of samples."""
    alike = [e for e in evaluations if e["n_samples"] == _usual_samples(evaluations)]
    if len(alike) < 2:
        return []
    return [
        Line(
            name=name,
            x=[e["version"] for e in alike],
            y=[e.get("distinct", {}).get(name) for e in alike],
            color=i % 4,
            markers=True,
            interval=[
                e["distinct_correct_interval"] if name == e["equivalence"] else None for e in alike
            ],
        )
        for i, name in enumerate(alike[0].get("distinct", {}))
    ]
