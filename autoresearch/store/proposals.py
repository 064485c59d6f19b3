"""Proposals: received, then admitted or refused."""

from __future__ import annotations

from collections.abc import Sequence

from autoresearch.experiment import Proposal, Refused
from autoresearch.store.database import Database, append_event
from autoresearch.store.rows import edits_json, to_proposal


class ProposalTable(Database):
    """The proposals of a study."""

    def add_proposals(self, proposals: Sequence[Proposal], now: float) -> list[int]:
        """Append proposals to those that wait; return their numbers."""
        numbers = []
        with self._write() as db:
            for proposal in proposals:
                cursor = db.execute(
                    "insert into proposal (hypothesis, edits, parent, author, created_at)"
                    " values (?, ?, ?, ?, ?)",
                    (proposal.hypothesis, edits_json(proposal.edits), proposal.parent, proposal.author, now),
                )
                numbers.append(int(cursor.lastrowid or 0))
                append_event(db, now, "proposed", str(numbers[-1]), {"hypothesis": proposal.hypothesis})
        return numbers

    def waiting_proposals(self) -> list[Proposal]:
        """Return the proposals not yet admitted or refused, oldest first."""
        return [
            to_proposal(r)
            for r in self._all("select * from proposal where state = 'waiting' order by number")
        ]

    def proposal_count(self) -> int:
        """Return how many proposals the study has received."""
        return int(self._one("select count(*) from proposal")[0])  # type: ignore[index]

    def refuse(self, number: int, reason: str, now: float, experiment: str | None = None) -> bool:
        """Refuse a waiting proposal."""
        with self._write() as db:
            changed = db.execute(
                "update proposal set state = 'refused', reason = ?, experiment = ?"
                " where number = ? and state = 'waiting'",
                (reason, experiment, number),
            ).rowcount
            if changed:
                append_event(db, now, "refused", str(number), {"reason": reason})
        return changed == 1

    def refusals(self, limit: int) -> list[Refused]:
        """Return the most recent refusals, oldest first."""
        rows = self._all(
            "select hypothesis, reason from proposal where state = 'refused' order by number desc limit ?",
            (limit,),
        )
        return [Refused(hypothesis=r["hypothesis"], reason=r["reason"]) for r in reversed(rows)]

    def barren(self) -> int:
        """Return how many proposals were refused since the last one admitted."""
        row = self._one(
            "select count(*) from proposal where state = 'refused' and number >"
            " coalesce((select max(number) from proposal where state = 'admitted'), 0)"
        )
        return int(row[0])  # type: ignore[index]
