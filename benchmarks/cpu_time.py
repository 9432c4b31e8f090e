"""Measures the CPU time of a rollout: in which process of ours it goes, and beside TRL's trainer.

    python -m benchmarks.cpu_time [--repeats 2]

The short case of ``benchmarks.end_to_end``, in which both cores are busy all the time. CPU seconds
of every process over the middle half of the steps, divided by the rollouts that were trained on in
it. Of TRL, which is one process, those of the steps after the first quarter.
"""

import argparse
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil

from asyncds.telemetry.run_log import read_run_log
from benchmarks.end_to_end import CASES, ROLLOUTS, Case, command, make_models, trl
from benchmarks.measured import ROOT, Row, save

PARTS = {
    "VLLM::EngineCore": "engine: the model and its scheduler",
    "generator": "generator: requests to the engine, groups",
    "learner": "learner",
    "coordinator": "coordinator, with the journal",
    "asyncds.scoring.worker": "scoring",
}
THE_REST = "the command itself, and the rest"
DEADLINE_SECONDS = 1200.0


def ours(case: Case, models: Path) -> Counter[str]:
    """CPU milliseconds a rollout of every part of a run of this program."""
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "run" / "metrics.jsonl"
        run = command(case, models, directory)
        with subprocess.Popen(run, cwd=ROOT, stdout=subprocess.DEVNULL) as running:
            marks = []
            for part in (0.25, 0.75):
                _wait(lambda part=part: _steps(log) >= part * case.steps, running)  # type: ignore[misc]
                marks.append((_steps(log), _cpu_seconds(psutil.Process(running.pid))))
            running.wait(DEADLINE_SECONDS)
    (first, before), (last, after) = marks
    each = 1000 / (ROLLOUTS * (last - first))
    return Counter({name: each * (after[name] - before[name]) for name in after})


def _cpu_seconds(launcher: psutil.Process) -> Counter[str]:
    used: Counter[str] = Counter()
    for process in [launcher, *launcher.children(recursive=True)]:
        words = process.cmdline()
        name = next((name for word, name in PARTS.items() if word in words), THE_REST)
        used[name] += sum(process.cpu_times()[:2])
    return used


def _steps(log: Path) -> int:
    return sum("learner/loss" in line for line in read_run_log(log)) if log.exists() else 0


def _wait(reached: Callable[[], bool], running: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not reached():
        if running.poll() is not None or time.monotonic() > deadline:
            raise SystemExit("the run ended, or hangs, before its steps were measured")
        time.sleep(0.2)


def _of_trl(case: Case, models: Path) -> float:
    cpu = trl(case, models)["cpu"]
    kept = cpu[len(cpu) // 4 :]
    return 1000 * (kept[-1] - kept[0]) / (ROLLOUTS * (len(kept) - 1))


def main() -> None:
    """Measure the short case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    name, case = next(iter(CASES.items()))
    parts: dict[str, list[float]] = {}
    together: list[float] = []
    other: list[float] = []
    with tempfile.TemporaryDirectory() as directory:
        make_models(Path(directory))
        for _ in range(options.repeats):
            used = ours(case, Path(directory))
            for part in (*PARTS.values(), THE_REST):
                parts.setdefault(part, []).append(used[part])
            together.append(used.total())
            other.append(_of_trl(case, Path(directory)))
    sides = parts | {"asyncds, together": together, "TRL": other}
    save(
        "cpu_time",
        [
            Row(case=name, side=side, values=values, unit="ms", better="lower")
            for side, values in sides.items()
        ],
    )


if __name__ == "__main__":
    main()
