"""Wall time, with a wait that can be cut short."""

from __future__ import annotations

import threading
import time


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
