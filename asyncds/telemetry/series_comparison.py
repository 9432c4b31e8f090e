"""Series of runs along the values of one setting: how each series goes, and how far apart they are.

A series is a group whose runs may differ in the setting. Differences are paired by base model and
seed, as those of groups are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from asyncds.telemetry.estimate import Estimate, estimate
from asyncds.telemetry.group_comparison import (
    COSTS,
    Metric,
    NotComparableError,
    PairDifference,
    Values,
    base_values,
    by_pair,
    common_ks,
    ends,
    first_and_last,
    no_common_k,
    paired_row,
    pass_metric,
    result_values,
    run_costs,
    temperatures,
)
from asyncds.telemetry.run_groups import (
    RunGroup,
    as_number,
    group_runs,
    last_parts,
    setting_text,
    settings,
)
from asyncds.telemetry.run_results import RunResult
from asyncds.telemetry.summary import diagnose

ABSENT = "–"
"""The value of runs whose configuration lacks the setting."""

DISTINCT = Metric(key="distinct_correct", name="distinct answers", better=1, digits=2)
MULTIPLICITY = Metric(key="multiplicity", name="solutions per problem", better=1, digits=2)
MEASURES = (
    Metric(key="ess", name="effective sample size", better=1, digits=3),
    Metric(key="mismatch_kl", name="mismatch KL, nats per token", better=-1, digits=4),
    COSTS[0],
)
MOST_NAMED = 6
"""Settings in an error message."""

Read = Callable[[RunResult], Values]


@dataclass(frozen=True, kw_only=True)
class SeriesRow:
    """Along the columns: means, None where nothing is known, and of differences the pairs that each
    is the mean of. metric: how they are shown."""

    label: str
    metric: Metric
    cells: tuple[Estimate | None, ...]
    pairs: tuple[tuple[PairDifference, ...], ...] = ()


@dataclass(frozen=True, kw_only=True)
class SeriesTable:
    """A row per series, a column per value of the setting. references: rows above them, of the base
    models and their task."""

    columns: tuple[str, ...]
    rows: tuple[SeriesRow, ...]
    references: tuple[SeriesRow, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """All that is shown of a metric. to_baseline: less the baseline at the same value; to_first:
    less the series itself at the first value; None where there are no pairs."""

    title: str
    metric: Metric
    temperature: float | None
    means: SeriesTable
    to_baseline: SeriesTable | None = None
    to_first: SeriesTable | None = None


@dataclass(frozen=True, kw_only=True)
class SeriesComparison:
    """All series, in order, over the setting's values; `results` has what evaluations measured,
    `measures` what the training did."""

    over: str
    values: tuple[str, ...]
    series: tuple[RunGroup, ...]
    baseline: str
    results: tuple[Quantity, ...]
    measures: tuple[Quantity, ...]

    @property
    def leaf(self) -> str:
        """The last part of the setting's name."""
        return self.over.rpartition(".")[2]


@dataclass(frozen=True, kw_only=True)
class _Runs:
    """The runs of each series at each value."""

    labels: Sequence[str]
    columns: Sequence[str]
    cells: Sequence[Sequence[Sequence[RunResult]]]
    baseline: int

    def at(self, column: int) -> list[RunResult]:
        return [run for row in self.cells for run in row[column]]

    def means(self, metric: Metric, read: Read, references: Sequence[SeriesRow]) -> SeriesTable:
        rows = [
            SeriesRow(label=label, metric=metric, cells=tuple(_mean(metric, c, read) for c in row))
            for label, row in zip(self.labels, self.cells, strict=True)
        ]
        return SeriesTable(
            columns=tuple(self.columns), rows=_known(rows), references=(*references,)
        )

    def to_baseline(self, metric: Metric, read: Read) -> SeriesTable | None:
        rows = [
            _less(self.labels[i], metric, row, self.cells[self.baseline], read)
            for i, row in enumerate(self.cells)
            if i != self.baseline
        ]
        return _table(self.columns, rows)

    def to_first(self, metric: Metric, read: Read) -> SeriesTable | None:
        rows = [
            _less(label, metric, row[1:], [row[0]] * (len(row) - 1), read)
            for label, row in zip(self.labels, self.cells, strict=True)
        ]
        return _table(self.columns[1:], rows)


def compare_series(
    runs: Sequence[RunResult], *, over: str, baseline: str | None = None
) -> SeriesComparison:
    """Compare at least one run. over: a dotted setting. baseline: a series; default: the first.

    Raises NotComparableError for a setting that no run has or that is the same in all, for a
    baseline that is no series, or where no k of Pass@k is common to the runs of a temperature.
    """
    values = _values(runs, over)
    series = group_runs(runs, over=over)
    labels = [group.label for group in series]
    if baseline is not None and baseline not in labels:
        raise NotComparableError(
            f"there is no series {baseline!r} to be the baseline: "
            f"there is {', '.join(map(repr, labels))}"
        )
    chosen = labels[0] if baseline is None else baseline
    there = _Runs(
        labels=labels,
        columns=list(last_parts(values).values()),
        cells=[
            [[run for run in group.runs if value_of(run, over) == v] for v in values]
            for group in series
        ],
        baseline=labels.index(chosen),
    )
    results = [
        quantity
        for t in temperatures(series)
        for quantity in _results(there, series, t, always=over == "model")
    ]
    if not results:
        raise no_common_k(series)
    measures = [
        Quantity(title=_capital(m.name), metric=m, temperature=None, means=means)
        for m in MEASURES
        if (means := there.means(m, _measured, [])).rows
    ]
    return SeriesComparison(
        over=over,
        values=tuple(there.columns),
        series=tuple(series),
        baseline=chosen,
        results=tuple(results),
        measures=tuple(measures),
    )


def value_of(run: RunResult, over: str) -> str:
    """The run's value of the setting, as a text."""
    text = setting_text(run.config, over)
    return ABSENT if text is None else text


def _values(runs: Sequence[RunResult], over: str) -> list[str]:
    """Numbers ascending, then the others in the order of the runs."""
    values = list(dict.fromkeys(value_of(run, over) for run in runs))
    if values == [ABSENT]:
        raise NotComparableError(f"no run has a setting {over!r}: {_differing(runs, over)}")
    if len(values) == 1:
        raise NotComparableError(f"{over} is {values[0]} in all runs: {_differing(runs, over)}")
    numbers = [v for v in values if isinstance(as_number(v), float)]
    return [*sorted(numbers, key=float), *(v for v in values if v not in numbers)]


def _differing(runs: Sequence[RunResult], over: str) -> str:
    names = dict.fromkeys(["model", "seed", *(n for run in runs for n in settings(run.config))])
    apart = [n for n in names if len({value_of(run, n) for run in runs}) > 1]
    if not apart:
        return f"give runs that differ in {over}"
    more = f" and {len(apart) - MOST_NAMED} more" if len(apart) > MOST_NAMED else ""
    return f"they differ in {', '.join(apart[:MOST_NAMED])}{more}"


def _results(
    there: _Runs, series: Sequence[RunGroup], temperature: float | None, *, always: bool
) -> list[Quantity]:
    """Pass@k for the smallest and the largest k, and distinct answers, where all runs have them."""
    columns = range(len(there.columns))
    runs = [[run for run in there.at(c) if temperature in run.temperatures] for c in columns]
    metrics = [pass_metric(k) for k in first_and_last(common_ks(series, temperature))]
    if not metrics:
        return []
    counted = [{e for run in some for e in _counting(run, temperature)} for some in runs]
    everywhere = set.union(*counted)
    # More samples find more answers; tasks differ in when two are the same, each in its column.
    alike = all(len(kinds) < 2 for kinds in counted) and len({n for n, _ in everywhere}) == 1
    if alike and all(_has_distinct(run, temperature) for some in runs for run in some):
        metrics.append(DISTINCT)

    def base(metric: Metric, label: str) -> SeriesRow:
        return _of_bases(label, metric, runs, partial(base_values, temperature=temperature))

    def multiplicity(run: RunResult) -> Values:
        known = ends(run, temperature)[0].get("solution_multiplicity")
        return {} if known is None else {MULTIPLICITY.key: known}

    solutions = _of_bases(MULTIPLICITY.name, MULTIPLICITY, runs, multiplicity)
    known = {cell.mean for cell in solutions.cells if cell}
    apart = len(known) > 1 or (always and bool(known))
    read = partial(result_values, temperature=temperature)
    found = []
    for metric in metrics:
        references = [base(metric, "base")]
        if apart and metric is not DISTINCT and DISTINCT in metrics:
            references.append(base(DISTINCT, "distinct at base"))
        references += [solutions] if apart else []
        same = metric is not DISTINCT or len(everywhere) == 1
        found.append(
            Quantity(
                title=_capital(metric.name) + _at(temperature),
                metric=metric,
                temperature=temperature,
                means=there.means(metric, read, references),
                to_baseline=there.to_baseline(metric, read),
                to_first=there.to_first(metric, read) if same else None,
            )
        )
    return found


def _counting(run: RunResult, temperature: float | None) -> set[tuple[int | None, str | None]]:
    """With how many samples, and under which equivalence, base and result were counted."""
    return {(e.get("n_samples"), e.get("equivalence")) for e in ends(run, temperature)}


def _has_distinct(run: RunResult, temperature: float | None) -> bool:
    return all(e.get("distinct_correct") is not None for e in ends(run, temperature))


def _of_bases(
    label: str, metric: Metric, runs: Sequence[Sequence[RunResult]], read: Read
) -> SeriesRow:
    """Means over base models. Seeds are no draws here: they evaluate the same weights."""
    cells = []
    for some in runs:
        bases: dict[str, list[Values]] = {}
        for (base, _), values in by_pair(some, read).items():
            bases.setdefault(base, []).append(values)
        means = [_estimate(metric, several) for several in bases.values()]
        cells.append(_estimate(metric, [{metric.key: one.mean} for one in means if one]))
    return SeriesRow(label=label, metric=metric, cells=tuple(cells))


def _measured(run: RunResult) -> Values:
    """The values of `MEASURES` that the run has: means over its steps."""
    known = diagnose(run.lines) | (run.summary.get("diagnostics") or {})
    means = {name: of.get("mean") for name, of in known.items()} | run_costs(run)
    return {m.key: value for m in MEASURES if (value := means.get(m.key)) is not None}


def _less(
    label: str,
    metric: Metric,
    ours: Sequence[Sequence[RunResult]],
    theirs: Sequence[Sequence[RunResult]],
    read: Read,
) -> SeriesRow:
    """Ours less theirs, column by column."""
    found = [
        paired_row(label, [metric], by_pair(a, read), by_pair(b, read))
        for a, b in zip(ours, theirs, strict=True)
    ]
    return SeriesRow(
        label=label,
        metric=metric,
        cells=tuple(one.values.get(metric.key) for one in found),
        pairs=tuple(one.pairs for one in found),
    )


def _mean(metric: Metric, runs: Sequence[RunResult], read: Read) -> Estimate | None:
    return _estimate(metric, [read(run) for run in runs])


def _estimate(metric: Metric, rows: Sequence[Values]) -> Estimate | None:
    known = [row[metric.key] for row in rows if metric.key in row]
    return estimate(known) if known else None


def _table(columns: Sequence[str], rows: Sequence[SeriesRow]) -> SeriesTable | None:
    known = _known(rows)
    return SeriesTable(columns=tuple(columns), rows=known) if known else None


def _known(rows: Sequence[SeriesRow]) -> tuple[SeriesRow, ...]:
    return tuple(row for row in rows if any(row.cells))


def _at(temperature: float | None) -> str:
    return "" if temperature is None else f" at temperature {temperature:g}"


def _capital(name: str) -> str:
    return name[0].upper() + name[1:]
