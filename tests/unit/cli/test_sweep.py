"""What a sweep does without starting anything: which runs are there, what is kept, what is shared.
Real processes: tests/e2e/test_sweep.py."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from asyncds.cli.main import app
from asyncds.cli.sweep import share_base_evaluation, sweep_command
from asyncds.compare.rows import read_rows
from asyncds.config.load import dump_config
from asyncds.config.sweep import load_sweep
from asyncds.launch.errors import UserError
from asyncds.rollout.journal import Journal
from tests.support.records import evaluation_record
from tests.support.synthetic_runs import small_run


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text("model: base\nsteps: 4\n")
    sweep = {"name": "s", "run": "run.yaml", "arms": {"a": {}, "b": {"learner.lr": 1e-4}}}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    return tmp_path / "sweep.yaml"


def finish(file: Path, name: str) -> Path:
    """A run directory as a finished run of the sweep would leave it."""
    _, runs = load_sweep(file)
    config = next(r.config for r in runs if r.name == name)
    directory = small_run(Path(config.runs_dir) / config.name)
    (directory / "config.yaml").write_text(dump_config(config))
    summary = json.loads((directory / "summary.json").read_text())
    summary["eval"] = [evaluation_record(i, e).result() for i, e in enumerate(summary["eval"])]
    (directory / "summary.json").write_text(json.dumps(summary))
    return directory


def listed(file: Path, *options: str) -> list[str]:
    done = CliRunner().invoke(app, ["sweep", str(file), "--list", *options])
    assert done.exit_code == 0, done.output
    return [" ".join(line.split()) for line in done.output.splitlines()]


def test_finished_runs_are_not_made_again(file: Path) -> None:
    assert listed(file) == ["missing a", "missing b"]
    finish(file, "a")
    assert listed(file) == ["finished a", "missing b"]


def test_only_some_runs(file: Path) -> None:
    finish(file, "a")
    assert listed(file, "--only", "b*") == ["missing b"]
    assert listed(file, "--only", "b", "--only", "a") == ["finished a", "missing b"]
    with pytest.raises(UserError, match=r"no run of .* is called c\*: `--list`"):
        sweep_command(
            file=file, overrides=[], jobs=1, list_only=False, results=None, only=["a", "c*"]
        )


def test_a_run_without_its_summary_is_missing(file: Path) -> None:
    (finish(file, "a") / "summary.json").unlink()
    assert listed(file) == ["missing a", "missing b"]


def test_a_run_with_other_settings_is_not_taken_for_this_one(file: Path) -> None:
    finish(file, "a")
    with pytest.raises(UserError, match="runs/s/a was made with another steps: delete it"):
        sweep_command(file=file, overrides=["steps=8"], jobs=1, list_only=True, results=None)


def test_when_all_runs_are_there_they_are_kept_and_compared(file: Path, tmp_path: Path) -> None:
    finish(file, "b"), finish(file, "a")
    kept = tmp_path / "deeper" / "kept.jsonl"
    assert sweep_command(file=file, overrides=[], jobs=1, list_only=False, results=kept) == 0
    assert list(read_rows(kept)) == ["a", "b"]
    assert str(tmp_path) not in kept.read_text()
    assert sorted(p.name for p in Path("runs/s").glob("compare.*")) == [
        "compare.html",
        "compare.json",
        "compare.md",
        "compare.svg",
    ]


def test_results_stand_for_runs_and_need_no_run_directory(file: Path, tmp_path: Path) -> None:
    finish(file, "a"), finish(file, "b")
    kept = tmp_path / "kept.jsonl"
    sweep_command(file=file, overrides=[], jobs=1, list_only=False, results=kept)
    shutil.rmtree("runs")
    before = kept.read_text()
    assert listed(file, "--results", str(kept)) == ["finished a", "finished b"]
    assert sweep_command(file=file, overrides=[], jobs=1, list_only=False, results=kept) == 0
    assert kept.read_text() == before
    with pytest.raises(UserError, match="a among the results was made with another steps"):
        sweep_command(file=file, overrides=["steps=8"], jobs=1, list_only=True, results=kept)


def test_kept_results_are_added_to_in_the_order_of_the_sweep(file: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.jsonl"
    for name in ("b", "a"):
        finish(file, name)
        sweep_command(file=file, overrides=[], jobs=1, list_only=False, results=kept, only=[name])
        shutil.rmtree("runs")
    assert list(read_rows(kept)) == ["a", "b"]
    assert listed(file, "--results", str(kept)) == ["finished a", "finished b"]


def test_results_that_are_no_file_of_rows_are_a_sentence(file: Path, tmp_path: Path) -> None:
    for place in (tmp_path, file):
        with pytest.raises(UserError, match="is neither a run directory nor a file of rows"):
            sweep_command(file=file, overrides=[], jobs=1, list_only=True, results=place)


def test_what_can_not_run_is_said_before_anything_starts(file: Path) -> None:
    with pytest.raises(UserError, match=r"a: model base"):
        sweep_command(file=file, overrides=[], jobs=1, list_only=False, results=None)
    assert not Path("runs").exists()


def test_a_base_evaluation_is_shared_by_runs_that_would_make_the_same(file: Path) -> None:
    finish(file, "a")
    _, runs = load_sweep(file)
    other = runs[1].config
    (Path(other.runs_dir) / other.name).mkdir()
    share_base_evaluation(other)
    journal = Journal(Path(other.runs_dir) / other.name / "journal.db", read_only=True)
    [shared] = journal.evaluations()
    assert (shared.version, shared.step, shared.made_by) == (0, 0, "a")
    share_base_evaluation(other)
    assert len(journal.evaluations()) == 1
    journal.close()


@pytest.mark.parametrize("other", ["eval.n_samples=32", "sampling.max_tokens=7", "dtype=float32"])
def test_a_base_evaluation_of_another_kind_is_not_shared(file: Path, other: str) -> None:
    finish(file, "a")
    _, runs = load_sweep(file, [other])
    run = runs[1].config
    (Path(run.runs_dir) / run.name).mkdir()
    share_base_evaluation(run)
    journal = Journal(Path(run.runs_dir) / run.name / "journal.db", read_only=True)
    assert journal.evaluations() == []
    journal.close()
