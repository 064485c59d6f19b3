"""The agent's side of the loop: asked beside it, answered when it is ready, rested when it fails.

The pool works on meanwhile, and whatever the agent does, the study never dies of it.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from autoresearch.brief import Brief
from autoresearch.errors import AgentError
from autoresearch.protocols import Agent, Clock, Reply
from autoresearch.store import Store

log = logging.getLogger(__name__)

REST_SECONDS = (5.0, 30.0, 120.0, 300.0)  # after the first, second, ... failure in a row
PATIENCE_SECONDS = 1800.0  # of failures in a row, after which workers should not be paid to wait
RECENT = 10  # answers that tell how long one takes
FOCI = (  # what each of several calls under way is asked for, so that they differ
    "the optimizer and its schedule",
    "the structure of the model",
    "combinations of what was kept, and simplifications",
    "numeric constants in designed grids",
)
TOGETHER = "the winners to be done anew in one experiment"

Spawn = Callable[[Callable[[], None]], None]


def in_a_thread(call: Callable[[], None]) -> None:
    """Run a call beside the loop; an exit of the program does not wait for it."""
    threading.Thread(target=call, name="agent", daemon=True).start()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Open:
    n: int
    focus: str
    asked_at: float
    future: Future[Reply]


class Asking:
    """Asks an agent for proposals in the background and takes in its answers."""

    def __init__(
        self, agent: Agent, store: Store, clock: Clock, spawn: Spawn = in_a_thread, usual_seconds: float = 0.0
    ) -> None:
        """Ask an agent whose answer usually takes `usual_seconds`, before one was measured."""
        self._agent = agent
        self._store = store
        self._clock = clock
        self._spawn = spawn
        self._usual = usual_seconds
        self._took: list[float] = []
        self._open: list[_Open] = []
        self._failures = 0
        self._failing_since = 0.0  # when the first request was made that failed
        self._rests_until = 0.0
        self.combined: set[tuple[str, ...]] = (
            set()
        )  # what was to be tried together: the best of then, and what
        self.gone = ""  # why it will not be asked again

    @property
    def asked(self) -> int:
        """Proposals asked for and not yet received."""
        return sum(each.n for each in self._open)

    @property
    def calls(self) -> int:
        """Requests not yet answered."""
        return len(self._open)

    @property
    def answer_seconds(self) -> float:
        """How long an answer takes, four times out of five."""
        took = sorted(self._took[-RECENT:])
        return took[math.ceil(0.8 * len(took)) - 1] if took else self._usual

    def resting(self, now: float) -> bool:
        """Whether the agent failed and its pause is not over."""
        return now < self._rests_until

    def elsewhere(self) -> tuple[str, ...]:
        """Return what the requests under way were asked for."""
        return tuple(
            f"{each.n} experiments{f' on {each.focus}' if each.focus else ''}" for each in self._open
        )

    def focus(self) -> str:
        """Return what to ask for beside the requests under way; "" for anything."""
        if not self._open:
            return ""
        taken = {each.focus for each in self._open}
        return next((focus for focus in FOCI if focus not in taken), "")

    def ask(self, brief: Brief, n: int) -> None:
        """Ask for n proposals; the answer is taken in by a later `receive`."""
        future: Future[Reply] = Future()
        if brief.together:
            self.combined.add((brief.parent, *brief.together))

        def answer() -> None:
            try:
                future.set_result(self._agent.propose(brief, n))
            except AgentError as error:
                future.set_exception(error)
            except Exception as error:  # a bug of an agent must not end a night of sixteen GPUs
                log.exception("the agent broke")
                future.set_exception(AgentError(f"{type(error).__name__}: {error}"))
            self._clock.wake()

        self._open.append(_Open(n=n, focus=brief.focus, asked_at=self._clock.now(), future=future))
        self._spawn(answer)

    def recover(self) -> None:
        """Take in what was paid for and never taken, and bill what died unanswered."""
        self._store.close_lost_calls(self._clock.now())
        for paid in self._store.paid_replies():
            self._store.add_proposals(paid.proposals, self._clock.now(), notes=paid.notes, call=paid.call)

    def close(self) -> None:
        """Bill what is under way and will not be heard any more; should it still answer, that is kept."""
        self._store.close_lost_calls(self._clock.now())

    def receive(self) -> None:
        """Store what the agent has answered since the last call."""
        answered = [each for each in self._open if each.future.done()]
        self._open = [each for each in self._open if not each.future.done()]
        for each in answered:
            try:
                self._take(each, each.future.result())
            except AgentError as error:
                self._rest(each, error)

    def _take(self, asked: _Open, reply: Reply) -> None:
        now = self._clock.now()
        self._store.add_proposals(reply.proposals, now, notes=reply.notes, call=reply.call)
        if reply.proposals:
            since = self._failing_since if self._failures else asked.asked_at
            self._took.append(now - since)  # a failure and its rest are part of the wait
            self._failures = 0
        else:
            self._rest(asked, AgentError("it proposed nothing"))

    def _rest(self, asked: _Open, error: AgentError) -> None:
        """Pause the agent, the longer the more failures there were in a row; at last for good."""
        now = self._clock.now()
        if self._failures == 0:
            self._failing_since = asked.asked_at
        pause = REST_SECONDS[min(self._failures, len(REST_SECONDS) - 1)]
        self._failures += 1
        self._rests_until = max(self._rests_until, now + (error.retry_after or pause))
        if not error.retryable:
            self.gone = error.message
        elif self._rests_until - self._failing_since > PATIENCE_SECONDS:
            self.gone = f"{error.message}; it failed for {(now - self._failing_since) / 60:.0f} minutes"
        log.warning("agent failed: %s; asked again: %s", error.message, not self.gone)
        self._store.record(
            "agent_failed",
            "",
            {"reason": error.message, "hint": error.hint, "gone": bool(self.gone)},
            now,
        )
