"""A comparison: one tidy table of every run's numbers, and the estimates that are read from it.

The tidy table has a row per run, metric and stage (base or result). Runs of one base model and seed
share their problems, their base and much of their luck: a difference within such a pair is free of
that, so its mean is known better than the difference of two means.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

import pandas as pd

from asyncds.compare.estimate import Estimate, estimate
from asyncds.compare.groups import (
    RunGroup,
    as_number,
    group_runs,
    last_parts,
    setting_text,
    settings,
)
from asyncds.compare.metrics import common_ks, observations, temperatures
from asyncds.compare.runs import RunResult

ABSENT = "–"
"""The value of runs whose configuration lacks the setting."""
MOST_NAMED = 6
"""Settings in an error message."""
CELL = ["group", "at", "metric"]
PAIR = ["group", "at", "base", "seed", "metric"]

Estimates = Mapping[tuple[Any, ...], Estimate]
Less = Literal["baseline", "first"]


class NotComparableError(Exception):
    """The runs have nothing in common to compare, or the baseline is none of them."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The difference of one pair of runs: values by (place of the setting's value, metric id)."""

    group: int
    base: str
    seed: int
    values: dict[tuple[int, str], float]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Groups of runs, in order.

    over: the setting whose `values` are told apart; without one there is a single value. baseline:
    a place among the groups. rows: the tidy table, with `group` and `at` (the value) as places.
    """

    groups: tuple[RunGroup, ...]
    baseline: int
    over: str | None
    values: tuple[str, ...]
    rows: pd.DataFrame

    @property
    def runs(self) -> list[RunResult]:
        """All runs."""
        return [run for group in self.groups for run in group.runs]

    @property
    def leaf(self) -> str:
        """The last part of the setting's name."""
        return (self.over or "").rpartition(".")[2]

    def at(self, place: int) -> list[RunResult]:
        """The runs that have this value of the setting."""
        value = _values(self.runs, self.over)[place]
        return [run for run in self.runs if _value_of(run, self.over) == value]

    def means(self) -> Estimates:
        """Means over runs, by (group, at, metric id)."""
        return _estimates(self.rows[self.rows["stage"] == "result"].set_index(CELL)["value"])

    def base_means(self) -> Estimates:
        """Means over base models, by (at, metric id).

        Seeds are no draws here, they evaluate the same weights; so few base models have no
        interval.
        """
        rows = self.rows[self.rows["stage"] == "base"]
        models = rows.groupby(["at", "metric", "base"])["value"].mean()
        lists = models.groupby(level=["at", "metric"]).agg(list)
        return {k: Estimate(mean=fmean(v), half=None, n=len(v)) for k, v in lists.items()}

    def less(self, what: Less) -> tuple[Estimates, list[Difference]]:
        """Differences within pairs.

        To the baseline at the same value of the setting, or of a group to itself at the first
        value. Means over the pairs, and each pair.
        """
        level, reference = ("group", self.baseline) if what == "baseline" else ("at", 0)
        rows = self.rows[self.rows["stage"] == "result"]
        wide = rows.groupby(PAIR)["value"].mean().unstack(level)
        others = wide.drop(columns=reference).sub(wide[reference], axis=0)
        apart = others.stack().dropna().reorder_levels(PAIR).sort_index()
        pairs: dict[tuple[int, str, int], dict[tuple[int, str], float]] = {}
        for (group, at, base, seed, metric), value in apart.items():
            pairs.setdefault((group, base, seed), {})[at, metric] = value
        return _estimates(apart.reset_index(["base", "seed"], drop=True)), [
            Difference(group=group, base=base, seed=seed, values=values)
            for (group, base, seed), values in sorted(pairs.items())
        ]


def compare(
    runs: Sequence[RunResult], *, over: str | None = None, baseline: str | None = None
) -> Comparison:
    """Compare at least one run.

    over: a dotted setting in which the runs of a group may differ. baseline: a group's label;
    default: the first.

    Raises NotComparableError for a setting that no run has or that is the same in all, for an
    unknown baseline, or where no k of Pass@k is common to the runs of any temperature.
    """
    values = _values(runs, over)
    groups = group_runs(runs, over=over)
    labels = [group.label for group in groups]
    if baseline is not None and baseline not in labels:
        raise NotComparableError(
            f"there is no group {baseline!r} to be the baseline: "
            f"there is {', '.join(map(repr, labels))}"
        )
    if not any(common_ks(runs, t) for t in temperatures(runs)):
        known = "; ".join(
            f"{run.path} has {', '.join(run.ends(t)[-1]['pass@k'])}"
            for run in runs
            for t in run.temperatures
        )
        raise NotComparableError(f"no k of Pass@k is common to all runs: {known}")
    return Comparison(
        groups=tuple(groups),
        baseline=0 if baseline is None else labels.index(baseline),
        over=over,
        values=tuple(last_parts(values).values()),
        rows=_tidy(groups, over, values),
    )


def _tidy(groups: Sequence[RunGroup], over: str | None, values: Sequence[str]) -> pd.DataFrame:
    found = [
        {
            "group": place,
            "at": values.index(_value_of(run, over)),
            "run": run.path,
            "base": run.base,
            "seed": run.seed,
            "stage": stage,
            "metric": metric,
            "value": value,
        }
        for place, group in enumerate(groups)
        for run in group.runs
        for stage, metric, value in observations(run)
    ]
    return pd.DataFrame(found)


def _estimates(values: "pd.Series[float]") -> Estimates:
    """values: indexed by group, at and metric."""
    lists = values.groupby(level=CELL).agg(list)
    return {key: estimate(several) for key, several in lists.items()}


def _value_of(run: RunResult, over: str | None) -> str:
    """The run's value of the setting, as a text."""
    return "" if over is None else setting_text(run.config, over) or ABSENT


def _values(runs: Sequence[RunResult], over: str | None) -> list[str]:
    """Numbers ascending, then the others in the order of the runs."""
    values = list(dict.fromkeys(_value_of(run, over) for run in runs))
    if over is None:
        return values
    if values == [ABSENT]:
        raise NotComparableError(f"no run has a setting {over!r}: {_differing(runs, over)}")
    if len(values) == 1:
        raise NotComparableError(f"{over} is {values[0]} in all runs: {_differing(runs, over)}")
    numbers = [v for v in values if isinstance(as_number(v), float)]
    return [*sorted(numbers, key=float), *(v for v in values if v not in numbers)]


def _differing(runs: Sequence[RunResult], over: str) -> str:
    names = dict.fromkeys(["model", "seed", *(n for run in runs for n in settings(run.config))])
    apart = [n for n in names if len({_value_of(run, n) for run in runs}) > 1]
    if not apart:
        return f"give runs that differ in {over}"
    more = f" and {len(apart) - MOST_NAMED} more" if len(apart) > MOST_NAMED else ""
    return f"they differ in {', '.join(apart[:MOST_NAMED])}{more}"
