"""What this project asks of SkyPilot, as one narrow, blocking Protocol.

`sdk` is the real one; `standin` runs jobs in folders of this machine and misbehaves on request.
Nothing here starts a thread, retries or remembers: that is the executor's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from autoresearch.errors import PoolError

Task = Mapping[str, Any]  # a SkyPilot task as its YAML loads


class SkyError(PoolError):
    """SkyPilot refused or failed a request; what was asked did not happen."""


class UnansweredError(SkyError):
    """No answer: the API server is down or slow. What was asked may or may not happen."""


class GoneError(SkyError):
    """The cluster does not exist, or is not up."""


class UnavailableError(SkyError):
    """The infrastructure has no such resources now."""


class JobState(StrEnum):
    """What a cluster says of a job."""

    PENDING = "pending"  # waits, or its cluster still runs its setup
    RUNNING = "running"
    SUCCEEDED = "succeeded"  # exit code 0
    FAILED = "failed"  # any other exit code
    CANCELLED = "cancelled"
    BROKEN = "broken"  # the machine's fault: SkyPilot's FAILED_SETUP, FAILED_DRIVER

    @property
    def over(self) -> bool:
        """Whether the job will never run again."""
        return self not in {JobState.PENDING, JobState.RUNNING}


@dataclass(frozen=True, slots=True, kw_only=True)
class SkyJob:
    """One job of a cluster's queue. Times are UTC epoch seconds of the cluster's clock."""

    id: int
    name: str
    state: JobState
    submitted_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None


class ClusterState(StrEnum):
    """What SkyPilot says of a cluster."""

    INIT = "init"  # being launched, or in an unclear state
    UP = "up"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class SkyCluster:
    """One cluster SkyPilot knows."""

    name: str
    state: ClusterState
    idle_minutes: int | None = None  # after which it goes away by itself; None: never
    autodown: bool = False  # whether going away means down, rather than stop


class SkyClient(Protocol):
    """SkyPilot, blocking. Every method may raise UnansweredError or SkyError."""

    def launch(self, task: Task, cluster: str, *, idle_minutes: int) -> None:
        """Bring a cluster up for a task, with autodown, and submit the task to it as a job.

        Returns when the job is in the cluster's queue. On a cluster that is up it submits again.
        Raises UnavailableError where there are no such resources now.
        """
        ...

    def exec(self, task: Task, cluster: str) -> int | None:
        """Submit a task to a cluster that is up; return its job id. Raises GoneError."""
        ...

    def queue(self, cluster: str) -> Sequence[SkyJob]:
        """Return all jobs of a cluster, oldest first. Raises GoneError."""
        ...

    def logs(self, cluster: str, job: int, path: Path) -> None:
        """Write what a job has printed to a file of this machine. Raises GoneError."""
        ...

    def cancel(self, cluster: str, jobs: Sequence[int]) -> None:
        """End jobs, running or waiting; those that are over are left as they are. Raises GoneError."""
        ...

    def clusters(self, names: Collection[str], *, refresh: bool = False) -> Sequence[SkyCluster]:
        """Return those of the named clusters that exist; with `refresh`, as their infrastructure says."""
        ...

    def pending(self, cluster: str) -> bool:
        """Whether the API server still works on a launch or exec for this cluster."""
        ...

    def set_autodown(self, cluster: str, idle_minutes: int) -> None:
        """Have a cluster go down after so many idle minutes. Raises GoneError."""
        ...

    def down(self, cluster: str) -> None:
        """Tear one cluster down; nothing where there is none."""
        ...
