"""Proposals: received, then admitted or refused."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from autoresearch.experiment import Proposal, Refusal, Refused
from autoresearch.store.database import Database, append_event
from autoresearch.store.rows import edits_json, names_text, to_proposal


class ProposalTable(Database):
    """The proposals of a study."""

    def add_proposals(
        self, proposals: Sequence[Proposal], now: float, *, notes: str = "", call: int | None = None
    ) -> list[int]:
        """Append proposals to those that wait, with the notes they came with; return their numbers.

        Those of an API call are taken in once: again, [] is returned and nothing changes.
        """
        with self._write() as db:
            if call is not None and not _take(db, call):
                return []
            numbers = [insert_proposal(db, proposal, call, now) for proposal in proposals]
            if notes:
                append_event(db, now, "noted", "", {"notes": notes, "proposals": numbers})
        return numbers

    def rebase(self, number: int, parent: str, now: float) -> bool:
        """Have a waiting proposal that follows the best follow it to a new one."""
        with self._write() as db:
            changed = db.execute(
                "update proposal set parent = ? where number = ? and state = 'waiting' and follows = 1"
                " and parent != ?",
                (parent, number, parent),
            ).rowcount
            if changed:
                append_event(db, now, "rebased", str(number), {"parent": parent})
        return changed == 1

    def waiting_proposals(self) -> list[Proposal]:
        """Return the proposals not yet admitted or refused, oldest first."""
        return [
            to_proposal(r)
            for r in self._all("select * from proposal where state = 'waiting' order by number")
        ]

    def proposal_count(self) -> int:
        """Return how many proposals the study has received."""
        return int(self._one("select count(*) from proposal")[0])  # type: ignore[index]

    def refuse(self, number: int, refusal: Refusal, now: float) -> bool:
        """Refuse a waiting proposal."""
        with self._write() as db:
            changed = db.execute(
                "update proposal set state = 'refused', reason = ?, fact = ?, experiment = ?"
                " where number = ? and state = 'waiting'",
                (str(refusal), refusal.fact, refusal.experiment, number),
            ).rowcount
            if changed:
                append_event(db, now, "refused", str(number), {"reason": str(refusal)})
        return changed == 1

    def refusals(self, limit: int) -> list[Refused]:
        """Return the most recent refusals, oldest first."""
        rows = self._all(
            "select hypothesis, reason, fact from proposal where state = 'refused'"
            " order by number desc limit ?",
            (limit,),
        )
        return [
            Refused(hypothesis=r["hypothesis"], reason=r["reason"], fact=r["fact"]) for r in reversed(rows)
        ]

    def became(self) -> dict[int, tuple[str, str, str | None]]:
        """Return what became of every proposal: its hypothesis, its state, and an experiment's id.

        That is the experiment it was admitted as, or the earlier one it repeats.
        """
        rows = self._all("select number, hypothesis, state, experiment from proposal")
        return {r["number"]: (r["hypothesis"], r["state"], r["experiment"]) for r in rows}

    def barren(self) -> int:
        """Return how many of its proposals were refused since the last one admitted."""
        row = self._one(
            "select count(*) from proposal where state = 'refused' and submission is null and number >"
            " coalesce((select max(number) from proposal where state = 'admitted'), 0)"
        )
        return int(row[0])  # type: ignore[index]


def insert_proposal(db: sqlite3.Connection, proposal: Proposal, call: int | None, now: float) -> int:
    """Append a proposal to those that wait; return its number."""
    cursor = db.execute(
        "insert into proposal (hypothesis, edits, parent, author, created_at, base, follows,"
        " expected, reworks, call) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            proposal.hypothesis,
            edits_json(proposal.edits),
            proposal.parent,
            proposal.author,
            now,
            proposal.base,
            int(proposal.follows),
            proposal.expected,
            names_text(proposal.reworks),
            call,
        ),
    )
    number = int(cursor.lastrowid or 0)
    append_event(db, now, "proposed", str(number), {"hypothesis": proposal.hypothesis})
    return number


def _take(db: sqlite3.Connection, call: int) -> bool:
    """Note that a call's proposals are taken in; False where they were before."""
    return db.execute("update call set taken = 1 where id = ? and taken = 0", (call,)).rowcount == 1
