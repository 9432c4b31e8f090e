"""A sweep's file: which runs it stands for, and what it refuses."""

from pathlib import Path

import pytest
import yaml

from asyncds.config.load import ConfigError
from asyncds.config.sweep import load_sweep

RUN = {"model": "base", "steps": 4, "algorithm": {"advantage": {"kind": "ds_grpo", "gamma_p": 1.0}}}


@pytest.fixture
def write(tmp_path: Path):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(RUN))

    def write(**values: object) -> Path:
        file = tmp_path / "sweep.yaml"
        file.write_text(yaml.safe_dump({"name": "s", "run": "run.yaml", **values}, sort_keys=False))
        return file

    return write


def test_every_arm_with_every_point_of_the_grid(write) -> None:
    file = write(
        set={"steps": 8},
        arms={"GRPO": {"algorithm.advantage.kind": "grpo"}, "DS": {}},
        grid={"seed": [0, 1], "rollout.max_lag": [2, 4]},
    )
    _, runs = load_sweep(file)
    assert [r.name for r in runs] == [
        "GRPO-seed0-max_lag2",
        "DS-seed0-max_lag2",
        "GRPO-seed0-max_lag4",
        "DS-seed0-max_lag4",
        "GRPO-seed1-max_lag2",
        "DS-seed1-max_lag2",
        "GRPO-seed1-max_lag4",
        "DS-seed1-max_lag4",
    ]
    first = runs[0].config
    assert (first.steps, first.seed, first.rollout.max_lag) == (8, 0, 2)
    assert first.algorithm.advantage.kind == "grpo"
    assert first.label == "GRPO max_lag=2"
    assert (Path(first.runs_dir).name, first.name) == ("s", "GRPO-seed0-max_lag2")
    assert runs[1].config.algorithm.advantage.gamma_p == 1.0


def test_named_points_of_the_grid_set_several_things(write) -> None:
    _, runs = load_sweep(
        write(grid={"size": {"small": {"steps": 2}, "large": {"steps": 9, "learner.lr": 1e-3}}})
    )
    assert [(r.name, r.config.label) for r in runs] == [
        ("run-small", "run small"),
        ("run-large", "run large"),
    ]
    assert [(r.config.steps, r.config.learner.lr) for r in runs] == [(2, 1e-6), (9, 1e-3)]


def test_models_are_called_by_the_end_of_their_path_and_share_a_label(write) -> None:
    _, runs = load_sweep(write(grid={"model": ["models/a", "models/b/"]}))
    assert [r.name for r in runs] == ["run-modela", "run-modelb"]
    assert {r.config.label for r in runs} == {"run"}


@pytest.mark.parametrize("axis", ["model", "seed"])
def test_named_models_and_seeds_add_to_the_name_but_share_a_label(write, axis: str) -> None:
    points = {"three numbers": {"model": "models/a"}, "large": {"model": "models/b", "steps": 9}}
    _, runs = load_sweep(write(arms={"GRPO": {}, "DS": {}}, grid={axis: points}))
    assert [(r.name, r.config.label, r.config.model, r.config.steps) for r in runs] == [
        ("GRPO-three-numbers", "GRPO", "models/a", 4),
        ("DS-three-numbers", "DS", "models/a", 4),
        ("GRPO-large", "GRPO", "models/b", 9),
        ("DS-large", "DS", "models/b", 9),
    ]


def test_overrides_come_last(write) -> None:
    _, runs = load_sweep(write(arms={"a": {"steps": 6}}), ["steps=2"])
    assert runs[0].config.steps == 2


def test_yaml_numbers_and_lists_arrive(write) -> None:
    file = write(set={"learner.lr": "2e-4", "eval.temperatures": [1.0, 0.3], "tokenizer": None})
    _, runs = load_sweep(file)
    assert runs[0].config.learner.lr == 2e-4
    assert runs[0].config.eval.temperatures == (1.0, 0.3)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"arms": {"a b": {}, "a-b": {}}}, "two runs are called a-b: rename an arm"),
        ({"grid": {"seed": []}}, "seed has no values"),
        ({"arms": {}}, "arms"),
        (
            {"arms": {"a": {"learner.lrr": 1}}},
            "a: unknown key learner.lrr: did you mean learner.lr",
        ),
        ({"baseline": "b", "arms": {"a": {}}}, "baseline b is no group: there is a"),
        ({"sets": {}}, "sets"),
        ({"run": "elsewhere.yaml"}, "cannot read"),
        ({"name": "../up"}, "name"),
    ],
)
def test_what_is_refused(write, values: dict, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_sweep(write(**values))


def test_a_file_that_is_no_sweep(tmp_path: Path) -> None:
    file = tmp_path / "list.yaml"
    file.write_text("- a\n")
    with pytest.raises(ConfigError, match="must hold a mapping with name, run and arms or grid"):
        load_sweep(file)
    with pytest.raises(ConfigError, match="cannot read"):
        load_sweep(tmp_path / "none.yaml")
