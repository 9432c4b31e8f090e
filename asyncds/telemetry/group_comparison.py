"""Groups of runs against each other: means over runs, and paired differences to a baseline.

Runs of one base model and seed share their problems, their base and much of their luck. A
difference within such a pair is free of that, so its mean is known better than the difference of
two means.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

from asyncds.telemetry.estimate import Estimate, estimate
from asyncds.telemetry.run_groups import RunGroup
from asyncds.telemetry.run_results import RunResult

Evaluation = dict[str, Any]
Values = dict[str, float]
Estimates = dict[str, Estimate]
Pair = tuple[str, int]


class NotComparableError(Exception):
    """The runs have nothing in common to compare, or the baseline is none of them."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A column. Shown is scale × value with so many digits. better: +1 if more is better, -1 if
    less is."""

    key: str
    name: str
    better: int
    scale: float = 1.0
    digits: int = 0

    def text(self, value: Estimate | None, *, signed: bool = False) -> str:
        """`40.2 ± 1.3`, without the interval if there is none; "–" for nothing."""
        if value is None:
            return "–"
        mean = f"{self.scale * value.mean:{'+' if signed else ''}.{self.digits}f}"
        half = value.half
        return mean if half is None else f"{mean} ± {self.scale * half:.{self.digits}f}"

    def difference(self, value: float | None) -> str:
        """`+1.3`; "–" for nothing."""
        return "–" if value is None else f"{self.scale * value:+.{self.digits}f}"

    def verdict(self, difference: Estimate | None) -> str:
        """`better` or `worse` where the interval of a difference excludes 0, else ""."""
        if difference is None or not difference.known_sign:
            return ""
        return "better" if difference.mean * self.better > 0 else "worse"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A group's means over its n runs."""

    label: str
    n: int
    values: Estimates


@dataclass(frozen=True, kw_only=True)
class PairDifference:
    """A group less the baseline, for one base model and seed."""

    base: str
    seed: int
    values: Values


@dataclass(frozen=True, kw_only=True)
class PairedRow:
    """A group less the baseline: the mean over all pairs, and each pair."""

    label: str
    values: Estimates
    pairs: tuple[PairDifference, ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Metrics of all groups that have them. temperature: that of the evaluations, None where it
    does not apply or is unknown. base: the base models, before training."""

    title: str
    temperature: float | None
    metrics: tuple[Metric, ...]
    base: Row | None
    rows: tuple[Row, ...]
    paired: tuple[PairedRow, ...]


@dataclass(frozen=True, kw_only=True)
class GroupComparison:
    """All groups, in order; `results` has a table per evaluation temperature."""

    groups: tuple[RunGroup, ...]
    baseline: str
    results: tuple[Table, ...]
    costs: Table


COSTS = (
    Metric(key="lag_mean", name="lag, mean", better=-1, digits=2),
    Metric(key="lag_max", name="lag, largest", better=-1, digits=1),
    Metric(key="wall_seconds", name="wall s", better=-1),
    Metric(key="tokens_per_second", name="tokens/s", better=1),
)


def compare_groups(groups: Sequence[RunGroup], *, baseline: str | None = None) -> GroupComparison:
    """Compare at least one group. baseline: a label; default: the first group's.

    Raises NotComparableError for an unknown baseline, or where the runs of no temperature have a k
    of Pass@k in common.
    """
    labels = [g.label for g in groups]
    if baseline is not None and baseline not in labels:
        raise NotComparableError(
            f"there is no group {baseline!r} to be the baseline: there is {_listed(labels)}"
        )
    chosen = labels[0] if baseline is None else baseline
    results = [_results(groups, chosen, t) for t in temperatures(groups)]
    if not any(results):
        raise no_common_k(groups)
    return GroupComparison(
        groups=tuple(groups),
        baseline=chosen,
        results=tuple(table for table in results if table),
        costs=_table("What it took", None, COSTS, groups, chosen, run_costs),
    )


def temperatures(groups: Sequence[RunGroup]) -> list[float | None]:
    """Those of any run, in the order in which the runs have them."""
    return list(dict.fromkeys(t for g in groups for run in g.runs for t in run.temperatures))


def common_ks(groups: Sequence[RunGroup], temperature: float | None) -> list[str]:
    """The k that base and result of all runs with this temperature have, ascending."""
    both = [
        set(_ks(evaluation))
        for group in groups
        for run in group.runs
        if temperature in run.temperatures
        for evaluation in ends(run, temperature)
    ]
    return sorted(set.intersection(*both), key=int) if both else []


def first_and_last(ks: Sequence[str]) -> list[str]:
    """Of the common k: the smallest and the largest, which may be the same."""
    return list(dict.fromkeys([*ks[:1], *ks[-1:]]))


def no_common_k(groups: Sequence[RunGroup]) -> NotComparableError:
    """The error that no temperature has a k of Pass@k in all its runs."""
    known = "; ".join(
        f"{run.path} has {', '.join(_ks(run.evaluations(t)[-1]))}"
        for run in [r for g in groups for r in g.runs]
        for t in run.temperatures
    )
    return NotComparableError(f"no k of Pass@k is common to all runs: {known}")


def pass_metric(k: str) -> Metric:
    """Pass@k, in percent."""
    return Metric(key=f"pass@{k}", name=f"Pass@{k}", better=1, scale=100, digits=1)


def ends(run: RunResult, temperature: float | None) -> tuple[Evaluation, Evaluation]:
    """The evaluation of the base model and that of the result."""
    evaluations = run.evaluations(temperature)
    return evaluations[0], evaluations[-1]


def base_values(run: RunResult, temperature: float | None) -> Values:
    """Pass@k and distinct correct answers of the base model; {} if the run lacks the
    temperature."""
    return _evaluated(ends(run, temperature)[0]) if temperature in run.temperatures else {}


def result_values(run: RunResult, temperature: float | None) -> Values:
    """Pass@k and distinct correct answers of the result; {} if the run lacks the temperature."""
    return _evaluated(ends(run, temperature)[1]) if temperature in run.temperatures else {}


def run_costs(run: RunResult) -> Values:
    """The values of `COSTS` that the run has."""
    lag = run.summary.get("lag") or {}
    found = {
        "lag_mean": lag.get("mean"),
        "lag_max": lag.get("max"),
        "wall_seconds": run.summary.get("wall_seconds"),
        "tokens_per_second": run.summary.get("tokens_per_second"),
    }
    return {key: value for key, value in found.items() if value is not None}


def _results(groups: Sequence[RunGroup], baseline: str, temperature: float | None) -> Table | None:
    ks = common_ks(groups, temperature)
    if not ks:
        return None
    runs = [r for g in groups for r in g.runs if temperature in r.temperatures]
    metrics = [pass_metric(k) for k in ks]
    metrics += _distinct([e for run in runs for e in ends(run, temperature)])

    pairs = by_pair(runs, partial(base_values, temperature=temperature))
    base = Row(label="base", n=len(pairs), values=_estimates(metrics, pairs.values()))
    of_result = partial(result_values, temperature=temperature)
    title = "Result" if temperature is None else f"Result at temperature {temperature:g}"
    return _table(title, temperature, metrics, groups, baseline, of_result, base)


def _distinct(evaluations: Sequence[Evaluation]) -> list[Metric]:
    """Distinct correct answers: under the task's own equivalence, then under the others that all
    have. More samples find more of them, so there are none where the numbers differ."""
    kinds = {(e.get("n_samples"), e.get("equivalence")) for e in evaluations}
    if len(kinds) > 1 or not all("distinct_correct" in e for e in evaluations):
        return []
    primary = evaluations[0].get("equivalence")
    others = [
        name
        for name in evaluations[0].get("distinct", {})
        if name != primary and all(name in e.get("distinct", {}) for e in evaluations)
    ]
    names = {"distinct_correct": "distinct"}
    names |= {f"distinct/{name}": f"distinct, {name}" for name in others}
    return [Metric(key=key, name=name, better=1, digits=2) for key, name in names.items()]


def _evaluated(evaluation: Evaluation) -> Values:
    found = {f"pass@{k}": share for k, share in evaluation["pass@k"].items()}
    found["distinct_correct"] = evaluation.get("distinct_correct")
    found |= {f"distinct/{name}": n for name, n in evaluation.get("distinct", {}).items()}
    return {key: value for key, value in found.items() if value is not None}


def _table(
    title: str,
    temperature: float | None,
    metrics: Sequence[Metric],
    groups: Sequence[RunGroup],
    baseline: str,
    values: Callable[[RunResult], Values],
    base: Row | None = None,
) -> Table:
    rows = []
    for group in groups:
        known = [v for v in map(values, group.runs) if v]
        rows.append(Row(label=group.label, n=len(known), values=_estimates(metrics, known)))
    reference = by_pair(next(g.runs for g in groups if g.label == baseline), values)
    paired = [
        paired_row(group.label, metrics, by_pair(group.runs, values), reference)
        for group in groups
        if group.label != baseline
    ]
    return Table(
        title=title,
        temperature=temperature,
        metrics=tuple(metrics),
        base=base,
        rows=tuple(row for row in rows if row.n),
        paired=tuple(row for row in paired if row.pairs),
    )


def paired_row(
    label: str, metrics: Sequence[Metric], ours: dict[Pair, Values], theirs: dict[Pair, Values]
) -> PairedRow:
    """Ours less theirs, of every base model and seed that both have."""
    pairs = []
    for pair in sorted(ours.keys() & theirs.keys()):
        a, b = ours[pair], theirs[pair]
        differences = {m.key: a[m.key] - b[m.key] for m in metrics if m.key in a and m.key in b}
        pairs.append(PairDifference(base=pair[0], seed=pair[1], values=differences))
    estimates = _estimates(metrics, [pair.values for pair in pairs])
    return PairedRow(label=label, values=estimates, pairs=tuple(pairs))


def by_pair(runs: Iterable[RunResult], values: Callable[[RunResult], Values]) -> dict[Pair, Values]:
    """Values per base model and seed; the mean where several runs share both."""
    found: dict[Pair, list[Values]] = {}
    for run in runs:
        if one := values(run):
            found.setdefault((run.base, run.seed), []).append(one)
    return {
        pair: {key: fmean(v[key] for v in several) for key in set.intersection(*map(set, several))}
        for pair, several in found.items()
    }


def _estimates(metrics: Sequence[Metric], rows: Iterable[Values]) -> Estimates:
    several = list(rows)
    known = {m.key: [row[m.key] for row in several if m.key in row] for m in metrics}
    return {key: estimate(values) for key, values in known.items() if values}


def _ks(evaluation: Evaluation) -> list[str]:
    return list(evaluation["pass@k"])


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(map(repr, labels))
