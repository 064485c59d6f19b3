"""Jobs on machines that SkyPilot keeps: the Executor of that name.

Every method returns at once, `close` apart: what SkyPilot has to be asked is asked in the background,
rarely, and when an answer can be new.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from autoresearch.config import Pool
from autoresearch.errors import PoolError
from autoresearch.executors.sky import render
from autoresearch.executors.sky.client import SkyClient
from autoresearch.executors.sky.fleet import Fleet
from autoresearch.executors.sky.ledger import Jobs, Machines
from autoresearch.executors.sky.machine import Machine, Stage
from autoresearch.executors.sky.pace import Pace
from autoresearch.executors.sky.requests import Requests
from autoresearch.executors.sky.tracking import Tracker
from autoresearch.experiment import JobResult, JobSpec, JobStatus, Worker

LANES = {"heavy": 4, "light": 4, "down": 4}  # requests in flight; heavy: launch and exec
HELD = frozenset(
    {Stage.LAUNCHING, Stage.UNCLEAR, Stage.SETTING_UP, Stage.READY}
)  # giving it back saves money


class SkyPilotExecutor:
    """Runs jobs on the machines of a Fleet."""

    poll_seconds = 1.0
    place = render.PLACE

    def __init__(
        self,
        client: SkyClient,
        recipe: render.Recipe,
        pool: Pool,
        *,
        study: str,
        state: Path,
        usual_seconds: float,  # of a run, before one was measured
        keep_workers: bool = False,
        pace: Pace | None = None,
        now: Callable[[], float] = time.time,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        """Take over what the study's folder `state` knows of machines and jobs. Starts nothing."""
        self._recipe = recipe
        self._pool = pool
        self._keep = keep_workers
        self._pace = pace or Pace()
        self._requests = Requests(LANES, wake)
        self._folders = Jobs(state / "runs")
        self._fleet = Fleet(
            client,
            self._requests,
            Machines(state / "workers", study),
            recipe,
            pool,
            now,
            self._pace,
            self._lose_jobs,
        )
        self._jobs = Tracker(
            client,
            self._requests,
            self._folders,
            self._fleet,
            pace=self._pace,
            usual_seconds=usual_seconds,
            now=now,
        )

    def workers(self) -> Sequence[Worker]:
        """Return the pool's workers, most of them not ready at first; PoolError where none can be had."""
        self._step()
        if self._fleet.error is not None:
            raise self._fleet.error
        return self._all_workers()

    def submit(self, job: JobSpec, worker: str) -> None:
        """Hand a job to a worker, in the background; nothing where it was handed over before."""
        machine = self._fleet.of_slot(worker)
        if machine is None or machine.stage is not Stage.READY:
            raise PoolError(f"{worker} is not ready")
        if self._jobs.knows(job.name):
            return
        task = render.experiment_task(self._recipe, job, kind=machine.record.kind)
        heading = f"One run on worker {worker}. `sky launch` on this file sets a machine up and repeats it."
        self._folders.begin(job.name, worker, job.timeout_seconds, render.to_yaml(task, heading))
        sent = render.with_secrets(render.on_a_worker(task), self._recipe.secrets)
        self._jobs.start(job.name, machine, worker, job.timeout_seconds, sent)

    def poll(self, names: Collection[str]) -> Mapping[str, JobStatus]:
        """Return the status of jobs, as last seen; one that has to be looked for is left out."""
        self._step()
        found = {name: self._jobs.status(name) for name in names}
        return {name: status for name, status in found.items() if status is not None}

    def fetch(self, name: str) -> JobResult:
        """Return how a done job ended."""
        return self._folders.result(name)

    def cancel(self, name: str) -> None:
        """End a job, or withdraw one that waits, in the background."""
        self._jobs.cancel(name)

    def release(self, worker: str, *, replace: bool) -> None:
        """Take a worker's machine down, once all workers on it are released."""
        machine = self._fleet.of_slot(worker)
        if machine is None:
            return
        if replace:
            self._fleet.lose(machine, "it failed a run by its own fault")
            return
        machine.released.add(worker)
        if machine.released >= set(machine.slots):
            self._fleet.give_back(machine, "no longer needed", replace=False)

    def close(self, *, release: bool) -> Sequence[Worker]:
        """Take our machines down and see them gone, or leave all as it is; return what is left.

        Raises PoolError, naming them, where some could not be taken down.
        """
        if not release or self._keep:
            return self._all_workers()
        self._fleet.disband("the study ended")
        deadline = time.monotonic() + self._pace.closing
        while self._fleet.machines and time.monotonic() < deadline:
            self._requests.settle()
            self._fleet.tend()
            time.sleep(0.02)
        left = [machine.cluster for machine in self._fleet.machines]
        if left:
            raise PoolError(
                f"could not take down {', '.join(left)}",
                f"`autoresearch down` tries again; idle, they go in {self._pool.idle_minutes} minutes",
            )
        return ()

    def _lose_jobs(self, machine: Machine) -> None:
        self._jobs.lose(machine)

    def _step(self) -> None:
        """Take the answers that came in, and ask what is due."""
        self._requests.settle()
        self._fleet.tend()
        self._jobs.look()

    def _all_workers(self) -> Sequence[Worker]:
        return [self._worker(machine, slot) for machine in self._fleet.machines for slot in machine.slots]

    def _worker(self, machine: Machine, slot: str) -> Worker:
        kind = machine.record.kind
        return Worker(
            name=slot,
            kind=kind,
            price_per_hour=self._pool.prices.get(kind, 0.0),
            ready=machine.stage is Stage.READY and slot not in machine.released,
            handover_at=self._jobs.handover_at(slot),
            up_at=machine.up_at,
            held=not self._keep and machine.stage in HELD and slot not in machine.released,
            note=machine.note or (str(machine.stage) if machine.stage is not Stage.READY else ""),
        )
