"""A journal's file: SQLite in WAL mode, with one writer, whose damage is found when it is opened.

All writes between `begin` and `commit` are one transaction, so the caller decides what becomes
durable together. The file may be read by others at any time.
"""

import fcntl
import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WAL_BYTES = 64 << 20
"""The write-ahead log is cut back to this size after a turn that needed more."""
NO_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)
"""SQLite's codes of a disk that is full: for the file and its log, and for the log's index."""


class JournalError(Exception):
    """The journal can't be opened or written; the message names the file."""


class JournalDamagedError(JournalError):
    """The journal does not hold what was written; the message says where."""


class DiskFullError(JournalError):
    """The disk has no room for what was to be written, and nothing of it was."""


class JournalFile:
    """Opened by the coordinator, or read-only by tools.

    There is one writer at a time: a lock on `<path>.lock` shuts others out, in this process too,
    and ends with the process.
    """

    def __init__(self, path: Path, *, schema: str, version: int, read_only: bool) -> None:
        """schema: statements that make its tables, where they are not there. version: of them."""
        self.path = path
        self._schema, self._version = schema, version
        self._lock = -1 if read_only else _lock(path)
        try:
            self._open(read_only=read_only)
        except BaseException:
            self._unlock()
            raise

    def _open(self, *, read_only: bool) -> None:
        path = self.path
        try:
            if read_only:
                self._db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
            else:
                self._db = sqlite3.connect(path, isolation_level=None)
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=FULL")
                self._db.execute(f"PRAGMA journal_size_limit={WAL_BYTES}")
                # Where it is on by default, pages that are freed are overwritten with zeros.
                self._db.execute("PRAGMA secure_delete=OFF")
                self._check_pages()
            self._check_schema(create=not read_only)
            self._check_content(read_only=read_only)
        except sqlite3.Error as error:
            raise self._failure(error, "open") from error

    def _check_content(self, *, read_only: bool) -> None:
        """Called once the file is open. May raise sqlite3.Error."""

    def _check_pages(self) -> None:
        """Read all but the samples, to find damage at the start.

        What is damaged is better found now than in the middle of the run, when its owner may have
        overwritten the copies.
        """
        try:
            for table in self._tables():
                if table == "groups":
                    # The columns before the samples, which are in pages of their own.
                    self._db.execute("SELECT sum(n), sum(length(payload)) FROM groups").fetchone()
                    continue
                found = self._db.execute(f'PRAGMA quick_check("{table}")').fetchone()[0]
                if found != "ok":
                    raise self._damaged(" ".join(found.split()))
        except sqlite3.OperationalError:
            raise  # locked, or not readable: not damaged
        except sqlite3.DatabaseError as error:
            raise self._damaged(str(error)) from error

    def _tables(self) -> list[str]:
        rows = self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        return [name for (name,) in rows]

    def _failure(self, error: sqlite3.Error, what: str) -> JournalError:
        """The error to raise where SQLite gives up."""
        sentence = f"cannot {what} the journal {self.path}: {error}"
        if getattr(error, "sqlite_errorcode", None) in NO_ROOM:
            return DiskFullError(sentence)
        return JournalError(sentence)

    def _damaged(self, problem: str) -> JournalDamagedError:
        return JournalDamagedError(
            f"the journal {self.path} is damaged ({problem}): put a good copy in its place, or "
            f"move {self.path.name} and {self.path.name}-wal away; the run then goes on from "
            "its newest checkpoint with an empty record"
        )

    def _check_schema(self, *, create: bool) -> None:
        tables = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if tables or not create:
            found = self.meta("schema") if tables else None
            if found != str(self._version):
                raise JournalError(
                    f"{self.path} has journal schema {found}, this version of asyncds reads "
                    f"{self._version}: use the version that wrote it"
                )
        if create:
            with self.transaction():
                for statement in self._schema.split(";\n"):
                    self._db.execute(statement)
                self.set_meta("schema", str(self._version))

    def close(self) -> None:
        """Close the file."""
        self._db.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def begin(self) -> None:
        """Open a transaction, if none is open."""
        if not self._db.in_transaction:
            self._db.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Make everything since `begin` durable (fsync). Raises as `transaction` does."""
        try:
            if self._db.in_transaction:
                self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._failure(error, "write") from error

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """`begin`, then `commit`, or nothing of it if the block raises.

        Raises JournalError if the file can't be written, DiskFullError for want of room.
        """
        try:
            self.begin()
            yield
            self.commit()
        except sqlite3.Error as error:
            raise self._failure(error, "write") from error
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """All that the block reads is of one moment."""
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("ROLLBACK")

    def meta(self, key: str) -> str | None:
        """A value kept with the run."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    def set_meta(self, key: str, value: str) -> None:
        """Keep a value with the run."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))


def _lock(path: Path) -> int:
    """A descriptor that holds the lock until it is closed. The file says who has it, for people."""
    file = path.with_name(path.name + ".lock")
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise JournalError(f"cannot open the journal {path}: {error}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.read(descriptor, 500).decode(errors="replace") or "another process"
        os.close(descriptor)
        if not isinstance(error, BlockingIOError):
            raise JournalError(f"cannot lock the journal {path}: {error}") from error
        raise JournalError(
            f"the journal {path} is written by {owner}: end that first, or give this run another "
            "name"
        ) from error
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
    return descriptor
