"""Wall time, with a wait that can be cut short; and virtual time, for simulated studies."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable


class WallClock:
    """The real clock."""

    def __init__(self) -> None:
        self._woken = threading.Event()

    def now(self) -> float:
        """Return UTC epoch seconds."""
        return time.time()

    def wait(self, seconds: float) -> None:
        """Return after that many seconds, or at once when woken before or meanwhile."""
        self._woken.wait(max(0.0, seconds))
        self._woken.clear()

    def wake(self) -> None:
        """End the current or the next wait."""
        self._woken.set()


class VirtualClock:
    """A clock that only moves when waited on, from one planned event to the next."""

    def __init__(self, now: float) -> None:
        """Begin at a moment, in UTC epoch seconds."""
        self._now = now
        self._count = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []

    def now(self) -> float:
        """Return the virtual time, in UTC epoch seconds."""
        return self._now

    def at(self, moment: float, event: Callable[[], None]) -> None:
        """Plan an event; those of one moment happen in the order they were planned."""
        self._count += 1
        heapq.heappush(self._events, (max(moment, self._now), self._count, event))

    def wait(self, seconds: float) -> None:
        """Go to the next event, or on by that many seconds where none comes sooner."""
        until = self._now + max(0.0, seconds)
        if not self._events or self._events[0][0] > until:
            self._now = until
            return
        self._now = self._events[0][0]
        while self._events and self._events[0][0] <= self._now:
            heapq.heappop(self._events)[2]()

    def wake(self) -> None:
        """Do nothing: a wait ends with the event that would wake it."""
