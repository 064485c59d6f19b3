"""Runs and the jobs that execute them: compare-and-set from state to state."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

from autoresearch.errors import NotFoundError
from autoresearch.experiment import (
    IN_FLIGHT,
    OVER,
    TRANSITIONS,
    Failure,
    FailureKind,
    Measurement,
    Purpose,
    Run,
    RunState,
    Worker,
    run_seed,
)
from autoresearch.store.database import Database, append_event
from autoresearch.store.rows import RUNS, to_json, to_run


class RunTable(Database):
    """The runs of a study, each with one job an attempt."""

    def queue_run(
        self, experiment: str, purpose: Purpose, *, kind: str | None, study_seed: int, why: str, now: float
    ) -> str:
        """Append a run to an experiment, with a seed of its own; return its id."""
        with self._write() as db:
            return insert_run(db, experiment, purpose, kind, study_seed, why, now)

    def confirm(
        self, experiment: str, count: int, *, kind: str | None, study_seed: int, why: str, now: float
    ) -> list[str]:
        """Queue runs until so many of an experiment are open; return the new ones' ids.

        Those of a kept one are controls: nothing hangs on them, so they tell what it is worth.
        """
        marks = ",".join("?" * len(OVER))
        open_ = f"select count(*) from run where experiment = ? and state not in ({marks})"
        kept = "select 1 from experiment where id = ? and verdict = 'keep'"
        with self._write() as db:
            already = int(db.execute(open_, (experiment, *OVER)).fetchone()[0])
            judged = db.execute(kept, (experiment,)).fetchone() is not None
            purpose = Purpose.CALIBRATE if judged else Purpose.CONFIRM
            return [
                insert_run(db, experiment, purpose, kind, study_seed, why, now)
                for _ in range(count - already)
            ]

    def claim(self, run: Run, study: str, worker: Worker, now: float) -> bool:
        """Move a queued run to `submitting` on a worker. Written before the executor is told."""
        with self._write() as db:
            if not _move(db, run.id, {RunState.QUEUED}, RunState.SUBMITTING):
                return False
            db.execute(
                "insert into job (name, run, attempt, worker, kind, price_per_hour, submitted_at)"
                " values (?, ?, ?, ?, ?, ?, ?)",
                (
                    run.job_name(study),
                    run.id,
                    run.attempt,
                    worker.name,
                    worker.kind,
                    worker.price_per_hour,
                    now,
                ),
            )
            append_event(db, now, "submitting", run.id, {"worker": worker.name, "attempt": run.attempt})
        return True

    def mark_running(self, run: Run, now: float) -> bool:
        """Note that a submitted run's job was seen running; not before the one ahead of it is over."""
        ahead = (
            "select 1 from job where outcome is null and started_at is not null"
            " and worker = (select worker from job where run = ? and attempt = ?)"
        )
        with self._write() as db:
            if db.execute(ahead, (run.id, run.attempt)).fetchone() is not None:
                return False
            if not _move(db, run.id, {RunState.SUBMITTING}, RunState.RUNNING):
                return False
            db.execute(
                "update job set started_at = ? where run = ? and attempt = ?", (now, run.id, run.attempt)
            )
            append_event(db, now, "running", run.id, {"worker": run.worker})
        return True

    def close_run(
        self,
        run: Run,
        *,
        measurement: Measurement | None = None,
        failure: Failure | None = None,
        facts: Mapping[str, Any] | None = None,
        log_sha256: str | None = None,
        started_at: float | None = None,
        ended_at: float | None = None,
        now: float,
    ) -> bool:
        """Record how a run in flight ended: with a measurement, or with a failure."""
        state = RunState.FINISHED if measurement else RunState.FAILED
        if failure and failure.kind is FailureKind.LOST:
            state = RunState.LOST
        elif failure and failure.kind is FailureKind.PRUNED:
            state = RunState.PRUNED
        figures = asdict(measurement) | {"flags": to_json(measurement.flags)} if measurement else {}
        columns = {
            **figures,
            "failure": to_json(asdict(failure)) if failure else None,
            "facts": to_json(facts) if facts else None,
            "log_sha256": log_sha256,
        }
        with self._write() as db:
            if not _move(db, run.id, IN_FLIGHT, state, columns):
                return False
            db.execute(
                "update job set outcome = ?, ended_at = ?, started_at = coalesce(?, started_at)"
                " where run = ? and attempt = ?",
                (state, ended_at or now, started_at, run.id, run.attempt),
            )
            append_event(
                db, now, str(state), run.id, {"value": figures.get("value"), "failure": str(failure or "")}
            )
        return True

    def requeue(self, run: Run, *, lost: bool, reason: str, now: float) -> bool:
        """Put a run in flight back into the queue for its next attempt."""
        with self._write() as db:
            columns = {"attempt": run.attempt + 1, "losses": run.losses + lost}
            if not _move(db, run.id, IN_FLIGHT, RunState.QUEUED, columns):
                return False
            db.execute(
                "update job set outcome = ?, ended_at = ? where run = ? and attempt = ?",
                ("lost" if lost else "interrupted", now, run.id, run.attempt),
            )
            append_event(db, now, "requeued", run.id, {"attempt": run.attempt + 1, "reason": reason})
        return True

    def cancel(self, run: str, author: str, now: float) -> bool:
        """Take a run back: one that waits is over at once, one in flight when its job has ended."""
        with self._write() as db:
            if _move(db, run, {RunState.QUEUED}, RunState.CANCELLED, {"cancelled_by": author}):
                append_event(db, now, "cancelled", run, {"author": author})
                return True
            marks = ",".join("?" * len(IN_FLIGHT))
            asked = db.execute(
                f"update run set cancelled_by = ?"
                f" where id = ? and cancelled_by is null and state in ({marks})",
                (author, run, *IN_FLIGHT),
            ).rowcount
            if asked:
                append_event(db, now, "cancelling", run, {"author": author})
        return asked == 1

    def drop(self, run: Run, now: float) -> bool:
        """Record that a run in flight that was taken back has ended."""
        with self._write() as db:
            if not _move(db, run.id, IN_FLIGHT, RunState.CANCELLED):
                return False
            db.execute(
                "update job set outcome = ?, ended_at = ? where run = ? and attempt = ?",
                (RunState.CANCELLED, now, run.id, run.attempt),
            )
            append_event(db, now, "cancelled", run.id, {"author": run.cancelled_by})
        return True

    def run(self, id_: str) -> Run:
        """Return one run; NotFoundError where there is none of that id."""
        row = self._one(f"{RUNS} where run.id = ?", (id_,))
        if row is None:
            raise NotFoundError(f"no run {id_}", "`autoresearch show EXPERIMENT` lists its runs")
        return to_run(row)

    def log_digest(self, run: str) -> str | None:
        """Return the sha256 that a run's log had when it was read; None where none was."""
        row = self._one("select log_sha256 from run where id = ?", (run,))
        return row["log_sha256"] if row else None

    def unsandboxed(self) -> str:
        """Return why the last run that had no sandbox had none; "" where all had one."""
        row = self._one("select unsandboxed from run where unsandboxed > '' order by rowid desc limit 1")
        return row["unsandboxed"] if row else ""

    def facts(self, run: str) -> Mapping[str, Any]:
        """Return the machine line of a run; empty where it reported none."""
        row = self._one("select facts from run where id = ?", (run,))
        return json.loads(row["facts"]) if row and row["facts"] else {}


def insert_run(
    db: sqlite3.Connection,
    experiment: str,
    purpose: Purpose,
    kind: str | None,
    study_seed: int,
    why: str,
    now: float,
) -> str:
    """Insert the next run of an experiment; return its id."""
    count = "select coalesce(max(number), 0) + 1 from run where experiment = ?"
    number = int(db.execute(count, (experiment,)).fetchone()[0])
    id_ = f"{experiment}.{number}"
    db.execute(
        "insert into run (id, experiment, number, purpose, kind, seed, why, created_at)"
        " values (?, ?, ?, ?, ?, ?, ?, ?)",
        (id_, experiment, number, purpose, kind, run_seed(study_seed, id_), why, now),
    )
    append_event(db, now, "queued", id_, {"purpose": purpose, "why": why})
    return id_


def _move(
    db: sqlite3.Connection,
    run: str,
    expected: Collection[RunState],
    state: RunState,
    columns: Mapping[str, Any] | None = None,
) -> bool:
    """Compare-and-set a run's state; False where it was in none of the expected ones."""
    allowed = [s for s in expected if state in TRANSITIONS[s]]
    columns = {"state": state, **(columns or {})}
    assignments = ", ".join(f"{name} = ?" for name in columns)
    marks = ",".join("?" * len(allowed))
    cursor = db.execute(
        f"update run set {assignments} where id = ? and state in ({marks})",
        (*columns.values(), run, *allowed),
    )
    return cursor.rowcount == 1
