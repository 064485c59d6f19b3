"""The values everything else is made of: edits, proposals, experiments, runs and how they end.

Plain frozen data. What a run may become next stands in TRANSITIONS; nothing here does anything.
"""

from __future__ import annotations

import builtins
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

Files = Mapping[str, str]  # path -> text


class RunState(StrEnum):
    """The machinery's fact about a run."""

    QUEUED = "queued"
    SUBMITTING = "submitting"
    RUNNING = "running"
    FINISHED = "finished"
    PRUNED = "pruned"
    FAILED = "failed"
    LOST = "lost"
    CANCELLED = "cancelled"


# From each state, the states that may follow. A run without a successor is over for ever.
# Back to QUEUED: the machine was lost or the study interrupted, and the run starts anew.
TRANSITIONS: Mapping[RunState, frozenset[RunState]] = {
    RunState.QUEUED: frozenset({RunState.SUBMITTING, RunState.CANCELLED}),
    RunState.SUBMITTING: frozenset(
        {
            RunState.RUNNING,
            RunState.QUEUED,
            RunState.FINISHED,
            RunState.PRUNED,
            RunState.FAILED,
            RunState.LOST,
            RunState.CANCELLED,
        }
    ),
    RunState.RUNNING: frozenset(
        {
            RunState.QUEUED,
            RunState.FINISHED,
            RunState.PRUNED,
            RunState.FAILED,
            RunState.LOST,
            RunState.CANCELLED,
        }
    ),
    RunState.FINISHED: frozenset(),
    RunState.PRUNED: frozenset(),
    RunState.FAILED: frozenset(),
    RunState.LOST: frozenset(),
    RunState.CANCELLED: frozenset(),
}
IN_FLIGHT = frozenset({RunState.SUBMITTING, RunState.RUNNING})
OVER = frozenset(state for state, following in TRANSITIONS.items() if not following)


class Verdict(StrEnum):
    """The judgement on an experiment."""

    KEEP = "keep"
    DISCARD = "discard"
    CRASH = "crash"


class Purpose(StrEnum):
    """What a run is made for."""

    BASELINE = "baseline"
    SCREEN = "screen"
    CONFIRM = "confirm"
    CALIBRATE = "calibrate"


class Goal(StrEnum):
    """Which way the metric improves."""

    MINIMIZE = "minimize"
    MAXIMIZE = "maximize"

    @property
    def sign(self) -> int:
        """+1 where lower is better, -1 where higher is: sign times value is always minimised."""
        return 1 if self is Goal.MINIMIZE else -1


class FailureKind(StrEnum):
    """Why a run has no value. Only UNFIT and LOST are the machine's fault."""

    OUT_OF_MEMORY = "out of memory"
    NOT_FINITE = "not finite"
    IMPORT = "import"
    SYNTAX = "syntax"
    SHAPE = "shape"
    TIMEOUT = "timeout"
    OVER_BUDGET = "over budget"
    PRUNED = "pruned"  # ended early: it could not win any more
    KILLED = "killed"
    NO_RESULT = "no result"
    EVALUATION = "evaluation"
    AUDIT = (
        "audit"  # its score is not what it seems: it drew on what it must predict, or changed what measures
    )
    FORBIDDEN = "forbidden"  # it tried what its sandbox does not allow
    LIMIT = "limit"  # of processes or of what it may write
    ERROR = "error"
    UNFIT = "unfit machine"
    LOST = "machine lost"


# Names that say nothing but what they mean; a class the edited code makes may be called anything.
KNOWN_EXCEPTIONS = frozenset(
    name for name, found in vars(builtins).items() if isinstance(found, type) and name.endswith("Error")
) | {"KeyboardInterrupt", "StopIteration", "SystemExit", "OutOfMemoryError", "AcceleratorError"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A typed fact about a failed run or preflight; `message` is one line and data, never markup."""

    kind: FailureKind
    message: str
    exception: str | None = None
    line: int | None = None  # in the edited file

    def __str__(self) -> str:
        where = f", line {self.line}" if self.line else ""
        return f"{self.kind}: {self.message}{where}" if self.message else f"{self.kind}{where}"

    @property
    def fact(self) -> str:
        """What can be told of it without a word that the code has printed: class, exception, line."""
        name = (self.exception or "").rsplit(".", 1)[-1]
        raised = f", {name if name in KNOWN_EXCEPTIONS else 'an exception of its own'}" if name else ""
        return f"{self.kind}{raised}" + (f", line {self.line}" if self.line else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """Replace `old`, which must occur exactly once in `file`, by `new`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}
    old: str
    new: str
    file: str | None = None  # None: the target's only editable file


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What an agent hands in: an idea as edits to the code of `parent`."""

    hypothesis: str
    edits: tuple[Edit, ...]
    parent: str  # experiment id the edits apply to
    author: str
    number: int | None = None  # given by the store
    base: str | None = None  # the best experiment when it was written
    follows: bool = False  # while it waits, its parent is the best, whichever that becomes
    expected: float | None = None  # predicted change of the metric against the parent, in its unit
    reworks: tuple[str, ...] = ()  # the experiments whose ideas it does anew on today's best
    experiment: str | None = None  # the one it was promised to be, of a proposal from outside


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a proposal was not admitted, as a typed fact for its author."""

    reason: (
        str  # "edit", "syntax", "file", "duplicate", "unchanged", "parent", "preflight", "stale", "constant",
    )
    # "budget", "cancelled"
    detail: str
    experiment: str | None = None  # the earlier experiment, for a duplicate
    failure: Failure | None = None  # what preflight found

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"

    @property
    def fact(self) -> str:
        """The reason without a word that the code has printed."""
        return f"{self.reason}: {self.failure.fact}" if self.failure else str(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A proposal that can become an experiment: its code and that code's digest."""

    files: Files
    digest: str
    touches: tuple[str, ...] = ()  # the constants, functions and methods it changes in its parent
    flags: tuple[str, ...] = ()  # what somebody should look at in what it adds


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A proposal that was not admitted, and why."""

    hypothesis: str
    reason: str
    fact: str = ""  # the reason without a word that the code has printed


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """An admitted proposal: one content, one git ref, one verdict."""

    id: str  # e0042
    parent: str | None
    hypothesis: str
    author: str
    digest: str  # of the normalised content of the editable files
    constants: Mapping[str, float] = field(default_factory=dict)  # numeric constants of the code
    touches: tuple[str, ...] = ()  # the constants, functions and methods it changes in its parent
    flags: tuple[str, ...] = ()  # what somebody should look at in what it adds
    expected: float | None = None  # its author's prediction: change of the metric against the parent
    reworks: tuple[str, ...] = ()  # the experiments whose ideas it does anew
    commit: str | None = None  # None until the git ref is written
    created_at: float
    verdict: Verdict | None = None
    reason: str = ""
    judged_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """A result from before the study, measured elsewhere: never compared with the study's own."""

    commit: str  # as its table named it
    value: float | None  # None: a crash
    memory_gb: float | None
    status: str  # keep, discard, crash
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What one run measured. `value` is the harness's; the rest are figures for people."""

    value: float
    training_seconds: float | None = None
    total_seconds: float | None = None
    steps: int | None = None
    tokens_per_second: float | None = None
    memory_gb: float | None = None
    device: str | None = None
    hidden: float | None = None  # the metric on a second split, which no decision looks at
    unsandboxed: str | None = None  # why code ran without a sandbox, "" where it had one; None: not known
    flags: tuple[str, ...] = ()  # what somebody should look at


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One measurement of an experiment, with one seed, for one purpose."""

    id: str  # e0042.1
    experiment: str
    purpose: Purpose
    kind: str | None  # worker kind it must run on; None: any
    seed: int
    why: str = ""
    state: RunState = RunState.QUEUED
    attempt: int = 1
    losses: int = 0  # how often a machine was lost under it
    worker: str | None = None
    worker_kind: str | None = None
    created_at: float
    submitted_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    price_per_hour: float = 0.0  # of its worker, USD
    measurement: Measurement | None = None
    failure: Failure | None = None
    cancelled_by: str | None = None  # who asked for its end; what had ended by then counts

    @property
    def value(self) -> float | None:
        """The measured value, None unless the run finished."""
        return self.measurement.value if self.measurement else None

    @property
    def seconds(self) -> float | None:
        """How long it ran on its worker; None before its end."""
        if self.started_at is None or self.ended_at is None:
            return None
        return max(0.0, self.ended_at - self.started_at)

    def job_name(self, study: str) -> str:
        """Return the executor's name for the current attempt."""
        return f"{study}-{self.id}-a{self.attempt}"


def run_seed(study_seed: int, run: str) -> int:
    """Return the training seed of a run: fixed by its id, different for every run."""
    digest = hashlib.sha256(f"{study_seed}:{run}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """One slot of the pool."""

    name: str  # cpu-01
    kind: str  # cpu, H100, ...
    price_per_hour: float = 0.0  # USD
    ready: bool = True
    handover_at: float | None = None  # from then a second run may wait behind the one that runs
    up_at: float | None = None  # since when it is paid for, busy or not; None: its runs are what costs
    held: bool = False  # costs until it is released
    note: str = ""  # what it is doing when it is not ready


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a job's commands run: what `{python}` and `{protected}` mean there, and its variables."""

    python: str
    protected: str
    env: Mapping[str, str]


class JobStatus(StrEnum):
    """What an executor knows of a job. A job it cannot tell about now is left out of `poll`."""

    ABSENT = "absent"  # no trace of it: submitting is safe
    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    LOST = "lost"  # it started or may have, and will never report


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """All an executor needs to run one attempt of one run."""

    name: str
    command: tuple[str, ...]
    files: Mapping[str, str]  # relative path -> text, placed in the job's folder
    env: Mapping[str, str]
    folder: str  # relative to the study's runs folder: e0042.1/a1
    timeout_seconds: float  # wall time after which the executor itself ends the job


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """How a job ended. `log` is a path on this machine."""

    log: str
    exit_code: int | None  # negative: the signal that ended it
    started_at: float | None
    ended_at: float | None
    timed_out: bool = False
    cancelled: bool = False
