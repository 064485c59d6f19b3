"""The books that the agent keeps its calls in, as it sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from autoresearch.calls import Bill, Call, CallOutcome, Reservation
from autoresearch.protocols import Reply


class Ledger(Protocol):
    """The calls of one study. Safe in several threads at once; autoresearch.accounts has the real one."""

    def begin(self, wanted: Reservation) -> Call:
        """Reserve a call's cost before it is made.

        The call must not cost more than its `reserved_usd`. Raises BudgetError where the ceiling does
        not leave its likely cost.
        """
        ...

    def bill(self, call: Call, bill: Bill) -> None:
        """Write what a call cost, once, before anything is done with its answer."""
        ...

    def judge(self, call: Call, outcome: CallOutcome, reply: Reply | None = None) -> None:
        """Say what an answer was worth, and keep what it brought."""
        ...

    def recent(self, limit: int) -> Sequence[Call]:
        """Return the last calls, oldest first, those under way too."""
        ...

    def transcript(self, call: Call, document: Mapping[str, Any]) -> None:
        """Keep what was said in a call."""
        ...

    def prefix(self, digest: str, text: str) -> None:
        """Keep a text that many requests begin with, once, under its sha256."""
        ...
