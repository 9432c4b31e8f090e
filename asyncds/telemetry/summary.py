"""summary.json: what a run reached. The keys may be relied on by people and tools."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from asyncds.protocol.state import State
from asyncds.telemetry.files import replace_file, to_json
from asyncds.telemetry.machine import hardware, versions
from asyncds.telemetry.metrics.catalogue import metrics
from asyncds.telemetry.metrics.values import batch_values


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The keys of summary.json.

    status: a final state of the run. reason: what people should know of the end, "" where all steps
    were made. steps: training batches. policy_version: of the last published weights.
    groups_dropped: training groups given up, by reason. tokens_per_second: trained tokens over wall
    time.
    learner_idle_fraction: share of the learner's time spent waiting for batches, from its first
    batch on.
    generator_pause_fraction: share of the generators' time paused for new weights.
    weight_sync_seconds: {"p50", "p95"}, see `percentiles`. lag: {"mean", "max"} in weight versions,
    at consumption. diagnostics: {name: {"mean", "min", "max"}} over the steps, of the metrics that
    are declared with `summary`. best_checkpoint: the step of the checkpoint with the
    highest Pass@k (`checkpoint.keep_best`), None if none was evaluated. eval: results of
    `Journal.evaluations()`, the base model's first. versions, hardware: of the coordinator's
    process.
    """

    status: State
    reason: str = ""
    steps: int
    policy_version: int
    wall_seconds: float
    groups_trained: int
    groups_delivered: int
    groups_dropped: dict[str, int]
    tokens_generated: int
    tokens_trained: int
    tokens_per_second: float
    learner_idle_fraction: float
    generator_pause_fraction: float
    weight_sync_seconds: dict[str, float | None]
    lag: dict[str, float]
    diagnostics: dict[str, dict[str, float]]
    best_checkpoint: int | None = None
    eval: list[dict[str, Any]]
    versions: dict[str, str] = field(default_factory=versions)
    hardware: str = field(default_factory=hardware)


def diagnose(steps: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean, least and largest of each metric of the summary over the steps.

    By its key, one for each value of its labels; over the lines of metrics.jsonl that have a finite
    value of it.
    """
    found = {}
    for metric in metrics():
        if not metric.summary:
            continue
        lines = [batch_values(line, metric.role) for line in steps]
        for _, key in metric.found_in(set().union(*lines)):
            values = [v for line in lines if (v := line.get(key)) is not None and math.isfinite(v)]
            if values:
                mean = math.fsum(values) / len(values)
                found[key] = {"mean": mean, "min": min(values), "max": max(values)}
    return found


def percentiles(values: Sequence[float]) -> dict[str, float | None]:
    """The median and the 95th percentile as {"p50", "p95"}; None where there are no values."""
    if not values:
        return {"p50": None, "p95": None}
    p50, p95 = np.percentile(values, [50, 95])
    return {"p50": float(p50), "p95": float(p95)}


def write_summary(path: Path, summary: Summary) -> None:
    """Write the file; a reader sees the old one or the new one. What is not finite becomes null."""
    replace_file(path, to_json(asdict(summary), indent=2) + "\n")


def read_summary(path: Path) -> dict[str, Any] | None:
    """The content of a summary; None if the run has none yet."""
    return json.loads(path.read_text()) if path.exists() else None
