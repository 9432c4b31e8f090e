"""max_lag=0 is synchronous training, and with seeds it is the same training twice."""

import pytest

from asyncds.protocol.codec import GroupArrays, decode_group, unpack_group
from asyncds.rollout.journal import Journal
from tests.e2e.harness import Result, Runner

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(runner: Runner) -> list[Result]:
    both = [runner(f"sync-{i}", "rollout.max_lag=0", "steps=5") for i in range(2)]
    for result in both:
        assert result.code == 0, result.output
    return both


def _batches(result: Result) -> list[list[GroupArrays]]:
    journal = Journal(result.directory / "journal.db", read_only=True)
    return [
        [unpack_group(decode_group(g.payload)) for g in journal.groups(step=step, purpose="train")]
        for step in range(5)
    ]


def test_every_token_was_sampled_by_the_weights_it_trains(runs: list[Result]) -> None:
    for step, batch in enumerate(_batches(runs[0])):
        assert batch
        assert {v for g in batch for v in g.versions.tolist()} == {step}
    assert runs[0].summary["lag"] == {"mean": 0, "max": 0}


def test_on_policy_means_equal_log_probs(runs: list[Result]) -> None:
    """The learner computes what the sampler computed: nothing but rounding is between them."""
    for line in runs[0].lines:
        assert line["learner/mismatch_kl"] < 1e-8
        assert line["learner/ratio"] == pytest.approx(1, abs=1e-4)


def test_two_runs_sample_the_same_tokens(runs: list[Result]) -> None:
    first, second = (_batches(result) for result in runs)
    for ours, theirs in zip(first, second, strict=True):
        assert [g.completion_ids.tolist() for g in ours] == [
            g.completion_ids.tolist() for g in theirs
        ]


def test_two_runs_compute_the_same_losses(runs: list[Result]) -> None:
    for ours, theirs in zip(runs[0].lines, runs[1].lines, strict=True):
        for key in ("learner/loss", "learner/grad_norm", "learner/entropy"):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-3, abs=1e-5)
