"""Samples are deleted to keep the journal small, and never those that a restart may need."""

import logging
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncds.config.engines import CheckpointConfig
from asyncds.config.sampling import EvalConfig
from asyncds.rollout.journal import Journal
from asyncds.rollout.journal_file import JournalDamagedError
from asyncds.rollout.retention import StoredGroup, is_needed, oldest_kept, to_delete
from services.coordinator.checkpoints import CheckpointTracker
from services.coordinator.retention import LOOKED_AT, Retention
from tests.support.paths import SUPPORT
from tests.support.records import evaluation_record

PER_STEP = 3
BYTES = 20_000
"""Of a payload: several pages."""


def stored(**changes: Any) -> StoredGroup:
    values: dict[str, Any] = {
        "lease": 1,
        "purpose": "train",
        "state": "committed",
        "step": 4,
        "open": False,
        "n_bytes": 10,
    }
    return StoredGroup(**(values | changes))


@pytest.mark.parametrize(
    ("group", "needed"),
    [
        (stored(), False),
        (stored(step=5), True),  # a checkpoint of step 5 holds the batches 0 to 4
        (stored(step=6), True),
        (stored(state="delivered", step=None), True),
        (stored(state="batched", step=1), True),
        (stored(state="consumed", step=1), True),
        (stored(state="evicted", step=None), False),
        (stored(state="failed", step=None), False),
        (stored(purpose="eval", state="delivered", step=None, open=True), True),
        (stored(purpose="eval", state="delivered", step=None), False),
        (stored(purpose="eval", state="failed", step=None), False),
    ],
)
def test_what_a_restart_needs(group: StoredGroup, needed: bool) -> None:
    assert is_needed(group, oldest_checkpoint=5) is needed
    if group.purpose == "train" and group.step is not None:
        assert is_needed(group, oldest_checkpoint=0)


def test_the_oldest_go_first_and_no_more_than_is_asked_for() -> None:
    groups = [stored(lease=i, step=i) for i in range(8)]

    def chosen(n_bytes: int, oldest: int = 6) -> list[int]:
        return [g.lease for g in to_delete(groups, oldest_checkpoint=oldest, n_bytes=n_bytes)]

    assert (chosen(0), chosen(1), chosen(10), chosen(11)) == ([], [0], [0], [0, 1])
    assert chosen(1000) == [0, 1, 2, 3, 4, 5]
    assert chosen(1000, oldest=0) == []


def test_the_oldest_checkpoint_that_may_be_on_the_disk() -> None:
    assert oldest_kept([], keep_last=2) == 0
    assert oldest_kept([2], keep_last=2) == 2
    assert oldest_kept([2, 4, 6], keep_last=2) == 4
    assert oldest_kept([2, 4, 6], keep_last=1, kept=[2]) == 2
    assert oldest_kept([4, 6], keep_last=1, kept=[2]) == 6, "one that is not there is not kept"


class Run:
    """A run without processes: what is in its journal, and what has to be."""

    def __init__(self, path: Path, *, limit: int, keep_last: int, seed: int) -> None:
        self.path, self.limit = path, limit
        self.checkpoint = CheckpointConfig(keep_last=keep_last)
        self.rng = random.Random(seed)
        self.payloads: dict[int, bytes] = {}
        self.trained: dict[int, int] = {}
        """Lease → step, of those that the learner has had."""
        self.waiting: list[int] = []
        self.unneeded: set[int] = set()
        self.open: dict[int, int] = {}
        """Lease → evaluation that is not finished."""
        self.step = 0
        self.disk: list[int] = []
        """Steps of the checkpoints that there are."""
        self.start()

    def start(self) -> None:
        self.journal = Journal(self.path)
        self.journal._db.execute("PRAGMA synchronous=OFF")
        self.driver = CheckpointTracker(
            journal=self.journal, evaluation=EvalConfig(), checkpoint=self.checkpoint
        )
        self.retention = Retention(journal=self.journal, limit_bytes=self.limit)

    def restart(self) -> None:
        self.journal.close()
        self.start()

    def deliver(self, purpose: str = "train", evaluation: int | None = None) -> int:
        lease = self.journal.next_lease_id()
        self.payloads[lease] = self.rng.randbytes(self.rng.randrange(100, 2 * BYTES))
        self.journal.add_lease(id=lease, purpose=purpose, row=0, attempt=1, evaluation=evaluation)
        self.journal.deliver(
            lease=lease,
            generator="g",
            oldest=0,
            newest=0,
            n=2,
            n_correct=1,
            reward=0.5,
            tokens=6,
            payload=self.payloads[lease],
        )
        if purpose == "train":
            self.waiting.append(lease)
        return lease

    def train(self) -> None:
        while len(self.waiting) < PER_STEP:
            self.deliver()
        batch, self.waiting = self.waiting[:PER_STEP], self.waiting[PER_STEP:]
        self.journal.batch(self.step, 0, batch)
        self.journal.consume(self.step)
        self.trained |= dict.fromkeys(batch, self.step)
        self.step += 1

    def evict(self) -> None:
        if self.waiting:
            lease = self.waiting.pop()
            self.journal.end_lease(lease, "evicted", "stale")
            self.unneeded.add(lease)

    def save(self) -> None:
        if self.step > max(self.disk, default=0):
            self.driver.saved(self.step)
            self.disk.append(self.step)
            last = self.disk[-self.checkpoint.keep_last :]
            kept = self.driver.keep([])
            self.disk = [s for s in self.disk if s in last or s in kept]

    def evaluate(self) -> None:
        """Begin one, or finish the one that was begun."""
        if not self.open:
            id = self.journal.add_evaluation(version=self.step, step=self.step, n_samples=2)
            self.open = {self.deliver("eval", id): id for _ in range(2)}
            return
        ((id, *_),) = [list(self.open.values())]
        chance = self.rng.random()
        step = self.rng.choice([self.step, *self.disk])
        result = {"version": step, "step": step, "pass@k": {"1": chance}}
        self.journal.finish_evaluation(evaluation_record(id, result))
        self.driver.evaluated()
        self.unneeded |= set(self.open)
        self.open = {}

    def lose_the_learner(self) -> None:
        """It comes back at the newest checkpoint that is whole."""
        del self.disk[len(self.disk) - self.rng.randrange(len(self.disk) or 1) :]
        step = max(self.disk, default=0)
        self.journal.rewind(step)
        self.journal.drop_evaluations(from_step=step)
        self.driver.restarted(step)
        self.unneeded |= set(self.open)
        self.open = {}
        again = [lease for lease, at in self.trained.items() if at >= step]
        for lease in again:
            del self.trained[lease]
        self.waiting, self.step = [*again, *self.waiting], step

    def compact(self) -> None:
        """As many turns as it takes to look at everything twice."""
        for _ in range(2 * len(self.payloads) + 4):
            with self.journal.transaction():
                self.retention.turn()

    def needed(self) -> set[int]:
        oldest = min(self.disk, default=0)
        trained = {lease for lease, step in self.trained.items() if step >= oldest}
        return {*self.waiting, *self.open, *trained}

    def check(self) -> None:
        rows = {group.lease: group for group in self.journal.groups()}
        assert set(rows) == set(self.payloads), "the numbers stay"
        for lease, row in rows.items():
            assert row.payload in (self.payloads[lease], b"")
            assert (row.n, row.n_correct, row.reward, row.tokens) == (2, 1, 0.5, 6)
        assert all(rows[lease].payload for lease in self.needed())
        waiting = {lease.id for lease in self.journal.leases("delivered")}
        assert waiting == set(self.waiting), "what is trained again can be"

    def check_limit(self) -> None:
        """What is over the limit is there because a restart may need it."""
        if self.journal.used_bytes() > self.limit:
            there = {g.lease for g in self.journal.groups() if g.payload}
            assert there <= self.needed() | self.spared(), "all that could be deleted was"
            assert self.retention.exceeded
        else:
            assert not self.retention.exceeded

    def spared(self) -> set[int]:
        """Those trained since a checkpoint that the coordinator believes to be there."""
        oldest = self.journal.oldest_checkpoint()
        return {lease for lease, step in self.trained.items() if step >= oldest}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path / "journal.db", limit=10 * BYTES, keep_last=1, seed=0)
    yield run
    run.journal.close()


ACTIONS = (
    *("train", "train", "train", "deliver", "evict", "save", "save", "evaluate"),
    *("compact", "compact", "lose_the_learner", "restart"),
)


@settings(max_examples=60, deadline=None)
@given(
    actions=st.lists(st.sampled_from(ACTIONS), min_size=5, max_size=50),
    keep_last=st.integers(1, 3),
    limit=st.sampled_from([BYTES, 8 * BYTES, 20 * BYTES]),
    seed=st.integers(0, 2**32),
)
def test_what_is_needed_stays_and_the_limit_holds_where_it_can(
    tmp_path_factory: pytest.TempPathFactory,
    actions: list[str],
    keep_last: int,
    limit: int,
    seed: int,
) -> None:
    path = tmp_path_factory.mktemp("run") / "journal.db"
    run = Run(path, limit=limit, keep_last=keep_last, seed=seed)
    try:
        for action in actions:
            getattr(run, action)()
            if action == "compact":
                run.check_limit()
            run.check()
        run.restart()
        run.check()
    finally:
        run.journal.close()


def test_room_that_was_freed_is_used_again(run: Run) -> None:
    """The file stays as large as the limit and what came in a turn, however much goes through."""
    sizes = []
    for _ in range(60):
        with run.journal.transaction():
            run.train()
            run.save()
            run.retention.turn()
        sizes.append(run.path.stat().st_size)
    run.check()
    assert sum(map(len, run.payloads.values())) > 15 * run.limit
    most = run.limit + 4 * PER_STEP * BYTES
    assert max(sizes) < most
    assert run.retention.deleted > 100


def test_many_groups_are_gone_through_a_part_at_a_time(run: Run) -> None:
    """More than are looked at in a turn, which are all needed, before one that is not."""
    with run.journal.transaction():
        for _ in range(LOOKED_AT + 10):
            run.deliver()
        run.evict()
        (evicted,) = run.unneeded
        run.retention.turn()
        assert (run.retention.deleted, run.retention.exceeded) == (0, False)
        run.retention.turn()
    assert run.retention.deleted == 1
    assert [g.lease for g in run.journal.groups() if not g.payload] == [evicted]


def test_a_limit_that_can_not_be_kept_is_said_once(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for _ in range(5):
        run.train()
    run.compact()
    assert run.retention.exceeded
    (line,) = caplog.messages
    assert "a restart may need all samples" in line
    assert "coordinator.journal_gb" in line
    run.save()
    run.compact()
    assert not run.retention.exceeded
    assert run.retention.deleted > 0


def test_a_learner_that_goes_back_further_than_was_kept_gets_other_groups(run: Run) -> None:
    """Somebody moved the checkpoints away: the run begins again, with what there is."""
    for _ in range(8):
        run.train()
    run.save()
    run.compact()
    deleted = {g.lease for g in run.journal.groups() if not g.payload}
    assert deleted
    run.journal.rewind(0)
    assert run.journal.ended() == {"deleted": len(deleted)}
    there = {lease.id for lease in run.journal.leases("delivered")}
    assert there == set(run.payloads) - deleted
    assert run.journal.progress() == (0, 0)
    totals = run.journal.totals()
    assert (totals["delivered"], totals["trained"]) == (len(run.payloads), 0)


def spoil(path: Path, payload: bytes) -> None:
    whole = bytearray(path.read_bytes())
    whole[whole.rindex(payload[-100:]) + 50] ^= 0x10
    path.write_bytes(whole)


def test_only_what_a_restart_needs_is_read_at_the_start(run: Run) -> None:
    """The rest is when it is read, or deleted."""
    for _ in range(2):
        run.train()
        run.save()
    (old, *_), (young, *_) = ([i for i, s in run.trained.items() if s == n] for n in (0, 1))
    waiting = run.deliver()
    run.journal.close()
    whole = run.path.read_bytes()
    spoil(run.path, run.payloads[waiting])
    with pytest.raises(JournalDamagedError, match=f"lease {waiting} has other content"):
        Journal(run.path)
    run.path.write_bytes(whole)
    spoil(run.path, run.payloads[old])
    with closing(Journal(run.path)) as journal:
        assert len(list(journal.groups(lease=young))) == 1
        for read in (lambda: list(journal.groups()), lambda: journal.delete_samples([old])):
            with pytest.raises(JournalDamagedError, match=f"lease {old} has other content"):
                read()
    with (
        closing(Journal(run.path, read_only=True)) as reader,
        pytest.raises(JournalDamagedError, match=f"lease {old} has other content"),
    ):
        list(reader.groups())


def test_a_journal_whose_writer_is_killed_while_it_deletes_is_whole(run: Run) -> None:
    for _ in range(8):
        run.train()
    run.save()
    run.journal.close()
    script = SUPPORT / "journal_killed_writer.py"
    command = [sys.executable, str(script), str(run.path), "delete"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        process.kill()
    run.start()
    run.check()
    gone = [g.lease for g in run.journal.groups() if not g.payload]
    assert gone == [1, 2], "what was committed, and no more"
    assert run.journal._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    run.compact()
    run.check_limit()
