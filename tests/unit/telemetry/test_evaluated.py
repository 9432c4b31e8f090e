"""What an evaluation leaves to read, from journals that the real writer wrote."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from asyncds.algo.passk import mean_pass_at_k
from asyncds.telemetry.evaluated import write_results, write_samples
from asyncds.telemetry.evaluations import evaluation_counts
from asyncds.telemetry.summary import read_summary
from tests.support.synthetic_run import GROUP, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs"), steps=4)


def test_samples_are_a_problem_a_line(run: Path) -> None:
    lines = [json.loads(line) for line in write_samples(run).read_text().splitlines()]
    evaluations = (read_summary(run / "summary.json") or {})["eval"]
    assert {(x["evaluation"], x["temperature"], x["step"]) for x in lines} == {
        (e["id"], e["temperature"], e["step"]) for e in evaluations
    }
    for evaluation in evaluations:
        mine = [x for x in lines if x["evaluation"] == evaluation["id"]]
        rows, _, c = evaluation_counts(run, evaluation=evaluation["id"])
        assert [x["row"] for x in mine] == rows.tolist()
        assert [x["n_correct"] for x in mine] == c.tolist()
    first = lines[0]
    assert first["prompt"].endswith(":")
    assert len(first["samples"]) == first["n"] == GROUP
    assert {*first["samples"][0]} == {"text", "answer", "reward", "parts", "correct", "finished"}
    assert sum(s["correct"] for s in first["samples"]) == first["n_correct"]


def test_several_tasks_are_pooled_problem_by_problem(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    results = write_results(tmp_path, {"a": run, "b": other})
    assert json.loads((tmp_path / "results.json").read_text()) == results
    summary = read_summary(run / "summary.json") or {}
    assert results["tasks"] == {"a": summary["eval"], "b": summary["eval"]}
    last = {e["temperature"]: e for e in summary["eval"]}
    assert [pool["temperature"] for pool in results["pooled"]] == [*last]
    for pool in results["pooled"]:
        _, n, c = evaluation_counts(run, evaluation=last[pool["temperature"]]["id"])
        twice = mean_pass_at_k(np.tile(n, 2), np.tile(c, 2), [1, 4])
        assert pool["n_problems"] == 2 * len(n)
        assert [*pool["pass@k"]] == ["1", "4"], "each problem has as many samples"
        assert pool["pass@k"]["4"] == pytest.approx(twice[4].mean)
        assert pool["pass@k_interval"]["1"] == pytest.approx([twice[1].low, twice[1].high])


def test_one_task_needs_no_pool(run: Path, tmp_path: Path) -> None:
    assert write_results(tmp_path, {"a": run})["pooled"] == []
