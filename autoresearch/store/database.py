"""The connection: opening, migrating, transactions, and the disk's complaints in plain words."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from autoresearch.errors import StorageError
from autoresearch.store.rows import to_json
from autoresearch.store.schema import MIGRATIONS


class Database:
    """One SQLite file. Use from one thread; several processes may each have one open."""

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        """Open the file, creating and migrating it. `durable=False` trades power cuts for speed.

        Raises StorageError where it cannot be opened, or is newer than this program.
        """
        self._path = path
        with storage_errors(path):
            self._db = sqlite3.connect(path, isolation_level=None, timeout=30)
            self._db.row_factory = sqlite3.Row
            self._db.execute("pragma journal_mode = wal")
            self._db.execute(f"pragma synchronous = {'full' if durable else 'off'}")
            self._db.execute("pragma foreign_keys = on")
            self._migrate()

    def close(self) -> None:
        """Close the file; nothing can be read or written afterwards."""
        self._db.close()

    def _migrate(self) -> None:
        done = int(self._db.execute("pragma user_version").fetchone()[0])
        if done > len(MIGRATIONS):
            raise StorageError(
                f"{self._path} was written by a newer autoresearch (schema {done})",
                f"upgrade autoresearch: this one knows schema {len(MIGRATIONS)}",
            )
        if done == len(MIGRATIONS):
            return
        with self._write() as db:  # of several processes one migrates, the others find it done
            done = int(db.execute("pragma user_version").fetchone()[0])
            for statement in (each for script in MIGRATIONS[done:] for each in _statements(script)):
                db.execute(statement)
            db.execute(f"pragma user_version = {len(MIGRATIONS)}")

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with storage_errors(self._path):
            self._db.execute("begin immediate")
            try:
                yield self._db
                self._db.execute("commit")
            except BaseException:
                if self._db.in_transaction:  # on a full disk SQLite has rolled back itself
                    self._db.execute("rollback")
                raise

    def _one(self, sql: str, values: Sequence[Any] = ()) -> sqlite3.Row | None:
        with storage_errors(self._path), closing(self._db.execute(sql, values)) as cursor:
            row: sqlite3.Row | None = cursor.fetchone()
            return row

    def _all(self, sql: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        with storage_errors(self._path):
            return self._db.execute(sql, values).fetchall()


def _statements(script: str) -> Iterator[str]:
    """Yield the statements of a script, each of whole lines; triggers hold several semicolons."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def append_event(
    db: sqlite3.Connection, now: float, kind: str, subject: str, data: Mapping[str, Any]
) -> None:
    """Write a line of the diary, within the transaction of the change it tells of."""
    db.execute(
        "insert into event (at, kind, subject, data) values (?, ?, ?, ?)", (now, kind, subject, to_json(data))
    )


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's complaints about the disk into one line with the way out."""
    try:
        yield
    except sqlite3.OperationalError as error:
        text = str(error)
        if "full" in text:
            raise StorageError(
                f"the disk is full: {path}", "free some space; `autoresearch run` then resumes"
            ) from error
        if "readonly" in text or "unable to open" in text:
            raise StorageError(
                f"cannot write {path}: {text}", "make the folder writable for this user"
            ) from error
        if "locked" in text:
            raise StorageError(f"{path} is locked by another program", "close it and try again") from error
        if "disk I/O error" in text:
            raise StorageError(f"{path}: {text}", "check the disk; is it full?") from error
        raise
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
        raise  # a broken rule or a bug, not the disk
    except sqlite3.DatabaseError as error:
        raise StorageError(f"{path} is damaged: {error}", "restore it from a copy") from error
