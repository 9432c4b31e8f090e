"""Ctrl-C, and kill -9 of every role in turn.

Shows that a run survives these deaths at the moments chosen here and that nothing is trained
twice. It can't show that it survives them at every moment.
"""

import os
import signal
from typing import Any

import psutil
import pytest
from harness import Runner

from asyncds.rollout.journal import Journal

pytestmark = pytest.mark.slow


def _steps(runner: Runner, name: str) -> int:
    lines = runner.root / name / "metrics.jsonl"
    return lines.read_text().count("\n") if lines.exists() else 0


def _role(run: "psutil.Popen | psutil.Process", role: str) -> psutil.Process:
    for child in psutil.Process(run.pid).children():
        if role in child.cmdline() or f"services.{role}" in child.cmdline():
            return child
    raise AssertionError(f"no {role} is running")


def test_ctrl_c_checkpoints_and_the_run_can_go_on(runner: Runner, wait_until: Any) -> None:
    process = runner.start(*runner.command("interrupted", "steps=400", "checkpoint.every=1000"))
    wait_until(lambda: _steps(runner, "interrupted") >= 3, process)
    os.kill(process.pid, signal.SIGINT)
    result = runner.finish(process, "interrupted")
    assert result.code == 0, result.output
    assert result.summary["status"] == "interrupted"
    done = result.summary["steps"]
    assert 3 <= done < 400
    assert (result.directory / "checkpoints" / f"step-{done}" / "manifest.json").exists()
    assert "--resume" in result.output

    resumed = runner.resume("interrupted", f"steps={done + 2}")
    assert resumed.code == 0, resumed.output
    assert resumed.summary["status"] == "finished"
    assert [line["step"] for line in resumed.lines] == list(range(1, done + 3))


def test_kill_9_of_every_role(runner: Runner, wait_until: Any) -> None:
    process = runner.start(
        *runner.command(
            "killed",
            "steps=40",
            "checkpoint.every=5",
            "coordinator.suspect_seconds=2",
            "coordinator.dead_seconds=4",
        )
    )
    for step, role in ((6, "coordinator"), (14, "learner"), (22, "generator")):
        wait_until(lambda step=step: _steps(runner, "killed") >= step, process)
        _role(process, role).kill()
    result = runner.finish(process, "killed")
    assert result.code == 0, result.output
    assert result.summary["steps"] == 40
    assert [line["step"] for line in result.lines] == list(range(1, 41))
    journal = Journal(result.directory / "journal.db", read_only=True)
    trained = list(journal.groups("l.state = 'committed'"))
    assert len(trained) == 40 * 8
    assert {g.step for g in trained} == set(range(40))
    assert all(g.lag is not None and g.lag <= 4 for g in trained)
