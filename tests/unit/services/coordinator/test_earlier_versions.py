"""A journal of an earlier version of asyncds: its run goes on, or is refused with a sentence.

`data/journal-2026-11.db.gz` was written by asyncds as of 22 November 2026: a real run of six steps
on Countdown (eight groups of eight, checkpoints 2, 4 and 6), whose learner went back to checkpoint
4; after which batch 4 was selected, two groups came, one lease failed, and its generator died.
"""

import gzip
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asyncds.protocol import wire
from asyncds.protocol.codec import pack_group, unpack_shard
from asyncds.protocol.state import State
from asyncds.rollout.journal import Journal
from asyncds.rollout.journal_file import JournalError
from asyncds.rollout.lifecycle import OpenState
from tests.support.coordinator_fixture import (
    GENERATOR,
    LEARNER,
    REPLACE,
    Driver,
    leases,
    only,
)
from tests.support.rollout_groups import make_group

WRITTEN = Path(__file__).parent / "data" / "journal-2026-11.db.gz"
CONFIG: dict[str, Any] = {
    "steps": 8,
    "rollout__groups_per_step": 8,
    "rollout__group_size": 8,
    "rollout__max_lag": 4,
    "eval__n_problems": 16,
    "eval__n_samples": 8,
}
EQUIVALENCES = ("written", "commutative", "associative")


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "journal.db"
    path.write_bytes(gzip.decompress(WRITTEN.read_bytes()))
    return path


@pytest.fixture
def driver(journal: Path) -> Iterator[Driver]:
    with closing(Driver(journal.parent, **CONFIG)) as driver:
        yield driver


def bring(lease: wire.Lease, version: int) -> wire.Delivered:
    group = make_group(n=lease.group_size, prompt=(lease.id,), versions=(version,))
    (keys,) = group.answers.values()
    answers = dict.fromkeys(EQUIVALENCES, keys)
    packed = pack_group(type(group)(**(vars(group) | {"answers": answers})))
    return wire.Delivered(lease=lease.id, attempt=lease.attempt, group=packed)


def test_its_records_are_read(driver: Driver) -> None:
    steps = driver.journal.steps()
    assert [s.step for s in steps] == [0, 1, 2, 3]
    assert all(s.batch and s.batch.groups == 8 and "loss" in s.learner for s in steps)
    assert [(e.step, list(e.pass_at_k)) for e in driver.journal.evaluations()] == [
        (0, ["1", "4"]),
        (3, ["1", "4"]),
    ]
    assert driver.journal.rewinds() == [4]
    assert driver.journal.totals()["trained"] == 40


def test_its_leases_are_open_where_they_stood(driver: Driver) -> None:
    table = driver.c.parts.leases.open
    assert {s: table.count(s) for s in OpenState} == {
        OpenState.WAITING: 6,
        OpenState.LEASED: 0,
        OpenState.DELIVERED: 10,
    }
    failed = table.get(99)
    assert failed is not None
    assert (failed.attempt, failed.budget.failures) == (3, 1)


def test_its_run_goes_on_to_the_end(driver: Driver) -> None:
    """With the learner that trained on, from batch 4, whose groups are in the journal."""
    generator = REPLACE(
        GENERATOR,
        incarnation="g2",
        capacity=64,
        rows={"train": 500, "eval": 16},
        multiplicity=dict.fromkeys(EQUIVALENCES, [1] * 16),
        sets=[],
    )
    driver.say(b"l", REPLACE(LEARNER, incarnation="l2", step=4))
    driver.say(b"g", generator)
    trained: set[int] = set()
    for step, version in ((4, 4), (5, 4), (6, 4), (7, 7)):
        if driver.c.parts.weights.published != version:
            driver.synced("g", version=version)
        answers = driver.say(b"l", wire.BatchRequest(rank=0, step=step, report={"loss": 0.5}))
        granted = leases(driver.tick(b"g"))
        while granted:
            granted = leases(driver.say(b"g", *(bring(lease, version) for lease in granted)))
        answers += driver.tick(b"l")
        (batch,) = only(answers, wire.Batch)
        shard = unpack_shard(batch)
        assert len(set(shard.leases)) == 8
        assert not trained & set(shard.leases)
        assert np.isfinite(shard.table.reward).all()
        trained |= set(shard.leases)
    driver.say(b"l", wire.BatchRequest(rank=0, step=8, report={}))
    assert [s.step for s in driver.journal.steps()] == list(range(8))
    assert driver.c.state is State.FINISHING


def test_a_journal_of_a_schema_that_is_not_known_is_refused(journal: Path) -> None:
    with closing(sqlite3.connect(journal)) as db:
        db.execute("UPDATE meta SET value = '99' WHERE key = 'schema'")
        db.commit()
    with pytest.raises(JournalError, match="schema"):
        Journal(journal)


def test_a_record_that_is_not_known_is_refused_with_a_sentence(journal: Path) -> None:
    with closing(sqlite3.connect(journal)) as db:
        db.execute("UPDATE steps SET metrics = '{\"step\": 1}' WHERE step = 0")
        db.commit()
    with closing(Journal(journal)) as read, pytest.raises(JournalError, match="step 0 in the jour"):
        read.steps()
