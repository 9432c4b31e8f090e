"""Metrics of a comparison: what is read from a run, and how a number of each is shown."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from asyncds.compare.estimate import Estimate
from asyncds.compare.runs import RunResult
from asyncds.telemetry.summary import diagnose

Evaluation = dict[str, Any]
Values = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric is shown as `scale` × value with so many `digits`.

    temperature: that of the evaluation, None where it does not apply or is unknown. part: the
    evaluation set, "" for all problems. better: +1 if more is better, -1 if less is, 0 if neither.
    """

    key: str
    name: str
    better: int
    scale: float = 1.0
    digits: int = 0
    temperature: float | None = None
    part: str = ""

    @property
    def id(self) -> str:
        """The metric's name in the tidy table: `pass@4 T0.3`, `AIME24:pass@4 T0.3`, `lag_mean`."""
        at = "" if self.temperature is None else f" T{self.temperature:g}"
        return f"{self.part}:{self.key}{at}" if self.part else self.key + at

    def text(self, value: Estimate | None, *, signed: bool = False) -> str:
        """`40.2 ± 1.3`, without the interval if there is none; "–" for nothing."""
        if value is None:
            return "–"
        mean = f"{self.scale * value.mean:{'+' if signed else ''}.{self.digits}f}"
        half = value.half
        return mean if half is None else f"{mean} ± {self.scale * half:.{self.digits}f}"

    def verdict(self, difference: Estimate | None) -> str:
        """`better` or `worse` where the interval of a difference excludes 0, else ""."""
        if not self.better or difference is None or not difference.known_sign:
            return ""
        return "better" if difference.mean * self.better > 0 else "worse"


LAG = Metric(key="lag_mean", name="lag, mean", better=-1, digits=2)
COSTS = (
    LAG,
    Metric(key="lag_max", name="lag, largest", better=-1, digits=1),
    Metric(key="wall_seconds", name="wall s", better=-1),
    Metric(key="tokens_per_second", name="tokens/s", better=1),
)
"""Metrics of what a run took."""
EVALUATED = ("distinct_correct", "solution_multiplicity", "entropy", "n_failed")
MEASURES = (
    Metric(key="ess", name="effective sample size", better=1, digits=3),
    Metric(key="mismatch_kl", name="mismatch KL, nats per token", better=-1, digits=4),
    Metric(key="updates_clipped", name="updates clipped, %", better=0, scale=100),
    Metric(key="ds_shift_correct", name="DS shift, correct", better=0, digits=3),
    Metric(key="ds_shift_incorrect", name="DS shift, incorrect", better=0, digits=3),
    LAG,
)
"""Metrics that the learner measured, as means over the steps."""


ENTROPY = Metric(key="entropy", name="entropy", better=1, digits=2)
"""Entropy of an evaluation, in nats per sampled token."""


FAILED = Metric(key="n_failed", name="problems left out", better=-1, digits=1)
"""Held-out problems without samples."""


def pass_metric(k: str, temperature: float | None, part: str = "") -> Metric:
    """Pass@k, in percent; k `mean`: the mean over the k of the evaluation."""
    return Metric(
        key=f"pass@{k}",
        name=f"{part} Pass@{k}" if part else f"Pass@{k}",
        better=1,
        scale=100,
        digits=1,
        temperature=temperature,
        part=part,
    )


def distinct_metric(temperature: float | None, equivalence: str = "") -> Metric:
    """Distinct correct answers per problem; equivalence: another than the task's own."""
    return Metric(
        key=f"distinct/{equivalence}" if equivalence else "distinct_correct",
        name=f"distinct, {equivalence}" if equivalence else "distinct",
        better=1,
        digits=2,
        temperature=temperature,
    )


def solutions_metric(temperature: float | None) -> Metric:
    """The number of different solutions that a problem has."""
    name = "solutions per problem"
    return Metric(
        key="solution_multiplicity", name=name, better=1, digits=2, temperature=temperature
    )


def metric_of(id: str) -> Metric:
    """The metric with this id, such as `pass@4 T0.3`. Raises ValueError for another text."""
    rest, _, at = id.partition(" T")
    part, _, key = rest.rpartition(":")
    temperature = float(at) if at else None
    kind, _, of = key.replace("@", "/").partition("/")
    if kind == "pass":
        return pass_metric(of, temperature, part)
    if kind in ("distinct", "distinct_correct"):
        return distinct_metric(temperature, of)
    found = {m.key: m for m in (*COSTS, *MEASURES, ENTROPY, FAILED, solutions_metric(None))}
    if key not in found:
        raise ValueError(f"no metric is called {id!r}")
    return replace(found[key], temperature=temperature)


def temperatures(runs: Sequence[RunResult]) -> list[float | None]:
    """Temperatures of the runs' evaluations, in the order in which the runs have them."""
    return list(dict.fromkeys(t for run in runs for t in run.temperatures))


def common_sets(runs: Sequence[RunResult], temperature: float | None) -> list[str]:
    """The evaluation sets that all runs with this temperature have, if they have several."""
    found = [run.sets(temperature) for run in runs if temperature in run.temperatures]
    return [name for name in found[0] if all(name in sets for sets in found)] if found else []


def common_ks(runs: Sequence[RunResult], temperature: float | None, part: str = "") -> list[str]:
    """The k that base and result of all runs with this temperature have, ascending."""
    both = [set(e["pass@k"]) for run in runs for e in run.ends(temperature, part)]
    return sorted(set.intersection(*both), key=int) if both else []


def other_equivalences(evaluations: Sequence[Evaluation]) -> list[str]:
    """Equivalences besides the task's own under which all evaluations counted answers."""
    primary = evaluations[0].get("equivalence")
    return [
        name
        for name in evaluations[0].get("distinct", {})
        if name != primary and all(name in e.get("distinct", {}) for e in evaluations)
    ]


def observations(run: RunResult) -> Iterator[tuple[str, str, float]]:
    """(`base` or `result`, metric id, value) of everything that the run's summary says."""
    for temperature in run.temperatures:
        at = "" if temperature is None else f" T{temperature:g}"
        for part in ("", *run.sets(temperature)):
            of = f"{part}:" if part else ""
            ends = run.ends(temperature, part)
            stages = ("base", "result")[-len(ends) :]
            for stage, evaluation in zip(stages, ends, strict=True):
                for key, value in _evaluated(evaluation).items():
                    yield stage, of + key + at, value
    for key, value in _took(run).items():
        yield "result", key, value


def _evaluated(evaluation: Evaluation) -> Values:
    found = {f"pass@{k}": share for k, share in evaluation["pass@k"].items()}
    if evaluation["pass@k"]:
        found["pass@mean"] = fmean(evaluation["pass@k"].values())
    found |= {f"distinct/{name}": n for name, n in evaluation.get("distinct", {}).items()}
    found |= {key: evaluation.get(key) for key in EVALUATED}
    return {key: value for key, value in found.items() if value is not None}


def _took(run: RunResult) -> Values:
    lag = run.summary.get("lag") or {}
    known = diagnose(run.lines) | (run.summary.get("diagnostics") or {})
    found = {name: of.get("mean") for name, of in known.items()}
    found |= {"lag_mean": lag.get("mean"), "lag_max": lag.get("max")}
    found |= {key: run.summary.get(key) for key in ("wall_seconds", "tokens_per_second")}
    return {key: value for key, value in found.items() if value is not None}
