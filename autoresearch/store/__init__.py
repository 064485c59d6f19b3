"""The one writer of a study's SQLite file.

Every change is one transaction that also appends its event. Transitions are compare-and-set: a
method returns False where the row was no longer in the state it expected.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from autoresearch.budget import Usage
from autoresearch.experiment import (
    OVER,
    Candidate,
    Experiment,
    Goal,
    Prior,
    Proposal,
    Purpose,
    Run,
    RunState,
    Verdict,
)
from autoresearch.history import BASELINE, History, Index, oldest_first
from autoresearch.store.calls import CallTable, PaidReply
from autoresearch.store.database import append_event, storage_errors
from autoresearch.store.experiments import ExperimentTable, earlier_of, insert_experiment, judge
from autoresearch.store.priors import PriorTable, insert_priors
from autoresearch.store.proposals import insert_proposal
from autoresearch.store.rows import EXPERIMENTS, RUNS, to_experiment, to_json, to_run
from autoresearch.store.runs import RunTable, insert_run
from autoresearch.store.studies import Event, Session, StudyRow, StudyTable
from autoresearch.store.submissions import Entry, GridRow, SubmissionTable
from autoresearch.store.workers import WorkerRow, WorkerTable

__all__ = ["CallTable", "Entry", "Event", "GridRow", "PaidReply", "Session", "Store", "StudyRow", "WorkerRow"]


class Store(StudyTable, SubmissionTable, ExperimentTable, RunTable, WorkerTable, CallTable, PriorTable):
    """Reads and writes one study.

    Experiments and runs are cached; the event table tells what to read anew, whoever wrote it.
    """

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        """Open the study's file; see Database."""
        super().__init__(path, durable=durable)
        self._experiments: dict[str, Experiment] = {}
        self._runs: dict[str, tuple[Run, ...]] = {}
        self._open: set[str] = set()  # the experiments with runs that are not over
        self._undecided: set[str] = set()
        self._judged: dict[Verdict, set[str]] = {Verdict.KEEP: set(), Verdict.CRASH: set()}
        self._reworking: dict[str, None] = {}  # in order
        self._measured = 0  # runs
        self._ideas: dict[str, frozenset[str]] = {}
        self._inside: dict[str, frozenset[str]] = {}
        self._goal: Goal | None = None
        self._tried: dict[str, str] | None = None  # by digest
        self._history: History | None = None  # as of the last event that was about an experiment or a run
        self._seen_event = 0

    def create_study(
        self,
        row: StudyRow,
        baseline: Candidate,
        constants: Mapping[str, float],
        runs: int,
        now: float,
        priors: Sequence[Prior] = (),
    ) -> None:
        """Write a study with earlier results, its baseline and the baseline's runs, in one transaction.

        The baseline's runs all go to one worker kind, the first of the study's kinds, so that they
        tell its noise.
        """
        with self._write() as db:
            db.execute(
                "insert into study"
                " (id, tag, created_at, goal, target, kinds, base_commit, protected_sha256, seed)"
                " values (1, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    row.tag,
                    row.created_at,
                    row.goal,
                    to_json(row.target),
                    to_json(row.kinds),
                    row.base_commit,
                    row.protected_sha256,
                    row.seed,
                ),
            )
            insert_priors(db, priors)
            append_event(db, now, "study_created", "", {"tag": row.tag})
            id_ = insert_experiment(db, None, baseline, constants, now, commit=row.base_commit)
            for number in range(1, runs + 1):
                why = f"baseline and noise, run {number} of {runs}"
                insert_run(db, id_, Purpose.BASELINE, row.kinds[0], row.seed, why, now)

    def admit(
        self,
        proposal: Proposal,
        candidate: Candidate,
        constants: Mapping[str, float],
        study_seed: int,
        now: float,
    ) -> Experiment | str | None:
        """Make a waiting proposal an experiment with one queued screen, and return it.

        Returns the id of the earlier experiment, and admits nothing, where one has the same code;
        None where the proposal no longer waits.
        """
        with self._write() as db:
            waiting = "select 1 from proposal where number = ? and state = 'waiting'"
            if db.execute(waiting, (proposal.number,)).fetchone() is None:
                return None
            earlier = earlier_of(db, candidate.digest)
            if earlier:
                return earlier
            id_ = insert_experiment(db, proposal, candidate, constants, now)
            db.execute(
                "update proposal set state = 'admitted', experiment = ? where number = ?",
                (id_, proposal.number),
            )
            insert_run(db, id_, Purpose.SCREEN, None, study_seed, "first look at a proposal", now)
        return self.experiment(id_)

    def merge(self, experiment: str, stacked: Proposal, reason: str, now: float) -> bool:
        """Discard an experiment and have its idea wait as a proposal on another base; once."""
        with self._write() as db:
            if not judge(db, experiment, Verdict.DISCARD, reason, now):
                return False
            insert_proposal(db, stacked, None, now)
        return True

    def history(self) -> History:
        """Return all experiments and runs, reading only what changed since the last call."""
        with self._reading():
            self._refresh()
        if self._goal is None and (row := self._one("select goal from study")):
            self._goal = Goal(row["goal"])
        if self._history is None:
            self._history = History(
                goal=self._goal or Goal.MINIMIZE,
                experiments=dict(self._experiments),
                runs=dict(self._runs),
                known=Index(
                    opened=tuple(oldest_first(self._open)),
                    undecided=tuple(oldest_first(self._undecided)),
                    kept=tuple(oldest_first(self._judged[Verdict.KEEP])),
                    crashed=tuple(oldest_first(self._judged[Verdict.CRASH])),
                    reworking=tuple(self._reworking),
                    measured=self._measured,
                ),
                ideas=self._ideas,
                inside=self._inside,
            )
        return self._history

    def usage(self, now: float, worst_seconds: float) -> Usage:
        """Return what the study had spent by then.

        A worker in the ledger costs from its first second to its last; elsewhere the jobs cost, and
        those in flight reserve the rest of their worst case.
        """
        jobs = self._all(
            "select price_per_hour, submitted_at, ended_at, outcome from job"
            " where price_per_hour > 0 and submitted_at <= ? and worker not in (select name from worker)",
            (now,),
        )
        spent = reserved = 0.0
        for job in jobs:
            end = min(job["ended_at"], now) if job["outcome"] is not None else now
            used = max(0.0, end - job["submitted_at"])
            spent += job["price_per_hour"] * used / 3600
            if job["outcome"] is None:
                reserved += job["price_per_hour"] * max(0.0, worst_seconds - used) / 3600
        workers = self.workers()
        spent += sum(w.price_per_hour * w.allocated_seconds(now) / 3600 for w in workers)
        with self._reading():
            self._refresh()
        dollars, calls, tokens = self.api_usage(now)
        return Usage(
            experiments=len(self._runs) - (BASELINE in self._runs),
            hours=self._hours(now),
            gpu_dollars=spent,
            reserved_dollars=reserved,
            api_dollars=dollars,
            api_calls=calls,
            tokens=tokens,
            allocated_seconds=sum(w.allocated_seconds(now) for w in workers),
        )

    def _hours(self, now: float) -> float:
        """Return how long the study had been dispatched by then."""
        row = self._one(
            "select sum(min(seen_at, ?) - started_at) from session where started_at <= ?", (now, now)
        )
        return float(row[0] or 0.0) / 3600 if row else 0.0

    def _refresh(self) -> None:
        """Bring the cache up to date from the event table."""
        last = int(self._db.execute("select coalesce(max(seq), 0) from event").fetchone()[0])
        if last == self._seen_event:
            return
        if self._seen_event == 0:
            experiments = self._db.execute(f"{EXPERIMENTS} order by number").fetchall()
            runs = self._db.execute(f"{RUNS} order by run.rowid").fetchall()
        else:
            subjects = self._db.execute(
                "select distinct subject from event where seq > ?", (self._seen_event,)
            )
            names = [row[0] for row in subjects]
            marks = ",".join("?" * len(names))
            changed = f"{EXPERIMENTS} where id in ({marks}) order by number"
            experiments = self._db.execute(changed, names).fetchall()
            runs = self._db.execute(f"{RUNS} where run.id in ({marks}) order by run.rowid", names).fetchall()
        if experiments or runs:
            self._history = None
        for row in experiments:
            self._take_in(to_experiment(row))
        for row in runs:
            run = to_run(row)
            before = self._runs.get(run.experiment, ())
            others = [other for other in before if other.id != run.id]
            was = sum(other.measurement is not None for other in before if other.id == run.id)
            self._measured += (run.measurement is not None) - was
            self._runs[run.experiment] = tuple(
                sorted([*others, run], key=lambda r: int(r.id.rsplit(".", 1)[1]))
            )
        for name in {run["experiment"] for run in runs}:
            if all(run.state in OVER for run in self._runs[name]):
                self._open.discard(name)
            else:
                self._open.add(name)
            if any(run.state is RunState.LOST for run in self._runs[name]):
                self._tried = None
        self._seen_event = last

    def _take_in(self, experiment: Experiment) -> None:
        """Bring the cache up to date with one experiment."""
        name = experiment.id
        if self._tried is not None and name not in self._experiments:
            self._tried.setdefault(experiment.digest, name)
        self._experiments[name] = experiment
        (self._undecided.add if experiment.verdict is None else self._undecided.discard)(name)
        if experiment.verdict in self._judged:
            self._judged[experiment.verdict].add(name)
        if experiment.reworks:
            self._reworking[name] = None

    def tried_digests(self) -> dict[str, str]:
        """Return the experiment of every code measured or to be measured; see ExperimentTable."""
        if self._db.in_transaction:  # what it has written may be rolled back: not for the cache
            return super().tried_digests()
        with self._reading():
            self._refresh()
            if self._tried is None:
                self._tried = super().tried_digests()
        return dict(self._tried)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Read several tables as they are at one moment."""
        with storage_errors(self._path):
            self._db.execute("begin")
            try:
                yield
            finally:
                self._db.execute("commit")
