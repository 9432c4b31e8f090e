"""Ctrl-C, kill -9 in the middle of episodes, a learner that is told to leave, a disk gone bad.

Shows that a run survives these deaths at the moments chosen here and that nothing is trained
twice. It can't show that it survives them at every moment.
"""

import os
import re
import signal
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from asyncds.protocol.codec import decode_group, unpack_group
from asyncds.rollout.journal import Journal
from asyncds.tiny.model import make_tiny_model
from asyncds.tiny.recipe import Recipe
from tests.e2e.harness import Runner

pytestmark = pytest.mark.slow


def _steps(runner: Runner, name: str) -> int:
    lines = runner.root / name / "metrics.jsonl"
    return lines.read_text().count("\n") if lines.exists() else 0


def _role(run: "psutil.Popen | psutil.Process", role: str) -> psutil.Process:
    for child in psutil.Process(run.pid).children():
        if role in child.cmdline() or f"services.{role}" in child.cmdline():
            return child
    raise AssertionError(f"no {role} is running")


def _flip_a_bit(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size // 2)
        byte = opened.read(1)[0]
        opened.seek(-1, os.SEEK_CUR)
        opened.write(bytes([byte ^ 0x10]))


def test_ctrl_c_checkpoints_and_the_run_can_go_on(runner: Runner, wait_until: Any) -> None:
    process = runner.start(*runner.command("interrupted", "steps=400", "checkpoint.every=2"))
    wait_until(lambda: _steps(runner, "interrupted") >= 3, process)
    os.kill(process.pid, signal.SIGINT)
    result = runner.finish(process, "interrupted")
    assert result.code == 0, result.output
    assert result.summary["status"] == "interrupted"
    # The last step may be saved before it is reported; its line is written when the run goes on.
    folder = result.directory / "checkpoints"
    earlier, done = sorted(int(p.parent.name[5:]) for p in folder.glob("step-*/manifest.json"))[-2:]
    assert 3 <= result.summary["steps"] <= done <= result.summary["steps"] + 1 < 400
    assert "--resume" in result.output

    # The disk goes bad: a bit of the newest checkpoint, then a page of the journal.
    files = [p for p in (folder / f"step-{done}").rglob("*") if p.is_file()]
    largest = max(files, key=lambda p: p.stat().st_size)
    _flip_a_bit(largest)
    resumed = runner.resume("interrupted", f"steps={done + 2}")
    assert resumed.code == 0, resumed.output
    assert resumed.summary["status"] == "finished"
    assert f"{largest.name} has other content" in resumed.log("learner-0")
    assert f"damaged-step-{done}" in resumed.output.replace("\n", "")
    said = f"starts at step {earlier} although step {done} was saved"
    assert said in resumed.log("coordinator-0")
    assert [line["step"] for line in resumed.lines] == list(range(1, done + 3))
    before = [line["reward"] for line in result.lines[:earlier]]
    assert [line["reward"] for line in resumed.lines[:earlier]] == before
    with closing(Journal(result.directory / "journal.db", read_only=True)) as whole:
        assert whole.counts()["committed"] == (done + 2) * 8

    journal = result.directory / "journal.db"
    content = journal.read_bytes()
    journal.write_bytes(content[:4096] + b"\xa5" * 4096 + content[8192:])
    refused = runner.resume("interrupted", f"steps={done + 3}")
    assert refused.code == 2
    assert "journal.db is damaged" in refused.output.replace("\n", "")


@pytest.fixture(scope="module")
def calculator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learnt to ask the calculator, and little else."""
    model = tmp_path_factory.mktemp("models") / "calculator"
    recipe = Recipe(task="calculator", clean_steps=60, babble_steps=0, batch_size=64)
    make_tiny_model(model, recipe=recipe, threads=1)
    return model


def _kill_scorers(generator: psutil.Process) -> None:
    """Kill the processes of all episodes that are open."""
    for child in generator.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "asyncds.scoring.worker" in child.cmdline():
                child.kill()


def test_kill_9_of_every_role(runner: Runner, wait_until: Any, calculator: Path) -> None:
    """In the middle of episodes, of which some are always open."""
    process = runner.start(
        *runner.command(
            "killed",
            f"model={calculator}",
            "scoring.episodes=8",
            "steps=40",
            "checkpoint.every=5",
            "coordinator.suspect_seconds=2",
            "coordinator.dead_seconds=4",
            config="calculator.yaml",
        )
    )
    wait_until(lambda: _steps(runner, "killed") >= 2, process)
    _kill_scorers(_role(process, "generator"))
    for step, role in ((6, "coordinator"), (14, "learner"), (22, "generator")):
        wait_until(lambda step=step: _steps(runner, "killed") >= step, process)
        _role(process, role).kill()
    wait_until(lambda: _steps(runner, "killed") >= 28, process)
    _role(process, "learner").send_signal(signal.SIGTERM)
    result = runner.finish(process, "killed")
    assert result.code == 0, result.output
    assert result.summary["steps"] == 40
    assert [line["step"] for line in result.lines] == list(range(1, 41))
    log = result.log("learner-0").partition("told to leave by SIGTERM")[2]
    (begun,) = re.findall(r"starting from \S*step-(\d+)$", log, re.MULTILINE)
    assert int(begun) >= 28, "what the one before had trained was saved"
    journal = Journal(result.directory / "journal.db", read_only=True)
    trained = list(journal.groups(states=["committed"]))
    assert len(trained) == 40 * 8
    assert {g.step for g in trained} == set(range(40))
    assert all(g.lag is not None and g.lag <= 4 for g in trained)
    groups = [unpack_group(decode_group(group.payload)) for group in journal.groups()]
    assert {reason for g in groups for reason in g.reasons} >= {"crash"}, "of the scorers"
    assert sum(len(g.given) > 0 for g in groups) > len(groups) / 2, "most had several turns"
    assert all(line["turns"] > 1 and line["given"] > 0 for line in result.lines)
    assert all(line["reward/calls"] > 0 for line in result.lines)
    report = (result.directory / "report.html").read_text()
    assert "Tokens that the policy sampled and that an environment gave" in report
