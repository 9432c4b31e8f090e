"""Every mistake gets a sentence: before anything is started, with exit code 2, if it can be known
then; otherwise it is the last thing that the terminal shows."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncds.tiny.model import save_untrained
from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    save_untrained(path)
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


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("learner.zerostage=1", "did you mean learner.zero_stage?"),
        ("learner.lr=fast", "learner.lr"),
        ("model=./models/nowhere", "models/nowhere is not there"),
        ("rollout.window=4", "raise window"),
        ("learner.ranks=500", "lower learner.ranks"),
        ("sampling.top_p=0.9", "set sampling.top_p to 1"),
        ("rollout.target_lag=9", "lower target_lag"),
        ("coordinator.host=0.0.0.0", "allow_unencrypted"),
        ("algorithm.correction.kind=tis", "algorithm.loss.ratio to proximal"),
        ("weights.transport=nccl", "nccl"),
    ],
)
def test_is_refused(tmp_path: Path, model: Path, override: str, sentence: str) -> None:
    result = _run(tmp_path, model, override)
    assert result.returncode == 2, result.stderr
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "runs").exists()


def test_port_in_use(tmp_path: Path, model: Path, taken_port: int) -> None:
    result = _run(tmp_path, model, f"coordinator.port={taken_port}")
    assert result.returncode == 2, result.stderr
    assert str(taken_port) in result.stderr


def test_tokenizer_of_another_model(tmp_path: Path, model: Path) -> None:
    other = tmp_path / "other"
    save_untrained(other)
    tokenizer = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(tokenizer.replace('"42"', '"forty-two"'))
    result = _run(tmp_path, model, f"generator.model={other}")
    assert result.returncode == 2, result.stderr
    assert "tokenizer" in result.stderr


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
