"""The agent's side of the loop: asked beside it, answered when it is ready, rested when it fails.

The pool works on meanwhile, and whatever the agent does, the study never dies of it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future

from autoresearch.brief import Brief
from autoresearch.errors import AgentError
from autoresearch.protocols import Agent, Clock, Reply
from autoresearch.store import Store

log = logging.getLogger(__name__)

REST_SECONDS = (5.0, 30.0, 120.0, 300.0)  # after the first, second, ... failure in a row

Spawn = Callable[[Callable[[], None]], None]


def in_a_thread(call: Callable[[], None]) -> None:
    """Run a call beside the loop; an exit of the program does not wait for it."""
    threading.Thread(target=call, name="agent", daemon=True).start()


class Asking:
    """Asks an agent for proposals in the background and takes in its answers."""

    def __init__(self, agent: Agent, store: Store, clock: Clock, spawn: Spawn = in_a_thread) -> None:
        self._agent = agent
        self._store = store
        self._clock = clock
        self._spawn = spawn
        self._open: list[tuple[int, Future[Reply]]] = []
        self._failures = 0
        self._rests_until = 0.0
        self.gone = False  # it will not be asked again

    @property
    def asked(self) -> int:
        """Proposals asked for and not yet received."""
        return sum(n for n, _ in self._open)

    def resting(self, now: float) -> bool:
        """Whether the agent failed and its pause is not over."""
        return now < self._rests_until

    def ask(self, brief: Brief, n: int) -> None:
        """Ask for n proposals; the answer is taken in by a later `receive`."""
        future: Future[Reply] = Future()

        def answer() -> None:
            try:
                future.set_result(self._agent.propose(brief, n))
            except AgentError as error:
                future.set_exception(error)
            except Exception as error:  # a bug of an agent must not end a night of sixteen GPUs
                log.exception("the agent broke")
                future.set_exception(AgentError(f"{type(error).__name__}: {error}"))
            self._clock.wake()

        self._open.append((n, future))
        self._spawn(answer)

    def receive(self) -> None:
        """Store what the agent has answered since the last call."""
        answered = [future for _, future in self._open if future.done()]
        self._open = [(n, future) for n, future in self._open if not future.done()]
        for future in answered:
            try:
                self._take(future.result())
            except AgentError as error:
                self._rest(error)

    def _take(self, reply: Reply) -> None:
        now = self._clock.now()
        numbers = self._store.add_proposals(reply.proposals, now)
        if reply.notes:
            self._store.record("noted", "", {"notes": reply.notes, "proposals": numbers}, now)
        if reply.proposals:
            self._failures = 0
        else:
            self._rest(AgentError("it proposed nothing"))

    def _rest(self, error: AgentError) -> None:
        """Pause the agent, the longer the more failures there were in a row; at last for good."""
        now = self._clock.now()
        self.gone = not error.retryable or self._failures >= len(REST_SECONDS)
        if not self.gone:
            self._rests_until = now + REST_SECONDS[self._failures]
        self._failures += 1
        log.warning("agent failed: %s; asked again: %s", error.message, not self.gone)
        self._store.record("agent_failed", "", {"reason": error.message, "gone": self.gone}, now)
