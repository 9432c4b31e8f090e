"""Several generators, several learner ranks, ZeRO-3, and a version every other step."""

import pytest

from asyncds.rollout.journal import Journal
from tests.e2e.harness import Runner

pytestmark = pytest.mark.slow


def test_two_generators_and_two_zero3_ranks(runner: Runner) -> None:
    result = runner(
        "scaled",
        "learner.ranks=2",
        "learner.zero_stage=3",
        "learner.micro_batch_tokens=128",
        "generator.replicas=2",
        "weights.publish_every=2",
        "algorithm.kl.coef=0.01",
        "algorithm.updates_per_batch=2",
    )
    assert result.code == 0, result.output
    assert (result.summary["steps"], result.summary["policy_version"]) == (8, 4)
    journal = Journal(result.directory / "journal.db", read_only=True)
    assert {g.generator for g in journal.groups()} == {"generator-0", "generator-1"}
    assert result.lines[0]["learner/kl"] >= 0
    assert result.lines[-1]["learner/kl"] > 0
    assert result.summary["groups_dropped"] == {}
