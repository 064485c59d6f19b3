"""An agent that asks Claude: one streamed call for a batch of proposals, with a fresh context each time.

Its memory is the brief; its books are the ledger's. Every call is reserved under the ceiling before it is
made, billed before it is judged, and written down. It tries again only what another try can mend within
seconds; everything else is the dispatcher's to wait out, or the operator's to look at.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from autoresearch.agents.claude.call import Attempt, make_call, write_down
from autoresearch.agents.claude.client import connect
from autoresearch.agents.claude.estimate import estimate
from autoresearch.agents.claude.ledger import Ledger
from autoresearch.agents.claude.prices import price_of
from autoresearch.agents.claude.reply import read
from autoresearch.agents.claude.request import TOOL_NAME, Body, build, digest
from autoresearch.agents.claude.trouble import beyond_budget, declined, given_up, turned_down
from autoresearch.agents.claude.wire import TOO_LONG
from autoresearch.brief import Brief
from autoresearch.calls import Call, CallOutcome, Reservation
from autoresearch.errors import BudgetError
from autoresearch.protocols import Reply

if TYPE_CHECKING:
    from anthropic import Anthropic

__all__ = ["ClaudeAgent", "ClaudeSettings"]

log = logging.getLogger(__name__)

ATTEMPTS = 3  # at one batch
RECENT = 100  # calls that are looked back at: more than can be under way
PAUSE_SECONDS = 1.0  # after a broken answer, times the number of the attempt
ANSWERS = frozenset(  # outcomes that tell what the model does, rather than the network
    {
        *(CallOutcome.ANSWERED, CallOutcome.PROPOSED, CallOutcome.REFUSAL),
        *(CallOutcome.TRUNCATED, CallOutcome.UNUSABLE),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaudeSettings:
    """Who is asked, and how hard it thinks."""

    model: str
    effort: str = "medium"
    second_model: str | None = None
    second_every: int = 0  # every so many batches one is the second model's; 0: none
    max_tokens: int = 16_000  # of an answer; more where answers are longer

    def model_of(self, batch: int) -> str:
        """Return who is asked for a batch, by its number from 1: a schedule that nothing moves."""
        if self.second_model and self.second_every and batch % self.second_every == 0:
            return self.second_model
        return self.model


@dataclass(frozen=True, slots=True, kw_only=True)
class _Try:
    """How a batch is asked for."""

    room: int  # tokens of output
    batch: int | None = None  # None: for the first time
    number: int = 1  # of the attempt
    at_least: int = 0  # tokens that were too few
    nudge: str = ""


class ClaudeAgent:
    """Proposes what Claude suggests. Several threads may ask it at once."""

    def __init__(
        self,
        settings: ClaudeSettings,
        ledger: Ledger,
        api_key: str,
        *,
        base_url: str | None = None,
        now: Callable[[], float] = time.time,
        nap: Callable[[float], None] = time.sleep,
        read_seconds: float = 120.0,
        total_seconds: float = 900.0,
    ) -> None:
        """Nothing is sent yet. `base_url=None`: the API, or what the environment names.

        An answer may be silent for `read_seconds` and take `total_seconds`. Raises ConfigError for a
        model whose price is not known.
        """
        for model in filter(None, (settings.model, settings.second_model)):
            price_of(model)
        self._settings = settings
        self._ledger = ledger
        self._api_key = api_key
        self._base_url = base_url
        self._now = now
        self._nap = nap
        self._read_seconds = read_seconds
        self._total_seconds = total_seconds
        self._lock = threading.Lock()
        self._connected: Anthropic | None = None

    def propose(self, brief: Brief, n: int) -> Reply:
        """Return up to n proposals, at least one. Raises AgentError where there are none."""
        client = self._client()
        this = _Try(room=self._settings.max_tokens)
        while True:
            call, body = self._begin(brief, n, this)
            attempt = make_call(client, self._ledger, call, price_of(call.model), body, self._now)
            reply, outcome, note = self._judge(attempt, brief, n)
            write_down(self._ledger, attempt, outcome, note)
            if reply:
                return reply
            self._stop_unless_mendable(attempt, this)
            this = self._mended(this, attempt, note)

    def _client(self) -> Anthropic:
        with self._lock:
            if self._connected is None:
                self._connected = connect(
                    self._api_key,
                    self._base_url,
                    read_seconds=self._read_seconds,
                    total_seconds=self._total_seconds,
                )
            return self._connected

    def _begin(self, brief: Brief, n: int, this: _Try) -> tuple[Call, Body]:
        """Reserve a call, and return it with a request that cannot cost more than is reserved."""
        effort = self._settings.effort
        with self._lock:  # so that a batch has the number that its model was chosen by
            recent = self._ledger.recent(RECENT)
            number = this.batch or max((call.batch for call in recent), default=0) + 1
            model = self._settings.model_of(number)
            price = price_of(model)
            body = build(brief, n, model=model, effort=effort, nudge=this.nudge)
            guess = estimate(price, body, n, recent, room=this.room, at_least=this.at_least)
            try:
                call = self._ledger.begin(
                    Reservation(
                        batch=this.batch,
                        model=model,
                        effort=effort,
                        asked=n,
                        digest=digest(body),
                        likely_usd=guess.likely_usd,
                        worst_usd=guess.worst_usd,
                    )
                )
            except BudgetError as error:
                raise beyond_budget(error, recent) from error
        affordable = price.affordable_output(guess.prompt, call.reserved_usd)
        return call, {**body, "max_tokens": min(guess.max_tokens, affordable)}

    def _judge(self, attempt: Attempt, brief: Brief, n: int) -> tuple[Reply | None, CallOutcome, str]:
        """Return the reply in an answer, what the answer was worth, and why."""
        call, ending = attempt.call, attempt.ending
        if ending.outcome is not CallOutcome.ANSWERED:
            return None, ending.outcome, ending.detail
        reading = read(ending.inputs, brief, n, author=call.model)
        if not reading.proposals:
            self._ledger.judge(call, CallOutcome.UNUSABLE)
            note = str(reading) if ending.inputs else f"no call of {TOOL_NAME}"
            return None, CallOutcome.UNUSABLE, note
        reply = Reply(proposals=reading.proposals, notes=reading.notes, call=call.id)
        self._ledger.judge(call, CallOutcome.PROPOSED, reply)
        log.info("call %d: %s, $%.4f", call.id, reading, attempt.bill.cost_usd)
        return reply, CallOutcome.PROPOSED, str(reading)

    def _stop_unless_mendable(self, attempt: Attempt, this: _Try) -> None:
        """Raise AgentError where another try now would be of no use, or was the last."""
        ending, model = attempt.ending, attempt.call.model
        if ending.outcome is CallOutcome.REFUSAL:
            raise declined(ending, model, again=self._declined_before(attempt.call))
        if ending.outcome in {CallOutcome.REJECTED, CallOutcome.UNANSWERED}:
            raise turned_down(ending, model)
        if this.number == ATTEMPTS or ending.stop_reason == TOO_LONG:
            raise given_up(ending, this.number)

    def _mended(self, this: _Try, attempt: Attempt, note: str) -> _Try:
        """Return how to ask again for a batch whose answer was of no use; waits a little if it broke off."""
        following = replace(this, batch=attempt.call.batch, number=this.number + 1)
        match attempt.ending.outcome:
            case CallOutcome.TRUNCATED:
                used = attempt.body["max_tokens"]
                return replace(following, room=2 * used, at_least=used)
            case CallOutcome.CUT:
                jitter = random.Random(attempt.call.id).uniform(0.75, 1.25)  # noqa: S311 - no secret
                self._nap(PAUSE_SECONDS * this.number * jitter)
                return following
            case _:
                return replace(following, nudge=f"Your last answer was of no use: {note}.")

    def _declined_before(self, call: Call) -> bool:
        """Return whether the answer before this one was a refusal too."""
        heard = [
            (other.ended_at, other.id, other.outcome)
            for other in self._ledger.recent(RECENT)
            if other.id != call.id and other.ended_at is not None and other.outcome in ANSWERS
        ]
        return bool(heard) and max(heard)[2] is CallOutcome.REFUSAL
