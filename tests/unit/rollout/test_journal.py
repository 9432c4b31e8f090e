"""The journal: states of a lease, restart, rewind, and what a killed writer leaves behind."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncds.rollout.journal import Journal
from asyncds.rollout.journal_file import JournalDamagedError, JournalError
from tests.support.journal_killed_writer import deliver
from tests.support.paths import SUPPORT
from tests.support.records import evaluation_record, step_record


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with closing(Journal(path)) as journal:
        yield journal


def states(journal: Journal) -> dict[int, tuple[str, int | None]]:
    everything = ("leased", "delivered", "batched", "consumed", "committed", "evicted", "failed")
    return {r.id: (r.state, r.step) for r in journal.leases(*everything)}


def lags(journal: Journal) -> dict[int, int | None]:
    return {g.lease: g.lag for g in journal.groups()}


def test_the_life_of_a_lease(journal: Journal) -> None:
    assert journal.next_lease_id() == 1
    journal.add_lease(id=1, purpose="train", row=9, attempt=1, evaluation=None)
    journal.granted(1, "g", 2)
    (lease,) = journal.leases("leased")
    assert (lease.row, lease.generator, lease.attempt, lease.oldest) == (9, "g", 2, None)
    assert deliver(journal, 1, version=3)
    assert states(journal) == {1: ("delivered", None)}
    (group,) = journal.groups()
    assert (group.payload, group.oldest, group.tokens, group.lag) == (b"group 1", 3, 6, None)
    journal.batch(5, 5, [1])
    assert (states(journal), lags(journal)) == ({1: ("batched", 5)}, {1: 2})
    assert journal.progress() == (0, 6)
    journal.consume(5)
    assert (states(journal), journal.progress()) == ({1: ("consumed", 5)}, (6, 6))
    journal.checkpointed(5)
    assert states(journal) == {1: ("consumed", 5)}, "a checkpoint of 5 batches has 0 to 4"
    journal.checkpointed(6)
    assert states(journal) == {1: ("committed", 5)}
    assert journal.next_lease_id() == 2
    assert journal.totals()["trained"] == 1


def test_a_checkpoint_may_be_reported_before_the_batch_it_contains(journal: Journal) -> None:
    deliver(journal, 1)
    journal.batch(0, 0, [1])
    journal.checkpointed(1)
    journal.consume(0)
    assert states(journal) == {1: ("committed", 0)}


def test_a_second_copy_changes_nothing(journal: Journal) -> None:
    assert deliver(journal, 1, version=3)
    assert not deliver(journal, 1, version=4)
    journal.batch(0, 3, [1])
    assert not deliver(journal, 1, version=4)
    assert states(journal) == {1: ("batched", 0)}
    assert [g.oldest for g in journal.groups()] == [3]


def test_ended_leases_are_counted_by_reason(journal: Journal) -> None:
    for lease, (state, reason) in enumerate(
        [("failed", "too long"), ("failed", "too long"), ("evicted", "stale")], start=1
    ):
        deliver(journal, lease)
        journal.end_lease(lease, state, reason)
    assert journal.ended() == {"too long": 2, "stale": 1}
    assert journal.counts() == {"failed": 2, "evicted": 1}


@settings(max_examples=25, deadline=None)
@given(
    batches=st.integers(0, 6),
    in_hand=st.booleans(),
    checkpoint=st.integers(0, 6),
    resume=st.integers(0, 7),
)
def test_rewind_frees_what_came_after_and_only_that(
    tmp_path_factory: pytest.TempPathFactory,
    batches: int,
    in_hand: bool,
    checkpoint: int,
    resume: int,
) -> None:
    path = tmp_path_factory.mktemp("rewind") / "journal.db"
    with closing(Journal(path)) as journal:
        for step in range(batches):
            for lease in (2 * step + 1, 2 * step + 2):
                deliver(journal, lease, version=max(0, step - 1))
            journal.batch(step, step, [2 * step + 1, 2 * step + 2])
            if step < batches - 1 or not in_hand:
                journal.consume(step)
                journal.add_step(step_record({"step": step + 1}))
        free, unfinished, failed = 100, 101, 102
        deliver(journal, free)
        journal.add_lease(id=unfinished, purpose="train", row=1, attempt=1, evaluation=None)
        deliver(journal, failed)
        journal.end_lease(failed, "evicted", "stale")
        trained = batches - (in_hand and batches > 0)
        journal.checkpointed(min(checkpoint, trained))
        assert journal.progress() == (trained, batches)
        before, lag = states(journal), lags(journal)
        journal.rewind(resume)
        after, lag_after = states(journal), lags(journal)
        for lease, (state, step) in before.items():
            if step is not None and step >= resume:
                assert after[lease] == ("delivered", None)
                assert lag_after[lease] is None
            else:
                assert after[lease] == (state, step)
                if lease not in (free, unfinished):
                    assert lag_after[lease] == lag[lease]
        assert [r.step for r in journal.steps()] == [s for s in range(trained) if s < resume]
        journal.rewind(resume)
        assert states(journal) == after, "a second rewind changes nothing"
    with closing(Journal(path)) as again:
        assert states(again) == after


def test_restart_reads_back_the_same(path: Path) -> None:
    with closing(Journal(path)) as journal, journal.transaction():
        deliver(journal, 1, version=2)
        journal.batch(0, 2, [1])
        journal.add_step(record := step_record({"step": 1, "learner/loss": 0.5}))
        journal.set_meta("cursor", "7")
        id = journal.add_evaluation(version=2, step=2, n_samples=4)
        journal.finish_evaluation(result := evaluation_record(id, {"version": 2}))
        before = list(journal.groups()), journal.leases("batched"), journal.totals()
    with closing(Journal(path)) as journal:
        assert (list(journal.groups()), journal.leases("batched"), journal.totals()) == before
        assert journal.steps() == [record]
        assert journal.meta("cursor") == "7"
        assert journal.meta("nothing") is None
        assert journal.evaluations() == [result]
        assert [g.lease for g in journal.groups(step=0)] == [1]
        assert journal.next_lease_id() == 2


def test_a_transaction_that_raises_leaves_nothing(journal: Journal) -> None:
    def broken() -> None:
        with journal.transaction():
            deliver(journal, 1)
            raise KeyError("broken")

    with pytest.raises(KeyError, match="broken"):
        broken()
    assert states(journal) == {}
    with journal.transaction():
        deliver(journal, 2)
    assert states(journal) == {2: ("delivered", None)}


def test_a_statement_that_fails_is_a_journal_error(journal: Journal, path: Path) -> None:
    def twice() -> None:
        with journal.transaction():
            for _ in range(2):
                journal.add_lease(id=1, purpose="train", row=1, attempt=1, evaluation=None)

    with pytest.raises(JournalError, match=r"journal\.db"):
        twice()
    assert states(journal) == {}


def test_a_reader_sees_what_is_committed(journal: Journal, path: Path) -> None:
    deliver(journal, 1)
    with closing(Journal(path, read_only=True)) as reader:
        journal.begin()
        deliver(journal, 2)
        assert list(states(reader)) == [1]
        journal.commit()
        assert list(states(reader)) == [1, 2]
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader.end_lease(1, "failed", "by a reader")
        with journal.transaction():
            deliver(journal, 3)
            list(reader.groups())
    assert list(states(journal)) == [1, 2, 3]


def test_a_killed_writer_loses_nothing_committed_and_keeps_nothing_else(path: Path) -> None:
    script = SUPPORT / "journal_killed_writer.py"
    with subprocess.Popen([sys.executable, str(script), str(path)], stdout=subprocess.PIPE) as p:
        assert p.stdout is not None
        assert p.stdout.readline() == b"begun\n"
        p.kill()
    with closing(Journal(path)) as journal:
        assert states(journal) == {1: ("delivered", None)}
        assert [g.payload for g in journal.groups()] == [b"group 1"]
        with journal.transaction():
            deliver(journal, 2)


def test_a_second_writer_is_shut_out_and_readers_are_not(path: Path, journal: Journal) -> None:
    owner = rf"journal\.db is written by process {os.getpid()} on \S+: end that first"
    for _ in range(2):
        with pytest.raises(JournalError, match=owner):
            Journal(path)
    with journal.transaction():
        journal.set_meta("a", "b")
        with closing(Journal(path, read_only=True)) as reader:
            assert reader.meta("a") is None
    journal.close()
    with closing(Journal(path)) as again:
        assert again.meta("a") == "b"


def test_a_killed_writer_shuts_nobody_out(path: Path) -> None:
    script = SUPPORT / "journal_killed_writer.py"
    with subprocess.Popen([sys.executable, str(script), str(path)], stdout=subprocess.PIPE) as p:
        assert p.stdout is not None
        assert p.stdout.readline() == b"begun\n"
        with pytest.raises(JournalError, match=f"written by process {p.pid} "):
            Journal(path)
        p.kill()
    Journal(path).close()


def test_one_that_can_not_be_opened_is_not_locked(path: Path) -> None:
    path.write_bytes(b"not a database at all" * 100)
    for _ in range(2):
        with pytest.raises(JournalError, match="cannot open the journal"):
            Journal(path)


def test_tries_are_those_of_leases_in_work_in_their_order(path: Path) -> None:
    with closing(Journal(path)) as journal:
        for id in (1, 2, 3):
            journal.add_lease(id=id, purpose="train", row=9, attempt=1, evaluation=None)
        for lease, attempt, outcome in ((2, 1, "died"), (1, 1, "left"), (2, 2, "failed")):
            journal.add_attempt(
                lease=lease, attempt=attempt, generator="g", outcome=outcome, reason="why"
            )
        assert journal.attempts() == [(1, "left"), (2, "died"), (2, "failed")]
        journal.end_lease(2, "failed", "why")
        assert journal.attempts() == [(1, "left")]
        # A journal from before there was this table gets it, and is read without it.
        journal._db.execute("DROP TABLE tries")
    with closing(Journal(path, read_only=True)) as journal:
        assert journal.counts() == {"leased": 2, "failed": 1}
    with closing(Journal(path)) as journal:
        assert journal.attempts() == []


def test_dropped_evaluations_free_nothing_that_is_finished(journal: Journal) -> None:
    ids = []
    for step in (0, 2, 4):
        ids.append(journal.add_evaluation(version=step, step=step, n_samples=4))
        journal.add_lease(id=step + 1, purpose="eval", row=0, attempt=1, evaluation=ids[-1])
    journal.finish_evaluation(evaluation_record(ids[0], {"step": 0}))
    journal.finish_evaluation(evaluation_record(ids[2], {"step": 4}))
    journal.drop_evaluations()
    assert [e.step for e in journal.evaluations()] == [0, 4]
    journal.drop_evaluations(from_step=2)
    assert [e.step for e in journal.evaluations()] == [0]
    assert journal.counts("eval") == {"failed": 2, "leased": 1}
    assert journal.add_evaluation(version=1, step=1, n_samples=4) not in ids, "not used twice"


def test_another_schema_is_refused_in_words(path: Path) -> None:
    with closing(Journal(path)) as journal:
        journal.set_meta("schema", "99")
    for read_only in (False, True):
        with pytest.raises(JournalError, match=r"journal\.db has journal schema 99.*reads 1"):
            Journal(path, read_only=read_only)


def test_a_record_that_another_version_wrote_is_refused_in_words(path: Path) -> None:
    with closing(Journal(path)) as journal:
        journal.add_step(step_record({"step": 1}))
        journal._db.execute("""UPDATE steps SET metrics = '{"step": 1, "reward": 0.5}'""")
        with pytest.raises(JournalError, match=r"step 0 in the journal .* use the version that"):
            journal.steps()
        id = journal.add_evaluation(version=0, step=0, n_samples=1)
        journal._db.execute("UPDATE evaluations SET result = '{}'")
        with pytest.raises(JournalError, match=rf"evaluation {id} in the journal .*missing"):
            journal.evaluations()


def damage(path: Path, *, page: int) -> None:
    """Overwrite a page of 4096 bytes, of which the first holds the schema."""
    with path.open("r+b") as file:
        file.seek(4096 * page)
        file.write(b"\xa5" * 4096)


def test_every_damaged_page_is_found_at_the_start(path: Path) -> None:
    with closing(Journal(path)) as journal, journal.transaction():
        for id in range(1, 60):
            journal.add_lease(id=id, purpose="train", row=1, attempt=1, evaluation=None)
            journal.deliver(
                lease=id,
                generator="g",
                oldest=0,
                newest=0,
                n=1,
                n_correct=0,
                reward=0.0,
                tokens=1,
                payload=b"x" * 600,
            )
    whole = path.read_bytes()
    assert len(whole) // 4096 > 10
    for page in range(1, len(whole) // 4096):
        path.write_bytes(whole)
        damage(path, page=page)
        with pytest.raises(JournalError, match=r"journal\.db is damaged \(.*\): put a good copy"):
            Journal(path)
    path.write_bytes(whole)
    Journal(path).close()


def test_every_flipped_bit_of_a_group_is_found_at_the_start(path: Path) -> None:
    """Also in pages that hold nothing but a part of a long group."""
    payload = bytes(range(256)) * 40
    with closing(Journal(path)) as journal, journal.transaction():
        journal.add_lease(id=7, purpose="train", row=1, attempt=1, evaluation=None)
        journal.deliver(
            lease=7,
            generator="g",
            oldest=0,
            newest=0,
            n=1,
            n_correct=0,
            reward=0.0,
            tokens=1,
            payload=payload,
        )
    whole = path.read_bytes()
    for piece in (payload[:100], payload[-100:]):
        spoilt = bytearray(whole)
        spoilt[whole.rindex(piece) + 50] ^= 0x10
        path.write_bytes(spoilt)
        with pytest.raises(JournalDamagedError, match="lease 7 has other content than was written"):
            Journal(path)
    path.write_bytes(whole)
    with closing(Journal(path)) as journal:
        # One from before there were checksums gets them for what is new.
        journal._db.execute("DROP TABLE checksums")
    Journal(path).close()


def test_what_is_no_journal_is_refused_in_words(path: Path, tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="cannot open the journal"):
        Journal(path, read_only=True)
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(JournalError, match="cannot open the journal"):
        Journal(path)
    with pytest.raises(JournalError, match="cannot open the journal"):
        Journal(tmp_path / "missing" / "journal.db")
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as db:
        db.execute("CREATE TABLE cats (name TEXT)")
    with pytest.raises(JournalError, match=r"other\.db"):
        Journal(other)
