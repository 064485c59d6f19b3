"""Workers that are paid for whether busy or not: when each was up, at what price."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from autoresearch.experiment import Worker
from autoresearch.store.database import Database, append_event

SEEN_SECONDS = 30.0  # how exactly the end of a worker is known whose dispatcher died with it


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRow:
    """One worker's life. Times are UTC epoch seconds."""

    name: str
    kind: str
    price_per_hour: float  # USD
    up_at: float
    seen_at: float
    down_at: float | None  # None: it is still there
    ready: bool
    note: str

    def allocated_seconds(self, now: float) -> float:
        """Return for how long it had been paid for by then."""
        return max(0.0, (now if self.down_at is None else min(self.down_at, now)) - self.up_at)


class WorkerTable(Database):
    """The ledger of workers."""

    def workers(self) -> list[WorkerRow]:
        """Return every paid worker there ever was, oldest first."""
        return [_row(row) for row in self._all("select * from worker order by rowid")]

    def note_workers(self, workers: Sequence[Worker], *, lasting: float, now: float) -> None:
        """Bring the ledger up to what an executor says it has now.

        A worker that is no longer there is down: as of now, or of `lasting` seconds after it was last
        seen, where that is earlier.
        """
        known = {row.name: row for row in self.workers() if row.down_at is None}
        paid = {worker.name: worker for worker in workers if worker.up_at is not None}
        changed = [w for w in paid.values() if _differs(w, known.get(w.name), now)]
        gone = [row for row in known.values() if row.name not in paid]
        if not changed and not gone:
            return
        with self._write() as db:
            for worker in changed:
                _write_worker(db, worker, known.get(worker.name), now)
            for row in gone:
                down_at = max(row.up_at, min(now, row.seen_at + lasting))
                db.execute("update worker set down_at = ?, ready = 0 where name = ?", (down_at, row.name))
                append_event(db, now, "worker", row.name, {"state": "down", "note": row.note})


def _differs(worker: Worker, row: WorkerRow | None, now: float) -> bool:
    if row is None or now - row.seen_at > SEEN_SECONDS:
        return True
    return (worker.ready, worker.note) != (row.ready, row.note)


def _write_worker(db: sqlite3.Connection, worker: Worker, row: WorkerRow | None, now: float) -> None:
    db.execute(
        "insert into worker (name, kind, price_per_hour, up_at, seen_at, ready, note)"
        " values (?, ?, ?, ?, ?, ?, ?)"
        " on conflict (name) do update set seen_at = excluded.seen_at, ready = excluded.ready,"
        " note = excluded.note",
        (worker.name, worker.kind, worker.price_per_hour, worker.up_at, now, worker.ready, worker.note),
    )
    if row is None or (row.ready, row.note) != (worker.ready, worker.note):
        state = "ready" if worker.ready else "not ready"
        append_event(db, now, "worker", worker.name, {"state": state, "note": worker.note})


def _row(row: sqlite3.Row) -> WorkerRow:
    return WorkerRow(
        name=row["name"],
        kind=row["kind"],
        price_per_hour=row["price_per_hour"],
        up_at=row["up_at"],
        seen_at=row["seen_at"],
        down_at=row["down_at"],
        ready=bool(row["ready"]),
        note=row["note"],
    )
