"""`asyncds eval`: which runs it makes of a model, a configuration, or a run's checkpoint.
Real ones: tests/e2e/test_eval.py."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from asyncds.cli.eval_view import results_table
from asyncds.cli.evaluate import eval_command, plan_evaluation
from asyncds.config.load import ConfigError, dump_config
from asyncds.config.schema import RunConfig
from asyncds.launch.errors import UserError


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


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A directory with two tasks."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "small.yaml").write_text("task: {kind: countdown}\neval: {n_samples: 8}\n")
    (folder / "other.yml").write_text("model: none\ntask: {kind: knights_knaves}\nsteps: 5\n")
    (folder / "README.md").write_text("of no interest")
    return folder


def planned(
    source: Path | str, *overrides: str, tasks: tuple[Path, ...] = (), step: int | None = None
) -> dict[str, RunConfig]:
    found = plan_evaluation(source=str(source), overrides=overrides, tasks=tasks, step=step)
    for run in found.runs.values():
        where = Path(run.runs_dir) / run.name
        assert where == found.folder / run.name if tasks else where == found.folder
        assert not run.trains
        assert run.generator.model is None, "engines load the model itself"
        assert run.label == found.folder.name
    return found.runs


def test_the_model_of_a_configuration(run_dir: Path) -> None:
    (run,) = planned(run_dir / "config.yaml", "model=other", "eval.n_samples=4").values()
    assert (run.name, run.model, run.eval.n_samples) == ("lr2-eval", "other", 4)


@pytest.mark.parametrize(("step", "chosen"), [(None, 16), (8, 8)])
def test_a_checkpoint_of_a_run(run_dir: Path, step: int | None, chosen: int) -> None:
    (run,) = planned(run_dir, step=step).values()
    assert (run.name, run.runs_dir) == (f"lr2-eval-step-{chosen}", str(run_dir.parent))
    assert run.model == str(run_dir / "checkpoints" / f"step-{chosen}" / "hf")
    assert (run.tokenizer, run.coordinator.port) == ("base", 0)


def test_a_name_may_be_chosen(run_dir: Path, tasks: Path) -> None:
    assert [*planned(run_dir, "name=again")] == ["again"]
    runs = planned(run_dir, "name=again", "runs_dir=elsewhere", tasks=(tasks,))
    assert {run.runs_dir for run in runs.values()} == {"elsewhere/again"}


def test_a_model_on_several_tasks(tmp_path: Path, tasks: Path) -> None:
    model = tmp_path / "models" / "tiny"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    for source, name in ((model, str(model)), ("org/tiny", "org/tiny")):
        runs = planned(source, "eval.temperatures=[0.6, 1.0]", tasks=(tasks,))
        assert [*runs] == ["other", "small"]
        assert {run.model for run in runs.values()} == {name}
        assert {run.runs_dir for run in runs.values()} == {"runs/tiny-eval"}
        assert {run.eval.temperatures for run in runs.values()} == {(0.6, 1.0)}
        assert [run.eval.n_samples for run in runs.values()] == [64, 8]


def test_a_checkpoint_on_other_tasks(run_dir: Path, tasks: Path) -> None:
    (run,) = planned(run_dir, tasks=(tasks / "small.yaml",)).values()
    assert run.model.endswith("step-16/hf")
    assert (run.tokenizer, run.dtype, run.eval.n_samples) == ("base", "bfloat16", 8)


def test_what_is_asked_has_to_be_said_of_a_model_and_be_there(tmp_path: Path, tasks: Path) -> None:
    with pytest.raises(UserError, match="org/tiny is a model: say what it is asked with --tasks"):
        planned("org/tiny")
    with pytest.raises(UserError, match="neither a run directory, which has a"):
        planned(tmp_path, tasks=(tasks,))
    with pytest.raises(ConfigError, match=r"cannot read .*gone\.yaml"):
        planned("org/tiny", tasks=(tmp_path / "gone.yaml",))
    with pytest.raises(UserError, match=r"has no \.yaml file"):
        planned("org/tiny", tasks=(tmp_path,))
    with pytest.raises(UserError, match="two tasks are called small"):
        planned("org/tiny", tasks=(tasks, tasks / "small.yaml"))


def test_what_can_not_work_is_said_before_anything_starts(tmp_path: Path, tasks: Path) -> None:
    with pytest.raises(UserError, match=r"other: model .*absent is not there"):
        eval_command(
            source=str(tmp_path / "absent"),
            overrides=[f"runs_dir={tmp_path / 'out'}"],
            tasks=[tasks],
            step=None,
            replace=False,
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("break_it", "step", "message"),
    [
        (lambda run: None, 9, "no checkpoint of step 9: choose one of 8, 16"),
        (
            lambda run: (run / "checkpoints/step-16/hf/model.safetensors").write_bytes(b"x"),
            None,
            "has other content than was written: choose another with --step",
        ),
        (
            lambda run: [m.unlink() for m in run.glob("checkpoints/*/manifest.json")],
            None,
            "has no checkpoint",
        ),
    ],
)
def test_what_can_not_be_evaluated_is_named(
    run_dir: Path, break_it: Any, step: int | None, message: str
) -> None:
    break_it(run_dir)
    with pytest.raises(UserError, match=message):
        planned(run_dir, step=step)


def test_a_step_needs_a_run(run_dir: Path) -> None:
    with pytest.raises(UserError, match="no run directory"):
        planned(run_dir / "config.yaml", step=8)


def test_the_table_has_every_task_set_and_temperature(tmp_path: Path) -> None:
    def result(share: float, **more: Any) -> dict[str, Any]:
        values = {"pass@k": {"1": share}, "pass@k_interval": {"1": [share / 2, 1.0]}}
        return values | {"temperature": 1.0, "n_problems": 1000, "n_samples": 4} | more

    of_sets = {"aime": result(0.25), "math [green]": result(0.75)}
    results = {
        "tasks": {
            "sums": [result(0.5), result(0.4, temperature=0.6, distinct_correct=1.5)],
            "maths": [result(0.5, sets=of_sets)],
        },
        "pooled": [result(0.45, **{"pass@k": {}})],
    }
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(results_table(results, console))
    lines = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert lines == [
        "task T problems samples Pass@1 distinct",
        *("sums 1 1,000 4 50.0", "25.0–100.0"),
        *("sums 0.6 1,000 4 40.0 1.50", "20.0–100.0"),
        *("maths 1 1,000 4 50.0", "25.0–100.0"),
        *("aime 1 1,000 4 25.0", "12.5–100.0"),
        *("math [green] 1 1,000 4 75.0", "37.5–100.0"),
        "all 1 1,000 4 –",
        "Pass@k in percent; below it, its 95 % interval over problems",
    ]


@pytest.mark.parametrize("width", [200, 80, 70, 56])
def test_the_table_leaves_out_what_it_has_no_room_for(width: int) -> None:
    """And never a part of a number."""
    shares = {str(4**n): 0.1 * (n + 1) for n in range(7)}
    one = {
        "temperature": 1.0,
        "n_problems": 5,
        "n_samples": 8192,
        "distinct_correct": 6.4,
        "pass@k": shares,
        "pass@k_interval": {k: [share, 1.0] for k, share in shares.items()},
    }
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(results_table({"tasks": {"sums": [one]}, "pooled": []}, console))
    head, first, second, *caption = console.export_text().splitlines()
    shown = [word for word in head.split() if word.startswith("Pass@")]
    assert head.split() == ["task", "T", "problems", "samples", *shown, "distinct"]
    assert len(first.split()) == len(head.split())
    assert len(second.split()) == len(shown)
    assert {200: 7, 80: 3, 70: 2, 56: 1}[width] == len(shown)
    assert shown[0] == "Pass@1"
    assert shown[-1] == ("Pass@4096" if len(shown) > 1 else "Pass@1")
    told = f"{7 - len(shown)} more Pass@k are in results.json"
    assert (told in " ".join(" ".join(caption).split())) == (len(shown) < 7)
