"""The ledger of API calls: reserved before they are made, billed before they are judged."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict, dataclass, fields

from autoresearch.calls import Bill, Call, CallOutcome, Reservation, Tokens
from autoresearch.errors import BudgetError
from autoresearch.experiment import Edit, Proposal
from autoresearch.store.database import Database, append_event
from autoresearch.store.rows import to_json


@dataclass(frozen=True, slots=True, kw_only=True)
class PaidReply:
    """What an answered call brought, kept with its bill so that a crash cannot lose it."""

    call: int
    proposals: tuple[Proposal, ...]
    notes: str


class CallTable(Database):
    """The API calls of a study."""

    def begin_call(self, wanted: Reservation, *, ceiling_usd: float | None, now: float) -> Call:
        """Reserve a call's cost and note that it is being made.

        The reservation is the worst case, or what the ceiling leaves where that is less: the caller
        must see to it that the call cannot cost more. Raises BudgetError where not even the likely
        cost is left.
        """
        with self._write() as db:
            spent, reserved = db.execute(
                "select coalesce(sum(cost_usd), 0),"
                " coalesce(sum(case when ended_at is null then reserved_usd else 0 end), 0) from call"
            ).fetchone()
            left = float("inf") if ceiling_usd is None else ceiling_usd - spent - reserved
            if wanted.likely_usd > left:
                raise BudgetError(
                    f"API ${spent:.2f} of {ceiling_usd:g} are spent,"
                    f" and a call may cost ${wanted.likely_usd:.2f}",
                    "raise budget.api_dollars to let the agent go on",
                )
            next_batch = int(db.execute("select coalesce(max(batch), 0) + 1 from call").fetchone()[0])
            cursor = db.execute(
                "insert into call (batch, model, effort, asked, digest, started_at, reserved_usd, likely_usd)"
                " values (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    next_batch if wanted.batch is None else wanted.batch,
                    wanted.model,
                    wanted.effort,
                    wanted.asked,
                    wanted.digest,
                    now,
                    min(wanted.worst_usd, left),
                    wanted.likely_usd,
                ),
            )
            id_ = int(cursor.lastrowid or 0)
        return self.call(id_)

    def bill_call(self, call: int, bill: Bill, now: float) -> bool:
        """Write what a call cost, once; False where it was billed before."""
        with self._write() as db:
            changed = db.execute(
                "update call set ended_at = ?, outcome = ?, tokens = ?, cost_usd = ?, estimated = ?,"
                " detail = ? where id = ? and ended_at is null",
                (
                    now,
                    bill.outcome,
                    to_json(asdict(bill.tokens)),
                    bill.cost_usd,
                    int(bill.estimated),
                    bill.detail,
                    call,
                ),
            ).rowcount
            if changed:
                data = {"call": call, "usd": bill.cost_usd, "outcome": str(bill.outcome)}
                append_event(db, now, "billed", "", data)
        return changed == 1

    def judge_call(self, call: int, outcome: CallOutcome, reply: PaidReply | None = None) -> None:
        """Say what a billed answer was worth, and keep what it brought until `take_reply`."""
        kept = None
        if reply is not None:
            kept = to_json({"proposals": [asdict(p) for p in reply.proposals], "notes": reply.notes})
        with self._write() as db:
            db.execute("update call set outcome = ?, reply = ? where id = ?", (outcome, kept, call))

    def close_lost_calls(self, now: float) -> int:
        """Bill the calls nobody will hear the end of at their likely cost; return how many there were.

        Only for the one dispatcher, before its first call and after its last.
        """
        with self._write() as db:
            return db.execute(
                "update call set ended_at = ?, outcome = ?, cost_usd = likely_usd, estimated = 1"
                " where ended_at is null",
                (now, CallOutcome.LOST),
            ).rowcount

    def paid_replies(self) -> list[PaidReply]:
        """Return what billed calls brought and nobody has taken in yet, oldest first."""
        rows = self._all("select id, reply from call where reply is not null and taken = 0 order by id")
        return [_reply(row) for row in rows]

    def call(self, id_: int) -> Call:
        """Return one call."""
        return _call(self._all("select * from call where id = ?", (id_,))[0])

    def calls(self, limit: int | None = None) -> list[Call]:
        """Return the most recent calls, or all, oldest first."""
        rows = self._all("select * from call order by id desc limit ?", (-1 if limit is None else limit,))
        return [_call(row) for row in reversed(rows)]

    def api_usage(self, now: float) -> tuple[float, int, Tokens]:
        """Return dollars, calls and tokens of the calls that had ended by then."""
        names = [f.name for f in fields(Tokens)]
        sums = ", ".join(f"coalesce(sum(json_extract(tokens, '$.{name}')), 0)" for name in names)
        row = self._one(
            f"select coalesce(sum(cost_usd), 0), count(*), {sums} from call where ended_at <= ?", (now,)
        )
        dollars, count, *tokens = tuple(row or ())
        return float(dollars), int(count), Tokens(**dict(zip(names, tokens, strict=True)))


def _call(row: sqlite3.Row) -> Call:
    return Call(
        id=row["id"],
        batch=row["batch"],
        model=row["model"],
        effort=row["effort"],
        asked=row["asked"],
        digest=row["digest"],
        started_at=row["started_at"],
        reserved_usd=row["reserved_usd"],
        likely_usd=row["likely_usd"],
        ended_at=row["ended_at"],
        outcome=CallOutcome(row["outcome"]) if row["outcome"] else None,
        detail=row["detail"],
        tokens=Tokens(**json.loads(row["tokens"])),
        cost_usd=row["cost_usd"],
        estimated=bool(row["estimated"]),
    )


def _reply(row: sqlite3.Row) -> PaidReply:
    kept = json.loads(row["reply"])
    proposals = (
        Proposal(**{**p, "edits": tuple(Edit(**e) for e in p["edits"]), "reworks": tuple(p["reworks"])})
        for p in kept["proposals"]
    )
    return PaidReply(call=row["id"], proposals=tuple(proposals), notes=kept["notes"])
