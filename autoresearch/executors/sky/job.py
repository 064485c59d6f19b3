"""One job of a study that is not over, as its dispatcher knows it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from autoresearch.executors.sky.machine import Machine


class Phase(StrEnum):
    """How far a job is."""

    HANDING = "handing over"
    UNCLEAR = "unclear"  # an exec without an answer, or of an earlier dispatcher
    WAITING = "waiting"  # in its machine's queue
    RUNNING = "running"
    ENDED = "ended"  # its log is being fetched


@dataclass(slots=True, kw_only=True)
class Job:
    """A job that is not over, as far as this dispatcher knows."""

    name: str
    machine: Machine
    slot: str
    limit: float  # seconds after which it ends itself
    phase: Phase
    ids: set[int] = field(default_factory=set)  # several where it was submitted twice; the first runs
    began: float | None = None
    early: bool = False  # whether it was looked at after its start
    looks: int = 0  # in vain, after its usual end
    missed: int = 0  # looks that did not find it
    unfetched: int = 0  # tries to get its log
    cancelling: bool = False

    @property
    def place(self) -> float:
        """Its place in its machine's queue; one that has to be looked for may be the first."""
        if self.ids:
            return min(self.ids)
        return -1.0 if self.phase is Phase.UNCLEAR else float("inf")
