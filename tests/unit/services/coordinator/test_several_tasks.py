"""Runs of several tasks: which prompts come, and what is known of each task."""

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asyncds.protocol import wire
from asyncds.protocol.codec import decode_group, pack_group
from asyncds.rollout.prompt_order import PromptOrder
from asyncds.rollout.row_sets import set_of
from services.coordinator.batch_facts import batch_facts
from services.coordinator.evaluation import evaluated_rows
from services.coordinator.task_facts import TaskFacts
from tests.support.coordinator_fixture import (
    GENERATOR,
    LEARNER,
    REPLACE,
    Driver,
    delivered,
    leases,
    only,
)
from tests.support.rollout_groups import make_group

SETS = [("easy", 4), ("hard", 5)]
TASK: dict[str, Any] = {
    "steps": 40,
    "task": {
        "kind": "mixture",
        "tasks": {name: {"kind": "countdown"} for name, _ in SETS},
        "weights": {"hard": 2},
    },
}
HELLO = REPLACE(GENERATOR, training_sets=SETS)


def drawn(driver: Driver, turns: int) -> None:
    """Join, and answer leases and requests for batches for some turns."""
    step = driver.journal.progress()[0]
    driver.say(b"l", REPLACE(LEARNER, step=step))
    driver.say(b"g", HELLO)
    driver.synced("g", version=step)
    granted = leases(driver.tick(b"g"))
    for _ in range(turns):
        answers = [delivered(g, versions=(driver.c.parts.weights.published,)) for g in granted]
        granted = leases(driver.say(b"g", *answers))


def training_rows(driver: Driver) -> list[int]:
    found = driver.journal.leases("leased", "delivered", "batched", "consumed", "committed")
    return [lease.row for lease in sorted(found, key=lambda lease: lease.id)]


def test_a_resumed_run_draws_the_prompts_of_one_that_was_never_ended(tmp_path: Path) -> None:
    """The coordinator is ended as by kill -9: what the journal has committed is all there is."""
    with closing(Driver(tmp_path, **TASK)) as driver:
        drawn(driver, turns=2)
        first = training_rows(driver)
    for _ in range(2):
        with closing(Driver(tmp_path, **TASK)) as driver:
            drawn(driver, turns=2)
            rows = training_rows(driver)
            assert rows[: len(first)] == first
            first = rows
    order = PromptOrder(seed=0, sets=SETS, weights={"easy": 1.0, "hard": 2.0})
    assert rows == [order.next() for _ in rows]
    assert len(rows) > 6
    hard = sum(set_of(SETS, row) == "hard" for row in rows)
    assert abs(hard - 2 * len(rows) / 3) <= 1


def test_what_is_hopeless_comes_less_often_across_restarts(tmp_path: Path) -> None:
    """The simulated policy has no group right. What is known of the prompts is in the journal."""
    curriculum = {"rollout__curriculum": {"enabled": True, "visits": 1, "least": 0.01}}
    passed = {}
    for _ in range(3):
        with closing(Driver(tmp_path, **(TASK | curriculum))) as driver:
            drawn(driver, turns=3)
            facts = driver.c.parts.steps._curriculum.facts()
            visits = list(driver.journal.visits())
            assert facts is not None
            assert facts.problems == len({row for row, *_ in visits})
            assert (facts.hopeless, facts.mixed) == (1.0, 0.0)
            before, passed = passed, json.loads(driver.journal.meta("passed") or "{}")
            assert all(passed[name] >= n for name, n in before.items())
    assert sum(passed.values()) > 0


def test_a_generator_with_other_tasks_is_refused(tmp_path: Path) -> None:
    with closing(Driver(tmp_path, **TASK)) as driver:
        driver.say(b"l", LEARNER)
        other = REPLACE(GENERATOR, training_sets=[("easy", 4), ("other", 5)])
        (refused,) = only(driver.say(b"g", other), wire.Refused)
        assert refused.reason == (
            "its task consists of easy, other, and task.tasks names easy, hard: give every "
            "process the same configuration"
        )
        assert only(driver.say(b"g", HELLO), wire.Welcome)
        assert driver.journal.row_sets() == {"train": SETS, "eval": []}


def test_a_group_brings_answers_as_its_own_task_has_them(tmp_path: Path) -> None:
    with closing(Driver(tmp_path, **TASK)) as driver:
        driver.say(b"l", LEARNER)
        driver.say(b"g", REPLACE(HELLO, multiplicity={"written": [2], "assignment": [0]}))
        driver.synced("g")
        for lease, name in zip(leases(driver.tick(b"g")), ("written", "assignment"), strict=False):
            answers = {name: [""] * lease.group_size}
            group = replace(make_group(n=lease.group_size), answers=answers)
            driver.say(b"g", wire.Delivered(lease=lease.id, attempt=1, group=pack_group(group)))
        brought = driver.journal.groups(purpose="eval")
        answers = [decode_group(group.payload).answers for group in brought]
        assert [*map(list, answers)] == [["written"], ["assignment"]]


def test_facts_of_a_batch_are_known_of_each_task() -> None:
    half = make_group(n=2, correct=(True, False))
    ones = np.ones(2, dtype=np.float32)
    groups = [replace(half, rewards=ones), make_group(n=2), make_group(n=2)]
    facts = batch_facts(
        groups,
        lags=[0, 0, 0],
        tasks=["hard", "easy", "hard"],
        teaches=lambda group: group is groups[0],
    )
    assert list(facts.tasks) == ["easy", "hard"]
    easy, hard = facts.tasks.values()
    assert (easy.groups, easy.zero_groups, easy.correct) == (1, 1.0, groups[1].correct.mean())
    assert (hard.groups, hard.zero_groups) == (2, 0.5)
    assert hard.reward == pytest.approx((1 + groups[2].rewards.mean()) / 2)
    assert facts.teaching_groups == pytest.approx(1 / 3)
    assert batch_facts(groups, lags=[0, 0, 0], tasks=["", "", ""]).tasks == {}


def test_answers_of_tasks_may_be_the_same_in_different_ways() -> None:
    one, other = make_group(n=2), make_group(n=2)
    other = replace(other, answers={"assignment": [*next(iter(other.answers.values()))]})
    facts = batch_facts([one, other], lags=[0, 0])
    assert set(facts.distinct) == {*one.answers, "assignment"}


@pytest.mark.parametrize(
    ("sets", "most", "rows"),
    [
        ([], None, range(9)),
        ([], 4, [0, 1, 2, 3]),
        (SETS, None, range(9)),
        (SETS, 99, range(9)),
        (SETS, 5, [0, 1, 4, 5, 6]),
        (SETS, 1, [4]),
        ([("none", 0), ("all", 9)], 2, [0, 1]),
    ],
)
def test_fewer_problems_are_of_every_set(
    sets: list[tuple[str, int]], most: int | None, rows: list[int]
) -> None:
    assert [*evaluated_rows(9, sets, most)] == [*rows]


def test_rows_know_their_task() -> None:
    facts = TaskFacts(training_sets=SETS)
    assert [facts.training_set(row) for row in (0, 3, 4, 8, 9)] == ["easy"] * 2 + ["hard"] * 2 + [
        ""
    ]
    assert TaskFacts().training_set(3) == ""
