"""Jobs on machines: handed over, looked for, their logs fetched, their ends recorded.

A run costs one exec, one look soon after its start (most crashes are early), one when it should be
over, which also tells that the next has begun, and one log. A job that was not answered for is looked
for by its name before it is handed over again.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence

from autoresearch.executors.sky import render
from autoresearch.executors.sky.client import GoneError, JobState, SkyClient, SkyJob, UnansweredError
from autoresearch.executors.sky.fleet import Fleet
from autoresearch.executors.sky.job import Job, Phase
from autoresearch.executors.sky.ledger import Jobs
from autoresearch.executors.sky.machine import Machine, Stage
from autoresearch.executors.sky.pace import Pace
from autoresearch.executors.sky.requests import Answer, Requests
from autoresearch.experiment import JobStatus

log = logging.getLogger(__name__)

MAX_TRIES = 5
MAX_MISSED = 2  # looks for a job that was not answered for, as one answer may be an old one


class Tracker:
    """Follows the jobs of a study's machines."""

    def __init__(
        self,
        client: SkyClient,
        requests: Requests,
        folders: Jobs,
        fleet: Fleet,
        *,
        pace: Pace,
        usual_seconds: float,
        now: Callable[[], float],
    ) -> None:
        """Know nothing yet: jobs of an earlier dispatcher are recalled when they are asked about."""
        self._client = client
        self._requests = requests
        self._folders = folders
        self._fleet = fleet
        self._pace = pace
        self._usual = usual_seconds
        self._now = now
        self._jobs: dict[str, Job] = {}
        self._looks: dict[str, float] = {}  # by cluster: when to look at its queue
        self._refused: Counter[str] = Counter()
        self._durations: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=20))
        self._latencies: deque[float] = deque([pace.first_latency], maxlen=8)

    def start(self, name: str, machine: Machine, slot: str, limit: float, task: render.Task) -> None:
        """Hand a new job over."""
        job = Job(name=name, machine=machine, slot=slot, limit=limit, phase=Phase.HANDING)
        self._jobs[name] = job
        self._exec(job, task)

    def knows(self, name: str) -> bool:
        """Whether a job is on its way, on a machine, or recorded as handed over."""
        return name in self._jobs or self._folders.where(name) is not None

    def cancel(self, name: str) -> None:
        """End a job, or withdraw one that waits."""
        job = self._jobs.get(name)
        if job is not None and not job.cancelling:
            job.cancelling = True
            self._cancel(job)

    def look(self) -> None:
        """Ask the machines that have news by now."""
        now = self._now()
        for machine in self._fleet.machines:
            if machine.stage is Stage.READY and now >= self._looks.get(machine.cluster, float("inf")):
                self._look(machine)

    def lose(self, machine: Machine) -> None:
        """Record as lost what was on a machine."""
        for job in self._on(machine):
            self._folders.lose(job.name)
            self._over(job)
        self._looks.pop(machine.cluster, None)

    # -- what is known ----------------------------------------------------------------------------

    def handover_at(self, slot: str) -> float | None:
        """Return when the next job is to be queued behind a worker's last one, if that can be told."""
        on_it = [job for job in self._jobs.values() if job.slot == slot and job.phase is not Phase.ENDED]
        if not on_it:
            return 0.0
        job = on_it[-1]
        if job.machine.record.kind == "cpu":
            return None  # jobs without an accelerator do not wait for each other
        if len(on_it) > 1 or job.began is None or job.cancelling:
            return None
        lead = max(self._latencies) + self._pace.margin
        return job.began + self._quantile(job.machine.record.kind, 0.2) - lead

    def _quantile(self, kind: str, share: float) -> float:
        """Return how long runs on a kind of machine take: the duration that this share is below."""
        seen = sorted(self._durations[kind])
        return seen[min(len(seen) - 1, int(share * len(seen)))] if seen else self._usual

    def status(self, name: str) -> JobStatus | None:
        """Return a job's status as last seen; None where it has to be looked for."""
        if self._folders.has_ended(name):
            return JobStatus.DONE
        if self._folders.is_lost(name):
            return JobStatus.LOST
        job = self._jobs.get(name) or self._recall(name)
        if job is None:
            return JobStatus.LOST if self._folders.is_lost(name) else JobStatus.ABSENT
        if job.phase is Phase.UNCLEAR:
            return None
        first = min((j for j in self._jobs.values() if j.slot == job.slot), key=lambda j: j.place)
        started = job.phase in {Phase.RUNNING, Phase.ENDED} and job is first
        return JobStatus.RUNNING if started else JobStatus.PENDING

    def _recall(self, name: str) -> Job | None:
        """Return a job that an earlier dispatcher handed over, to be looked for; None for an unknown."""
        where = self._folders.where(name)
        if where is None:
            return None
        slot, limit = where
        machine = self._fleet.of_slot(slot)
        if machine is None or machine.stage is Stage.LEAVING:
            self._folders.lose(name)
            return None
        job = Job(name=name, machine=machine, slot=slot, limit=limit, phase=Phase.UNCLEAR)
        self._jobs[name] = job
        self._look_by(machine, 0.0)
        return job

    # -- asking -----------------------------------------------------------------------------------

    def _exec(self, job: Job, task: render.Task) -> None:
        cluster = job.machine.cluster

        def judge(answer: Answer) -> None:
            if self._jobs.get(job.name) is not job:
                return
            now = self._now()
            if answer.error is None:
                self._latencies.append(answer.seconds)
                job.phase = Phase.WAITING
                job.ids |= {answer.value} - {None}
                if self._alone(job):
                    job.began = now  # as far as we know; the next look tells
                    self._look_by(job.machine, self._due(job))
                if job.cancelling:
                    self._cancel(job)
                return
            if isinstance(answer.error, UnansweredError | GoneError):
                job.phase = Phase.UNCLEAR  # it may have begun before its machine went
            else:
                self._not_taken(job)
            self._doubt(job.machine, answer)

        self._requests.start(f"exec {job.name}", "heavy", lambda: self._client.exec(task, cluster), judge)

    def _not_taken(self, job: Job) -> None:
        """A job whose machine refused it: it may be submitted again, a few times."""
        self._refused[job.name] += 1
        if self._refused[job.name] < MAX_TRIES:
            self._folders.forget(job.name)
        else:
            self._folders.lose(job.name)
        self._over(job)

    def _look(self, machine: Machine) -> None:
        """Ask a machine what became of its jobs."""
        cluster = machine.cluster
        self._looks.pop(cluster, None)
        asked = {job.name for job in self._on(machine) if job.phase is not Phase.HANDING}
        unclear = any(job.phase is Phase.UNCLEAR for job in self._on(machine))

        def call() -> tuple[bool, Sequence[SkyJob]]:
            pending = unclear and self._client.pending(cluster)
            return pending, self._client.queue(cluster)

        def judge(answer: Answer) -> None:
            if answer.error is not None:
                self._doubt(machine, answer)
                return
            pending, found = answer.value
            for job in self._on(machine):
                if job.name in asked and job.name in self._jobs:  # a broken one takes the others along
                    self._hear(job, [seen for seen in found if seen.name == job.name], pending=pending)
            self._plan_look(machine)

        self._requests.start(f"look {cluster}", "light", call, judge)

    def _hear(self, job: Job, named: Sequence[SkyJob], *, pending: bool) -> None:
        """Take in what a machine's queue says of a job."""
        if job.phase is Phase.ENDED:
            return
        if not named:
            self._missing(job, pending=pending)
            return
        found, job.missed = named[0], 0
        job.ids |= {seen.id for seen in named}
        match found.state:
            case JobState.PENDING if job.phase is Phase.RUNNING:
                pass  # an old answer
            case JobState.PENDING:
                job.phase, job.began = Phase.WAITING, None
            case JobState.RUNNING:
                self._runs(job, found)
            case JobState.CANCELLED:
                began, ended = found.started_at, found.ended_at
                self._folders.end(job.name, code=None, cancelled=True, began=began, ended=ended)
                self._over(job)
                return
            case JobState.BROKEN:
                self._fleet.lose(job.machine, f"{job.name} could not be started there")
                return
            case _:
                self._fetch(job, found)
                return
        if job.cancelling:
            self._cancel(job)

    def _missing(self, job: Job, *, pending: bool) -> None:
        """A job that is not in its machine's queue: not handed over yet, or never."""
        if pending:
            return
        job.missed += 1
        if job.phase is Phase.UNCLEAR and job.missed >= MAX_MISSED:
            self._folders.forget(job.name)  # a machine runs a name once, whatever comes late
            self._over(job)
        elif job.missed >= MAX_TRIES:
            self._folders.lose(job.name)
            self._over(job)

    def _runs(self, job: Job, found: SkyJob) -> None:
        now = self._now()
        job.phase, job.began = Phase.RUNNING, min(found.started_at or now, now)
        job.early = job.early or now - job.began > self._pace.early_look / 2
        if now > job.began + self._quantile(job.machine.record.kind, 0.8):
            job.looks += 1
        if now - job.began > job.limit + self._pace.stuck:
            self._fleet.lose(job.machine, f"{job.name} runs past its time")

    def _fetch(self, job: Job, found: SkyJob) -> None:
        """Get the log of a job that ended; its end is on record when the log is here."""
        job.phase, job.began = Phase.ENDED, found.started_at
        ok = found.state is JobState.SUCCEEDED
        path, cluster = self._folders.log(job.name), job.machine.cluster

        def judge(answer: Answer) -> None:
            if self._jobs.get(job.name) is not job:
                return
            if answer.error is not None:
                job.unfetched += 1
                if job.unfetched >= MAX_TRIES and not isinstance(answer.error, UnansweredError):
                    self._fleet.lose(job.machine, f"the log of {job.name} could not be fetched")
                    return
                job.phase = Phase.RUNNING  # the next look finds it over again
                self._doubt(job.machine, answer)
                return
            began, ended = found.started_at, found.ended_at
            self._folders.end(job.name, code=0 if ok else 1, cancelled=False, began=began, ended=ended)
            if ok and began is not None and ended is not None:
                self._durations[job.machine.record.kind].append(ended - began)
            self._over(job)
            self._plan_look(job.machine)  # what is behind it may end sooner than was thought

        call = lambda: self._client.logs(cluster, found.id, path)  # noqa: E731
        self._requests.start(f"log {job.name}", "light", call, judge)

    def _cancel(self, job: Job) -> None:
        """End a job whose number is known; else it is looked for first."""
        if self._requests.drop(f"exec {job.name}"):
            self._folders.forget(job.name)
            self._over(job)
            return
        if not job.ids:
            self._look_by(job.machine, 0.0)
            return
        ids, cluster = sorted(job.ids), job.machine.cluster
        self._requests.start(
            f"cancel {job.name}",
            "light",
            lambda: self._client.cancel(cluster, ids),
            lambda _: self._look_by(job.machine, 0.0),
        )

    # -- when to look -----------------------------------------------------------------------------

    def _on(self, machine: Machine) -> list[Job]:
        return [job for job in self._jobs.values() if job.machine is machine]

    def _alone(self, job: Job) -> bool:
        """Whether no other job of its worker is before it."""
        on_it = [j for j in self._jobs.values() if j.slot == job.slot and j.phase is not Phase.ENDED]
        return min(on_it, key=lambda j: j.place) is job

    def _look_by(self, machine: Machine, at: float) -> None:
        """Have a machine's queue looked at, by some moment at the latest."""
        self._looks[machine.cluster] = min(at, self._looks.get(machine.cluster, float("inf")))

    def _plan_look(self, machine: Machine) -> None:
        for job in self._on(machine):
            self._look_by(machine, self._due(job))

    def _due(self, job: Job) -> float:
        """Return when there can be news of a job."""
        now = self._now()
        if job.phase is Phase.HANDING or job.phase is Phase.ENDED:
            return float("inf")
        if job.phase is Phase.UNCLEAR or job.cancelling:
            return now + self._pace.unclear_look
        if job.began is None:
            return now + self._pace.unclear_look if self._alone(job) else float("inf")
        end = job.began + self._quantile(job.machine.record.kind, 0.8) + self._pace.late_look
        if not job.early and end - job.began > 2 * self._pace.early_look:
            return job.began + self._pace.early_look
        if job.looks == 0:
            return max(end, now + self._pace.repeats[0] / 2)
        return now + self._pace.repeats[min(job.looks, len(self._pace.repeats)) - 1]

    # -- ends -------------------------------------------------------------------------------------

    def _doubt(self, machine: Machine, answer: Answer) -> None:
        """Look again later at a machine that did not answer well; ask SkyPilot whether it is there."""
        log.warning("skypilot: %s: %s", machine.cluster, answer.error)
        self._look_by(machine, self._now() + self._pace.unclear_look)
        if not isinstance(answer.error, UnansweredError):
            self._fleet.doubt(machine)

    def _over(self, job: Job) -> None:
        self._jobs.pop(job.name, None)
