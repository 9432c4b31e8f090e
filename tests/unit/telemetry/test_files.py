import json
import os
from dataclasses import fields
from pathlib import Path

import pytest

from asyncds.telemetry.files import replace_file
from asyncds.telemetry.run_log import RunLog, read_run_log
from asyncds.telemetry.summary import Summary, diagnose, percentiles, read_summary, write_summary


def summary(**changes: object) -> Summary:
    values: dict[str, object] = {
        "status": "finished",
        "steps": 3,
        "policy_version": 3,
        "wall_seconds": 1.5,
        "groups_trained": 6,
        "groups_delivered": 7,
        "groups_dropped": {"stale": 1},
        "tokens_generated": 70,
        "tokens_trained": 60,
        "tokens_per_second": 40.0,
        "learner_idle_fraction": 0.2,
        "generator_pause_fraction": 0.1,
        "weight_sync_seconds": percentiles([]),
        "lag": {"mean": 0.5, "max": 1},
        "diagnostics": {"ess": {"mean": 0.9, "min": 0.8, "max": 1.0}},
        "eval": [{"version": 0, "pass@k": {"1": 0.1}}],
    }
    return Summary(**(values | changes))  # type: ignore[arg-type]


def test_what_is_no_ordinary_file_is_not_replaced(tmp_path: Path) -> None:
    """As root, /dev/null would become a file, for every process of the machine."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    replace_file(pipe, "words")
    assert os.read(reader, 100) == b"words"
    os.close(reader)
    assert pipe.is_fifo()


def test_each_line_is_readable_as_soon_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with RunLog(path) as log:
        log.write({"step": 1, "reward": 0.5})
        assert read_run_log(path) == [{"step": 1, "reward": 0.5}]
        log.write({"step": 2, "reward": float("nan"), "learner/loss": float("inf")})
        assert read_run_log(path)[1] == {"step": 2, "reward": None, "learner/loss": None}


def test_a_resumed_run_cuts_what_it_will_write_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with RunLog(path) as log:
        for step in range(1, 6):
            log.write({"step": step})
    with RunLog(path, lines=[{"step": 1}, {"step": 2}]) as log:
        log.write({"step": 3, "again": True})
    assert read_run_log(path) == [{"step": 1}, {"step": 2}, {"step": 3, "again": True}]
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_line_that_a_crash_cut_off_is_left_out_and_then_removed(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "rew')
    assert read_run_log(path) == [{"step": 1}]
    with RunLog(path, lines=read_run_log(path)) as log:
        log.write({"step": 2})
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_no_file_is_an_empty_log(tmp_path: Path) -> None:
    assert read_run_log(tmp_path / "metrics.jsonl") == []


def test_summary_has_the_keys_that_may_be_relied_on(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    assert read_summary(path) is None
    write_summary(path, summary())
    write_summary(path, summary(steps=4, tokens_per_second=float("nan")))
    values = json.loads(path.read_text())
    assert list(values) == [f.name for f in fields(Summary)]
    assert (values["steps"], values["tokens_per_second"]) == (4, None)
    assert values["eval"][0]["pass@k"] == {"1": 0.1}
    assert read_summary(path) == values
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]


def test_diagnostics_are_of_the_steps_that_have_them() -> None:
    steps = [{"learner/ess": 1.0}, {}, {"learner/ess": None}, {"learner/ess": float("inf")}]
    steps += [{"learner/ess": 0.5, "learner/loss": 3.0}]
    assert diagnose(steps) == {"ess": {"mean": 0.75, "min": 0.5, "max": 1.0}}
    assert diagnose([]) == {}


def test_diagnostics_have_the_share_of_clipped_updates_and_the_shift_of_each_class() -> None:
    steps = [
        {"step": 1, "learner/updates_clipped": 1.0, "learner/ds_shift_correct": 0.5},
        {"step": 2, "learner/updates_clipped": 0.5, "learner/ds_shift_incorrect": -0.25},
    ]
    assert diagnose(steps) == {
        "updates_clipped": {"mean": 0.75, "min": 0.5, "max": 1.0},
        "ds_shift_correct": {"mean": 0.5, "min": 0.5, "max": 0.5},
        "ds_shift_incorrect": {"mean": -0.25, "min": -0.25, "max": -0.25},
    }


def test_percentiles() -> None:
    assert percentiles([]) == {"p50": None, "p95": None}
    assert percentiles(range(101)) == {"p50": 50.0, "p95": pytest.approx(95.0)}
