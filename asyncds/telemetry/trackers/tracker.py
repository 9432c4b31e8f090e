"""The interface of trackers, and the names of the journal's records there."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from asyncds.telemetry.metrics.catalogue import metrics
from asyncds.telemetry.metrics.values import evaluation_values

Record = Mapping[str, Any]


class Tracker(Protocol):
    """A sink of metrics. Every method may raise anything, or hang: its process is made for that.

    After an error, or in another process, `begin` is called again on a new object, and what was not
    known to be taken is sent once more.
    """

    def begin(self, *, name: str, run: str, step: int, config: Record) -> str:
        """Connect.

        name: of the run. run: what an earlier `begin` returned, "" at first: go on with it. step:
        what comes is of later ones; what is there of them is not valid any more. config: without
        secrets. Returns what identifies the run there.
        """

    def step(self, line: Record) -> None:
        """A line of metrics.jsonl."""

    def evaluation(self, result: Record) -> None:
        """A finished evaluation."""

    def rewind(self, step: int) -> None:
        """Steps after this one were undone, and are trained again."""

    def flush(self) -> None:
        """Returns when everything is taken."""

    def finish(self, summary: Record) -> None:
        """The run is over. summary: of summary.json."""


def step_numbers(line: Record) -> dict[str, float]:
    """The numbers of a step: the learner's as in metrics.jsonl, others as `train/NAME`."""
    named = {
        key if key.startswith("learner/") else f"train/{key}": value
        for key, value in line.items()
        if key not in ("step", "time")
    }
    return _finite(named)


def evaluation_numbers(result: Record) -> dict[str, float]:
    """The numbers of an evaluation that are metrics, as `eval/T1/pass@4`."""
    values = evaluation_values(result)
    keys = [
        key
        for metric in metrics()
        if metric.record == "evaluation"
        for _, key in metric.found_in(values)
    ]
    return _finite({f"eval/T{result['temperature']:g}/{key}": values[key] for key in keys})


def summary_numbers(summary: Record) -> dict[str, float]:
    """The numbers of a summary but for its evaluations, as `summary/lag/max`."""
    return _finite(dict(flat({k: v for k, v in summary.items() if k != "eval"}, "summary")))


def flat(values: Any, prefix: str = "", between: str = "/") -> Iterator[tuple[str, Any]]:
    """(path, value) of everything in nested mappings."""
    if not isinstance(values, Mapping):
        yield prefix, values
        return
    for key, value in values.items():
        yield from flat(value, f"{prefix}{between}{key}" if prefix else str(key), between)


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
    return {
        key: float(value)
        for key, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
