"""The checks of a run that ended find what they are for: violations planted in a made-up run."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asyncds.config.schema import RunConfig
from asyncds.protocol.codec import GroupArrays, encode, pack_group
from asyncds.rollout.journal import Journal
from tests.chaos.invariants import FILES, Left, the_policy_improved
from tests.support.records import evaluation_record, step_record

STEPS, PER_STEP, MAX_LAG = 3, 2, 1
CONFIG = RunConfig.model_validate(
    {
        "model": "none",
        "steps": STEPS,
        "rollout": {"groups_per_step": PER_STEP, "group_size": 2, "max_lag": MAX_LAG},
    }
)


def payload(token: int, version: int) -> bytes:
    group = GroupArrays(
        prompt_ids=np.array([1], dtype=np.int32),
        lengths=np.array([1, 1], dtype=np.int32),
        completion_ids=np.array([token, token], dtype=np.int32),
        logprobs=np.array([-0.5, -0.5], dtype=np.float32),
        versions=np.array([version, version], dtype=np.int32),
        rewards=np.zeros(2, dtype=np.float32),
        correct=np.zeros(2, dtype=bool),
        finished=np.ones(2, dtype=bool),
        answers={"written": ["", ""]},
    )
    return encode(pack_group(group))


class MadeUp:
    """A run of three steps of two groups, every one sampled by the version before the step's."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.journal = Journal(run_dir / "journal.db")
        for step in range(STEPS):
            version = max(0, step - 1)
            leases = [self.lease(version) for _ in range(PER_STEP)]
            self.journal.batch(step, step, leases)
            self.journal.consume(step)
        self.journal.checkpointed(STEPS)
        self.journal.set_meta("cursor", str(STEPS * PER_STEP))
        self.log([self.line(step) for step in range(1, STEPS + 1)])

    def lease(
        self, version: int, *, purpose: str = "train", evaluation: int | None = None, **row: Any
    ) -> int:
        id = self.journal.next_lease_id()
        self.journal.add_lease(id=id, purpose=purpose, row=id, attempt=1, evaluation=evaluation)
        values = {"payload": payload(id, version), "oldest": version, "newest": version} | row
        self.journal.deliver(
            lease=id, generator="g", n=2, n_correct=0, reward=0.0, tokens=2, **values
        )
        return id

    def line(self, step: int, **more: Any) -> dict[str, Any]:
        """step: counted from 1, as in metrics.jsonl."""
        lag = min(step - 1, 1)
        kl = 1e-12 if lag == 0 else 0.2
        return {
            "step": step,
            f"learner/mismatch_kl/lag={lag}": kl,
            f"learner/tokens/lag={lag}": 2.0 * PER_STEP,
            **more,
        }

    def log(self, lines: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (self.run_dir / "metrics.jsonl").write_text(text)

    def problems(self) -> list[str]:
        left = Left(config=CONFIG, run_dir=self.run_dir, journal=self.journal)
        return [problem for check in FILES for problem in check(left)]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[MadeUp]:
    made = MadeUp(tmp_path)
    yield made
    made.journal.close()


def test_a_good_run_has_no_problems(run: MadeUp) -> None:
    assert run.problems() == []


def trained_twice(run: MadeUp) -> None:
    again = run.lease(1, payload=payload(1, 0))
    run.journal.end_lease(6, "evicted", "stale")
    run.journal.batch(2, 2, [again])
    run.journal.checkpointed(STEPS)
    run.journal.set_meta("cursor", "7")


def too_many_in_a_batch(run: MadeUp) -> None:
    run.journal.batch(1, 1, [run.lease(0)])
    run.journal.checkpointed(STEPS)
    run.journal.set_meta("cursor", "7")


def a_step_after_the_last(run: MadeUp) -> None:
    run.journal.batch(STEPS, STEPS, [run.lease(2)])
    run.journal.checkpointed(STEPS + 1)
    run.journal.set_meta("cursor", "7")


def too_old_whatever_was_written_down(run: MadeUp) -> None:
    run.journal.end_lease(6, "evicted", "stale")
    run.journal.batch(2, 2, [run.lease(1, payload=payload(7, 0))])
    run.journal.checkpointed(STEPS)
    run.journal.set_meta("cursor", "7")


def still_open(run: MadeUp) -> None:
    id = run.journal.next_lease_id()
    run.journal.add_lease(id=id, purpose="train", row=0, attempt=1, evaluation=None)


def delivered_and_forgotten(run: MadeUp) -> None:
    run.lease(2)
    run.journal.set_meta("cursor", "7")


def a_prompt_without_a_lease(run: MadeUp) -> None:
    run.journal.set_meta("cursor", "7")


def ended_for_no_reason(run: MadeUp) -> None:
    run.journal.end_lease(run.lease(2), "evicted", "")
    run.journal.set_meta("cursor", "7")


def a_step_twice_in_the_log(run: MadeUp) -> None:
    run.log([run.line(step) for step in (1, 2, 2, 3)])


def another_batch_than_the_learners(run: MadeUp) -> None:
    run.log([run.line(1), run.line(2), run.line(3, **{"learner/tokens/lag=1": 6.0})])


def other_weights(run: MadeUp) -> None:
    run.log([run.line(1), run.line(2, **{"learner/mismatch_kl/lag=0": 1e-3}), run.line(3)])


def an_evaluation_of_two_versions(run: MadeUp) -> None:
    evaluation = run.journal.add_evaluation(version=1, step=1, n_samples=2)
    run.lease(1, purpose="eval", evaluation=evaluation)
    run.lease(1, purpose="eval", evaluation=evaluation, newest=2)
    run.journal.finish_evaluation(evaluation_record(evaluation, {"version": 1}))


@pytest.mark.parametrize(
    ("plant", "found"),
    [
        (trained_twice, "1 groups were trained on again under another lease"),
        (too_many_in_a_batch, "step 1 has 3 groups instead of 2"),
        (a_step_after_the_last, "step 3 has 1 groups instead of 0"),
        (too_old_whatever_was_written_down, "group 7 of step 2 lags by 2"),
        (still_open, "1 leases are still leased"),
        (delivered_and_forgotten, "1 leases are still delivered"),
        (a_prompt_without_a_lease, "7 prompts were drawn, and 6 leases were made of them"),
        (ended_for_no_reason, "1 leases failed or were evicted without a reason"),
        (a_step_twice_in_the_log, "metrics.jsonl has 4 lines, not the steps 1 to 3"),
        (
            another_batch_than_the_learners,
            "step 2: the learner had tokens {1: 6.0} by lag, the journal has {1: 4}",
        ),
        (other_weights, "step 1: KL 0.001 at lag 0"),
        (an_evaluation_of_two_versions, "evaluation 1 of version 1 has tokens of 1 to 2"),
    ],
)
def test_what_is_planted_is_found(run: MadeUp, plant: Callable[[MadeUp], None], found: str) -> None:
    plant(run)
    assert found in run.problems()


@pytest.mark.parametrize("trained_again", [False, True])
def test_what_an_earlier_learner_made_has_weights_of_its_own(
    run: MadeUp, trained_again: bool
) -> None:
    if trained_again:
        # It made version 1, after the groups of version 1 were delivered.
        run.journal.add_step(step_record({"step": 1}))
    run.log([run.line(1), run.line(2), run.line(3, **{"learner/mismatch_kl/lag=0": 1e-3})])
    assert (run.problems() == []) is trained_again


@pytest.mark.parametrize(("base", "result", "better"), [(0.1, 0.2, True), (0.2, 0.2, False)])
def test_a_policy_improves_if_its_result_is_better(
    base: float, result: float, better: bool
) -> None:
    summary = {"eval": [{"pass@k": {"1": base}}, {"pass@k": {"1": result}}]}
    assert (the_policy_improved(summary) == []) is better
