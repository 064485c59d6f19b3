"""What the stand-in is told to do wrong. It is files below its root, so any process can script it.

Nothing here is random: a fault strikes the next request it is about, oldest fault first, once.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from autoresearch.executors.sky.client import SkyError, UnansweredError
from autoresearch.executors.sky.standin.cluster import write_json

OPERATIONS = frozenset(
    {"launch", "exec", "queue", "logs", "cancel", "clusters", "pending", "set_autodown", "down"}
)


class Mishap(StrEnum):
    """What can go wrong with one request."""

    UNANSWERED = "unanswered"
    REFUSED = "refused"
    TWICE = "twice"
    STALE = "stale"
    STUCK = "stuck"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that will go wrong once."""

    mishap: Mishap
    about: str  # an operation; of UNAVAILABLE a kind of GPU
    cluster: str | None = None  # None: whichever comes first
    after: bool = False  # whether it strikes when the request was carried out already
    late: float = 0.0  # seconds until an unanswered launch or exec is carried out


class Script:
    """The faults to come, and the count of requests that were made."""

    def __init__(self, root: Path) -> None:
        self._faults = root / "faults"
        self._faults.mkdir(parents=True, exist_ok=True)
        self._calls = root / "calls"
        self._is_down = root / "server-down"

    def fail(
        self,
        operation: str,
        *,
        cluster: str | None = None,
        times: int = 1,
        after: bool = False,
        late: float = 0.0,
    ) -> None:
        """Leave the next requests unanswered: before anything happened, or `after` it did.

        With `late`, a launch or exec is carried out so many seconds after the caller gave up.
        """
        if late and operation not in {"launch", "exec"}:
            raise ValueError(f"{operation} cannot be late; only launch and exec can")
        fault = Fault(
            mishap=Mishap.UNANSWERED,
            about=_known(operation),
            cluster=cluster,
            after=after or late > 0,
            late=late,
        )
        self._plan(fault, times)

    def refuse(self, operation: str, *, cluster: str | None = None, times: int = 1) -> None:
        """Have the next requests raise SkyError, with nothing done."""
        self._plan(Fault(mishap=Mishap.REFUSED, about=_known(operation), cluster=cluster), times)

    def submit_twice(self, *, cluster: str | None = None, times: int = 1) -> None:
        """Have the next exec make two jobs of one name, as a retried POST does; it returns the second."""
        self._plan(Fault(mishap=Mishap.TWICE, about="exec", cluster=cluster), times)

    def stale(self, *, cluster: str | None = None, times: int = 1) -> None:
        """Have the next queue give its previous answer again; without a previous one, the true answer."""
        self._plan(Fault(mishap=Mishap.STALE, about="queue", cluster=cluster), times)

    def stick(self, cluster: str | None = None, *, times: int = 1) -> None:
        """Have the next launch of a new cluster never end: it stays INIT and the caller times out."""
        self._plan(Fault(mishap=Mishap.STUCK, about="launch", cluster=cluster), times)

    def unavailable(self, kind: str, *, times: int = 1) -> None:
        """Have the next launches of a new cluster with this kind of GPU ("cpu": none) find no resources."""
        self._plan(Fault(mishap=Mishap.UNAVAILABLE, about=kind), times)

    def server_down(self) -> None:
        """Leave every request of every process unanswered, those under way too, until `server_up`."""
        self._is_down.touch()

    def server_up(self) -> None:
        """Have requests answered again."""
        self._is_down.unlink(missing_ok=True)

    @property
    def calls(self) -> Counter[str]:
        """How many requests all processes made, by operation; those that failed count too."""
        return Counter(self._calls.read_text().split()) if self._calls.exists() else Counter()

    def _count(self, operation: str) -> None:
        with self._calls.open("a") as file:  # one short write in append mode is whole
            file.write(f"{operation}\n")

    def _plan(self, fault: Fault, times: int) -> None:
        for number in range(times):
            write_json(self._faults / f"{time.time_ns():020d}-{os.getpid()}-{number}.json", asdict(fault))

    def _take(self, mishap: Mishap, about: str, cluster: str | None = None) -> Fault | None:
        """Return the oldest fault that strikes here, and use it up."""
        for path in sorted(self._faults.glob("[0-9]*.json")):
            try:
                fault = Fault(**json.loads(path.read_text()))
                if (fault.mishap, fault.about) == (mishap, about) and fault.cluster in {None, cluster}:
                    path.unlink()  # of several takers one succeeds
                    return fault
            except FileNotFoundError:
                continue
        return None

    def _check_server(self) -> None:
        if self._is_down.exists():
            raise UnansweredError("the API server does not answer")

    def _check_refused(self, operation: str, cluster: str | None) -> None:
        if self._take(Mishap.REFUSED, operation, cluster):
            raise SkyError(f"{operation} was refused")


def _known(operation: str) -> str:
    if operation not in OPERATIONS:
        raise ValueError(f"{operation!r} is no operation; use one of {', '.join(sorted(OPERATIONS))}")
    return operation
