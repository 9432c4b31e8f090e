"""Tutorials do what they say: files and commands are taken from the page and run as they stand, one
after the other, in an empty folder of a stranger's."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from asyncds.telemetry.run_log import read_run_log
from tests.e2e.harness import RUN_SECONDS
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def follow(page: Path, folder: Path) -> dict[str, str]:
    """Write the files of a page, whose first line is their name, and run its commands. Returns what
    each command printed."""
    environment = dict(os.environ)
    environment.pop("ASYNCDS_CODE", None)
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    environment["PYTHONPATH"] = str(ROOT)
    printed = {}
    for language, block in BLOCK.findall(page.read_text()):
        if language != "sh":
            name, _, content = block.partition("\n")
            file = folder / name.removeprefix("# ")
            file.parent.mkdir(exist_ok=True)
            file.write_text(content)
            continue
        for command in block.splitlines():
            done = subprocess.run(
                command,
                shell=True,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=RUN_SECONDS,
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}"
            printed[command] = done.stdout
    return printed


def test_your_own_data_with_your_own_reward(tmp_path: Path) -> None:
    printed = follow(ROOT / "docs" / "tutorials" / "own-reward.md", tmp_path)
    assert "nothing is wrong with it" in printed["asyncds task check run.yaml"]
    run = tmp_path / "runs" / "mine"
    lines = read_run_log(run / "metrics.jsonl")
    assert len(lines) == 30
    for line in lines:
        parts = line["reward/reaches"], line["reward/short"]
        assert line["reward"] == pytest.approx(parts[0] + 0.1 * parts[1], abs=1e-4)
        assert line["correct"] == pytest.approx(parts[0], abs=1e-6), "the first reward's verdict"
    before, *_, after = json.loads((run / "summary.json").read_text())["eval"]
    for evaluation in (before, after):
        assert (evaluation["n_problems"], evaluation["n_samples"]) == (48, 16)
        assert evaluation["pass@k"]["1"] > 0.05, "so many held-out rows it solves at once"
    assert "Parts of the reward" in (run / "report.html").read_text()
    (shown,) = (text for command, text in printed.items() if "inspect" in command)
    assert "✓" in shown
    assert "reaches 1" in shown


def test_evaluating_a_model(tmp_path: Path) -> None:
    printed = follow(ROOT / "docs" / "tutorials" / "evaluate.md", tmp_path)
    evaluated = tmp_path / "runs" / "tiny-eval"
    results = json.loads((evaluated / "results.json").read_text())
    assert [*results["tasks"]] == ["countdown", "sums"]
    for several in results["tasks"].values():
        assert [(e["temperature"], e["n_problems"], e["n_samples"]) for e in several] == [
            (0.6, 3, 16),
            (1.0, 3, 16),
        ]
    assert [(e["temperature"], e["n_problems"]) for e in results["pooled"]] == [(0.6, 6), (1.0, 6)]
    (table,) = (text for command, text in printed.items() if command.startswith("asyncds eval"))
    assert "\nall  " in table
    samples = [
        json.loads(x) for x in (evaluated / "sums" / "samples.jsonl").read_text().split("\n") if x
    ]
    assert sum(line["n"] for line in samples) == 2 * 3 * 16
    assert {s["correct"] for line in samples for s in line["samples"]} <= {True, False}
    assert "sums" in printed["asyncds compare runs/tiny-eval --over name"]
    log = (evaluated / "logs" / "slot-0-generator-0.log").read_text()
    assert log.count("starting an engine for") == 1, "one for both tasks"


@pytest.mark.long
def test_supervised_training_then_reinforcement_learning(tmp_path: Path) -> None:
    follow(ROOT / "docs" / "tutorials" / "sft-then-rl.md", tmp_path)
    lines = read_run_log(tmp_path / "runs" / "warm" / "metrics.jsonl")
    held_out = [x["learner/eval_loss"] for x in lines if x.get("learner/eval_loss") is not None]
    assert held_out[-1] < held_out[0] / 2
    assert "supervised training" in (tmp_path / "models" / "warm" / "README.md").read_text()
    summary = json.loads((tmp_path / "runs" / "trained" / "summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("finished", 4)
    card = (tmp_path / "runs" / "trained" / "export" / "step-4" / "README.md").read_text()
    assert "| step 4 | 1 | 16 | 16 |" in card
