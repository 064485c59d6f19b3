"""Rows of the database as values, and back."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache

from autoresearch.experiment import (
    Edit,
    Experiment,
    Failure,
    FailureKind,
    Measurement,
    Proposal,
    Purpose,
    Run,
    RunState,
    Verdict,
)

EXPERIMENTS = (
    "select id, parent, hypothesis, author, digest, constants, commit_id, created_at, verdict, reason,"
    " judged_at, touches, flags, expected, reworks from experiment"
)
RUNS = (
    "select run.id, experiment, purpose, run.kind, seed, why, state, run.attempt, losses, created_at, value,"
    " training_seconds, total_seconds, steps, tokens_per_second, memory_gb, device, hidden, unsandboxed,"
    " run.flags, failure, cancelled_by, job.worker,"
    " job.kind as worker_kind, job.submitted_at, job.started_at, job.ended_at, job.price_per_hour"
    " from run left join job on job.run = run.id and job.attempt = run.attempt"
)


def to_experiment(row: sqlite3.Row) -> Experiment:
    """Return an experiment."""
    return Experiment(
        id=row["id"],
        parent=row["parent"],
        hypothesis=row["hypothesis"],
        author=row["author"],
        digest=row["digest"],
        constants=json.loads(row["constants"]),
        commit=row["commit_id"],
        created_at=row["created_at"],
        verdict=Verdict(row["verdict"]) if row["verdict"] else None,
        reason=row["reason"],
        judged_at=row["judged_at"],
        touches=tuple(json.loads(row["touches"])),
        flags=tuple(json.loads(row["flags"])),
        expected=row["expected"],
        reworks=to_names(row["reworks"]),
    )


def to_run(row: sqlite3.Row) -> Run:
    """Return a run, joined with the job of its current attempt."""
    measurement = None
    if row["value"] is not None:
        measurement = Measurement(
            value=row["value"],
            training_seconds=row["training_seconds"],
            total_seconds=row["total_seconds"],
            steps=row["steps"],
            tokens_per_second=row["tokens_per_second"],
            memory_gb=row["memory_gb"],
            device=row["device"],
            hidden=row["hidden"],
            unsandboxed=row["unsandboxed"],
            flags=tuple(json.loads(row["flags"])),
        )
    failure = json.loads(row["failure"]) if row["failure"] else None
    return Run(
        id=row["id"],
        experiment=row["experiment"],
        purpose=Purpose(row["purpose"]),
        kind=row["kind"],
        seed=row["seed"],
        why=row["why"],
        state=RunState(row["state"]),
        attempt=row["attempt"],
        losses=row["losses"],
        worker=row["worker"],
        worker_kind=row["worker_kind"],
        created_at=row["created_at"],
        submitted_at=row["submitted_at"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        price_per_hour=row["price_per_hour"] or 0.0,
        measurement=measurement,
        failure=Failure(**{**failure, "kind": FailureKind(failure["kind"])}) if failure else None,
        cancelled_by=row["cancelled_by"],
    )


def to_proposal(row: sqlite3.Row) -> Proposal:
    """Return a proposal."""
    return Proposal(
        number=row["number"],
        hypothesis=row["hypothesis"],
        edits=to_edits(row["edits"]),
        parent=row["parent"],
        author=row["author"],
        base=row["base"],
        follows=bool(row["follows"]),
        expected=row["expected"],
        reworks=to_names(row["reworks"]),
        experiment=row["experiment"],
    )


def to_names(text: str | None) -> tuple[str, ...]:
    """Return the experiments that a column names."""
    return tuple((text or "").split())


def names_text(names: Sequence[str]) -> str | None:
    """Return the text of a column that names experiments; NULL for none."""
    return " ".join(names) or None


@lru_cache(maxsize=512)
def to_edits(text: str) -> tuple[Edit, ...]:
    """Return edits from their JSON."""
    return tuple(Edit(**edit) for edit in json.loads(text))


def edits_json(edits: Sequence[Edit]) -> str:
    """Return edits as JSON."""
    return to_json([asdict(edit) for edit in edits])


def to_json(value: object) -> str:
    """Return a value as compact JSON."""
    return json.dumps(value, separators=(",", ":"))
