"""Measures the time from the command of a run to its first trained step, and where it goes.

    python -m benchmarks.start_up [--repeats 3]

The quickstart's configuration with one step and nearly no evaluation. What a new machine adds is
not in it: vLLM looks at each architecture once and remembers it in ~/.cache/vllm.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measured import ROOT, Row, save

STAGES = {
    "the coordinator is there": ("coordinator-0.log", "control plane at"),
    "the learner joined": ("coordinator-0.log", "the learner joined"),
    "vLLM is imported": ("generator-0.log", "starting an engine"),
    "the generator joined": ("coordinator-0.log", "generator-0 joined"),
    "the first step is trained": ("learner-0.log", "step 1:"),
}
_CLOCK = re.compile(r"^(\d\d):(\d\d):(\d\d\.\d+) ")


def main() -> None:
    """Measure runs one after another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    values: dict[str, list[float]] = {stage: [] for stage in STAGES}
    with tempfile.TemporaryDirectory() as directory:
        model = f"{directory}/model"
        asyncds = [sys.executable, "-m", "asyncds.cli.main"]
        subprocess.run([*asyncds, "tiny-model", model], check=True, stdout=subprocess.DEVNULL)
        settings = [f"model={model}", f"runs_dir={directory}", "steps=1"]
        settings += ["eval.every=0", "eval.n_problems=1", "eval.n_samples=1"]
        for repeat in range(options.repeats):
            name = f"run-{repeat}"
            began = time.time()
            subprocess.run(
                [*asyncds, "run", "configs/quickstart.yaml", *settings, f"name={name}"],
                cwd=ROOT,
                check=True,
                stdout=subprocess.DEVNULL,
            )
            for stage, (log, words) in STAGES.items():
                path = Path(directory) / name / "logs" / log
                values[stage].append(_reached(path, words) - _of_day(began))
    save(
        "start_up",
        [
            Row(case=stage, side="from the command", values=some, unit="s", better="lower")
            for stage, some in values.items()
        ],
    )


def _reached(log: Path, words: str) -> float:
    """The second of the day at which a line came."""
    for line in log.read_text().splitlines():
        if words in line and (found := _CLOCK.match(line)):
            hours, minutes, seconds = found.groups()
            return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    raise SystemExit(f"{log}: no line with {words!r}")


def _of_day(moment: float) -> float:
    local = time.localtime(moment)
    return 3600 * local.tm_hour + 60 * local.tm_min + local.tm_sec + moment % 1


if __name__ == "__main__":
    main()
