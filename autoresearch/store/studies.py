"""The study's own row, its dispatchers' sessions, and its diary of events."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from autoresearch.budget import Budget
from autoresearch.errors import NotFoundError
from autoresearch.experiment import Goal
from autoresearch.store.database import Database, append_event
from autoresearch.store.rows import to_json


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRow:
    """What is fixed for a study when it is created, and what was last asked of its dispatcher."""

    tag: str
    created_at: float
    goal: Goal
    target: Mapping[str, Any]
    kinds: tuple[str, ...]
    base_commit: str
    protected_sha256: str
    seed: int
    request: str
    outcome: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of the study's diary."""

    seq: int
    at: float
    kind: str
    subject: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One dispatcher's life: the study's hours are the sum over these."""

    pid: int
    agent: str
    budget: Budget
    started_at: float
    seen_at: float


class StudyTable(Database):
    """What is fixed for the study, who dispatched it when, and what happened."""

    def study(self) -> StudyRow:
        """Return the study's row; NotFoundError before `create_study`."""
        row = self._one("select * from study")
        if row is None:
            raise NotFoundError(f"{self._path} holds no study")
        return StudyRow(
            tag=row["tag"],
            created_at=row["created_at"],
            goal=Goal(row["goal"]),
            target=json.loads(row["target"]),
            kinds=tuple(json.loads(row["kinds"])),
            base_commit=row["base_commit"],
            protected_sha256=row["protected_sha256"],
            seed=row["seed"],
            request=row["request"],
            outcome=row["outcome"],
        )

    def request(self) -> str:
        """Return what was asked of the dispatcher."""
        row = self._one("select request from study")
        return str(row["request"]) if row else "none"

    def exists(self) -> bool:
        """Whether the study's row was written."""
        return self._one("select 1 from study") is not None

    def set_request(self, request: str, now: float) -> None:
        """Ask the dispatcher to stop, or take that back."""
        with self._write() as db:
            db.execute("update study set request = ?", (request,))
            append_event(db, now, "requested", "", {"request": request})

    def set_outcome(self, outcome: str | None, now: float) -> None:
        """Note why a dispatcher ended; None while one runs."""
        with self._write() as db:
            db.execute("update study set outcome = ?", (outcome,))
            if outcome is not None:
                append_event(db, now, "dispatcher_ended", "", {"outcome": outcome})

    def begin_session(self, pid: int, agent: str, budget: Budget, now: float) -> int:
        """Open a dispatcher's session; return its id."""
        with self._write() as db:
            cursor = db.execute(
                "insert into session (pid, agent, budget, started_at, seen_at) values (?, ?, ?, ?, ?)",
                (pid, agent, to_json(asdict(budget)), now, now),
            )
            append_event(db, now, "dispatcher_began", "", {"pid": pid, "agent": agent})
            return int(cursor.lastrowid or 0)

    def touch_session(self, session: int, now: float) -> None:
        """Note that a dispatcher is alive."""
        with self._write() as db:
            db.execute("update session set seen_at = max(seen_at, ?) where id = ?", (now, session))

    def sessions(self) -> list[Session]:
        """Return every dispatcher's session, oldest first."""
        return [
            Session(
                pid=r["pid"],
                agent=r["agent"],
                budget=Budget(**json.loads(r["budget"])),
                started_at=r["started_at"],
                seen_at=r["seen_at"],
            )
            for r in self._all("select * from session order by id")
        ]

    def events(self, after: int = 0, limit: int = 1000, kinds: Collection[str] = ()) -> list[Event]:
        """Return events after a sequence number, oldest first."""
        chosen = f" and kind in ({','.join('?' * len(kinds))})" if kinds else ""
        rows = self._all(
            f"select * from event where seq > ?{chosen} order by seq limit ?", (after, *kinds, limit)
        )
        return [_event(row) for row in rows]

    def cursor(self) -> int:
        """Return the number of the last event."""
        return int(self._one("select coalesce(max(seq), 0) from event")[0])  # type: ignore[index]

    def note(self, text: str, author: str, now: float) -> bool:
        """Append a note; False where its author's last one says the same."""
        with self._write() as db:
            noted = db.execute("select data from event where kind = 'noted' order by seq desc")
            told = (json.loads(row[0]) for row in noted)
            mine = next((data for data in told if data.get("author") == author), None)
            if mine is not None and mine["notes"] == text:
                return False
            append_event(db, now, "noted", "", {"notes": text, "proposals": [], "author": author})
        return True

    def record(self, kind: str, subject: str, data: Mapping[str, Any], now: float) -> None:
        """Append an event that changes nothing else."""
        with self._write() as db:
            append_event(db, now, kind, subject, data)

    def damage(self) -> str:
        """Return what SQLite finds wrong with the file; "" where nothing is."""
        found = [str(row[0]) for row in self._all("pragma integrity_check(3)") if row[0] != "ok"]
        found += [
            f"a row of {row[0]} refers to none of {row[2]}" for row in self._all("pragma foreign_key_check")
        ]
        return "; ".join(found[:3])

    def last_events(self, limit: int, kinds: Collection[str]) -> list[Event]:
        """Return the most recent events of some kinds, oldest first."""
        marks = ",".join("?" * len(kinds))
        rows = self._all(
            f"select * from event where kind in ({marks}) order by seq desc limit ?",
            (*kinds, limit),
        )
        return [_event(row) for row in reversed(rows)]


def _event(row: sqlite3.Row) -> Event:
    return Event(
        seq=row["seq"],
        at=row["at"],
        kind=row["kind"],
        subject=row["subject"],
        data=json.loads(row["data"]),
    )
