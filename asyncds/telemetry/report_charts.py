"""The charts of a report: which numbers of a run are drawn, and how to read them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from asyncds.telemetry.charts import Line, Number, bar_chart, line_chart
from asyncds.telemetry.numbers import percent

Evaluation = dict[str, Any]
MetricsLine = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart with its title, one sentence on how to read it, and its legend (color, name)."""

    title: str
    note: str
    legend: list[tuple[int, str]]
    svg: Markup


def report_charts(
    lines: Sequence[MetricsLine], evaluations: Sequence[Evaluation], config: dict[str, Any]
) -> list[Chart]:
    steps = [line.get("step", i + 1) for i, line in enumerate(lines)]

    def over_steps(*curves: tuple[str, str]) -> list[Line]:
        return [
            Line(name=name, x=steps, y=[line.get(key) for line in lines], color=i, smooth=True)
            for i, (name, key) in enumerate(curves)
        ]

    def chart(title: str, note: str, lines: Sequence[Line], **options: Any) -> Chart:
        seen = [line for line in lines if any(v is not None for v in line.y)]
        svg = Markup(line_chart(seen, **options))
        return Chart(title=title, note=note, legend=[(s.color, s.name) for s in seen], svg=svg)

    bound = config.get("rollout", {}).get("max_lag")
    return [
        chart(
            "Reward while training",
            "Mean of each batch, and the share of correct completions.",
            over_steps(("reward", "reward"), ("correct", "correct")),
            top=1.0,
        ),
        _pass_bars(evaluations),
        chart(
            "Pass@k while training",
            "Held-out problems, on pinned weights.",
            _pass_lines(evaluations),
            form=percent,
            top=1.0,
            x_name="version",
        ),
        chart(
            "Distinct correct answers",
            "Per training group: how many different right answers were found.",
            over_steps(("per group", "distinct_correct")),
        ),
        chart(
            "Entropy",
            "Of the policy, nats per token.",
            over_steps(("entropy", "learner/entropy")),
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


def _pass_bars(evaluations: Sequence[Evaluation]) -> Chart:
    several = len(evaluations) > 1
    ends = [("base", 0, evaluations[0])] if evaluations else []
    ends += [("result", 1, evaluations[-1])] if several else []
    ks = list(evaluations[0].get("pass@k", {})) if evaluations else []
    bars = [(name, color, [e.get("pass@k", {}).get(k) for k in ks]) for name, color, e in ends]
    return Chart(
        title="Pass@k, base and result",
        note="Share of held-out problems solved within k attempts.",
        legend=[(color, name) for name, color, _ in bars],
        svg=Markup(bar_chart([f"k = {k}" for k in ks], bars, form=percent)),
    )


def _pass_lines(evaluations: Sequence[Evaluation]) -> list[Line]:
    """A line per k; evaluations of fewer samples lack the larger ones."""
    if len(evaluations) < 2:
        return []
    lines = []
    for i, k in enumerate(evaluations[0].get("pass@k", {})):
        known = [(e["version"], e["pass@k"][k]) for e in evaluations if k in e.get("pass@k", {})]
        versions, shares = zip(*known, strict=True)
        lines.append(Line(name=f"Pass@{k}", x=versions, y=shares, color=i % 4, markers=True))
    return lines


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
