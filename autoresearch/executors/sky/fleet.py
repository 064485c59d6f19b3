"""The machines of a study: wanted, launched, set up, watched, replaced, given back.

A machine is one SkyPilot cluster of one accelerator type. Each comes up on its own; one that cannot
be had, breaks or vanishes is replaced under a new name and holds nobody up. All state can be read
again from SkyPilot by the names in the ledger.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence

from autoresearch.config import Pool
from autoresearch.errors import PoolError
from autoresearch.executors.sky import render
from autoresearch.executors.sky.arrivals import Arrivals
from autoresearch.executors.sky.client import (
    ClusterState,
    SkyClient,
    SkyCluster,
)
from autoresearch.executors.sky.ledger import MachineRecord, Machines, number_of
from autoresearch.executors.sky.machine import Machine, Stage
from autoresearch.executors.sky.pace import Pace
from autoresearch.executors.sky.requests import Answer, Requests
from autoresearch.untrusted import clean

log = logging.getLogger(__name__)

MAX_FAILURES = 3  # of every kind in a row, with nothing up, before the pool counts as impossible


class Fleet:
    """Keeps as many machines of each kind as the pool asks for."""

    def __init__(
        self,
        client: SkyClient,
        requests: Requests,
        ledger: Machines,
        recipe: render.Recipe,
        pool: Pool,
        now: Callable[[], float],
        pace: Pace,
        on_lost: Callable[[Machine], None],
    ) -> None:
        """Take over the machines of the ledger; nothing is asked before the first `tend`."""
        self._client = client
        self._requests = requests
        self._ledger = ledger
        self._pool = pool
        self._now = now
        self._pace = pace
        self._on_lost = on_lost
        self._wanted = {kind: count // pool.gpus_per_cluster for kind, count in pool.counts.items()}
        self._failures: Counter[str] = Counter()
        self._paused: dict[str, float] = {}
        self.error: PoolError | None = None  # why no machine can be had at all
        self._arrivals = Arrivals(client, requests, ledger, recipe, pool, now, pace, self)
        self.machines: list[Machine] = [
            Machine(record=record, stage=Stage.UNSEEN, since=now(), up_at=ledger.up_at(record.name))
            for record in ledger.living()
        ]
        for machine in self.machines:
            self._wanted.setdefault(machine.record.kind, 0)

    def of_slot(self, slot: str) -> Machine | None:
        """Return the machine a worker is on, while there is one."""
        return next((m for m in self.machines if slot in m.slots), None)

    def tend(self) -> None:
        """Start what machines need next."""
        now = self._now()
        self._fill(now)
        self._recognise(now)
        for machine in list(self.machines):
            if now >= machine.due:
                self._tend(machine, now)

    def give_back(self, machine: Machine, note: str, *, replace: bool) -> None:
        """Take a machine down with all that runs there; not replaced, the pool is smaller for good."""
        if machine.stage is Stage.LEAVING:
            return
        if not replace:
            self._wanted[machine.record.kind] -= 1
        self._on_lost(machine)
        machine.move(Stage.LEAVING, self._now(), note)
        if self._ledger.knows(machine.name):
            self._take_down(machine)
        else:
            self._forget(machine)

    def disband(self, note: str) -> None:
        """Take all machines down, and want none."""
        for machine in list(self.machines):
            self.give_back(machine, note, replace=False)
        self._wanted = dict.fromkeys(self._wanted, 0)

    def lose(self, machine: Machine, note: str) -> None:
        """Give up a machine that vanished or broke, and have it replaced."""
        if machine.stage is Stage.LEAVING:
            return
        log.warning("machine %s is lost: %s", machine.name, note)
        if machine.stage is not Stage.READY or self._now() - machine.since < self._pace.longest_pause:
            self._count_failure(machine.record.kind)
        self.give_back(machine, note, replace=True)

    def doubt(self, machine: Machine) -> None:
        """Ask SkyPilot whether a machine that did not answer is still up; lose it where it is not."""

        def judge(answer: Answer) -> None:
            found: Sequence[SkyCluster] = answer.value or ()
            if answer.error is None and not any(c.state is ClusterState.UP for c in found):
                self.lose(machine, "gone: preempted or taken down")

        name = machine.cluster
        call = lambda: self._client.clusters([name], refresh=True)  # noqa: E731
        self._requests.start(f"refresh {name}", "light", call, judge)

    # -- recognising what is there ----------------------------------------------------------------

    def _fill(self, now: float) -> None:
        """Want as many machines as the pool asks for."""
        for kind, wanted in self._wanted.items():
            living = [m for m in self.machines if m.record.kind == kind and m.stage is not Stage.LEAVING]
            taken = {number_of(m.name) for m in living}
            numbers = [n for n in range(1, wanted + len(living) + 1) if n not in taken]
            for number in numbers[: max(0, wanted - len(living))]:
                name = self._ledger.name(kind, number)
                record = MachineRecord(
                    name=name,
                    cluster=self._ledger.cluster(name),
                    kind=kind,
                    gpus=self._pool.gpus_per_cluster,
                )
                self.machines.append(Machine(record=record, stage=Stage.UNSEEN, since=now))
            for extra in living[wanted:]:
                self._wanted[kind] += 1  # giving it back takes one off
                self.give_back(extra, "the pool asks for fewer", replace=False)

    def _recognise(self, now: float) -> None:
        """Ask what there is under the names of machines not seen yet: ours to adopt, or another's."""
        unseen = [m for m in self.machines if m.stage is Stage.UNSEEN]
        if not unseen or now < self._paused.get("", 0.0):
            return
        names = [m.cluster for m in unseen]
        ours = {m.cluster for m in unseen if self._ledger.knows(m.name)}

        def call() -> tuple[Sequence[SkyCluster], set[str]]:
            found = self._client.clusters(names, refresh=bool(ours))
            unclear = ours - {c.name for c in found if c.state is ClusterState.UP}
            return found, {name for name in unclear if self._client.pending(name)}

        def judge(answer: Answer) -> None:
            if answer.error is not None:
                self._unanswered(answer)
                return
            found, pending = answer.value
            there = {c.name: c for c in found}
            foreign = sorted(set(there) - ours)
            if foreign:
                self._paused[""] = self._now() + self._pace.first_pause
                self.error = PoolError(
                    f"cluster {foreign[0]} exists and is not of this study",
                    "start another study with --study, or take that cluster down",
                )
                return
            for machine in unseen:
                if machine.stage is Stage.UNSEEN:
                    self._adopt(machine, there.get(machine.cluster), machine.cluster in pending)

        self._requests.start("recognise", "light", call, judge)

    def _unanswered(self, answer: Answer) -> None:
        """Wait before asking again an API server that does not answer; say so on what waits for it."""
        self._paused[""] = self._now() + self._pace.first_pause
        note = clean(str(answer.error), 120)
        for machine in self.machines:
            if machine.stage is Stage.UNSEEN:
                machine.note = note
        log.warning("skypilot: %s", note)

    def _adopt(self, machine: Machine, found: SkyCluster | None, pending: bool) -> None:  # noqa: FBT001
        now = self._now()
        if not self._ledger.knows(machine.name):
            machine.move(Stage.WANTED, now)
            return
        machine.launched_at = now
        if found is not None and found.state is ClusterState.UP:
            self._arrivals.came_up(machine, machine.up_at or now, "found again")
        elif pending or (found is not None and found.state is ClusterState.INIT):
            machine.move(Stage.UNCLEAR, now, "its launch is under way")
        else:
            self.give_back(machine, "gone", replace=True)

    def _tend(self, machine: Machine, now: float) -> None:
        match machine.stage:
            case Stage.WANTED:
                if now >= self._paused.get(machine.record.kind, 0.0):
                    self._arrivals.launch(machine)
            case Stage.UNCLEAR:
                self._arrivals.clear_up(machine)
            case Stage.SETTING_UP:
                self._arrivals.look_at_setup(machine)
            case Stage.LEAVING:
                self._take_down(machine)

    # -- what its arrivals tell it ----------------------------------------------------------------

    def unavailable(self, machine: Machine) -> None:
        """Wait before a kind of machine is asked for again that there is none of now."""
        self._pause(machine.record.kind)

    def failed(self, machine: Machine, note: str) -> None:
        """Replace a machine that could not be launched or set up, after a pause; say when that is in vain."""
        if machine.stage is Stage.LEAVING:
            return
        self._count_failure(machine.record.kind)
        self.give_back(machine, note, replace=True)
        kinds = [kind for kind, wanted in self._wanted.items() if wanted > 0]
        hope = any(m.stage not in {Stage.UNSEEN, Stage.WANTED, Stage.LEAVING} for m in self.machines)
        if not hope and all(self._failures[kind] >= MAX_FAILURES for kind in kinds):
            self.error = PoolError(f"no machine could be started: {note}", "see `autoresearch doctor`")

    def ready(self, machine: Machine) -> None:
        """Note that a machine of a kind can be had."""
        self._failures[machine.record.kind] = 0
        self.error = None

    # -- failing and leaving ----------------------------------------------------------------------

    def _count_failure(self, kind: str) -> None:
        self._failures[kind] += 1
        self._pause(kind)

    def _pause(self, kind: str) -> None:
        count = max(1, self._failures[kind])
        pause = min(self._pace.longest_pause, self._pace.first_pause * 2 ** (count - 1))
        self._paused[kind] = self._now() + pause

    def _take_down(self, machine: Machine) -> None:
        name = machine.cluster
        machine.due = self._now() + self._pace.longest_pause
        self._requests.drop(f"launch {name}")
        launching = self._requests.pending(f"launch {name}")  # it may come up after all

        def call() -> bool:
            self._client.down(name)
            return not self._client.pending(name) and not self._client.clusters([name])

        def judge(answer: Answer) -> None:
            if answer.value is True and not launching:
                self._forget(machine)
            elif answer.value is True:
                machine.due = self._now() + self._pace.unclear_look
            else:
                machine.due = self._now() + self._pace.first_pause
                machine.note = f"could not be taken down: {answer.error or 'it is still there'}"
                log.warning("machine %s %s", machine.name, machine.note)

        self._requests.start(f"down {name}", "down", call, judge)

    def _forget(self, machine: Machine) -> None:
        if machine.stage is Stage.LEAVING and machine in self.machines:
            self.machines.remove(machine)
            if self._ledger.knows(machine.name):
                self._ledger.end(machine.name)
