"""The seams: what the dispatcher asks of an agent, an executor, a policy and a clock.

One contract class per Protocol stands in tests/contracts and runs on every implementation.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from autoresearch.brief import Brief
from autoresearch.experiment import JobResult, JobSpec, JobStatus, Place, Proposal, Run, Worker
from autoresearch.history import History
from autoresearch.judging.policy import Decision, Order, Together


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An agent's answer: proposals, and notes for its later self."""

    proposals: tuple[Proposal, ...]
    notes: str = ""
    call: int | None = None  # the API call that was billed for it, where one was


class Agent(Protocol):
    """Proposes experiments. Stateless: the history in the brief is its memory."""

    def propose(self, brief: Brief, n: int) -> Reply:
        """Return at most n proposals. Raises AgentError where it cannot answer."""
        ...


class Executor(Protocol):
    """Runs jobs by name. Submitting a name twice runs it once."""

    @property
    def poll_seconds(self) -> float:
        """How often asking for statuses is worth its cost."""
        ...

    @property
    def place(self) -> Place | None:
        """Where jobs run, for their commands; None: on this machine."""
        ...

    def workers(self) -> Sequence[Worker]:
        """Return the slots jobs can go to, ready or not. Raises PoolError where none can be had."""
        ...

    def submit(self, job: JobSpec, worker: str) -> None:
        """Start a job on a worker. Raises PoolError where the worker cannot take it now."""
        ...

    def poll(self, names: Collection[str]) -> Mapping[str, JobStatus]:
        """Return the status of these jobs; one it cannot tell about now is left out."""
        ...

    def fetch(self, name: str) -> JobResult:
        """Return how a DONE job ended, its log on this machine."""
        ...

    def cancel(self, name: str) -> None:
        """End a job and all its processes; it will be DONE or LOST. Unknown names are ignored."""
        ...

    def release(self, worker: str, *, replace: bool) -> None:
        """Give a worker back for good: another takes its place, or none does. May be nothing."""
        ...

    def close(self, *, release: bool) -> Sequence[Worker]:
        """End the connection; with `release` give back what is ours, and only that.

        Without, jobs run on and can be picked up again by name. Returns the workers that are still there.
        """
        ...


class Policy(Protocol):
    """Judges experiments and says what to run. Pure: the same history gives the same answer."""

    def decide(self, history: History, workers: Sequence[Worker], now: float) -> Sequence[Decision]:
        """Return the verdicts that are due, the runs wanted, and those no longer wanted; at most one keep."""
        ...

    def together(self, history: History, proposals: Sequence[Proposal], /) -> Together | None:
        """Return whose ideas should be tried in one experiment, if any and not under way."""
        ...

    def closing(self, history: History, /) -> Sequence[Order]:
        """Return the runs that are wanted before a study ends, when there is nothing else to do."""
        ...

    def next_run(self, history: History, queued: Sequence[Run], worker: Worker, /) -> Run | None:
        """Return which of the queued runs a free worker should take, if any."""
        ...


class Clock(Protocol):
    """Time as the dispatcher sees it; a simulated one lets a night pass in seconds."""

    def now(self) -> float:
        """Return UTC epoch seconds."""
        ...

    def wait(self, seconds: float) -> None:
        """Return after at most that many seconds, earlier when `wake` is called."""
        ...

    def wake(self) -> None:
        """End the current or the next wait; safe from other threads and signal handlers."""
        ...
