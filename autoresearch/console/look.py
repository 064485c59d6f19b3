"""One look at a study: everything a screen shows, gathered from the store and the jobs' logs."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from autoresearch.budget import Budget, Usage
from autoresearch.experiment import Run, RunState
from autoresearch.files import read_tail
from autoresearch.history import History
from autoresearch.judging.stopping import Doubt, Outlook, doubt_of, outlook_of
from autoresearch.report import Overview, overview
from autoresearch.store import WorkerRow
from autoresearch.study import Study
from autoresearch.trust import Trust, trust_of
from autoresearch.untrusted import clean

TAIL_BYTES = 8 << 10  # of a running job's log: a few progress lines
CURVE_BYTES = 4 << 20
STARTUP_SECONDS = 20.0  # beside the budget, before a run was measured
EVENT_KINDS = ("keep", "discard", "crash", "refused", "requeued", "agent_failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What one worker is doing."""

    worker: str
    run: str
    purpose: str
    state: RunState
    share: float | None  # of the training budget, 0 to 1
    estimated: bool  # the share is the time's, of how long runs take: the log is elsewhere
    behind: bool  # it waits behind another run of its worker
    loss: float | None
    against_best: float | None  # training loss minus the best run's at equal progress
    hypothesis: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One line of what happened."""

    at: float
    kind: str
    subject: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A study at a moment."""

    tag: str
    target: str  # train.py -> val_bpb, lower is better
    pool: str  # 13 H100 + 3 H200
    agent: str
    alive: bool
    request: str
    outcome: str | None
    now: float
    overview: Overview
    budget: Budget
    usage: Usage
    lines: tuple[Line, ...]
    notes: tuple[Note, ...]
    workers: int
    ready: str = ""  # H100 12/13   H200 3/3, where workers come and go
    rate: float = 0.0  # USD per hour, of the workers that are up
    waiting: tuple[str, ...] = ()  # what workers that are not ready are doing
    backlog: int = 0  # runs and ideas that wait for a worker
    outlook: Outlook | None = None  # what the next hour promises, where that can be said
    doubt: Doubt | None = None  # why nothing can be decided, where that is so
    trouble: str = ""  # why the agent proposes nothing now
    trust: Trust | None = None  # how far the score can be trusted


class Watcher:
    """Takes looks at one study; keeps the best run's curve between them."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._curve: list[tuple[float, float]] = []
        self._curve_of: str | None = None

    def look(self, now: float, *, pool: Counter[str] | None = None, alive: bool | None = None) -> Look:
        """Return the study as it is now. `pool` counts the workers by kind, where they are known."""
        study, store = self._study, self._study.store
        history = store.history()
        row = store.study()
        sessions = store.sessions()
        pool = pool or _pool_of(history) or Counter(dict.fromkeys(row.kinds, 1))
        ledger = [worker for worker in store.workers() if worker.down_at is None]
        usage = store.usage(now, study.worst_seconds)
        goal = "lower" if history.goal.sign > 0 else "higher"
        edited = ", ".join(name.rsplit("/", 1)[-1] for name in study.target.editable)
        if history.in_flight():
            self._learn_curve(history)
        rate = sum(worker.price_per_hour for worker in ledger)
        budget = sessions[-1].budget if sessions else Budget()
        figures = overview(
            history,
            study.tag,
            workers=sum(pool.values()),
            now=_until(history, now),
            allocated_seconds=usage.allocated_seconds,
        )
        return Look(
            tag=study.tag,
            target=f"{edited} -> {study.target.metric.name}, {goal} is better",
            pool=" + ".join(f"{count} {kind}" for kind, count in pool.most_common()),
            agent=sessions[-1].agent if sessions else "no agent yet",
            alive=study.dispatcher_alive() if alive is None else alive,
            request=row.request,
            outcome=row.outcome,
            now=now,
            overview=figures,
            budget=budget,
            usage=usage,
            lines=tuple(self._lines(history, now)),
            notes=tuple(self._notes(history)),
            workers=sum(pool.values()),
            ready=_ready(ledger, pool) if ledger else "",
            rate=rate,
            backlog=len(history.queued()) + len(store.waiting_proposals()),
            trouble=self._trouble(),
            trust=trust_of(history, self_reported=study.target.self_reported),
            outlook=outlook_of(history, len(ledger) or sum(pool.values()), rate, budget.stop_below),
            doubt=doubt_of(history, figures.baseline.value if figures.baseline else None, budget.experiments),
            waiting=tuple(f"{w.name} {clean(w.note, 60)}".rstrip() for w in ledger if not w.ready),
        )

    def _trouble(self) -> str:
        """Return why the agent failed last, unless it has proposed since."""
        last = self._study.store.last_events(1, ("agent_failed", "proposed", "dispatcher_began"))
        if not last or last[0].kind != "agent_failed":
            return ""
        data = last[0].data
        said = clean(str(data.get("reason", "")), 160)
        if not data.get("gone"):
            return f"{said}; it is asked again"
        return f"{said}; it proposes nothing more" + (
            f": {clean(data['hint'], 120)}" if data.get("hint") else ""
        )

    def _lines(self, history: History, now: float) -> Iterator[Line]:
        """Yield what every worker does, the run that trains before the one that waits."""
        seen: set[str | None] = set()
        for run in sorted(history.in_flight(), key=_by_worker):
            line = self._line(history, run)
            if line.share is None and run.state is RunState.RUNNING:
                line = replace(line, share=self._elapsed_share(history, run, now), estimated=True)
            yield replace(line, behind=run.worker in seen)
            seen.add(run.worker)

    def _elapsed_share(self, history: History, run: Run, now: float) -> float:
        """Return how far a run should be, by the time that runs on its kind of worker take."""
        lasted = sorted(
            other.ended_at - other.started_at
            for other in history.all_runs()
            if other.measurement and other.worker_kind == run.worker_kind
            if other.ended_at is not None and other.started_at is not None
        )
        usual = lasted[len(lasted) // 2] if lasted else self._study.target.seconds + STARTUP_SECONDS
        return min(0.99, max(0.0, (now - (run.started_at or now)) / max(usual, 0.1)))

    def _line(self, history: History, run: Run) -> Line:
        from autoresearch.logparse import parse_progress

        progress = parse_progress(read_tail(self._study.job_folder(run) / "log", TAIL_BYTES))
        reference = self._at(progress.share) if progress else None
        known = progress is not None and progress.loss is not None and reference is not None
        return Line(
            worker=run.worker or "",
            run=run.id,
            purpose=str(run.purpose),
            state=run.state,
            share=progress.share if progress else None,
            estimated=False,
            behind=False,
            loss=progress.loss if progress else None,
            against_best=progress.loss - reference if known else None,  # type: ignore[operator, union-attr]
            hypothesis=clean(history.experiments[run.experiment].hypothesis),
        )

    def _learn_curve(self, history: History) -> None:
        """Read the loss curve of the best experiment's first finished run."""
        best = history.incumbent()
        runs = history.finished(best.id) if best else []
        if not runs or runs[0].id == self._curve_of:
            return
        from autoresearch.logparse import parse_curve

        self._curve_of = runs[0].id
        self._curve = parse_curve(read_tail(self._study.job_folder(runs[0]) / "log", CURVE_BYTES))

    def _at(self, share: float) -> float | None:
        """Return the best run's loss at a share of the budget."""
        if not self._curve:
            return None
        place = bisect_left(self._curve, share, key=lambda point: point[0])
        return self._curve[min(place, len(self._curve) - 1)][1]

    def _notes(self, history: History) -> Sequence[Note]:
        notes = []
        for event in self._study.store.last_events(8, EVENT_KINDS):
            experiment = history.experiments.get(event.subject.split(".", maxsplit=1)[0])
            reason = clean(str(event.data.get("reason", "")), 120)
            about = clean(experiment.hypothesis, 80) if experiment and event.kind != "requeued" else ""
            subject = f"p{event.subject}" if event.kind == "refused" else event.subject
            text = "   ".join(part for part in (reason, about) if part)
            notes.append(Note(at=event.at, kind=event.kind, subject=subject, text=text))
        return notes


def _pool_of(history: History) -> Counter[str]:
    """Return the workers ever seen, counted by kind."""
    seen = {(run.worker, run.worker_kind) for run in history.all_runs() if run.worker and run.worker_kind}
    return Counter(kind or "" for _, kind in seen)


def _ready(ledger: Sequence[WorkerRow], pool: Counter[str]) -> str:
    """Return how many workers of each kind take runs, and of how many that are wanted."""
    ready = Counter(worker.kind for worker in ledger if worker.ready)
    there = Counter(worker.kind for worker in ledger)
    kinds = dict.fromkeys([*pool, *there])
    return "   ".join(f"{kind} {ready[kind]}/{max(pool[kind], there[kind])}" for kind in kinds)


def _until(history: History, now: float) -> float:
    """Return the moment figures per hour refer to: now, or the last end when nothing runs."""
    if history.in_flight():
        return now
    ends = [run.ended_at for run in history.all_runs() if run.ended_at is not None]
    return max(ends, default=now)


def _by_worker(run: Run) -> tuple[str, bool, float]:
    return (run.worker or "", run.state is not RunState.RUNNING, run.submitted_at or 0.0)
