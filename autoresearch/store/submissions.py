"""What agents outside hand in: a wave is judged and stored in one transaction, and answered once.

Its experiments have their ids at once. Each waits as a proposal until its code is checked and a
worker would take it; only then does it get its run.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from autoresearch.errors import BudgetError, NotFoundError, UsageError
from autoresearch.experiment import Candidate, Proposal, Purpose, Refusal, Verdict
from autoresearch.store.database import append_event
from autoresearch.store.experiments import ExperimentTable, insert_experiment
from autoresearch.store.proposals import ProposalTable
from autoresearch.store.rows import edits_json, names_text, to_json
from autoresearch.store.runs import insert_run

Levels = Mapping[str, float]
Cell = tuple[Levels, Mapping[str, Any]]  # of a grid: its levels, and what became of it
MAX_DIGITS = 10  # of a grid's number


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One idea of a wave, as far as it could be judged outside of the transaction."""

    proposal: Proposal
    found: Candidate | Refusal
    constants: Mapping[str, float] = field(default_factory=dict)
    levels: Levels | None = None  # of a cell of a grid


@dataclass(frozen=True, slots=True, kw_only=True)
class GridRow:
    """A grid that was asked for, and the experiments of its cells."""

    name: str  # g7
    factors: Mapping[str, Sequence[float]]
    parent: str
    hypothesis: str
    author: str
    cells: tuple[tuple[Levels, str | None], ...]  # levels, experiment; None: it was refused


class SubmissionTable(ProposalTable, ExperimentTable):
    """Waves of proposals from outside."""

    def answer_to(self, request_id: str, digest: str) -> dict[str, Any] | None:
        """Return what was answered to a request; None for a new one.

        Raises UsageError where the request had other content.
        """
        row = self._one("select digest, answer from submission where request_id = ?", (request_id,))
        if row is None:
            return None
        if row["digest"] != digest:
            raise UsageError(
                f"request id {request_id} was used for another wave", "use a new --request-id for new content"
            )
        answer: dict[str, Any] = json.loads(row["answer"])
        return answer

    def submit(
        self,
        entries: Sequence[Entry],
        *,
        author: str,
        digest: str,
        request_id: str | None,
        ceiling: int | None,
        factors: Mapping[str, Sequence[float]] | None = None,
        parent: str = "",
        hypothesis: str = "",
        notes: str = "",
        now: float,
    ) -> dict[str, Any]:
        """Take in a wave: all of it or, killed, nothing; return what became of each idea, in order.

        An idea whose code is known has the id of that experiment. At most `ceiling` experiments may
        start in all; BudgetError, and nothing is stored, where none is left for any idea. A request that
        was answered is answered alike.
        """
        with self._write() as db:
            before = self.answer_to(request_id, digest) if request_id else None
            if before is not None:
                return before
            submission = int(db.execute("select coalesce(max(id), 0) + 1 from submission").fetchone()[0])
            wave = _Wave(db, submission, self.tried_digests(), _room(db, ceiling), now)
            rows = [wave.take(entry) for entry in entries]
            if all(row.get("reason", "").startswith("budget") for row in rows):
                raise BudgetError("the ceiling on experiments is reached", _RAISE)
            answer: dict[str, Any] = {"ideas": rows, "grid": None}
            if factors:
                cells = [(e.levels, row) for e, row in zip(entries, rows, strict=True) if e.levels]
                said = (parent, hypothesis, author, now)
                answer["grid"] = _same_grid(db, factors, cells) or _insert_grid(db, factors, cells, said)
            if notes:
                data = {"notes": notes, "proposals": wave.numbers, "author": author}
                append_event(db, now, "noted", "", data)
            answer["cursor"] = int(db.execute("select coalesce(max(seq), 0) from event").fetchone()[0])
            db.execute(
                "insert into submission (id, request_id, digest, author, answer, created_at)"
                " values (?, ?, ?, ?, ?, ?)",
                (submission, request_id, digest, author, to_json(answer), now),
            )
        return answer

    def is_idle(self, experiment: str) -> bool:
        """Whether an experiment was taken back before it was measured: it may be asked for again."""
        return _is_idle(self._db, experiment)

    def enlist(self, proposal: Proposal, study_seed: int, now: float) -> bool:
        """Give a promised experiment its first run: its code was checked and a worker would take it."""
        with self._write() as db:
            if not _settle(db, proposal, "admitted", "", ""):
                return False
            insert_run(db, _promised(proposal), Purpose.SCREEN, None, study_seed, _FIRST, now)
        return True

    def reject(self, proposal: Proposal, refusal: Refusal, now: float) -> bool:
        """End a promised experiment that failed its check: a crash that cost no worker's time."""
        with self._write() as db:
            if not _settle(db, proposal, "refused", str(refusal), refusal.fact):
                return False
            changed = db.execute(
                "update experiment set verdict = ?, reason = ?, judged_at = ?"
                " where id = ? and verdict is null"
                " and not exists (select 1 from run"
                "  where run.experiment = experiment.id and run.state != 'cancelled')",
                (Verdict.CRASH, str(refusal), now, proposal.experiment),
            ).rowcount
            if changed:
                data = {"reason": str(refusal)}
                append_event(db, now, str(Verdict.CRASH), _promised(proposal), data)
        return True

    def withdraw(self, experiment: str, author: str, now: float) -> bool:
        """Take back an experiment that still waits as a proposal."""
        with self._write() as db:
            changed = db.execute(
                "update proposal set state = 'refused', reason = ?, fact = ?"
                " where experiment = ? and state = 'waiting'",
                (f"cancelled by {author}", "cancelled", experiment),
            ).rowcount
            if changed:
                db.execute(_SAY, (f"cancelled by {author}", experiment))
                append_event(db, now, "cancelled", experiment, {"author": author})
        return changed > 0

    def grid(self, name: str) -> GridRow:
        """Return a grid by its name; NotFoundError where there is none of that name."""
        number = name.removeprefix("g")
        row = None
        if number.isascii() and number.isdigit() and len(number) < MAX_DIGITS:
            row = self._one("select * from grid where number = ?", (int(number),))
        if row is None:
            known = ", ".join(f"g{r[0]}" for r in self._all("select number from grid order by number")[-8:])
            raise NotFoundError(f"no grid {name}", f"there are {known}" if known else _MAKE_A_GRID)
        cells = self._all("select levels, experiment from cell where grid = ? order by rowid", (int(number),))
        return GridRow(
            name=f"g{row['number']}",
            factors=json.loads(row["factors"]),
            parent=row["parent"],
            hypothesis=row["hypothesis"],
            author=row["author"],
            cells=tuple((json.loads(cell["levels"]), cell["experiment"]) for cell in cells),
        )

    def last_cursor_of(self, author: str) -> int | None:
        """Return the cursor of an author's last wave, or None."""
        row = self._one("select answer from submission where author = ? order by id desc limit 1", (author,))
        return int(json.loads(row["answer"])["cursor"]) if row else None


_RAISE = "wait for what is pending; `autoresearch up --experiments N` raises it once the dispatcher has ended"
_FIRST = "first look at a proposal"
_SAY = "update experiment set reason = ? where id = ? and verdict is null"
_MAKE_A_GRID = "make one: `autoresearch submit --factor DEPTH=2,4`"


class _Wave:
    """The ideas of one wave on their way into the store, within its transaction."""

    def __init__(
        self, db: sqlite3.Connection, submission: int, tried: dict[str, str], room: float, now: float
    ) -> None:
        self._db = db
        self._submission = submission
        self._tried = tried
        self._room = room
        self._now = now
        self.numbers: list[int] = []

    def take(self, entry: Entry) -> dict[str, Any]:
        """Store one idea; return what became of it."""
        found, proposal = entry.found, entry.proposal
        if isinstance(found, Refusal):
            if found.reason == "unchanged":  # what the parent is already
                return {"experiment": proposal.parent, "state": "duplicate"}
            return self._refused(proposal, found)
        earlier = self._tried.get(found.digest)
        if earlier and not _is_idle(self._db, earlier):
            detail = f"{earlier} is the same code"
            self._refused(proposal, Refusal(reason="duplicate", detail=detail, experiment=earlier))
            return {"experiment": earlier, "state": "duplicate"}
        if self._room < 1:
            return self._refused(proposal, Refusal(reason="budget", detail="no experiment is left of it"))
        self._room -= 1
        id_ = earlier or insert_experiment(self._db, proposal, found, entry.constants, self._now)
        if earlier:
            self._db.execute(_SAY, ("", earlier))
        self._tried[found.digest] = id_
        self._insert(proposal, "waiting", experiment=id_)
        append_event(self._db, self._now, "submitted", id_, {"author": proposal.author})
        return {"experiment": id_, "state": "queued"}

    def _refused(self, proposal: Proposal, refusal: Refusal) -> dict[str, Any]:
        number = self._insert(proposal, "refused", refusal=refusal, experiment=refusal.experiment)
        append_event(self._db, self._now, "refused", str(number), {"reason": str(refusal)})
        return {"experiment": None, "state": "refused", "reason": str(refusal)}

    def _insert(
        self, proposal: Proposal, state: str, *, refusal: Refusal | None = None, experiment: str | None = None
    ) -> int:
        cursor = self._db.execute(
            "insert into proposal (hypothesis, edits, parent, author, created_at, state, reason, fact,"
            " experiment, base, expected, reworks, submission)"
            " values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                proposal.hypothesis,
                edits_json(proposal.edits),
                proposal.parent,
                proposal.author,
                self._now,
                state,
                str(refusal or ""),
                refusal.fact if refusal else "",
                experiment,
                proposal.base,
                proposal.expected,
                names_text(proposal.reworks),
                self._submission,
            ),
        )
        self.numbers.append(int(cursor.lastrowid or 0))
        return self.numbers[-1]


def _room(db: sqlite3.Connection, ceiling: int | None) -> float:
    """Return how many more experiments may be promised: started ones and waiting proposals count."""
    if ceiling is None:
        return float("inf")
    started = "select count(*) from experiment e where parent is not null"
    started += " and exists (select 1 from run where run.experiment = e.id)"
    waiting = "select count(*) from proposal p where state = 'waiting'"
    waiting += " and not exists (select 1 from run where run.experiment = p.experiment)"  # asked for again
    return ceiling - sum(int(db.execute(sql).fetchone()[0]) for sql in (started, waiting))


def _is_idle(db: sqlite3.Connection, experiment: str) -> bool:
    """Whether an experiment was taken back before it was measured: it may be asked for again."""
    settled = (
        "select 1 from experiment e where id = ? and (verdict is not null or parent is null"
        " or exists (select 1 from run where run.experiment = e.id and run.state != 'cancelled'"
        " and (run.cancelled_by is null or run.value is not null or run.failure is not null))"
        " or exists (select 1 from proposal p where p.experiment = e.id and p.state = 'waiting'))"
    )
    return db.execute(settled, (experiment,)).fetchone() is None


def _settle(db: sqlite3.Connection, proposal: Proposal, state: str, reason: str, fact: str) -> bool:
    return (
        db.execute(
            "update proposal set state = ?, reason = ?, fact = ? where number = ? and state = 'waiting'",
            (state, reason, fact, proposal.number),
        ).rowcount
        == 1
    )


def _promised(proposal: Proposal) -> str:
    if proposal.experiment is None:
        raise TypeError(f"proposal {proposal.number} was not promised an experiment")
    return proposal.experiment


def _insert_grid(
    db: sqlite3.Connection,
    factors: Mapping[str, Sequence[float]],
    cells: Sequence[Cell],
    said: tuple[str, str, str, float],
) -> str | None:
    """Store a grid with the parent, hypothesis, author and time `said`; return its name.

    None where no cell was taken: there is nothing to tell of it.
    """
    if not any(row["experiment"] for _, row in cells):
        return None
    number = db.execute(
        "insert into grid (factors, parent, hypothesis, author, created_at) values (?, ?, ?, ?, ?)",
        (_factors_json(factors), *said),
    ).lastrowid
    for levels, row in cells:
        db.execute(
            "insert into cell (grid, levels, experiment, reason) values (?, ?, ?, ?)",
            (number, to_json(levels), row["experiment"], row.get("reason", "")),
        )
    return f"g{number}"


def _same_grid(
    db: sqlite3.Connection, factors: Mapping[str, Sequence[float]], cells: Sequence[Cell]
) -> str | None:
    """Return the first grid of these factors whose cells are the same experiments; None without one."""
    experiments = [row["experiment"] for _, row in cells]
    known = db.execute("select number from grid where factors = ? order by number", (_factors_json(factors),))
    for (number,) in known.fetchall():
        found = db.execute("select experiment from cell where grid = ? order by rowid", (number,))
        if [experiment for (experiment,) in found] == experiments:
            return f"g{number}"
    return None


def _factors_json(factors: Mapping[str, Sequence[float]]) -> str:
    return to_json({name: list(levels) for name, levels in factors.items()})
