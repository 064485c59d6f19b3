"""What `plan` looks at, and what it can say: one snapshot in, a list of actions out. Values only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from autoresearch.budget import Budget, Usage
from autoresearch.experiment import JobStatus, Proposal, Worker
from autoresearch.history import History
from autoresearch.judging.policy import Decide, Merge, Order, Withdraw
from autoresearch.judging.stopping import Outlook


class Request(StrEnum):
    """What a person asked of the dispatcher."""

    NONE = "none"
    DRAIN = "drain"  # let running experiments finish, then stop
    CANCEL = "cancel"  # end running experiments now, then stop


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything `plan` looks at, read at one moment."""

    now: float
    study: str
    history: History
    workers: Sequence[Worker]
    jobs: Mapping[str, JobStatus]  # by job name; absent: cannot be told now
    proposals: Sequence[Proposal]  # received, not yet admitted or refused; oldest first
    admitting: frozenset[int]  # numbers of proposals whose preflight runs
    admissions: int  # how many may be checked at once
    asked: int  # proposals asked of the agent and not yet received
    barren: int  # proposals refused since the last one admitted
    agent_resting: bool  # the agent failed; it is not asked before its pause is over
    agent_gone: str  # why the agent will not be asked again; "" while it may be
    backlog: int  # ideas that should wait beside those that workers will soon take
    budget: Budget
    usage: Usage
    worst_seconds: float  # the longest one run may occupy a worker
    request: Request = Request.NONE
    checked: Mapping[int, bool] = field(default_factory=dict)  # preflights that ended: did the code pass?
    combined: frozenset[tuple[str, ...]] = frozenset()  # what was to be tried together: the best, then what
    open_calls: int = 0  # requests to the agent that are not answered yet
    calls: int = 1  # how many of them may be open, where they have a size; 0: nobody is asked
    batch: int | None = None  # proposals a request asks for; None: as many as are needed
    lead_seconds: float = 0.0  # from asking for a proposal until it can start
    usual_seconds: float = 60.0  # of a run, before one was measured
    patience_seconds: float | None = None  # without work, before the workers are given back; None: for ever
    dispatching_since: float = 0.0
    outlook: Outlook | None = None  # what the next hour promises; None: the study goes on to its ceilings


@dataclass(frozen=True, slots=True, kw_only=True)
class Submit:
    """Hand a run to a worker; asked again for the same run it changes nothing."""

    run: str
    worker: str
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """Note that a run's job was seen running."""

    run: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Collect:
    """Fetch a finished job's log and record what it says."""

    run: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Requeue:
    """Put a run back into the queue for a new attempt."""

    run: str
    lost: bool  # its machine was lost; otherwise the study was interrupted


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """Close a run whose machines were lost too often."""

    run: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """Record that a run somebody took back is over."""

    run: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """End a run's job."""

    run: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Give back a worker that costs while it waits and will not be needed again."""

    worker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """Write an experiment's git ref."""

    experiment: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebase:
    """Have a waiting proposal follow the best code to a new one."""

    proposal: int
    parent: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Admit:
    """Check a proposal, as far as it was not; make it an experiment, or refuse it."""

    proposal: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Ask the agent for proposals."""

    n: int
    together: tuple[str, ...] = ()  # experiments it is asked to do anew in one


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Have the edits of several experiments tried together on today's best."""

    experiments: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """End this dispatcher; nothing is left that it could do."""

    reason: str
    complete: bool  # the study reached its end, rather than being interrupted


Action = (
    Submit
    | Started
    | Collect
    | Requeue
    | GiveUp
    | Drop
    | Cancel
    | Release
    | Publish
    | Rebase
    | Admit
    | Ask
    | Decide
    | Order
    | Withdraw
    | Merge
    | Stack
    | Finish
)
