"""One machine of a study, as its dispatcher knows it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from enum import StrEnum

from autoresearch.executors.sky.ledger import MachineRecord

log = logging.getLogger(__name__)


class Stage(StrEnum):
    """How far a machine is."""

    UNSEEN = "being looked for"  # SkyPilot is being asked what there is of that name
    WANTED = "wanted"
    LAUNCHING = "launching"
    UNCLEAR = "unclear"  # a launch without an answer
    SETTING_UP = "setting up"
    READY = "ready"
    LEAVING = "leaving"


@dataclass(slots=True, kw_only=True)
class Machine:
    """One machine, as far as this dispatcher knows."""

    record: MachineRecord
    stage: Stage
    since: float
    up_at: float | None = None
    launched_at: float | None = None  # when this dispatcher began to wait for it
    guarded: bool = False  # whether it was seen to go away by itself
    due: float = 0.0  # when it is to be looked after next
    note: str = ""
    released: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        """Its name within the study."""
        return self.record.name

    @property
    def cluster(self) -> str:
        """Its name for SkyPilot."""
        return self.record.cluster

    @property
    def slots(self) -> list[str]:
        """The names of its workers, one for each of its GPUs."""
        if self.record.gpus == 1:
            return [self.name]
        return [f"{self.name}.{i}" for i in range(1, self.record.gpus + 1)]

    def move(self, stage: Stage, now: float, note: str = "", due: float = 0.0) -> None:
        """Enter a stage."""
        log.info("machine %s: %s %s", self.name, stage, note)
        self.stage, self.since, self.note, self.due = stage, now, note, due
