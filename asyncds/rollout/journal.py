"""The record of a run, as tables: leases, groups, steps, evaluations.

A group is *delivered* once its row is committed here, and only then acknowledged. The life of a
training lease, in the column `state`:

    leased ──→ delivered ──→ batched(step) ──→ consumed(step) ──→ committed(checkpoint)
      │             └──→ evicted (too stale, or without signal)
      └──→ failed (a reason is recorded)

Evaluation leases go from leased to delivered and stay. The samples of groups that no restart can
need may be deleted (`asyncds.rollout.retention`); everything else stays. How it is written is in
`asyncds.rollout.journal_file`.
"""

import json
import sqlite3
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from asyncds.protocol.records import EvaluationRecord, RecordError, StepRecord
from asyncds.rollout.journal_file import JournalError, JournalFile
from asyncds.rollout.retention import StoredGroup

R = TypeVar("R")

SCHEMA_VERSION = 1
DELETED = "deleted"
"""Why a group is evicted that would be trained again, had its samples not been deleted."""

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


@dataclass(frozen=True, kw_only=True)
class LeaseRow:
    """A row of `leases`, with the group's version if it was delivered."""

    id: int
    purpose: str
    row: int
    attempt: int
    state: str
    generator: str | None
    evaluation: int | None
    step: int | None
    oldest: int | None


@dataclass(frozen=True, kw_only=True)
class GroupRow:
    """A row of `groups` with its lease's row, purpose, step and evaluation. payload is msgpack, b""
    if the samples were deleted."""

    lease: int
    row: int
    purpose: str
    step: int | None
    evaluation: int | None
    generator: str
    oldest: int
    newest: int
    n: int
    n_correct: int
    reward: float
    tokens: int
    lag: int | None
    payload: bytes


class Journal(JournalFile):
    """Opened by the coordinator, or read-only by tools."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        super().__init__(path, schema=_SCHEMA, version=SCHEMA_VERSION, read_only=read_only)

    def _check_content(self, *, read_only: bool) -> None:
        self._has_checksums = "checksums" in self._tables()
        if not read_only:
            self._check_groups()

    def _check_groups(self) -> None:
        """Read the samples that a restart may need. SQLite looks at how pages hang together, not at
        every bit in them."""
        needed = (
            "l.purpose = 'train' AND l.state IN ('delivered', 'batched', 'consumed')"
            " OR l.purpose = 'train' AND l.state = 'committed' AND l.step >= ?"
        )
        try:
            for _ in self.groups(needed, (self.oldest_checkpoint(),)):
                pass
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            raise self._damaged(str(error)) from error

    # --- run ------------------------------------------------------------------------------------

    def run_id(self) -> str:
        """Of this run, unlike any other's; made when it is first asked for."""
        if (id := self.meta("id")) is None:
            self.set_meta("id", id := uuid.uuid4().hex)
        return id

    def stop_reason(self) -> str | None:
        """Why the run was told to stop, if it was and has not stopped yet."""
        return self.meta("stop")

    def remember_stop(self, reason: str) -> None:
        """The run was told to stop."""
        self.set_meta("stop", reason)

    def forget_stop(self) -> None:
        """The run has stopped, or is resumed."""
        self._db.execute("DELETE FROM meta WHERE key = 'stop'")

    # --- leases and groups ----------------------------------------------------------------------

    def next_lease_id(self) -> int:
        """One above the highest there ever was."""
        return 1 + (self._db.execute("SELECT max(id) FROM leases").fetchone()[0] or 0)

    def add_lease(
        self, *, id: int, purpose: str, row: int, attempt: int, evaluation: int | None
    ) -> None:
        """A new lease, not granted yet."""
        self._db.execute(
            "INSERT INTO leases (id, purpose, row, attempt, state, evaluation, created)"
            " VALUES (?, ?, ?, ?, 'leased', ?, ?)",
            (id, purpose, row, attempt, evaluation, time.time()),
        )

    def granted(self, lease: int, generator: str | None, attempt: int) -> None:
        """Who has it now; None: nobody."""
        self._db.execute(
            "UPDATE leases SET generator = ?, attempt = ? WHERE id = ?", (generator, attempt, lease)
        )

    def add_attempt(
        self, *, lease: int, attempt: int, generator: str | None, outcome: str, reason: str
    ) -> None:
        """A try of a lease ended without a group: it failed, or its generator died or left."""
        self._db.execute(
            "INSERT INTO tries VALUES (?, ?, ?, ?, ?, ?)",
            (lease, attempt, generator, outcome, reason, time.time()),
        )

    def first_attempt(self, lease: int) -> int:
        """The number of a lease's first try: 2 if it was made in the place of an evicted one."""
        row = self._db.execute(
            "SELECT min(l.attempt, coalesce((SELECT min(attempt) FROM tries WHERE lease = l.id),"
            " l.attempt)) FROM leases l WHERE l.id = ?",
            (lease,),
        ).fetchone()
        return int(row[0])

    def attempts(self) -> list[tuple[int, str]]:
        """(lease, outcome) of such tries of the leases that are in work, in order."""
        rows = self._db.execute(
            "SELECT t.lease, t.outcome FROM tries t JOIN leases l ON l.id = t.lease"
            " WHERE l.state = 'leased' ORDER BY t.lease, t.attempt"
        )
        return rows.fetchall()

    def was_granted(self, lease: int, generator: str) -> bool:
        """Whether this generator has the lease, or had it in a try that is recorded."""
        found = self._db.execute(
            "SELECT 1 FROM leases WHERE id = :lease AND generator = :generator UNION ALL"
            " SELECT 1 FROM tries WHERE lease = :lease AND generator = :generator",
            {"lease": lease, "generator": generator},
        )
        return found.fetchone() is not None

    def attempt_outcome(self, lease: int, attempt: int) -> str | None:
        """How this try of the lease ended without a group; None if it did not."""
        row = self._db.execute(
            "SELECT outcome FROM tries WHERE lease = ? AND attempt = ?", (lease, attempt)
        ).fetchone()
        return None if row is None else row[0]

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
        changed = self._db.execute(
            "UPDATE leases SET state = 'delivered' WHERE id = ? AND state = 'leased'", (lease,)
        ).rowcount
        if not changed:
            return False
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
        return True

    def end_lease(self, lease: int, state: str, reason: str) -> None:
        """`failed` or `evicted`, and why."""
        self._db.execute(
            "UPDATE leases SET state = ?, reason = ? WHERE id = ?", (state, reason, lease)
        )

    def batch(self, step: int, version: int, leases: Iterable[int]) -> None:
        """These groups are batch `step`, trained by a learner with weights `version`."""
        for lease in leases:
            self._db.execute(
                "UPDATE leases SET state = 'batched', step = ? WHERE id = ?", (step, lease)
            )
            self._db.execute("UPDATE groups SET lag = ? - oldest WHERE lease = ?", (version, lease))

    def consume(self, step: int) -> None:
        """Batch `step` is trained."""
        self._db.execute(
            "UPDATE leases SET state = 'consumed' WHERE step = ? AND state = 'batched'", (step,)
        )

    def checkpointed(self, step: int) -> None:
        """A checkpoint that contains all batches before `step` is durable."""
        self._db.execute(
            "UPDATE leases SET state = 'committed'"
            " WHERE state IN ('batched', 'consumed') AND step < ?",
            (step,),
        )

    def rewind(self, step: int) -> None:
        """The learner starts again at `step`: batches from there on are available again. Groups of
        them whose samples were deleted count as evicted."""
        undone = "step >= ? AND state IN ('batched', 'consumed', 'committed')"
        gone = "SELECT 1 FROM groups WHERE lease = leases.id AND length(payload) = 0"
        self._db.execute(
            f"UPDATE groups SET lag = NULL WHERE lease IN (SELECT id FROM leases WHERE {undone})",
            (step,),
        )
        self._db.execute(
            "UPDATE leases SET state = 'evicted', step = NULL, reason = ?"
            f" WHERE {undone} AND EXISTS ({gone})",
            (DELETED, step),
        )
        self._db.execute(
            f"UPDATE leases SET state = 'delivered', step = NULL WHERE {undone}", (step,)
        )
        if self._db.execute("DELETE FROM steps WHERE step >= ?", (step,)).rowcount:
            self.set_meta("rewinds", json.dumps([*self.rewinds(), step]))

    def rewinds(self) -> list[int]:
        """The steps that the run went back to, in order, where any were undone."""
        found: list[int] = json.loads(self.meta("rewinds") or "[]")
        return found

    def leases(self, *states: str, purpose: str = "train") -> list[LeaseRow]:
        """Leases in these states, oldest first."""
        marks = ", ".join("?" * len(states))
        rows = self._db.execute(
            "SELECT l.id, l.purpose, l.row, l.attempt, l.state, l.generator, l.evaluation, l.step,"
            " g.oldest FROM leases l LEFT JOIN groups g ON g.lease = l.id"
            f" WHERE l.purpose = ? AND l.state IN ({marks}) ORDER BY l.id",
            (purpose, *states),
        )
        names = LeaseRow.__dataclass_fields__
        return [LeaseRow(**dict(zip(names, row, strict=True))) for row in rows]

    def groups(self, where: str = "1", parameters: tuple[Any, ...] = ()) -> Iterator[GroupRow]:
        """Groups in lease order. `where` is SQL over `l` (leases) and `g` (groups).

        Reading on raises JournalDamagedError where a payload is not the one that was written.
        """
        checksum = "(SELECT crc32 FROM checksums WHERE lease = g.lease)"
        rows = self._db.execute(
            "SELECT g.lease, l.row, l.purpose, l.step, l.evaluation, g.generator, g.oldest,"
            " g.newest, g.n, g.n_correct, g.reward, g.tokens, g.lag, g.payload,"
            f" {checksum if self._has_checksums else 'NULL'}"
            f" FROM groups g JOIN leases l ON l.id = g.lease WHERE {where} ORDER BY g.lease",
            parameters,
        )
        return (self._group(*row) for row in rows)

    def _group(self, *row: Any) -> GroupRow:
        *values, checksum = row
        group = GroupRow(**dict(zip(GroupRow.__dataclass_fields__, values, strict=True)))
        if checksum is not None and zlib.crc32(group.payload) != checksum:
            raise self._damaged(
                f"the group of lease {group.lease} has other content than was written"
            )
        return group

    # --- what is kept of them -------------------------------------------------------------------

    def oldest_checkpoint(self) -> int:
        """The step of the oldest checkpoint that a learner may go back to; 0: the base model."""
        return int(self.meta("oldest_checkpoint") or 0)

    def used_bytes(self) -> int:
        """What the journal holds. The file may be larger: pages that are free are used again."""
        pages, free, size = (
            int(self._db.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size

    def stored_groups(self, *, after: int, most: int) -> list[StoredGroup]:
        """The next groups after a lease whose samples are there, oldest first."""
        rows = self._db.execute(
            "SELECT c.lease, l.purpose, l.state, l.step, e.id IS NOT NULL AND e.result IS NULL,"
            " length(g.payload) FROM checksums c JOIN groups g ON g.lease = c.lease"
            " JOIN leases l ON l.id = c.lease LEFT JOIN evaluations e ON e.id = l.evaluation"
            " WHERE c.lease > ? ORDER BY c.lease LIMIT ?",
            (after, most),
        )
        names = StoredGroup.__dataclass_fields__
        return [StoredGroup(**dict(zip(names, row, strict=True))) for row in rows]

    def delete_samples(self, leases: Iterable[int]) -> None:
        """Free the room of these groups' samples; the numbers about them stay.

        Raises JournalDamagedError where they are not what was written: which pages to free would
        not be known for certain.
        """
        for lease in leases:
            for _ in self.groups("g.lease = ?", (lease,)):
                self._db.execute("UPDATE groups SET payload = x'' WHERE lease = ?", (lease,))
                self._db.execute("DELETE FROM checksums WHERE lease = ?", (lease,))

    def progress(self) -> tuple[int, int]:
        """(batches trained, batches selected): the second is the first or one more."""
        trained, selected = self._db.execute(
            "SELECT max(CASE WHEN state != 'batched' THEN step END), max(step) FROM leases"
        ).fetchone()
        return (
            0 if trained is None else trained + 1,
            0 if selected is None else selected + 1,
        )

    def saved(self) -> int:
        """Batches in the newest durable checkpoint that was recorded; -1 without one."""
        last = self._db.execute("SELECT max(step) FROM leases WHERE state = 'committed'")
        step = last.fetchone()[0]
        return -1 if step is None else int(step) + 1

    # --- steps and evaluations ------------------------------------------------------------------

    def add_step(self, record: StepRecord) -> None:
        """A batch is trained, and its report has come."""
        self._db.execute(
            "INSERT INTO steps VALUES (?, ?, ?)",
            (record.step, time.time(), json.dumps(record.line())),
        )

    def has_step(self, step: int) -> bool:
        """Whether its record is there."""
        return (
            self._db.execute("SELECT 1 FROM steps WHERE step = ?", (step,)).fetchone() is not None
        )

    def steps(self, *, start: int = 0) -> list[StepRecord]:
        """Records of the trained batches from `start` on, in order. Raises JournalError for one
        that another version of asyncds wrote."""
        rows = self._db.execute(
            "SELECT step, metrics FROM steps WHERE step >= ? ORDER BY step", (start,)
        )
        return [self._read(StepRecord.from_line, line, f"step {step}") for step, line in rows]

    def add_evaluation(self, *, version: int, step: int, n_samples: int) -> int:
        """Open an evaluation; returns its id."""
        cursor = self._db.execute(
            "INSERT INTO evaluations (version, step, n_samples) VALUES (?, ?, ?)",
            (version, step, n_samples),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def finish_evaluation(self, record: EvaluationRecord) -> None:
        """The result of an evaluation that is open."""
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

    def evaluations(self) -> list[EvaluationRecord]:
        """Results of finished evaluations, in order. Raises JournalError for one that another
        version of asyncds wrote."""
        rows = self._db.execute(
            "SELECT id, result FROM evaluations WHERE result IS NOT NULL ORDER BY id"
        )
        return [
            self._read(EvaluationRecord.from_result, result, f"evaluation {id}", id=id)
            for id, result in rows
        ]

    def _read(self, make: Callable[[dict[str, Any]], R], text: str, what: str, **more: Any) -> R:
        try:
            return make(json.loads(text) | more)
        except RecordError as error:
            raise JournalError(
                f"{what} in the journal {self.path} is not as this version of asyncds writes it "
                f"({error}): use the version that wrote it"
            ) from error

    def evaluation_counts(self, evaluation: int) -> list[tuple[int, int, int]]:
        """(row, samples, correct samples) of each problem of an evaluation, by row."""
        rows = self._db.execute(
            "SELECT l.row, g.n, g.n_correct FROM groups g JOIN leases l ON l.id = g.lease"
            " WHERE l.evaluation = ? ORDER BY l.row",
            (evaluation,),
        )
        return rows.fetchall()

    def counts(self, purpose: str = "train") -> dict[str, int]:
        """Leases by state."""
        rows = self._db.execute(
            "SELECT state, count(*) FROM leases WHERE purpose = ? GROUP BY state", (purpose,)
        )
        return dict(rows.fetchall())

    def ended(self, purpose: str = "train") -> dict[str, int]:
        """Leases that failed or were evicted, by reason."""
        rows = self._db.execute(
            "SELECT reason, count(*) FROM leases WHERE purpose = ? AND"
            " state IN ('failed', 'evicted') GROUP BY reason",
            (purpose,),
        )
        return dict(rows.fetchall())

    def totals(self) -> dict[str, float]:
        """Sums over training groups: delivered, trained, tokens_generated, tokens_trained, and
        lag_mean, lag_max over trained ones."""
        row = self._db.execute(
            "SELECT count(*), coalesce(sum(g.tokens), 0), count(g.lag),"
            " coalesce(sum(CASE WHEN g.lag IS NOT NULL THEN g.tokens END), 0),"
            " coalesce(avg(g.lag), 0), coalesce(max(g.lag), 0)"
            " FROM groups g JOIN leases l ON l.id = g.lease WHERE l.purpose = 'train'"
        ).fetchone()
        keys = ("delivered", "tokens_generated", "trained", "tokens_trained", "lag_mean", "lag_max")
        return dict(zip(keys, row, strict=True))
