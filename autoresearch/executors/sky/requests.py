"""Blocking calls made beside the dispatcher, a few at a time; their answers are taken in its thread.

A call has a key, and is made once at a time however often it is asked for. Its continuation runs in
`settle`, so that only one thread ever changes the executor's state.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from autoresearch.executors.sky.client import SkyError


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of a call: its value, or the error SkyPilot gave."""

    value: Any = None
    error: SkyError | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    key: str
    lane: str
    make: Callable[[], Any]
    then: Callable[[Answer], None]
    gives_way: bool


class Requests:
    """Calls under way, by lanes of limited width."""

    def __init__(self, lanes: Mapping[str, int], wake: Callable[[], None]) -> None:
        """Give every lane its width; `wake` is called, from any thread, when an answer is in."""
        self._free = dict(lanes)
        self._wake = wake
        self._waiting: deque[_Call] = deque()
        self._keys: set[str] = set()
        self._answered: deque[tuple[_Call, Answer | BaseException]] = deque()

    def start(
        self,
        key: str,
        lane: str,
        make: Callable[[], Any],
        then: Callable[[Answer], None],
        *,
        gives_way: bool = False,
    ) -> None:
        """Make a call in its lane's turn; nothing while one of that key is under way.

        Calls that give way never take the last place of a lane.
        """
        if key in self._keys:
            return
        self._keys.add(key)
        self._waiting.append(_Call(key=key, lane=lane, make=make, then=then, gives_way=gives_way))
        self._pump()

    def drop(self, key: str) -> bool:
        """Forget a call whose turn has not come; return whether there was one."""
        waiting = [call for call in self._waiting if call.key == key]
        for call in waiting:
            self._waiting.remove(call)
            self._keys.discard(key)
        return bool(waiting)

    def pending(self, key: str) -> bool:
        """Whether a call of that key waits or is under way."""
        return key in self._keys

    def settle(self) -> None:
        """Hand the answers that came in to those who asked, in this thread."""
        while self._answered:
            call, answer = self._answered.popleft()
            self._keys.discard(call.key)
            self._free[call.lane] += 1
            if not isinstance(answer, Answer):
                raise answer
            call.then(answer)
        self._pump()

    def _pump(self) -> None:
        for call in list(self._waiting):
            if self._free[call.lane] > int(call.gives_way):
                self._free[call.lane] -= 1
                self._waiting.remove(call)
                threading.Thread(target=self._run, args=(call,), name=call.key, daemon=True).start()

    def _run(self, call: _Call) -> None:
        began = time.monotonic()
        answer: Answer | BaseException
        try:
            value = call.make()
            answer = Answer(value=value, seconds=time.monotonic() - began)
        except SkyError as error:
            answer = Answer(error=error, seconds=time.monotonic() - began)
        except BaseException as error:  # noqa: BLE001  a bug: raised where the answer is taken
            answer = error
        self._answered.append((call, answer))
        self._wake()
