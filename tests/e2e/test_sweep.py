"""A sweep with real processes: engines stay warm, the base model is evaluated once."""

import sys

import pytest
import yaml

from asyncds.telemetry.summary import read_summary
from tests.e2e.harness import ROOT, Runner

pytestmark = pytest.mark.slow


def test_two_runs_in_one_engine_then_nothing_left_to_do(runner: Runner) -> None:
    settings = dict(pair.split("=", 1) for pair in runner.small) | {
        "runs_dir": str(runner.root),
        "model": str(runner.model),
    }
    file = runner.root / "sweep.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "name": "pair",
                "run": str(ROOT / "configs" / "quickstart.yaml"),
                "set": {key: yaml.safe_load(value) for key, value in settings.items()},
                "arms": {"GRPO": {"algorithm.advantage.kind": "grpo"}, "DS": {}},
            },
            sort_keys=False,
        )
    )
    results = runner.root / "kept.jsonl"
    command = [sys.executable, "-m", "asyncds.cli.main", "sweep", str(file)]
    command += ["--results", str(results)]

    first = runner.finish(runner.start(*command), "pair")
    assert first.code == 0, first.output
    logs = runner.root / "pair" / "logs"
    engine = (logs / "slot-0-generator-0.log").read_text()
    assert engine.count("starting an engine for") == 1
    assert engine.count("leaving: ") == 2
    learner = (logs / "slot-0-learner.log").read_text()
    assert learner.count("Setting accelerator") <= 1
    assert learner.count("leaving: ") == 2
    summaries = [read_summary(runner.root / "pair" / n / "summary.json") for n in ("GRPO", "DS")]
    assert [s["status"] for s in summaries if s] == ["finished", "finished"]
    assert [s["policy_version"] for s in summaries if s] == [8, 8]
    bases = [s["eval"][0] for s in summaries if s]
    assert "made_by" not in bases[0]
    assert bases[1]["made_by"] == "GRPO"
    assert bases[0]["pass@k"] == bases[1]["pass@k"]

    kept = results.read_text()
    assert '"GRPO"' in kept
    assert '"DS"' in kept

    again = runner.finish(runner.start(*command), "pair")
    assert again.code == 0, again.output
    assert "0 of 2 runs to make" in again.output
    assert results.read_text() == kept
    assert engine == (logs / "slot-0-generator-0.log").read_text()
