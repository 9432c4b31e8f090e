"""The record of a run, as tables: leases, groups, steps, evaluations.

A group is *delivered* once its row is committed here, and only then acknowledged. The life of a
training lease, in the column `state`:

    leased ──→ delivered ──→ batched(step) ──→ consumed(step) ──→ committed(checkpoint)
      │             └──→ evicted (too stale, or without signal)
      └──→ failed (a reason is recorded)

Evaluation leases go from leased to delivered and stay. The samples of groups that no restart can
need may be deleted (`asyncds.rollout.retention`); everything else stays. How it is written is in
`asyncds.rollout.journal_file`, what it can be asked in `asyncds.rollout.journal_reader`.
"""

import json
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from asyncds.protocol.records import EvaluationRecord, StepRecord
from asyncds.rollout.journal_events import (
    AttemptEnded,
    GroupDelivered,
    JournalEvent,
    LeaseEnded,
    LeaseGranted,
    LeasesMoved,
)
from asyncds.rollout.journal_reader import JournalReader
from asyncds.rollout.lifecycle import AttemptOutcome, DropReason, LeaseState, Purpose

SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS leases (
    id INTEGER PRIMARY KEY,
    purpose TEXT NOT NULL,          -- train | eval
    row INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    state TEXT NOT NULL,
    generator TEXT,
    evaluation INTEGER,             -- evaluations.id, of an eval lease
    step INTEGER,                   -- that trained it
    reason TEXT,                    -- of a failure or eviction
    created REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS leases_by_state ON leases (state, purpose);
CREATE TABLE IF NOT EXISTS tries (            -- that ended without a group
    lease INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    generator TEXT,
    outcome TEXT NOT NULL,          -- failed | died | left | distrusted
    reason TEXT NOT NULL,
    ended REAL NOT NULL,
    PRIMARY KEY (lease, attempt)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS parts (            -- of evaluation leases; without one: from 0
    lease INTEGER PRIMARY KEY,
    first INTEGER NOT NULL          -- number of its first sample
);
CREATE TABLE IF NOT EXISTS groups (
    lease INTEGER PRIMARY KEY REFERENCES leases (id),
    generator TEXT NOT NULL,
    delivered REAL NOT NULL,
    oldest INTEGER NOT NULL,        -- weight version of the oldest token
    newest INTEGER NOT NULL,
    n INTEGER NOT NULL,
    n_correct INTEGER NOT NULL,
    reward REAL NOT NULL,           -- mean
    tokens INTEGER NOT NULL,
    lag INTEGER,                    -- at consumption
    payload BLOB NOT NULL           -- wire.Group, msgpack; empty once deleted
);
CREATE TABLE IF NOT EXISTS checksums (        -- of the payloads that are there
    lease INTEGER PRIMARY KEY,
    crc32 INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS steps (
    step INTEGER PRIMARY KEY,
    finished REAL NOT NULL,
    metrics TEXT NOT NULL           -- JSON
);
CREATE TABLE IF NOT EXISTS evaluations (
    id INTEGER PRIMARY KEY AUTOINCREMENT,   -- that of a dropped one must not come again
    version INTEGER NOT NULL,
    step INTEGER NOT NULL,
    n_samples INTEGER NOT NULL,
    result TEXT                     -- JSON, when finished
);
"""


class Journal(JournalReader):
    """Opened by the coordinator, or read-only by tools."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._listener: Callable[[list[JournalEvent]], None] | None = None
        self._recorded: list[JournalEvent] = []
        super().__init__(path, schema=_SCHEMA, version=SCHEMA_VERSION, read_only=read_only)

    def listen(self, listener: Callable[[list[JournalEvent]], None]) -> None:
        """Tell `listener`, after every commit, what was recorded of leases."""
        self._listener = listener

    def begin(self) -> None:
        """Open a transaction, if none is open."""
        if not self._db.in_transaction:
            self._recorded.clear()  # of one that was rolled back
        super().begin()

    def commit(self) -> None:
        """Make everything since `begin` durable, then tell the listener.

        Raises as `transaction` does.
        """
        super().commit()
        recorded = [*self._recorded]
        self._recorded.clear()
        if self._listener is not None and recorded:
            self._listener(recorded)

    def _tell(self, event: JournalEvent) -> None:
        if self._listener is not None:
            self._recorded.append(event)

    def _moved(self, state: LeaseState, step: int, leases: Iterable[int]) -> None:
        moved = [*leases]
        if moved:
            self._tell(LeasesMoved(leases=moved, state=state, step=step, at=time.time_ns()))

    # --- run ------------------------------------------------------------------------------------

    def run_id(self) -> str:
        """The id of this run, unlike any other's; made when it is first asked for."""
        if (id := self.meta("id")) is None:
            self.set_meta("id", id := uuid.uuid4().hex)
        return id

    def remember_stop(self, reason: str) -> None:
        """Record that the run was told to stop."""
        self.set_meta("stop", reason)

    def forget_stop(self) -> None:
        """Record that the run has stopped, or is resumed."""
        self._db.execute("DELETE FROM meta WHERE key = 'stop'")

    # --- leases and groups ----------------------------------------------------------------------

    def set_row_sets(
        self, *, train: Sequence[tuple[str, int]], evaluated: Sequence[tuple[str, int]]
    ) -> None:
        """Note the sets that the rows consist of, for those who read the journal."""
        sets = {Purpose.TRAIN: train, Purpose.EVAL: evaluated}
        self.set_meta("row_sets", json.dumps(sets))

    def add_lease(
        self,
        *,
        id: int,
        purpose: str,
        row: int,
        attempt: int,
        evaluation: int | None,
        first: int = 0,
    ) -> None:
        """Record a new lease, not granted yet. first: number of its first sample."""
        self._db.execute(
            "INSERT INTO leases (id, purpose, row, attempt, state, evaluation, created)"
            " VALUES (?, ?, ?, ?, 'leased', ?, ?)",
            (id, purpose, row, attempt, evaluation, time.time()),
        )
        if first:
            self._db.execute("INSERT INTO parts VALUES (?, ?)", (id, first))

    def granted(self, lease: int, generator: str | None, attempt: int) -> None:
        """Record who has a lease now; None: nobody."""
        self._db.execute(
            "UPDATE leases SET generator = ?, attempt = ? WHERE id = ?", (generator, attempt, lease)
        )
        if generator is not None:
            self._tell(LeaseGranted(lease=lease, at=time.time_ns()))

    def add_attempt(
        self,
        *,
        lease: int,
        attempt: int,
        generator: str | None,
        outcome: AttemptOutcome,
        reason: str,
    ) -> None:
        """Record that an attempt at a lease ended without a group."""
        self._db.execute(
            "INSERT INTO tries VALUES (?, ?, ?, ?, ?, ?)",
            (lease, attempt, generator, outcome, reason, time.time()),
        )
        self._tell(
            AttemptEnded(
                lease=lease,
                attempt=attempt,
                generator=generator,
                outcome=outcome,
                reason=reason,
                at=time.time_ns(),
            )
        )

    def deliver(
        self,
        *,
        lease: int,
        generator: str,
        oldest: int,
        newest: int,
        n: int,
        n_correct: int,
        reward: float,
        tokens: int,
        payload: bytes,
    ) -> bool:
        """Record a group. False, and nothing is written, if this lease was settled before."""
        began = time.time_ns()
        changed = self._db.execute(
            "UPDATE leases SET state = 'delivered' WHERE id = ? AND state = 'leased'"
            " RETURNING generator, attempt",
            (lease,),
        ).fetchone()
        if changed is None:
            return False
        holder, attempt = changed
        self._db.execute(
            "INSERT INTO groups (lease, generator, delivered, oldest, newest, n, n_correct, reward,"
            " tokens, payload) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                lease,
                generator,
                time.time(),
                oldest,
                newest,
                n,
                n_correct,
                reward,
                tokens,
                payload,
            ),
        )
        self._db.execute("INSERT INTO checksums VALUES (?, ?)", (lease, zlib.crc32(payload)))
        self._tell(
            GroupDelivered(
                lease=lease,
                generator=generator,
                holder=holder,
                attempt=attempt,
                began=began,
                at=time.time_ns(),
            )
        )
        return True

    def end_lease(self, lease: int, state: LeaseState, reason: str) -> None:
        """Record that a lease is FAILED or EVICTED, and why."""
        holder, attempt = self._db.execute(
            "UPDATE leases SET state = ?, reason = ? WHERE id = ? RETURNING generator, attempt",
            (state, reason, lease),
        ).fetchone()
        self._tell(
            LeaseEnded(
                lease=lease,
                state=state,
                reason=reason,
                holder=holder,
                attempt=attempt,
                at=time.time_ns(),
            )
        )

    def batch(self, step: int, version: int, leases: Iterable[int]) -> None:
        """Record that these groups are batch `step`, of a learner with weights `version`."""
        batch = [*leases]
        for lease in batch:
            self._db.execute(
                "UPDATE leases SET state = 'batched', step = ? WHERE id = ?", (step, lease)
            )
            self._db.execute("UPDATE groups SET lag = ? - oldest WHERE lease = ?", (version, lease))
        self._moved(LeaseState.BATCHED, step, batch)

    def consume(self, step: int) -> None:
        """Record that batch `step` is trained."""
        rows = self._db.execute(
            "UPDATE leases SET state = 'consumed' WHERE step = ? AND state = 'batched'"
            " RETURNING id",
            (step,),
        )
        self._moved(LeaseState.CONSUMED, step, (id for (id,) in rows.fetchall()))

    def checkpointed(self, step: int) -> None:
        """Record that a checkpoint with all batches before `step` is durable."""
        rows = self._db.execute(
            "UPDATE leases SET state = 'committed'"
            " WHERE state IN ('batched', 'consumed') AND step < ? RETURNING id",
            (step,),
        )
        self._moved(LeaseState.COMMITTED, step, (id for (id,) in rows.fetchall()))

    def rewind(self, step: int) -> int:
        """The learner starts again at `step`: batches from there on are available again.

        Returns how many groups of them are evicted, since their samples were deleted.
        """
        undone = "step >= ? AND state IN ('batched', 'consumed', 'committed')"
        gone = "SELECT 1 FROM groups WHERE lease = leases.id AND length(payload) = 0"
        self._db.execute(
            f"UPDATE groups SET lag = NULL WHERE lease IN (SELECT id FROM leases WHERE {undone})",
            (step,),
        )
        evicted = self._db.execute(
            "UPDATE leases SET state = 'evicted', step = NULL, reason = ?"
            f" WHERE {undone} AND EXISTS ({gone})",
            (DropReason.DELETED, step),
        ).rowcount
        rows = self._db.execute(
            f"UPDATE leases SET state = 'delivered', step = NULL WHERE {undone} RETURNING id",
            (step,),
        )
        self._moved(LeaseState.DELIVERED, step, (id for (id,) in rows.fetchall()))
        if self._db.execute("DELETE FROM steps WHERE step >= ?", (step,)).rowcount:
            self.set_meta("rewinds", json.dumps([*self.rewinds(), step]))
        return evicted

    def delete_samples(self, leases: Iterable[int]) -> None:
        """Free the room of these groups' samples; the numbers about them stay.

        Raises JournalDamagedError where they are not what was written: which pages to free would
        not be known for certain.
        """
        for lease in leases:
            for _ in self.groups(lease=lease):
                self._db.execute("UPDATE groups SET payload = x'' WHERE lease = ?", (lease,))
                self._db.execute("DELETE FROM checksums WHERE lease = ?", (lease,))

    # --- steps and evaluations ------------------------------------------------------------------

    def add_step(self, record: StepRecord) -> None:
        """Record a batch that is trained, with its report."""
        self._db.execute(
            "INSERT INTO steps VALUES (?, ?, ?)",
            (record.step, time.time(), json.dumps(record.line())),
        )

    def add_evaluation(self, *, version: int, step: int, n_samples: int) -> int:
        """Open an evaluation; returns its id."""
        cursor = self._db.execute(
            "INSERT INTO evaluations (version, step, n_samples) VALUES (?, ?, ?)",
            (version, step, n_samples),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def reopen_evaluations(self) -> list[int]:
        """The unfinished evaluations, in the order they were opened.

        Their leases without a group are over: whoever goes on makes new ones.
        """
        unfinished = "SELECT id FROM evaluations WHERE result IS NULL"
        self._db.execute(
            "UPDATE leases SET state = 'failed', reason = 'evaluation interrupted'"
            f" WHERE state = 'leased' AND evaluation IN ({unfinished})"
        )
        return [id for (id,) in self._db.execute(f"{unfinished} ORDER BY id").fetchall()]

    def finish_evaluation(self, record: EvaluationRecord) -> None:
        """Record the result of an evaluation that is open."""
        self._db.execute(
            "UPDATE evaluations SET result = ? WHERE id = ?",
            (json.dumps(record.result()), record.id),
        )

    def drop_evaluations(self, *, from_step: int | None = None) -> None:
        """Forget unfinished evaluations, and those of steps after `from_step`."""
        doomed = "result IS NULL" + ("" if from_step is None else f" OR step > {int(from_step)}")
        self._db.execute(
            "UPDATE leases SET state = 'failed', reason = 'evaluation dropped'"
            f" WHERE evaluation IN (SELECT id FROM evaluations WHERE {doomed})"
        )
        self._db.execute(f"DELETE FROM evaluations WHERE {doomed}")
