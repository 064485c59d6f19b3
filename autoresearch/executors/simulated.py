"""Jobs that are not run: a world says what they would measure, a virtual clock when they end.

Honours the executor's contract, deaths of machines included, and is bit-identical per seed. It keeps
its jobs in memory: what is simulated is a night, not a crash of ours.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from autoresearch.errors import PoolError
from autoresearch.experiment import JobResult, JobSpec, JobStatus, Worker
from autoresearch.logparse import MARKER
from autoresearch.world import World, read_code

MEMORY_MB = 45_060.0


class Timeline(Protocol):
    """A clock on which events can be planned."""

    def now(self) -> float:
        """Return the time, in UTC epoch seconds."""
        ...

    def at(self, moment: float, event: Callable[[], None], /) -> None:
        """Plan an event."""
        ...


@dataclass(slots=True, kw_only=True)
class _Job:
    spec: JobSpec
    worker: str
    started_at: float
    ends_at: float
    lost: bool
    cancelled: bool = False


class SimulatedExecutor:
    """Runs jobs of a world on a virtual clock; logs are written below `logs`."""

    poll_seconds = 3600.0  # a wait ends with the next event anyway
    place = None

    def __init__(self, world: World, clock: Timeline, workers: Sequence[Worker], logs: Path) -> None:
        """Offer these workers, all of them ready."""
        self._world = world
        self._clock = clock
        self._workers = tuple(workers)
        self._logs = logs
        self._began_at = clock.now()
        self._jobs: dict[str, _Job] = {}
        self._free_at: dict[str, float] = {}

    def workers(self) -> Sequence[Worker]:
        """Return the workers."""
        return self._workers

    def submit(self, job: JobSpec, worker: str) -> None:
        """Start a job on a worker, behind what runs there; one that was started is left alone."""
        if worker not in {known.name for known in self._workers}:
            raise PoolError(f"no worker {worker}")
        if job.name in self._jobs:
            return
        now = self._clock.now()
        begin = max(now, self._free_at.get(worker, now))
        lasts = min(self._world.duration(read_code(job.files), job.name), job.timeout_seconds)
        lost_after = self._world.preempted_after(job.name)
        end = begin + min(lasts, lost_after)
        self._jobs[job.name] = _Job(
            spec=job, worker=worker, started_at=begin, ends_at=end, lost=lost_after < lasts
        )
        self._free_at[worker] = end
        if begin > now:
            self._clock.at(begin, _nothing)
        self._clock.at(end, _nothing)

    def poll(self, names: Collection[str]) -> Mapping[str, JobStatus]:
        """Return the status of jobs at this virtual moment."""
        now = self._clock.now()
        return {name: self._status(name, now) for name in names}

    def _status(self, name: str, now: float) -> JobStatus:
        job = self._jobs.get(name)
        if job is None:
            return JobStatus.ABSENT
        if now < job.started_at:
            return JobStatus.PENDING
        if now < job.ends_at:
            return JobStatus.RUNNING
        return JobStatus.LOST if job.lost else JobStatus.DONE

    def fetch(self, name: str) -> JobResult:
        """Return how a job ended, with a log as the harness writes it."""
        job = self._jobs[name]
        code = read_code(job.spec.files)
        crashed = self._world.crashes(code)
        path = self._logs / f"{name}.log"
        if not job.cancelled:
            path.write_text(self._crash_log() if crashed else self._log(job))
        return JobResult(
            log=str(path),
            exit_code=1 if crashed else 0,
            started_at=job.started_at,
            ended_at=job.ends_at,
            cancelled=job.cancelled,
        )

    def _log(self, job: _Job) -> str:
        hours = (job.ends_at - self._began_at) / 3600
        value = self._world.measure(read_code(job.spec.files), job.worker, hours, job.spec.name)
        facts = {
            "schema": 1,
            "outcome": "ok",
            "val_bpb": round(value, 6),
            "training_seconds": self._world.scenario.train_seconds,
            "total_seconds": round(job.ends_at - job.started_at, 3),
            "peak_memory_mb": MEMORY_MB,
            "device": "simulated",
        }
        return f"---\nval_bpb:          {value:.6f}\n{MARKER}{json.dumps(facts)}\n"

    def _crash_log(self) -> str:
        said = "torch.OutOfMemoryError: CUDA out of memory"
        facts = {"schema": 1, "outcome": "exit", "detail": said, "val_bpb": None}
        return f"{said}\n{MARKER}{json.dumps(facts)}\n"

    def cancel(self, name: str) -> None:
        """End a job now."""
        now = self._clock.now()
        job = self._jobs.get(name)
        if job is None or job.ends_at <= now:
            return
        job.ends_at, job.cancelled, job.lost = now, True, False
        self._free_at[job.worker] = max(
            (other.ends_at for other in self._jobs.values() if other.worker == job.worker), default=now
        )
        self._clock.at(now, _nothing)

    def release(self, worker: str, *, replace: bool) -> None:
        """Give a worker back for good, unless another takes its place."""
        if not replace:
            self._workers = tuple(known for known in self._workers if known.name != worker)

    def close(self, *, release: bool) -> Sequence[Worker]:
        """End the connection; nothing costs any more."""
        del release
        return ()


def _nothing() -> None:
    """Happen: a moment the dispatcher looks up at."""
