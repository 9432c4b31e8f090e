"""Tables of a comparison: which rows, columns and numbers are shown, in whatever form."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from asyncds.compare.comparison import Comparison, Estimates, Less
from asyncds.compare.estimate import Estimate
from asyncds.compare.groups import last_parts
from asyncds.compare.metrics import (
    COSTS,
    FAILED,
    MEASURES,
    Metric,
    common_ks,
    common_sets,
    distinct_metric,
    other_equivalences,
    pass_metric,
    solutions_metric,
    temperatures,
)

MEANS = (
    "Mean over runs ± 95 % interval (Student's t); Pass@k in percent. distinct: different right "
    "answers found per problem. base: mean over base models, before training."
)
DIFFERENCES = (
    "Differences, “less …”, are within pairs of runs of the same base model and seed: mean over "
    "pairs ± 95 % interval; of Pass@k in percentage points."
)


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column shows one metric at one value of the setting (its place; 0 where there is none)."""

    heading: str
    metric: Metric
    at: int = 0


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A number of a table.

    text: how it is shown. verdict: `better` or `worse` where the interval of a difference excludes
    0, else "".
    """

    value: Estimate | None
    text: str
    verdict: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a table.

    group: its place, None: base models. n: how many runs or pairs a cell is the mean of, unless it
    says otherwise.
    """

    label: str
    group: int | None
    n: int
    cells: tuple[Cell, ...]

    @property
    def count(self) -> str:
        """N as it is shown: that of base models is not."""
        return "" if self.group is None else str(self.n)


@dataclass(frozen=True, kw_only=True)
class PairRow:
    """The differences of one pair of runs, as texts."""

    label: str
    group: int
    base: str
    seed: int
    texts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of means (counted in `runs`) or of differences (counted in `pairs`, and listed)."""

    title: str
    counted: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    pairs: tuple[PairRow, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Section:
    """Tables under one heading.

    metrics: those it shows. result: whether they are the result over all held-out problems, rather
    than that of evaluation sets, or of the training.
    """

    title: str
    metrics: tuple[Metric, ...]
    temperature: float | None
    tables: tuple[Table, ...]
    result: bool = True


def sections(comparison: Comparison) -> list[Section]:
    """Everything that is shown, by section.

    The results at each temperature, of all problems and by evaluation set, then what training took
    and what the learner measured. Columns are metrics, or values of the setting.
    """
    by_metric = comparison.over is None
    found = []
    for temperature in temperatures(comparison.runs):
        metrics = result_metrics(comparison, temperature)
        title = "Result" if temperature is None else f"Result at temperature {temperature:g}"
        tables = (
            _by_metric(comparison, title, metrics)
            if by_metric
            else [t for m in metrics for t in _by_value(comparison, m)]
        )
        found.append(
            Section(
                title=title, metrics=tuple(metrics), temperature=temperature, tables=tuple(tables)
            )
        )
        found.append(_of_sets(comparison, title, temperature))
    measures = dict.fromkeys([*COSTS, *MEASURES] if by_metric else MEASURES)
    known = set(comparison.rows["metric"])
    metrics = [metric for metric in measures if metric.key in known]
    tables = (
        _by_metric(comparison, "Training", metrics)
        if by_metric
        else [means(comparison, _capital(m.name), _along(comparison, m)) for m in metrics]
    )
    training = Section(
        title="Training",
        metrics=tuple(metrics),
        temperature=None,
        tables=tuple(tables),
        result=False,
    )
    return [section for section in [*found, training] if section.tables]


def _of_sets(comparison: Comparison, title: str, temperature: float | None) -> Section:
    """The results by evaluation set, for the least k and the largest."""
    runs = comparison.runs
    metrics = []
    for part in common_sets(runs, temperature):
        ks = common_ks(runs, temperature, part)
        metrics += [pass_metric(k, temperature, part) for k in dict.fromkeys([*ks[:1], *ks[-1:]])]
    title = f"{title}, by evaluation set"
    tables = (
        _by_metric(comparison, title, metrics)
        if comparison.over is None
        else [table for metric in metrics for table in _by_value(comparison, metric)]
    )
    return Section(
        title=title,
        metrics=tuple(metrics),
        temperature=temperature,
        tables=tuple(tables),
        result=False,
    )


def result_metrics(comparison: Comparison, temperature: float | None) -> list[Metric]:
    """The metrics of results that all runs have.

    Pass@k for the k that all runs have, over a setting the smallest and the largest; then distinct
    answers, if they were counted among as many samples everywhere, and in one way at each value of
    the setting.
    """
    runs = [run for run in comparison.runs if temperature in run.temperatures]
    ks = common_ks(runs, temperature)
    if not ks:
        return []
    if comparison.over is not None:
        ks = list(dict.fromkeys([ks[0], ks[-1]]))
    metrics = [pass_metric(k, temperature) for k in ks]
    evaluations = [e for run in runs for e in run.ends(temperature)]
    places = range(len(comparison.values))
    ways = [
        {
            e.get("equivalence")
            for run in comparison.at(place)
            for e in (run.ends(temperature) if temperature in run.temperatures else [])
        }
        for place in places
    ]
    alike = all(len(way) < 2 for way in ways) and len({e.get("n_samples") for e in evaluations}) < 2
    if alike and all(e.get("distinct_correct") is not None for e in evaluations):
        metrics.append(distinct_metric(temperature))
        if comparison.over is None:
            others = other_equivalences(evaluations)
            metrics += [distinct_metric(temperature, name) for name in others]
    if any(e.get("n_failed") for e in evaluations):
        metrics.append(replace(FAILED, temperature=temperature))
    return metrics


def means(
    comparison: Comparison,
    title: str,
    columns: Sequence[Column],
    references: Sequence[tuple[str, Sequence[Column]]] = (),
) -> Table:
    """Means of all groups.

    references: rows above them that show the base models, with columns of their own.
    """
    base, ours = comparison.base_means(), comparison.means()
    above = [
        _row(label, None, cols, {(None, *key): value for key, value in base.items()})
        for label, cols in references
    ]
    return Table(
        title=title,
        counted="runs",
        columns=tuple(columns),
        rows=tuple(row for row in [*above, *_rows(comparison, columns, ours)] if row.n),
    )


def less(comparison: Comparison, what: Less, title: str, columns: Sequence[Column]) -> Table | None:
    """Differences of all groups that have any; None where there is no pair."""
    ours, differences = comparison.less(what)
    rows = [row for row in _rows(comparison, columns, ours, signed=True) if row.n]
    names = base_names(comparison)
    keys = [(column.at, column.metric.id) for column in columns]
    pairs = [
        PairRow(
            label=comparison.groups[one.group].label,
            group=one.group,
            base=names[one.base],
            seed=one.seed,
            texts=tuple(
                column.metric.text(_single(one.values.get(key)), signed=True)
                for column, key in zip(columns, keys, strict=True)
            ),
        )
        for one in differences
        if any(key in one.values for key in keys)
    ]
    return (
        Table(
            title=title,
            counted="pairs",
            columns=tuple(columns),
            rows=tuple(rows),
            pairs=tuple(pairs),
        )
        if rows
        else None
    )


def base_names(comparison: Comparison) -> dict[str, str]:
    """How to call the base models of all runs."""
    return last_parts(run.base for run in comparison.runs)


def plain_table(table: Table, *, pairs: bool = False) -> tuple[list[str], list[list[str]]]:
    """Heading and rows as texts; pairs: every pair instead of the means."""
    headings = [column.heading for column in table.columns]
    if pairs:
        rows = [[p.label, p.base, str(p.seed), *p.texts] for p in table.pairs]
        return ["group", "base", "seed", *headings], rows
    rows = [[r.label, r.count, *(cell.text for cell in r.cells)] for r in table.rows]
    return ["group", table.counted, *headings], rows


def numbers(table: Table) -> dict[str, Any]:
    """The table as plain values."""
    return {
        "title": table.title,
        "columns": [c.heading for c in table.columns],
        "metrics": [c.metric.id for c in table.columns],
        "rows": [
            {
                "label": row.label,
                "cells": [
                    c.value and {"mean": c.value.mean, "half": c.value.half, "n": c.value.n}
                    for c in row.cells
                ],
            }
            for row in table.rows
        ],
    }


def _by_metric(comparison: Comparison, title: str, metrics: Sequence[Metric]) -> list[Table]:
    """A column per metric: means, then differences to the baseline."""
    if not metrics:
        return []
    columns = [Column(heading=m.name, metric=m) for m in metrics]
    baseline = comparison.groups[comparison.baseline].label
    apart = less(comparison, "baseline", f"{title}, less {baseline}", columns)
    return [means(comparison, title, columns, [("base", columns)]), *([apart] if apart else [])]


def _by_value(comparison: Comparison, metric: Metric) -> list[Table]:
    """A table with a column per value of the setting.

    Means, differences to the baseline, and differences of each group to itself at the first value.
    """
    columns = _along(comparison, metric)
    at = "" if metric.temperature is None else f" at temperature {metric.temperature:g}"
    title = _capital(metric.name) + at
    references = [("base", columns)]
    distinct, solutions = distinct_metric(metric.temperature), solutions_metric(metric.temperature)
    base = comparison.base_means()
    known = {value.mean for (_, key), value in base.items() if key == solutions.id}
    if len(known) > 1 or (known and comparison.over == "model"):
        if metric != distinct and distinct in result_metrics(comparison, metric.temperature):
            references.append(("distinct at base", _along(comparison, distinct)))
        references.append((solutions.name, _along(comparison, solutions)))
    baseline = comparison.groups[comparison.baseline].label
    tables: list[Table | None] = [
        means(comparison, title, columns, references),
        less(comparison, "baseline", f"{title}, less {baseline}", columns),
    ]
    ways = {e.get("equivalence") for run in comparison.runs for e in run.ends(metric.temperature)}
    # Tasks differ in when two answers are the same; each column has its own way then.
    if metric != distinct or len(ways) == 1:
        itself = f"{title}, less itself at {comparison.leaf} {comparison.values[0]}"
        tables.append(less(comparison, "first", itself, columns[1:]))
    return [table for table in tables if table]


def _along(comparison: Comparison, metric: Metric) -> list[Column]:
    return [Column(heading=v, metric=metric, at=i) for i, v in enumerate(comparison.values)]


def _rows(
    comparison: Comparison, columns: Sequence[Column], ours: Estimates, *, signed: bool = False
) -> list[Row]:
    return [
        _row(group.label, place, columns, ours, signed=signed)
        for place, group in enumerate(comparison.groups)
    ]


def _row(
    label: str,
    group: int | None,
    columns: Sequence[Column],
    ours: Estimates,
    *,
    signed: bool = False,
) -> Row:
    """N is 0 where no cell has a value."""
    values = [ours.get((group, column.at, column.metric.id)) for column in columns]
    counts = Counter(value.n for value in values if value)
    usual = counts.most_common(1)[0][0] if counts else 0
    cells = [
        Cell(
            value=value,
            text=column.metric.text(value, signed=signed)
            + (f" (n={value.n})" if value and value.n != usual else ""),
            verdict=column.metric.verdict(value) if signed else "",
        )
        for column, value in zip(columns, values, strict=True)
    ]
    return Row(label=label, group=group, n=usual, cells=tuple(cells))


def _single(value: float | None) -> Estimate | None:
    return None if value is None else Estimate(mean=value, half=None, n=1)


def _capital(name: str) -> str:
    return name[0].upper() + name[1:]
