"""One attempt at an answer: reserved, made, billed, and written down."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from autoresearch.agents.claude.ledger import Ledger
from autoresearch.agents.claude.prices import Price
from autoresearch.agents.claude.request import Body, prefixes
from autoresearch.agents.claude.wire import Ending, hear
from autoresearch.calls import Bill, Call, CallOutcome
from autoresearch.errors import StorageError

if TYPE_CHECKING:
    from anthropic import Anthropic

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A call that was made and billed."""

    call: Call
    body: Body
    ending: Ending
    bill: Bill
    started_at: float
    ended_at: float


def make_call(
    client: Anthropic, ledger: Ledger, call: Call, price: Price, body: Body, now: Callable[[], float]
) -> Attempt:
    """Make a call, and bill it before anything is done with its answer.

    The API charges for an answer that breaks off, and does not say what: then the cost is an upper
    estimate.
    """
    started_at = now()
    ending = hear(client, body)
    estimated = not ending.exact and ending.outcome is not CallOutcome.REJECTED
    cost = price.cost(ending.tokens)
    bill = Bill(
        outcome=ending.outcome,
        tokens=ending.tokens,
        cost_usd=max(cost, call.likely_usd) if estimated else cost,
        estimated=estimated,
        detail=ending.detail,
    )
    ledger.bill(call, bill)
    return Attempt(call=call, body=body, ending=ending, bill=bill, started_at=started_at, ended_at=now())


def write_down(ledger: Ledger, attempt: Attempt, outcome: CallOutcome, note: str = "") -> None:
    """Keep what was said in a call. A full disk costs the transcript and nothing else."""
    try:
        for sha256, text in prefixes(attempt.body).items():
            ledger.prefix(sha256, text)
        ledger.transcript(attempt.call, _document(attempt, outcome, note))
    except (StorageError, OSError) as error:
        log.warning("no transcript of call %d: %s", attempt.call.id, error)


def _document(attempt: Attempt, outcome: CallOutcome, note: str) -> Mapping[str, Any]:
    call, body, ending = attempt.call, attempt.body, attempt.ending
    tools, *system = prefixes(body)
    return {
        "call": call.id,
        "batch": call.batch,
        "model": call.model,
        "effort": call.effort,
        "asked": call.asked,
        "digest": call.digest,
        "request": {
            "tools": tools,
            "system": system,
            "user": [block["text"] for message in body["messages"] for block in message["content"]],
            "max_tokens": body["max_tokens"],
        },
        "response": list(ending.content),
        "stop_reason": ending.stop_reason,
        "outcome": str(outcome),
        "detail": note or ending.detail,
        "usage": asdict(ending.tokens),
        "cost_usd": attempt.bill.cost_usd,
        "estimated": attempt.bill.estimated,
        "likely_usd": call.likely_usd,
        "reserved_usd": call.reserved_usd,
        "request_id": ending.request_id,
        "started_at": attempt.started_at,
        "ended_at": attempt.ended_at,
    }
