"""Small run directories to compare: configuration, summary and metrics, without a journal."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asyncds.config.load import dump_config, parse_config
from asyncds.protocol.state import State
from asyncds.telemetry.run_log import RunLog
from asyncds.telemetry.summary import Summary, percentiles, write_summary

KS = (1, 4, 16, 64)


def small_run(
    directory: Path,
    *,
    base: str = "models/a",
    seed: int = 0,
    gain: float = 0.3,
    variety: float = 0.6,
    wall: float = 100.0,
    steps: int = 4,
    ks: Sequence[int] = KS,
    temperatures: Sequence[float | None] = (1.0,),
    status: State | None = State.FINISHED,
    sets: Mapping[str, float] = {},
    **settings: Any,
) -> Path:
    """A run whose Pass@1 rises by `gain`; the greater `variety`, the faster Pass@k grows with k.
    Base model and seed move all of it up or down together. status None: no summary yet. sets:
    evaluation sets, and how much of the share of all problems each has."""
    directory.mkdir(parents=True)
    config = parse_config(
        {"name": directory.name, "model": base, "seed": seed, "steps": steps, **settings}
    )
    (directory / "config.yaml").write_text(dump_config(config))
    luck = np.random.default_rng([seed, *base.encode()]).normal(0, 0.02)
    rng = np.random.default_rng([seed, round(1e6 * gain), round(1e6 * variety)])

    def numbers(step: int, part: float, temperature: float | None) -> dict[str, Any]:
        share = part * (0.16 + luck + gain * _progress(step, steps))
        return _evaluation(step, steps, share, variety, ks, temperature)

    evaluations = [
        numbers(step, 1.0, temperature)
        | {"sets": {name: numbers(step, part, temperature) for name, part in sets.items()}}
        for step in (0, steps // 2, steps)
        for temperature in temperatures
    ]
    with RunLog(directory / "metrics.jsonl") as log:
        for step in range(1, steps + 1):
            log.write(
                {
                    "step": step,
                    "reward": 0.16 + luck + gain * _progress(step, steps) + rng.normal(0, 0.03),
                    "distinct_correct": 2.4 + variety * step / steps + luck + rng.normal(0, 0.1),
                    "learner/entropy": 0.7 - (0.8 - variety) * step / steps + luck,
                }
            )
    if status is not None:
        write_summary(directory / "summary.json", _summary(status, steps, wall, evaluations))
    return directory


def _progress(step: int, steps: int) -> float:
    return 1 - math.exp(-4 * step / steps)


def _evaluation(
    step: int,
    steps: int,
    share: float,
    variety: float,
    ks: Sequence[int],
    temperature: float | None,
) -> dict[str, Any]:
    growth = 0.6 + (variety - 0.6) * _progress(step, steps)
    hotter = 1.0 if temperature is None else temperature
    result = {
        "version": step,
        "step": step,
        "pass@k": {str(k): 1 - (1 - share / hotter) ** (k ** (growth * hotter)) for k in ks},
        "distinct_correct": 2 + variety * step / steps,
        "equivalence": "written",
        "distinct": {"written": 2 + variety * step / steps, "commutative": 1.5},
        "n_samples": 64,
    }
    return result if temperature is None else result | {"temperature": temperature}


def _summary(status: State, steps: int, wall: float, evaluations: list[dict[str, Any]]) -> Summary:
    return Summary(
        status=status,
        steps=steps,
        policy_version=steps,
        wall_seconds=wall,
        groups_trained=2 * steps,
        groups_delivered=2 * steps,
        groups_dropped={},
        tokens_generated=1000 * steps,
        tokens_trained=1000 * steps,
        tokens_per_second=1000 * steps / wall,
        learner_idle_fraction=0.3,
        generator_pause_fraction=0.1,
        weight_sync_seconds=percentiles([0.2]),
        lag={"mean": 1.5, "max": 3},
        diagnostics={"ess": {"mean": 0.97, "min": 0.9, "max": 1.0}},
        eval=evaluations,
    )
