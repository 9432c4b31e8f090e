"""Measures whole training: this program beside TRL's GRPO trainer, and asynchronous beside not.

    python -m benchmarks.end_to_end [--repeats 3] [CASE …]

Rollouts per second of wall time, 256 a step, of the same tiny model on two cores; the first quarter
of the steps is left out on either side. TRL generates with transformers on two threads and rewards
at random; this program has its engine, its learner and its coordinator, a thread each, and scores.
The sides take turns, so that a slow minute of the machine meets both.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from asyncds.telemetry.run_log import read_run_log
from asyncds.tiny.model import save_untrained
from benchmarks.measured import ROOT, Row, save

ROLLOUTS = 256


@dataclass(frozen=True, kw_only=True)
class Case:
    """A workload. steps: of ours and of TRL's. settings: what differs from the quickstart's."""

    model: str
    max_tokens: int
    steps: int
    trl_steps: int
    settings: tuple[str, ...] = ()


CASES = {
    "short: at most 8 tokens": Case(
        model="trained",
        max_tokens=8,
        steps=160,
        trl_steps=40,
        settings=("generator.max_model_len=32",),
    ),
    "long-tailed: at most 512 tokens": Case(
        model="untrained",
        max_tokens=512,
        steps=12,
        trl_steps=5,
        settings=(
            "sampling.max_tokens=512",
            "generator.max_model_len=640",
            "algorithm.advantage.form=seq_mean",
            "learner.lr=1e-5",
        ),
    ),
}
SYNCHRONOUS = ("rollout.max_lag=0",)


def make_models(models: Path) -> None:
    """Make the models of the cases."""
    subprocess.run(
        [sys.executable, "-m", "asyncds.cli.main", "tiny-model", str(models / "trained")],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    save_untrained(models / "untrained")


def command(case: Case, models: Path, runs: str, *more: str) -> list[str]:
    """The command of a run of this program, which is written to the directory ``run`` of runs."""
    return [
        *(sys.executable, "-m", "asyncds.cli.main", "run", "configs/quickstart.yaml"),
        f"model={models / case.model}",
        f"runs_dir={runs}",
        f"steps={case.steps}",
        "name=run",
        "eval.every=0",
        "eval.n_problems=1",
        "eval.n_samples=1",
        "checkpoint.every=1000",
        *case.settings,
        *more,
    ]


def ours(case: Case, models: Path, *more: str) -> float:
    """Rollouts per second of a run of this program."""
    with tempfile.TemporaryDirectory() as directory:
        run = command(case, models, directory, *more)
        subprocess.run(run, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        lines = read_run_log(Path(directory) / "run" / "metrics.jsonl")
    times = [line["wall_seconds"] for line in lines if "learner/loss" in line]
    return _rate(times)


def trl(case: Case, models: Path) -> dict[str, list[float]]:
    """Seconds on the clock and of CPU time at the end of every step of TRL's trainer."""
    with tempfile.TemporaryDirectory() as directory:
        train = [sys.executable, "-m", "benchmarks.trl_grpo", str(models / case.model)]
        train += [str(case.max_tokens), str(case.trl_steps), directory]
        done = subprocess.run(
            train,
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": ""},
        )
    times: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return times


def _rate(times: list[float]) -> float:
    kept = times[len(times) // 4 :]
    return ROLLOUTS * (len(kept) - 1) / (kept[-1] - kept[0])


def main() -> None:
    """Measure the cases that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("cases", nargs="*", help="beginnings of their names")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        models = Path(directory)
        make_models(models)
        for name, case in CASES.items():
            if options.cases and not any(name.startswith(start) for start in options.cases):
                continue
            sides: dict[str, list[float]] = {"asyncds": [], "asyncds, max_lag 0": [], "TRL": []}
            for repeat in range(options.repeats):
                sides["asyncds"].append(ours(case, models))
                sides["asyncds, max_lag 0"].append(ours(case, models, *SYNCHRONOUS))
                sides["TRL"].append(_rate(trl(case, models)["wall"]))
                measured = ", ".join(f"{side} {values[-1]:.1f}" for side, values in sides.items())
                print(f"{name}, {repeat + 1} of {options.repeats}: {measured}", flush=True)
            rows += [
                Row(case=name, side=side, values=values, unit="rollouts/s")
                for side, values in sides.items()
            ]
    save("end_to_end", rows)


if __name__ == "__main__":
    main()
