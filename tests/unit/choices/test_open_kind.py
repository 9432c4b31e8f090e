"""Kinds from outside the package: found, checked with a sentence, made, and used by the objective,
by the coordinator's judgement and in a process of its own."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from asyncds.algo.objective import Objective
from asyncds.choices.open_kind import KindError, OpenKind, prepare
from asyncds.config.load import ConfigError, dump_config, load_config, parse_config
from asyncds.config.schema import RunConfig
from asyncds.launch import preflight
from asyncds.tasks.base import Task
from asyncds.tasks.registry import make_task
from asyncds.telemetry.trackers.make import make_tracker, missing_package
from services.coordinator.dynamic_sampling import carries_signal
from tests.support.objectives import table
from tests.unit.algo.test_signal import uniform

MODULE = '''
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from asyncds.algo.advantages.base import Advantage
from asyncds.algo.corrections.base import Correction, TokenWeights
from asyncds.algo.losses.base import Loss, LossOutputs
from asyncds.tasks.base import Row, Score


class Verdict(Advantage):
    """What the verifier says, as +strength or -1."""
    strength: float = 1.0

    def __call__(self, sequences):
        return np.where(sequences.correct, self.strength, -1.0)


class Squared(Loss):
    """A loss that reads the ratio to the behaviour policy."""
    ratio: ClassVar[str] = "behaviour"
    weight: float = 0.5

    def __call__(self, inputs):
        loss = -inputs.advantage * inputs.logprob + self.weight * inputs.log_ratio.square()
        return LossOutputs(loss=loss, clipped=inputs.sequence < 0)


class Plain(Loss):
    def __call__(self, inputs):
        return LossOutputs(
            loss=-inputs.advantage * inputs.logprob, clipped=inputs.sequence < 0
        )


class Half(Correction):
    def __call__(self, log_mu, log_proximal, sequence):
        w = log_mu.new_ones(len(log_mu)) / 2
        return TokenWeights(weight=w, keep=w > 0, truncated=w < 0)


@dataclass
class Echo:
    """A task: say the word."""
    word: str
    n: int = 3
    equivalences = ("written",)
    equivalence = "written"
    name = "echo"

    def rows(self, split): return [Row(i, {}) for i in range(self.n)]
    def prompt(self, row): return self.word
    def score(self, row, completion): return Score(1.0, completion == self.word)
    def multiplicity(self, row): return None
    def fingerprint(self): return self.word


class Sink:
    def __init__(self, *, run_dir, limit: int = 1): self.run_dir, self.limit = run_dir, limit
    def begin(self, *, name, run, step, config): return name
    def step(self, line): ...
    def evaluation(self, result): ...
    def rewind(self, step): ...
    def flush(self): ...
    def finish(self, summary): ...


class NotATask:
    pass


class Breaks(Echo):
    def __init__(self, **options): raise RuntimeError("no such file")


NUMBER = 3
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_kinds.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_kinds", raising=False)
    return "own_kinds"


def config_of(tmp_path: Path, **algorithm: object) -> RunConfig:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({"model": "m", "algorithm": algorithm}))
    config = load_config(file)
    assert parse_config(yaml.safe_load(dump_config(config))) == config
    return config


def test_an_advantage_a_loss_and_a_correction_of_ones_own(module: str, tmp_path: Path) -> None:
    config = config_of(
        tmp_path,
        advantage={"kind": f"{module}:Verdict", "options": {"strength": 2}},
        loss={"kind": f"{module}:Plain"},
        correction={"kind": f"{module}:Half"},
    )
    assert config.algorithm.advantage.kind == f"{module}:Verdict"
    objective = Objective(config.algorithm, max_tokens=8)
    sequences = objective.sequence_advantages(table(reward=[1, 0]))
    current = torch.tensor([-1.0, -2.0], requires_grad=True)
    tokens = {"sequence": torch.tensor([0, 1]), "current": current, "behaviour": current.detach()}
    loss, _ = objective.loss(sequences=sequences, **tokens)
    assert loss.item() == 0.5 * (2 * 1 - 1 * 2)
    (gradient,) = torch.autograd.grad(loss, current)
    assert gradient.tolist() == [-1.0, 0.5]


def test_the_coordinator_judges_by_it(module: str, tmp_path: Path) -> None:
    config = config_of(
        tmp_path, advantage={"kind": f"{module}:Verdict", "options": {"strength": 0}}
    )
    algorithm = config.algorithm.resolved()
    for correct in (True, False):
        group = uniform(correct=correct, logprobs=[-0.5] * 4)
        assert carries_signal(algorithm, group, max_tokens=8) is not correct


def test_the_coordinator_imports_no_torch_for_it(module: str, tmp_path: Path) -> None:
    """Nor does it import a loss at all, which only learners call."""
    code = (
        "import sys; from asyncds.config.schema import RunConfig\n"
        f"kind = {{'kind': '{module}:Verdict'}}\n"
        "loss = {'kind': 'nowhere:Loss'}\n"
        "a = RunConfig(model='m', algorithm={'advantage': kind, 'loss': loss})\n"
        f"print('{module}' in sys.modules)\n"
        "b = RunConfig(model='m', algorithm={'advantage': kind}).algorithm.resolved()\n"
        "print(type(b.advantage).__name__, 'torch' in sys.modules)\n"
    )
    environment = {"PYTHONPATH": ":".join([str(tmp_path), *sys.path]), "PATH": ""}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert result.stdout.split() == ["False", "Verdict", "False"]


def test_combinations_with_it_are_judged_once_it_is_known(module: str, tmp_path: Path) -> None:
    config = config_of(tmp_path, loss={"kind": f"{module}:Squared"}, correction={"kind": "tis"})
    with pytest.raises(ValueError, match="count the mismatch twice"):
        config.algorithm.resolved()


def test_a_task_and_a_tracker_of_ones_own(module: str, tmp_path: Path) -> None:
    task = make_task(f"{module}:Echo", word="hi")
    assert task.score(task.rows("eval")[0], "hi").correct
    config = RunConfig(
        model="m",
        task={"kind": f"{module}:Echo", "options": {"word": "hi"}},  # type: ignore[arg-type]
        telemetry={"trackers": [{"kind": f"{module}:Sink", "options": {"limit": 2}}]},  # type: ignore[arg-type]
    )
    (tracker,) = config.telemetry.trackers
    assert missing_package(tracker) == ""
    made = make_tracker(tracker, run_dir=tmp_path)
    assert (made.run_dir, made.limit) == (tmp_path, 2)  # type: ignore[attr-defined]
    assert [*preflight.task_problems(config), *preflight._kinds(config)] == []


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        ("nowhere_at_all:Task", {}, "can't be imported"),
        ("{m}:Nothing", {}, "can't be imported"),
        ("{m}:NUMBER", {}, "neither a class nor a function"),
        ("{m}:NotATask", {}, "has no rows, prompt, score"),
        (
            "{m}:Breaks",
            {"any": 1},
            r"can't be made with these options \(RuntimeError: no such file\)",
        ),
        ("{m}:Echo", {}, "missing a required argument: 'word'"),
        ("{m}:Echo", {"word": "x", "m": 1}, "unexpected keyword argument 'm'"),
        ("{m}:Echo", {"word": "x", "n": "many"}, "valid integer"),
    ],
)
def test_what_is_wrong_is_a_sentence(
    module: str, kind: str, options: dict[str, object], says: str
) -> None:
    with pytest.raises(KindError, match=says):
        prepare(kind.format(m=module), options, base=Task)()
    config = RunConfig(model="m", task=OpenKind(kind=kind.format(m=module), options=options))
    (problem,) = preflight.task_problems(config)
    assert problem.startswith("task: ")


@pytest.mark.parametrize(
    ("advantage", "says"),
    [
        ({"kind": "{m}:Verdict", "options": {"strenght": 1}}, "strenght: Extra inputs"),
        ({"kind": "{m}:Verdict", "options": {"strength": "big"}}, "strength: .*valid number"),
        ({"kind": "{m}:Plain"}, "derived from asyncds.algo.advantages.base:Advantage"),
    ],
)
def test_options_of_an_advantage_are_checked(
    module: str, tmp_path: Path, advantage: dict[str, object], says: str
) -> None:
    advantage["kind"] = str(advantage["kind"]).format(m=module)
    (problem,) = preflight._kinds(config_of(tmp_path, advantage=advantage))
    assert problem.startswith("algorithm: ")
    with pytest.raises(KindError, match=says):
        config_of(tmp_path, advantage=advantage).algorithm.resolved()


def test_a_name_that_is_no_kind_and_no_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"algorithm\.advantage: unknown kind: choose .*grpo"):
        config_of(tmp_path, advantage={"kind": "ppo"})
    with pytest.raises(ConfigError, match=r"unknown key algorithm\.advantage\.strength"):
        config_of(tmp_path, advantage={"kind": "a.b:C", "strength": 1})


def test_an_answer_of_the_wrong_shape_is_named(tmp_path: Path, module: str) -> None:
    config = config_of(tmp_path, advantage={"kind": f"{module}:Verdict"})
    objective = Objective(config.algorithm, max_tokens=8)
    own = type(objective.config.advantage)
    own.__call__ = lambda self, sequences: np.zeros(1)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"of one length.*base"):
        objective.sequence_advantages(table(reward=[1, 0]))
