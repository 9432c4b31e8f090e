"""The charts of a report: which numbers of a run are drawn, and how to read them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from asyncds.telemetry.charts import (
    MOST_LABELLED,
    Interval,
    Line,
    Number,
    bar_chart,
    line_chart,
)
from asyncds.telemetry.evaluations import by_temperature
from asyncds.telemetry.numbers import percent

MOST_PARTS = 5
"""Lags or generators with a curve of their own."""

Evaluation = dict[str, Any]
MetricsLine = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart with its title, one sentence on how to read it, and its legend (color, name).
    svg: markup, whose texts are escaped; "" if there is nothing to draw."""

    title: str
    note: str
    legend: list[tuple[int, str]]
    svg: str


def report_charts(
    lines: Sequence[MetricsLine],
    evaluations: Sequence[Evaluation],
    config: dict[str, Any],
    *,
    last: str = "result",
) -> list[Chart]:
    """last: what the last evaluation is called."""
    steps = [line.get("step", i + 1) for i, line in enumerate(lines)]

    def over_steps(*curves: tuple[str, str]) -> list[Line]:
        return [
            Line(name=name, x=steps, y=[line.get(key) for line in lines], color=i, smooth=True)
            for i, (name, key) in enumerate(curves)
        ]

    def chart(title: str, note: str, lines: Sequence[Line], **options: Any) -> Chart:
        seen = [line for line in lines if any(v is not None for v in line.y)]
        svg = line_chart(seen, **options)
        return Chart(title=title, note=note, legend=[(s.color, s.name) for s in seen], svg=svg)

    bound = config.get("rollout", {}).get("max_lag")
    series = _series(evaluations)
    return [
        chart(
            "Reward while training",
            "Mean of each batch, and the share of correct completions.",
            over_steps(("reward", "reward"), ("correct", "correct")),
            top=1.0,
        ),
        *(_pass_bars(some, at, last) for at, some in series),
        *(
            chart(
                f"Pass@k while training{at}",
                "Held-out problems, on pinned weights, with 95 % intervals over problems.",
                _pass_lines(some),
                form=percent,
                top=1.0,
                x_name="version",
            )
            for at, some in series
        ),
        chart(
            "Distinct correct answers",
            "Per training group: how many different right answers were found, by what counts as "
            "the same.",
            over_steps(*_equivalences(lines)),
        ),
        *(
            chart(
                f"Distinct correct answers, held out{at}",
                f"Per held-out problem, in evaluations of {_usual_samples(some)} samples.",
                _distinct_lines(some),
                x_name="version",
            )
            for at, some in series
        ),
        chart(
            "Sameness of correct answers",
            "Per training group: share of the most frequent one; chance that two are the same.",
            over_steps(("top share", "top_share"), ("self-overlap", "self_overlap")),
            top=1.0,
        ),
        chart(
            "Normalised variance",
            "Of the policy over the right answers to held-out problems; 0 is uniform.",
            _by_version(series, "normalised_variance"),
            x_name="version",
        ),
        chart(
            "Self-overlap",
            "Chance that two right answers to a held-out problem are the same.",
            _by_version(series, "self_overlap"),
            top=1.0,
            x_name="version",
        ),
        chart(
            "Entropy",
            "Of the policy, nats per token; of correct and of incorrect completions.",
            over_steps(
                ("entropy", "learner/entropy"),
                ("correct", "learner/entropy_correct"),
                ("incorrect", "learner/entropy_incorrect"),
            ),
        ),
        chart(
            "Lag at consumption",
            "Weight versions between the oldest token and the learner; dashed: the bound.",
            _lag(lines, steps),
            bound=bound,
        ),
        chart(
            "Throughput",
            "Tokens per second.",
            over_steps(
                ("generated", "generated_tokens_per_second"), ("trained", "tokens_per_second")
            ),
        ),
        chart(
            "Who waits",
            "Share of each step: the learner for a batch, the generators for new weights.",
            _waits(lines, steps),
            form=percent,
        ),
        chart(
            "Weight sync",
            "Seconds from prepare to verified, and how long generation stood still.",
            over_steps(("sync", "sync_seconds"), ("pause", "pause_seconds")),
        ),
        chart(
            "Mismatch",
            "KL divergence of the sampling policy and the learner, nats per token.",
            over_steps(("mismatch", "learner/mismatch_kl"), ("to base", "learner/kl")),
        ),
        chart(
            "Mismatch by lag",
            "The same for tokens of one lag, in weight versions.",
            over_steps(*_parts(lines, "mismatch_kl", "lag")),
        ),
        chart(
            "Mismatch by generator",
            "The same for the tokens of one generator.",
            over_steps(*_parts(lines, "mismatch_kl", "generator")),
        ),
        chart(
            "Effective sample size",
            "Share of a batch's tokens that the importance weights leave; by lag.",
            over_steps(("all tokens", "learner/ess"), *_parts(lines, "ess", "lag")),
            top=1.0,
        ),
        chart(
            "Ratio",
            "Of the policy to the one that the loss compares it with: quantiles over tokens.",
            over_steps(*((name, f"learner/ratio/{name}") for name in ("p01", "p50", "p99"))),
        ),
        chart(
            "Differential smoothing",
            "Mean shift of the advantage of correct and incorrect completions.",
            over_steps(
                ("correct", "learner/ds_shift_correct"), ("incorrect", "learner/ds_shift_incorrect")
            ),
        ),
        chart(
            "Gradient norm",
            "Before clipping.",
            over_steps(("norm", "learner/grad_norm")),
        ),
    ]


def _series(evaluations: Sequence[Evaluation]) -> list[tuple[str, list[Evaluation]]]:
    """(what to add to a title, evaluations) of each temperature."""
    found = by_temperature(evaluations)
    several = len(found) > 1
    return [(f", T {t:g}" if several else "", some) for t, some in found.items()]


def _pass_bars(evaluations: Sequence[Evaluation], at: str, last: str) -> Chart:
    ends = [("base", 0, evaluations[0])]
    ends += [(last, 1, evaluations[-1])] if len(evaluations) > 1 else []
    ks = list(evaluations[0].get("pass@k", {}))
    bars = [(name, color, [e.get("pass@k", {}).get(k) for k in ks]) for name, color, e in ends]
    return Chart(
        title=f"Pass@k, base and {last}{at}",
        note="Share of held-out problems solved within k attempts, with 95 % intervals.",
        legend=[(color, name) for name, color, _ in bars],
        svg=bar_chart(
            [f"k = {k}" if len(ks) <= MOST_LABELLED else k for k in ks],
            bars,
            form=percent,
            intervals=[[_interval(e, k) for k in ks] for _, _, e in ends],
        ),
    )


def _pass_lines(evaluations: Sequence[Evaluation]) -> list[Line]:
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


def _interval(evaluation: Evaluation, k: str) -> Interval | None:
    return evaluation.get("pass@k_interval", {}).get(k)


def _equivalences(lines: Sequence[MetricsLine]) -> list[tuple[str, str]]:
    """(name, key) of the curves of distinct answers."""
    keys = dict.fromkeys(key for line in lines for key in line if key.startswith("distinct/"))
    named = [(key.removeprefix("distinct/"), key) for key in keys]
    return named or [("per group", "distinct_correct")]


def _parts(lines: Sequence[MetricsLine], name: str, part: str) -> list[tuple[str, str]]:
    """(name, key) of the curves of a diagnostic by lag or by generator, at most as many as are told
    apart; none where there is one part only."""
    prefix = f"learner/{name}/{part}="
    found = {key.removeprefix(prefix) for line in lines for key in line if key.startswith(prefix)}
    ordered = sorted(found, key=lambda value: (len(value), value))[:MOST_PARTS]
    return [(f"{part} {v}", prefix + v) for v in ordered] if len(ordered) > 1 else []


def _usual_samples(evaluations: Sequence[Evaluation]) -> int:
    """The number of samples most evaluations have; only those of one number compare."""
    return Counter(e["n_samples"] for e in evaluations).most_common(1)[0][0]


def _distinct_lines(evaluations: Sequence[Evaluation]) -> list[Line]:
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


def _by_version(series: Sequence[tuple[str, list[Evaluation]]], key: str) -> list[Line]:
    """A line per temperature, where it was evaluated more than once."""
    return [
        Line(
            name=at.removeprefix(", ") or key.replace("_", " "),
            x=[e["version"] for e in some],
            y=[e.get(key) for e in some],
            color=i % 4,
            markers=True,
        )
        for i, (at, some) in enumerate(series)
        if len(some) > 1
    ]


def _lag(lines: Sequence[MetricsLine], steps: Sequence[int]) -> list[Line]:
    largest = [line.get("lag_max") for line in lines]
    mean = [line.get("lag_mean") for line in lines]
    return [
        Line(name="largest", x=steps, y=largest, color=1, thin=True),
        Line(name="mean", x=steps, y=mean, color=0, smooth=True),
    ]


def _waits(lines: Sequence[MetricsLine], steps: Sequence[int]) -> list[Line]:
    learner: list[Number] = []
    generators: list[Number] = []
    before = 0.0
    for line in lines:
        learner.append(_share(line.get("learner/seconds_wait"), line.get("learner/seconds_total")))
        now = line.get("wall_seconds")
        generators.append(_share(line.get("pause_seconds"), None if now is None else now - before))
        before = before if now is None else now
    return [
        Line(name="learner waits", x=steps, y=learner, color=0, smooth=True),
        Line(name="generators paused", x=steps, y=generators, color=1, smooth=True),
    ]


def _share(part: Number, whole: Number) -> Number:
    return None if part is None or not whole else min(1.0, part / whole)
