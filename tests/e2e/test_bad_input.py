"""Every mistake gets a sentence: before anything is started, with exit code 2, if it can be known
then; otherwise it is the last thing that the terminal shows."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncds.tiny.recipe import copy_shipped
from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    copy_shipped(path)
    return path


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def _run(
    tmp_path: Path, model: Path, *overrides: str, seconds: float = 60
) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "asyncds.cli.main", "run"]
    command += [str(ROOT / "configs" / "quickstart.yaml")]
    command += [f"runs_dir={tmp_path / 'runs'}", f"model={model}", *overrides]
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds, cwd=tmp_path)


def test_is_refused_before_anything_is_started(
    tmp_path: Path, model: Path, taken_port: int
) -> None:
    """Each kind of mistake is in tests/unit/cli/test_bad_input.py: `run` asks the same checks."""
    result = _run(tmp_path, model, "learner.zerostage=1", "rollout.window=4")
    assert result.returncode == 2, result.stderr
    assert "did you mean learner.zero_stage?" in result.stderr
    assert "raise window" in result.stderr
    assert len(result.stderr.splitlines()) == 2
    result = _run(tmp_path, model, f"coordinator.port={taken_port}", "weights.transport=nccl")
    assert result.returncode == 2, result.stderr
    assert str(taken_port) in result.stderr
    assert "nccl needs GPUs" in result.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_why_a_generator_dies_at_its_start_reaches_the_terminal(
    tmp_path: Path, model: Path
) -> None:
    """After vLLM's own lines about its end; and nobody is told to resume what must fail again. The
    user's own task finds out when its rows are asked for, so that no check can."""
    (tmp_path / "my_task.py").write_text(
        "from asyncds.tasks.countdown.task import CountdownTask\n\n\n"
        "class Mine(CountdownTask):\n"
        "    def rows(self, split):\n"
        "        raise OSError('the shelf with the rows is locked')\n"
    )
    task = "task={kind: my_task:Mine, options: {n_eval: 16}}"
    result = _run(tmp_path, model, task, "steps=0", "name=dead", seconds=200)
    assert result.returncode == 1, result.stderr
    log = tmp_path / "runs" / "dead" / "logs" / "generator-0.log"
    said = f"generator-0 ended with exit code 2: the shelf with the rows is locked (log: {log})"
    assert result.stderr.splitlines()[-1] == said
    assert "status      failed" in result.stdout
    assert "resume" not in result.stdout + result.stderr
