"""`asyncds eval`: which run it makes of a configuration, or of a run's checkpoint."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from asyncds.cli import evaluate
from asyncds.config.load import dump_config, load_config
from asyncds.config.schema import RunConfig
from asyncds.launch.errors import UserError


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """The configurations that would be run."""
    runs: list[RunConfig] = []

    def run_command(*, config: Path, overrides: list[str], resume: None, replace: bool) -> int:
        runs.append(load_config(config, overrides))
        return 0

    monkeypatch.setattr(evaluate, "run_command", run_command)
    return runs


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run with checkpoints of steps 8 and 16."""
    folder = tmp_path / "runs" / "lr2"
    config = RunConfig(
        name="lr2",
        model="base",
        label="mine",
        steps=16,
        generator={"model": "quantised"},  # type: ignore[arg-type]
        coordinator={"port": 5555},  # type: ignore[arg-type]
    )
    for step in (8, 16):
        weights = folder / "checkpoints" / f"step-{step}" / "hf" / "model.safetensors"
        weights.parent.mkdir(parents=True)
        weights.write_bytes(bytes([step]))
        file = {"bytes": 1, "sha256": hashlib.sha256(bytes([step])).hexdigest()}
        manifest = {"files": {"hf/model.safetensors": file}, "state": {"step": step}}
        (weights.parents[1] / "manifest.json").write_text(json.dumps(manifest))
    (folder / "config.yaml").write_text(dump_config(config))
    return folder


def evaluated(source: Path, *overrides: str, step: int | None = None) -> int:
    return evaluate.eval_command(source=source, overrides=overrides, step=step, replace=False)


def test_the_model_of_a_configuration(made: list[RunConfig], run_dir: Path) -> None:
    assert evaluated(run_dir / "config.yaml", "model=other", "eval.n_samples=4") == 0
    (run,) = made
    assert (run.name, run.model, run.steps, run.trains) == ("lr2-eval", "other", 0, False)
    assert (run.eval.n_samples, run.generator.model) == (4, None)


@pytest.mark.parametrize(("step", "chosen"), [(None, 16), (8, 8)])
def test_a_checkpoint_of_a_run(
    made: list[RunConfig], run_dir: Path, step: int | None, chosen: int
) -> None:
    evaluated(run_dir, step=step)
    (run,) = made
    assert (run.name, run.runs_dir) == (f"lr2-eval-step-{chosen}", str(run_dir.parent))
    assert run.model == str(run_dir / "checkpoints" / f"step-{chosen}" / "hf")
    assert (run.tokenizer, run.generator.model) == ("base", None)
    assert (run.label, run.coordinator.port, run.steps) == (None, 0, 0)


def test_a_name_may_be_chosen(made: list[RunConfig], run_dir: Path) -> None:
    evaluated(run_dir, "name=again")
    assert made[0].name == "again"


@pytest.mark.parametrize(
    ("break_it", "step", "message"),
    [
        (lambda run: None, 9, "no checkpoint of step 9: choose one of 8, 16"),
        (
            lambda run: (run / "checkpoints/step-16/hf/model.safetensors").write_bytes(b"x"),
            None,
            "has other content than was written: choose another with --step",
        ),
        (lambda run: (run / "config.yaml").unlink(), None, "it has no config.yaml"),
        (
            lambda run: [m.unlink() for m in run.glob("checkpoints/*/manifest.json")],
            None,
            "has no checkpoint",
        ),
    ],
)
def test_what_can_not_be_evaluated_is_named(
    made: list[RunConfig], run_dir: Path, break_it: Any, step: int | None, message: str
) -> None:
    break_it(run_dir)
    with pytest.raises(UserError, match=message):
        evaluated(run_dir, step=step)
    assert not made


def test_a_step_needs_a_run(made: list[RunConfig], run_dir: Path) -> None:
    with pytest.raises(UserError, match="no run directory"):
        evaluated(run_dir / "config.yaml", step=8)
