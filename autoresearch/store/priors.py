"""Results from before the study: written once with its first row, and read."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from autoresearch.experiment import Prior
from autoresearch.store.database import Database


class PriorTable(Database):
    """What an earlier results.tsv held."""

    def priors(self) -> list[Prior]:
        """Return the earlier results, in the order of their table."""
        return [
            Prior(
                commit=row["commit_id"],
                value=row["value"],
                memory_gb=row["memory_gb"],
                status=row["status"],
                description=row["description"],
            )
            for row in self._all("select * from prior order by number")
        ]


def insert_priors(db: sqlite3.Connection, priors: Sequence[Prior]) -> None:
    """Write earlier results, within the transaction that creates the study."""
    db.executemany(
        "insert into prior (commit_id, value, memory_gb, status, description) values (?, ?, ?, ?, ?)",
        [(p.commit, p.value, p.memory_gb, p.status, p.description) for p in priors],
    )
