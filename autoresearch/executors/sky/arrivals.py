"""How a machine comes up: launched with autodown, set up, proved by a warm-up, then ready.

Every step can be taken again by another dispatcher: SkyPilot is asked by name what is there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from autoresearch.config import Pool
from autoresearch.errors import PoolError
from autoresearch.executors.sky import render
from autoresearch.executors.sky.client import (
    ClusterState,
    GoneError,
    JobState,
    SkyClient,
    SkyCluster,
    SkyJob,
    UnansweredError,
    UnavailableError,
)
from autoresearch.executors.sky.ledger import Machines
from autoresearch.executors.sky.machine import Machine, Stage
from autoresearch.executors.sky.pace import Pace
from autoresearch.executors.sky.requests import Answer, Requests
from autoresearch.files import read_tail
from autoresearch.untrusted import clean

log = logging.getLogger(__name__)


class Owner(Protocol):
    """Who is told how arrivals end."""

    def ready(self, machine: Machine) -> None:
        """Take over a machine that takes jobs now."""
        ...

    def unavailable(self, machine: Machine) -> None:
        """Hear that there is none of this kind now; nothing was created."""
        ...

    def failed(self, machine: Machine, note: str) -> None:
        """Hear that a machine could not be launched or set up."""
        ...

    def lose(self, machine: Machine, note: str) -> None:
        """Hear that a machine vanished, or never came."""
        ...

    def doubt(self, machine: Machine) -> None:
        """Hear that a machine did not answer."""
        ...


class Arrivals:
    """Brings machines up."""

    def __init__(
        self,
        client: SkyClient,
        requests: Requests,
        ledger: Machines,
        recipe: render.Recipe,
        pool: Pool,
        now: Callable[[], float],
        pace: Pace,
        owner: Owner,
    ) -> None:
        """Put the parts together; nothing is asked yet."""
        self._client = client
        self._requests = requests
        self._ledger = ledger
        self._recipe = recipe
        self._pool = pool
        self._now = now
        self._pace = pace
        self._owner = owner

    def launch(self, machine: Machine) -> None:
        """Launch a machine that is wanted."""
        now = self._now()
        record = machine.record
        task = render.worker_task(self._recipe, name=record.cluster, kind=record.kind, gpus=record.gpus)
        heading = f"The machine {record.name} of this study, as it was launched."
        self._ledger.begin(record, render.to_yaml(task, heading))
        machine.move(Stage.LAUNCHING, now, "launching", due=float("inf"))
        secret = render.with_secrets(task, self._recipe.secrets)
        began: list[float] = []

        def call() -> None:
            began.append(self._now())
            self._client.launch(secret, record.cluster, idle_minutes=self._pool.idle_minutes)

        def judge(answer: Answer) -> None:
            if machine.stage is not Stage.LAUNCHING:
                return
            machine.launched_at = machine.launched_at or began[0]
            if answer.error is None:
                self.came_up(machine, began[0], "setting up")
            else:
                self._launch_failed(machine, answer.error)

        # launches take minutes: one place is left for handing jobs over
        self._requests.start(f"launch {record.cluster}", "heavy", call, judge, gives_way=True)

    def _late(self, machine: Machine) -> bool:
        began = machine.launched_at
        return began is not None and self._now() - began > 60 * self._pool.launch_minutes

    def _launch_failed(self, machine: Machine, error: PoolError) -> None:
        now, note = self._now(), clean(error.message, 120)
        if isinstance(error, UnansweredError):
            machine.move(Stage.UNCLEAR, now, note, due=now + self._pace.unclear_look)
        elif isinstance(error, UnavailableError):
            machine.launched_at = None
            self._owner.unavailable(machine)
            machine.move(Stage.WANTED, now, f"none to be had: {note}")
        else:
            self._owner.failed(machine, note)

    def clear_up(self, machine: Machine) -> None:
        """Find out what became of a launch that was not answered."""
        now = self._now()
        machine.due = now + self._pace.unclear_look
        name = machine.cluster
        late = self._late(machine)

        def call() -> tuple[Sequence[SkyCluster], bool, Sequence[SkyJob]]:
            pending = self._client.pending(name)
            found = self._client.clusters([name], refresh=True)
            up = any(c.state is ClusterState.UP for c in found)
            return found, pending, self._client.queue(name) if up and not pending else ()

        def judge(answer: Answer) -> None:
            if answer.error is not None or machine.stage is not Stage.UNCLEAR:
                return
            found, pending, jobs = answer.value
            if any(job.name == name for job in jobs):
                self.came_up(machine, machine.launched_at or machine.since, "setting up")
            elif late or (found and found[0].state is ClusterState.STOPPED):
                self._owner.lose(machine, f"not up after {self._pool.launch_minutes} minutes")
            elif not pending:
                machine.move(Stage.WANTED, self._now())  # launching again by the same name goes on

        self._requests.start(f"clear up {name}", "light", call, judge)

    def look_at_setup(self, machine: Machine) -> None:
        """See whether a machine's first job, its warm-up, is over."""
        machine.due = self._now() + self._pace.setup_look
        name = machine.cluster

        def judge(answer: Answer) -> None:
            if machine.stage is not Stage.SETTING_UP:
                return
            if isinstance(answer.error, GoneError):
                self._owner.doubt(machine)
            elif answer.error is None:
                self._setup_seen(machine, [job for job in answer.value if job.name == name])
            elif not isinstance(answer.error, UnansweredError) and self._late(machine):
                self._owner.failed(machine, f"not set up: {clean(answer.error.message, 120)}")

        self._requests.start(f"queue {name}", "light", lambda: self._client.queue(name), judge)

    def _setup_seen(self, machine: Machine, warm_ups: Sequence[SkyJob]) -> None:
        now = self._now()
        if not warm_ups:
            machine.move(Stage.WANTED, now)
        elif any(job.state is JobState.SUCCEEDED for job in warm_ups):
            machine.move(Stage.READY, now, due=float("inf"))
            self._owner.ready(machine)
            if not machine.guarded:
                self._check_autodown(machine)
        elif warm_ups[-1].state.over:
            machine.due = float("inf")
            self._setup_failed(machine, warm_ups[-1].id)
        elif self._late(machine):
            self._owner.failed(machine, f"not set up after {self._pool.launch_minutes} minutes")

    def _setup_failed(self, machine: Machine, job: int) -> None:
        path = self._ledger.log(machine.name)

        def judge(_: Answer) -> None:
            self._owner.failed(machine, f"its setup failed: {_last_line(path)} (see {path})")

        call = lambda: self._client.logs(machine.cluster, job, path)  # noqa: E731
        self._requests.start(f"setup log {machine.cluster}", "light", call, judge)

    def came_up(self, machine: Machine, at: float, note: str) -> None:
        """Note that a machine is up, and paid for since some time; its setup goes on."""
        machine.up_at = at
        self._ledger.came_up(machine.name, at)
        machine.move(Stage.SETTING_UP, self._now(), note)
        self._check_autodown(machine)

    def _check_autodown(self, machine: Machine) -> None:
        """See that a machine will go away by itself, and ask for it again where it would not."""
        name, minutes = machine.cluster, self._pool.idle_minutes

        def is_set() -> bool:
            found = self._client.clusters([name])
            return any(c.autodown and c.idle_minutes is not None for c in found)

        def call() -> bool:
            if is_set():
                return True
            self._client.set_autodown(name, minutes)
            return is_set()

        def judge(answer: Answer) -> None:
            machine.guarded = answer.value is True
            if not machine.guarded:
                log.warning("machine %s: autodown could not be verified: %s", name, answer.error or "not set")

        self._requests.start(f"autodown {name}", "light", call, judge)


def _last_line(path: Path) -> str:
    lines = read_tail(path, 4096).decode(errors="replace").strip().splitlines()
    return clean(lines[-1]) if lines else "no output"
