"""Questions to a journal, each with a name. The answers are rows and records."""

import json
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

from asyncds.protocol.records import EvaluationRecord, RecordError, StepRecord
from asyncds.rollout.journal_file import JournalError, JournalFile
from asyncds.rollout.lifecycle import LeaseState, Purpose
from asyncds.rollout.retention import StoredGroup

R = TypeVar("R")


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
    """A row of `groups` with its lease's row, purpose, step and evaluation.

    payload is msgpack, b"" if the samples were deleted.
    """

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


class JournalReader(JournalFile):
    """The questions that a journal answers; `asyncds.rollout.journal` has its tables."""

    def _check_content(self, *, read_only: bool) -> None:
        self._has_checksums = "checksums" in self._tables()
        if not read_only:
            self._check_groups()

    def _check_groups(self) -> None:
        """Read the samples that a restart may need.

        SQLite looks at how pages hang together, not at every bit in them.
        """
        try:
            committed = self.groups(
                purpose=Purpose.TRAIN,
                states=[LeaseState.COMMITTED],
                from_step=self.oldest_checkpoint(),
            )
            under_way = [LeaseState.DELIVERED, LeaseState.BATCHED, LeaseState.CONSUMED]
            for _ in chain(self.groups(purpose=Purpose.TRAIN, states=under_way), committed):
                pass
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            raise self._damaged(str(error)) from error

    def stop_reason(self) -> str | None:
        """Why the run was told to stop, if it was and has not stopped yet."""
        return self.meta("stop")

    def row_sets(self) -> dict[str, list[tuple[str, int]]]:
        """(name, rows) of the sets that the rows of each purpose consist of."""
        found = json.loads(self.meta("row_sets") or "{}")
        return {purpose: [(name, n) for name, n in sets] for purpose, sets in found.items()}

    def next_lease_id(self) -> int:
        """One above the highest there ever was."""
        return 1 + (self._db.execute("SELECT max(id) FROM leases").fetchone()[0] or 0)

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

    def groups(
        self,
        *,
        lease: int | None = None,
        purpose: str | None = None,
        states: Sequence[str] = (),
        step: int | None = None,
        from_step: int | None = None,
        to_step: int | None = None,
        evaluation: int | None = None,
        version: int | None = None,
        correct: bool | None = None,
    ) -> Iterator[GroupRow]:
        """Groups in lease order, those that match all that is given.

        version: some token may be by these weights. correct: some completion is, or is not.

        Reading on raises JournalDamagedError where a payload is not the one that was written.
        """
        clauses: list[tuple[str, tuple[Any, ...]]] = []
        for column, value in (
            ("g.lease = ?", lease),
            ("l.purpose = ?", purpose),
            ("l.step = ?", step),
            ("l.step >= ?", from_step),
            ("l.step <= ?", to_step),
            ("l.evaluation = ?", evaluation),
            ("? BETWEEN g.oldest AND g.newest", version),
        ):
            if value is not None:
                clauses.append((column, (value,)))
        if states:
            clauses.append((f"l.state IN ({', '.join('?' * len(states))})", tuple(states)))
        if correct is not None:
            clauses.append(("g.n_correct > 0" if correct else "g.n_correct < g.n", ()))
        where = " AND ".join(clause for clause, _ in clauses) or "1"
        return self._groups(where, tuple(v for _, values in clauses for v in values))

    def newest_groups(self, most: int) -> list[GroupRow]:
        """The training groups of the highest leases, oldest first."""
        where = (
            "g.lease IN (SELECT id FROM leases WHERE purpose = 'train'"
            " AND id IN (SELECT lease FROM groups) ORDER BY id DESC LIMIT ?)"
        )
        return list(self._groups(where, (most,)))

    def groups_of(self, leases: Sequence[int], *, purpose: str | None = None) -> Iterator[GroupRow]:
        """The groups of these leases, oldest first."""
        where = f"g.lease IN ({', '.join('?' * len(leases))})"
        if purpose is None:
            return self._groups(where, tuple(leases))
        return self._groups(f"{where} AND l.purpose = ?", (*leases, purpose))

    def sampled_leases(self) -> list[int]:
        """The leases of all groups, oldest first."""
        return [lease for (lease,) in self._db.execute("SELECT lease FROM groups ORDER BY lease")]

    def lease_story(self, lease: int) -> dict[str, Any]:
        """All that is recorded of a lease and its group, by name; None for what is not known."""
        found = self._db.execute(
            "SELECT l.created, l.purpose, l.row, l.attempt, l.generator, l.step, l.reason,"
            " g.delivered, g.oldest, g.newest, g.n AS completions, g.n_correct AS correct,"
            " g.reward, g.tokens, g.lag"
            " FROM leases l LEFT JOIN groups g ON g.lease = l.id WHERE l.id = ?",
            (lease,),
        )
        names = [column[0] for column in found.description]
        return dict(zip(names, found.fetchone(), strict=True))

    def _groups(self, where: str, parameters: tuple[Any, ...]) -> Iterator[GroupRow]:
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

    def oldest_checkpoint(self) -> int:
        """The step of the oldest checkpoint that a learner may go back to; 0: the base model."""
        return int(self.meta("oldest_checkpoint") or 0)

    def used_bytes(self) -> int:
        """Bytes in use. The file may be larger: pages that are free are used again."""
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

    def has_step(self, step: int) -> bool:
        """Whether its record is there."""
        return (
            self._db.execute("SELECT 1 FROM steps WHERE step = ?", (step,)).fetchone() is not None
        )

    def steps(self, *, start: int = 0) -> list[StepRecord]:
        """Records of the trained batches from `start` on, in order.

        Raises JournalError for one that another version of asyncds wrote.
        """
        rows = self._db.execute(
            "SELECT step, metrics FROM steps WHERE step >= ? ORDER BY step", (start,)
        )
        return [self._read(StepRecord.from_line, line, f"step {step}") for step, line in rows]

    def evaluations(self) -> list[EvaluationRecord]:
        """Results of finished evaluations, in order.

        Raises JournalError for one that another version of asyncds wrote.
        """
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
            "SELECT l.row, sum(g.n), sum(g.n_correct) FROM groups g JOIN leases l ON l.id = g.lease"
            " WHERE l.evaluation = ? GROUP BY l.row ORDER BY l.row",
            (evaluation,),
        )
        return rows.fetchall()

    def visits(self) -> Iterator[tuple[int, int, int, int]]:
        """(row, lease, completions, right ones) of every training group, oldest first."""
        yield from self._db.execute(
            "SELECT l.row, g.lease, g.n, g.n_correct FROM groups g JOIN leases l ON l.id = g.lease"
            " WHERE l.purpose = 'train' ORDER BY g.lease"
        )

    def sampled_parts(self, evaluation: int) -> list[tuple[int, int, int]]:
        """(evaluation, row, number of the first sample) of its groups."""
        rows = self._db.execute(
            "SELECT l.evaluation, l.row, coalesce(p.first, 0) FROM leases l"
            " JOIN groups g ON g.lease = l.id LEFT JOIN parts p ON p.lease = l.id"
            " WHERE l.evaluation = ?",
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
        """Sums over training groups, by name.

        delivered, trained, tokens_generated, tokens_trained, and lag_mean, lag_max over trained
        ones.
        """
        row = self._db.execute(
            "SELECT count(*), coalesce(sum(g.tokens), 0), count(g.lag),"
            " coalesce(sum(CASE WHEN g.lag IS NOT NULL THEN g.tokens END), 0),"
            " coalesce(avg(g.lag), 0), coalesce(max(g.lag), 0)"
            " FROM groups g JOIN leases l ON l.id = g.lease WHERE l.purpose = 'train'"
        ).fetchone()
        keys = ("delivered", "tokens_generated", "trained", "tokens_trained", "lag_mean", "lag_max")
        return dict(zip(keys, row, strict=True))
