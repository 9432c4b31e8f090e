"""Supervised training with real processes: killed, gone on with, on two ranks, and exported."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from asyncds.telemetry.run_log import read_run_log
from asyncds.telemetry.summary import read_summary
from asyncds.tiny.recipe import copy_shipped
from tests.e2e.harness import RUN_SECONDS

pytestmark = pytest.mark.slow

STEPS = 11
FILE = """\
model: tiny
dtype: float32
data:
  train: sums.jsonl
  n_eval: 16
  prompt: "{numbers} = {target} :"
  completion: answer
  prompt_style: plain
batches: {size: 8, epochs: 1.2, eval_every: 6}
learner: {lr: 1e-4}
checkpoint: {every: 2}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sft")
    copy_shipped(folder / "tiny")
    (folder / "sft.yaml").write_text(FILE)
    rows = [
        {"numbers": f"{a} {b} {a}", "target": a + b + a, "answer": f"{a} + {b} + {a}"}
        for a in range(1, 11)
        for b in range(1, 11)
        if a != b
    ]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def start(folder: Path, *overrides: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "asyncds.cli.main", "sft", "sft.yaml", *overrides],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "RANK"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(folder: Path, *overrides: str) -> str:
    process = start(folder, *overrides)
    output, _ = process.communicate(timeout=RUN_SECONDS)
    assert process.returncode == 0, output
    return output


def losses(folder: Path, name: str) -> list[float]:
    lines = read_run_log(folder / "runs" / name / "metrics.jsonl")
    assert [line["step"] for line in lines] == [*range(STEPS + 1)]
    assert lines[0]["learner/eval_loss"] > lines[-1]["learner/eval_loss"]
    summary: Any = read_summary(folder / "runs" / name / "summary.json")
    assert (summary["status"], summary["steps"]) == ("finished", STEPS)
    assert (folder / "runs" / name / "report.html").exists()
    return [line["learner/loss"] for line in lines[1:]]


def weights(folder: Path, name: str) -> bytes:
    hf = folder / "runs" / name / "checkpoints" / f"step-{STEPS}" / "hf"
    return (hf / "model.safetensors").read_bytes()


def test_one_that_is_killed_goes_on_to_the_same_weights(folder: Path) -> None:
    finish(folder, "name=whole")
    killed = start(folder, "name=killed")
    checkpoints = folder / "runs" / "killed" / "checkpoints"
    deadline = time.monotonic() + RUN_SECONDS
    while not any(checkpoints.glob("step-*/manifest.json")):
        assert killed.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    finish(folder, "name=killed")
    assert losses(folder, "killed") == losses(folder, "whole")
    assert weights(folder, "killed") == weights(folder, "whole")
    assert "is finished: nothing is left to train" in finish(folder, "name=killed")
    other = start(folder, "name=killed", "learner.lr=1e-3")
    assert "was made with another learner" in other.communicate(timeout=RUN_SECONDS)[0]
    assert other.returncode == 2


def test_two_ranks_with_sharded_gradients_learn_the_same(folder: Path) -> None:
    if not (folder / "runs" / "whole").exists():
        finish(folder, "name=whole")
    finish(folder, "name=two", "learner.ranks=2", "learner.zero_stage=2")
    assert losses(folder, "two") == pytest.approx(losses(folder, "whole"), abs=1e-4)
