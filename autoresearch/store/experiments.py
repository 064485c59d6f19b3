"""Experiments: admitted once, judged once."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from autoresearch.errors import NotFoundError
from autoresearch.experiment import Candidate, Edit, Experiment, Proposal, Verdict
from autoresearch.store.database import Database, append_event
from autoresearch.store.rows import EXPERIMENTS, edits_json, names_text, to_edits, to_experiment, to_json

NOT_LOST = "not exists (select 1 from run where run.experiment = e.id and run.state = 'lost')"


class ExperimentTable(Database):
    """The experiments of a study."""

    def tried_digests(self) -> dict[str, str]:
        """Return the experiment of every code measured or to be measured.

        Code that was never measured because machines were lost may be proposed again.
        """
        rows = self._all(f"select digest, id from experiment e where {NOT_LOST} order by number desc")
        return {r["digest"]: r["id"] for r in rows}

    def set_commit(self, experiment: str, commit: str, now: float) -> bool:
        """Note that an experiment's git ref was written."""
        with self._write() as db:
            changed = db.execute(
                "update experiment set commit_id = ? where id = ? and commit_id is null", (commit, experiment)
            ).rowcount
            if changed:
                append_event(db, now, "published", experiment, {"commit": commit})
        return changed == 1

    def decide(self, experiment: str, verdict: Verdict, reason: str, now: float) -> bool:
        """Give an experiment its verdict, once."""
        with self._write() as db:
            return judge(db, experiment, verdict, reason, now)

    def edits(self, experiment: str) -> tuple[Edit, ...]:
        """Return the edits that made an experiment of its parent."""
        row = self._one("select edits from experiment where id = ?", (experiment,))
        return to_edits(row["edits"]) if row else ()

    def experiment(self, id_: str) -> Experiment:
        """Return one experiment; NotFoundError where there is none of that id."""
        row = self._one(f"{EXPERIMENTS} where id = ?", (id_,))
        if row is None:
            raise NotFoundError(f"no experiment {id_}", "`autoresearch results` lists them")
        return to_experiment(row)


def earlier_of(db: sqlite3.Connection, digest: str) -> str | None:
    """Return the first experiment of a code measured or to be measured; see `tried_digests`."""
    tried = f"select id from experiment e where digest = ? and {NOT_LOST} order by number limit 1"
    row = db.execute(tried, (digest,)).fetchone()
    return row["id"] if row else None


def judge(db: sqlite3.Connection, experiment: str, verdict: Verdict, reason: str, now: float) -> bool:
    """Write an experiment's verdict; False where it has one."""
    changed = db.execute(
        "update experiment set verdict = ?, reason = ?, judged_at = ? where id = ? and verdict is null",
        (verdict, reason, now, experiment),
    ).rowcount
    if changed:
        append_event(db, now, str(verdict), experiment, {"reason": reason})
    return changed == 1


def insert_experiment(
    db: sqlite3.Connection,
    proposal: Proposal | None,
    candidate: Candidate,
    constants: Mapping[str, float],
    now: float,
    *,
    commit: str | None = None,
) -> str:
    """Insert the next experiment, the baseline where there is no proposal; return its id."""
    number = int(db.execute("select coalesce(max(number), 0) + 1 from experiment").fetchone()[0])
    id_ = f"e{number:04d}"
    made = proposal or Proposal(hypothesis="baseline", edits=(), parent="", author="baseline")
    db.execute(
        "insert into experiment (id, number, parent, hypothesis, author, digest, constants, edits,"
        " commit_id, created_at, touches, flags, expected, reworks)"
        " values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            id_,
            number,
            made.parent or None,
            made.hypothesis,
            made.author,
            candidate.digest,
            to_json(constants),
            edits_json(made.edits),
            commit,
            now,
            to_json(candidate.touches),
            to_json(candidate.flags),
            made.expected,
            names_text(made.reworks),
        ),
    )
    append_event(db, now, "admitted", id_, {"hypothesis": made.hypothesis, "author": made.author})
    return id_
