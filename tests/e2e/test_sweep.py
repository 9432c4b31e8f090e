"""A sweep with real processes: engines stay warm, the base model is evaluated once.

Two of its runs are the same, with max_lag 0: synchronous training, and with seeds the same twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from asyncds.protocol.codec import GroupArrays, decode_group, unpack_group
from asyncds.rollout.journal import Journal
from asyncds.telemetry.run_log import read_run_log
from asyncds.telemetry.summary import read_summary
from tests.e2e.harness import ROOT, Runner

pytestmark = pytest.mark.slow
STEPS = 5
NAMES = ("DS", "first", "second")


@dataclass(frozen=True)
class Swept:
    """A sweep that is over."""

    command: Sequence[str]
    results: Path
    directories: dict[str, Path]
    logs: Path

    def summary(self, name: str) -> dict[str, Any]:
        summary = read_summary(self.directories[name] / "summary.json")
        assert summary is not None
        return summary

    def batches(self, name: str) -> list[list[GroupArrays]]:
        journal = Journal(self.directories[name] / "journal.db", read_only=True)
        return [
            [unpack_group(decode_group(g.payload)) for g in journal.groups(step=step)]
            for step in range(STEPS)
        ]

    def lines(self, name: str) -> list[dict[str, Any]]:
        return read_run_log(self.directories[name] / "metrics.jsonl")


@pytest.fixture(scope="module")
def swept(runner: Runner) -> Swept:
    settings = dict(pair.split("=", 1) for pair in runner.small) | {
        "steps": str(STEPS),
        "runs_dir": str(runner.root),
        "model": str(runner.model),
    }
    synchronous = {"algorithm.advantage.kind": "grpo", "rollout.max_lag": 0}
    file = runner.root / "sweep.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "name": "swept",
                "run": str(ROOT / "configs" / "quickstart.yaml"),
                "set": {key: yaml.safe_load(value) for key, value in settings.items()},
                "arms": {"DS": {}, "first": synchronous, "second": synchronous},
            },
            sort_keys=False,
        )
    )
    results = runner.root / "kept.jsonl"
    command = [*runner.asyncds("sweep", str(file)), "--results", str(results)]
    done = runner.finish(runner.start(*command), "swept")
    assert done.code == 0, done.output
    directory = runner.root / "swept"
    directories = {name: directory / name for name in NAMES}
    return Swept(command, results, directories, directory / "logs")


def test_all_runs_are_made_in_one_engine(swept: Swept) -> None:
    engine = (swept.logs / "slot-0-generator-0.log").read_text()
    assert engine.count("starting an engine for") == 1
    assert engine.count("leaving: ") == len(NAMES)
    learner = (swept.logs / "slot-0-learner.log").read_text()
    assert learner.count("Setting accelerator") <= 1
    assert learner.count("leaving: ") == len(NAMES)
    for name in NAMES:
        summary = swept.summary(name)
        assert (summary["status"], summary["policy_version"]) == ("finished", STEPS)


def test_the_base_model_is_evaluated_once(swept: Swept) -> None:
    first, *others = [swept.summary(name)["eval"][0] for name in NAMES]
    assert first["made_by"] == ""
    assert [base["made_by"] for base in others] == ["DS"] * 2
    assert [base["pass@k"] for base in others] == [first["pass@k"]] * 2


def test_nothing_is_left_to_do(swept: Swept, runner: Runner) -> None:
    kept = swept.results.read_text()
    assert all(f'"{name}"' in kept for name in NAMES)
    engine = (swept.logs / "slot-0-generator-0.log").read_text()
    again = runner.finish(runner.start(*swept.command), "swept")
    assert again.code == 0, again.output
    assert f"0 of {len(NAMES)} runs to make" in again.output
    assert swept.results.read_text() == kept
    assert engine == (swept.logs / "slot-0-generator-0.log").read_text()


def test_without_lag_every_token_was_sampled_by_the_weights_it_trains(swept: Swept) -> None:
    for step, batch in enumerate(swept.batches("first")):
        assert batch
        assert {v for g in batch for v in g.versions.tolist()} == {step}
    assert swept.summary("first")["lag"] == {"mean": 0, "max": 0}


def test_on_policy_means_equal_log_probs(swept: Swept) -> None:
    """The learner computes what the sampler computed: nothing but rounding is between them."""
    for line in swept.lines("first"):
        assert line["learner/mismatch_kl"] < 1e-8
        assert line["learner/ratio"] == pytest.approx(1, abs=1e-4)


def test_two_runs_sample_the_same_tokens(swept: Swept) -> None:
    for ours, theirs in zip(swept.batches("first"), swept.batches("second"), strict=True):
        assert [g.completion_ids.tolist() for g in ours] == [
            g.completion_ids.tolist() for g in theirs
        ]


def test_two_runs_compute_the_same_losses(swept: Swept) -> None:
    for ours, theirs in zip(swept.lines("first"), swept.lines("second"), strict=True):
        for key in ("learner/loss", "learner/grad_norm", "learner/entropy"):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-3, abs=1e-5)
