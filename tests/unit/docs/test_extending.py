"""The examples of docs/extending.md, taken from the page and run."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prometheus_client import generate_latest

from asyncds.algo.advantages.base import Advantage, Sequences
from asyncds.algo.losses.base import Loss, LossInputs
from asyncds.config.load import load_config
from asyncds.config.schema import RunConfig
from asyncds.tasks.base import Row, Score, Task
from asyncds.tasks.environment import Answer, Environment
from asyncds.telemetry.metrics.catalogue import CATALOGUE, drawn
from asyncds.telemetry.metrics.registry import build_metrics
from asyncds.telemetry.trackers.tracker import Tracker
from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "extending.md").read_text()
EXAMPLES = dict(re.findall(r"^## An? ([a-z]+)$(.*?)(?=^## |\Z)", PAGE, re.M | re.S))
MOST_LINES = 30


def blocks(example: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", EXAMPLES[example], re.M | re.S)


@pytest.fixture
def config(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RunConfig]:
    """A run that chooses the class of an example, whose module is where the run is started."""
    (module,) = blocks(request.param, "python")
    name = module.partition("\n")[0].removeprefix("# ").removesuffix(".py")
    (tmp_path / f"{name}.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "run.yaml"
    file.write_text("model: none\n" + "".join(blocks(request.param, "yaml")))
    yield load_config(file, [])
    sys.modules.pop(name, None)


def of(example: str) -> Any:
    return pytest.mark.parametrize("config", [example], indirect=True)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_short(example: str) -> None:
    assert all(block.count("\n") <= MOST_LINES for block in blocks(example, "python"))


@of("task")
def test_the_task(config: RunConfig) -> None:
    task = config.task.make(Task)
    assert [len(task.rows(split)) for split in ("eval", "validation", "train")] == [60, 0, 780]
    row = task.rows("train")[0]
    assert task.score(row, f" {row.fields['word'][::-1]}\n").correct
    assert task.score(row, row.fields["word"]).reward == 0
    assert len(task.fingerprint()) == 16
    assert task.fingerprint() == config.task.make(Task).fingerprint()


@of("environment")
def test_the_environment(config: RunConfig) -> None:
    task = config.task.make(Environment)
    assert [len(task.rows(split)) for split in ("train", "eval")] == [10, 10]
    number = (row := task.rows("train")[4]).fields["number"]
    episode = task.start(row)
    said = [episode.step(text) for text in ("1", "twenty", " 20\n", f" {number} ")]
    assert [type(one) for one in said] == [Answer, Answer, Answer, Score]
    assert said[0] == Answer("It is higher.")
    assert said[1] == said[2] == Answer("It is lower, or that was no number.")
    assert said[3] == Score(1 / 4, True, (str(number),))
    assert config.episodes.max_turns == 6


@of("reward")
def test_the_reward(config: RunConfig) -> None:
    task = config.task.make(Task)
    right = task.score(Row(index=0, fields={"numbers": [2, 3, 4], "target": 9}), "2 + 3 + 4")
    assert right.correct
    assert right.reward == pytest.approx(1 - 0.02 * 9)


@of("advantage")
def test_the_advantage(config: RunConfig) -> None:
    sequences = Sequences(
        reward=np.array([1.0, 0.2, 0, 0.5, 0.45]),
        correct=np.array([True, False, False, True, True]),
        group=np.array([0, 0, 0, 1, 1]),
        length=np.ones(5, dtype=np.int64),
        logprob_sum=-np.ones(5),
    )
    assert config.algorithm.advantage.make(Advantage)(sequences).tolist() == [1, -1, -1, 0, 0]


@of("loss")
def test_the_loss(config: RunConfig) -> None:
    logprob = torch.tensor([-1.0, -0.5, -3.0], requires_grad=True)
    inputs = LossInputs(
        logprob=logprob,
        log_ratio=logprob - torch.tensor([-1.0, -1.0, -1.0]),
        advantage=torch.tensor([2.0, 1.0, -1.0]),
        sequence=torch.zeros(3, dtype=torch.int64),
    )
    outputs = config.algorithm.loss.make(Loss)(inputs)
    assert outputs.loss[0].item() == -2
    assert ((outputs.loss / -inputs.advantage - 1).abs() <= 0.3).all()
    assert outputs.clipped.tolist() == [False, True, True]
    outputs.loss.sum().backward()
    assert logprob.grad is not None
    assert logprob.grad[0].item() == -2


@of("tracker")
def test_the_tracker(config: RunConfig, tmp_path: Path) -> None:
    for steps in ([1, 2], [2, 3]):  # the second process sends step 2 once more
        (chosen,) = config.telemetry.trackers
        table = chosen.make(Tracker, run_dir=tmp_path)
        assert table.begin(name="r", run="", step=1, config={}) == "r"
        for step in steps:
            table.step({"step": step, "reward": step / 2, "learner/loss": -1.0})
        table.flush()
        table.evaluation({})
        table.finish({})
    lines = (tmp_path / "steps.csv").read_text().split()
    assert lines == ["1,0.5,-1.0", "2,1.0,-1.0", "3,1.5,-1.0"]


def test_the_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, Any] = {}
    exec(blocks("metric", "python")[0], made)
    monkeypatch.setitem(CATALOGUE, "learner", (*CATALOGUE["learner"], made["SPEED"]))
    metrics = build_metrics("learner")
    metrics.record("batch", {"tokens_per_second": 250.0})
    assert "asyncds_learner_tokens_per_second 250.0" in generate_latest(metrics.registry).decode()
    assert drawn()[made["SPEED"].chart] == [made["SPEED"]]
