"""The books of a paid agent: its calls in the study's store, their transcripts beside it.

    .autoresearch/<tag>/calls/c0007.json        a call: what was asked, what came back, what it cost
    .autoresearch/<tag>/calls/prefix-<sha>.txt  what many calls began with

Agents work in threads of their own, so every operation opens the store anew.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

from autoresearch.calls import Bill, Call, CallOutcome, Reservation
from autoresearch.files import write_whole
from autoresearch.protocols import Reply
from autoresearch.store import CallTable, PaidReply
from autoresearch.study import Study


class StudyLedger:
    """Keeps the calls of one study; see agents.claude.ledger.Ledger."""

    def __init__(self, study: Study, ceiling_usd: float | None, now: Callable[[], float] = time.time) -> None:
        """Keep them under a ceiling in USD; None: no ceiling."""
        self._path = study.state / "study.db"
        self._folder = study.state / "calls"
        self._ceiling = ceiling_usd
        self._now = now

    def begin(self, wanted: Reservation) -> Call:
        """Reserve what a call may cost; BudgetError where the ceiling does not leave its likely cost."""
        with self._open() as table:
            return table.begin_call(wanted, ceiling_usd=self._ceiling, now=self._now())

    def bill(self, call: Call, bill: Bill) -> None:
        """Write what a call cost, once."""
        with self._open() as table:
            table.bill_call(call.id, bill, self._now())

    def judge(self, call: Call, outcome: CallOutcome, reply: Reply | None = None) -> None:
        """Say what an answer was worth, and keep what it brought."""
        kept = None
        if reply is not None:
            kept = PaidReply(call=call.id, proposals=reply.proposals, notes=reply.notes)
        with self._open() as table:
            table.judge_call(call.id, outcome, kept)

    def recent(self, limit: int) -> Sequence[Call]:
        """Return the last calls, oldest first."""
        with self._open() as table:
            return table.calls(limit)

    def transcript(self, call: Call, document: Mapping[str, Any]) -> None:
        """Keep what was said in a call."""
        self._folder.mkdir(exist_ok=True)
        write_whole(self._folder / f"c{call.id:04d}.json", json.dumps(document, indent=1).encode())

    def prefix(self, digest: str, text: str) -> None:
        """Keep a text that many requests begin with, once."""
        path = self._folder / f"prefix-{digest[:16]}.txt"
        if not path.exists():
            self._folder.mkdir(exist_ok=True)
            write_whole(path, text.encode())

    @contextmanager
    def _open(self) -> Iterator[CallTable]:
        with closing(CallTable(self._path)) as table:
            yield table
