"""What a study has tried and measured, as one value; the questions everyone asks of it.

Values are kept in the metric's own unit. Comparisons go through `History.goal.sign`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from statistics import median
from typing import Any

from autoresearch.experiment import IN_FLIGHT, OVER, Experiment, Goal, Purpose, Run, RunState, Verdict

BASELINE = "e0001"
RECENT = 50  # runs that tell how long one takes, and how many of them are first looks


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """Which experiments there are of a sort, each oldest first: a large study is not walked every time."""

    opened: tuple[str, ...]  # with runs that are not over
    undecided: tuple[str, ...]
    kept: tuple[str, ...]
    crashed: tuple[str, ...]
    reworking: tuple[str, ...]  # those that do others anew
    measured: int  # how many runs have a value


@dataclass(frozen=True, kw_only=True)
class History:
    """All experiments and runs of a study, in the order of their ids."""

    goal: Goal
    experiments: dict[str, Experiment]
    runs: dict[str, tuple[Run, ...]]  # by experiment id
    known: Index | None = None  # by who keeps it up to date; otherwise it is made when it is asked for
    # What earlier histories of the study have worked out of the ideas in experiments, which never changes:
    ideas: dict[str, frozenset[str]] = field(default_factory=dict, compare=False, repr=False)
    inside: dict[str, frozenset[str]] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def index(self) -> Index:
        """The experiments by what became of them."""
        if self.known is not None:
            return self.known
        each = self.experiments.values()
        return Index(
            opened=tuple(name for name, runs in self.runs.items() if any(r.state not in OVER for r in runs)),
            undecided=tuple(e.id for e in each if e.verdict is None),
            kept=tuple(e.id for e in each if e.verdict is Verdict.KEEP),
            crashed=tuple(e.id for e in each if e.verdict is Verdict.CRASH),
            reworking=tuple(e.id for e in each if e.reworks),
            measured=sum(run.measurement is not None for run in self.all_runs()),
        )

    @cached_property
    def _open(self) -> dict[str, tuple[Run, ...]]:
        """The runs that are not over, by experiment."""
        return {
            name: tuple(run for run in self.runs[name] if run.state not in OVER) for name in self.index.opened
        }

    @cached_property
    def _lineage(self) -> tuple[Experiment, ...]:
        kept = [self.experiments[name] for name in self.index.kept]
        return tuple(sorted(kept, key=lambda e: (e.judged_at or 0.0, e.id)))

    @cached_property
    def _without_verdict(self) -> tuple[Experiment, ...]:
        return tuple(self.experiments[name] for name in self.index.undecided)

    @cached_property
    def _unfinished(self) -> tuple[Run, ...]:
        return tuple(run for runs in self._open.values() for run in runs)

    @cached_property
    def _in_flight(self) -> tuple[Run, ...]:
        return tuple(run for run in self._unfinished if run.state in IN_FLIGHT)

    @cached_property
    def _redone(self) -> frozenset[str]:
        return frozenset(name for e in self.reworking() for name in e.reworks)

    def without_verdict(self) -> tuple[Experiment, ...]:
        """Return the experiments that were not judged, oldest first."""
        return self._without_verdict

    def crashed(self) -> list[Experiment]:
        """Return the experiments that crashed, oldest first."""
        return [self.experiments[name] for name in self.index.crashed]

    def reworking(self) -> list[Experiment]:
        """Return the experiments that do others anew, oldest first."""
        return [self.experiments[name] for name in self.index.reworking]

    def redone(self) -> frozenset[str]:
        """Return the experiments that others do anew."""
        return self._redone

    def open_experiments(self) -> list[str]:
        """Return the experiments that have runs which are not over."""
        return list(self._open)

    def runs_of(self, experiment: str) -> tuple[Run, ...]:
        """Return an experiment's runs, oldest first."""
        return self.runs.get(experiment, ())

    def all_runs(self) -> Iterator[Run]:
        """Yield every run."""
        for runs in self.runs.values():
            yield from runs

    @cached_property
    def usual_seconds(self) -> float | None:
        """How long a run takes: the median of the latest measured ones; None without any."""
        ended = (run.seconds for run in self.latest_runs() if run.measurement)
        lasted = list(islice((seconds for seconds in ended if seconds), RECENT))
        return median(lasted) if lasted else None

    def latest_runs(self) -> Iterator[Run]:
        """Yield every run, those of the latest experiments first."""
        for name in reversed(self.runs):
            yield from reversed(self.runs[name])

    def unfinished(self) -> tuple[Run, ...]:
        """Return the runs that are not over, those of the oldest experiments first."""
        return self._unfinished

    def in_flight(self) -> tuple[Run, ...]:
        """Return the runs that are on a worker or on their way to one."""
        return self._in_flight

    def queued(self) -> list[Run]:
        """Return the runs that wait for a worker, oldest first."""
        return [run for run in self._unfinished if run.state is RunState.QUEUED]

    def finished(self, experiment: str, kind: str | None = None) -> list[Run]:
        """Return an experiment's measured runs, on one worker kind or on all."""
        return [
            run
            for run in self.runs_of(experiment)
            if run.measurement is not None and (kind is None or run.worker_kind == kind)
        ]

    def open_runs(self, experiment: str) -> tuple[Run, ...]:
        """Return an experiment's runs that are not over."""
        return self._open.get(experiment, ())

    def is_open(self, experiment: str) -> bool:
        """Whether an experiment still has runs that are not over."""
        return experiment in self._open

    def ideas_of(self, experiment: str) -> frozenset[str]:
        """Return the experiments that had an experiment's ideas first: itself, unless it does others anew."""
        known = self.ideas.get(experiment)
        if known is None:
            e = self.experiments.get(experiment)
            others = [self.ideas_of(name) for name in e.reworks] if e else []
            known = self.ideas[experiment] = frozenset().union(*others) or frozenset({experiment})
        return known

    def ideas_in(self, experiment: str) -> frozenset[str]:
        """Return the ideas that an experiment's code is made of, each as the experiment that had it first."""
        line: list[str] = []
        name: str | None = experiment
        while name in self.experiments and name not in self.inside:
            line.append(name)
            name = self.experiments[name].parent
        found = self.inside.get(name or "", frozenset())
        for name in reversed(line):
            found = self.inside[name] = found | self.ideas_of(name)
        return found

    def handed_back(self) -> list[Experiment]:
        """Return what was measured on an old base, has no verdict, and is left to its author to do anew."""
        best = self.incumbent()
        old = [e for e in self.without_verdict() if best and e.parent not in {None, best.id}]
        return [e for e in old if self.finished(e.id) and not self.is_open(e.id)]

    def taken_back(self, experiment: str) -> bool:
        """Whether an experiment was cancelled before it was measured: it has no value and gets none."""
        runs = self.runs_of(experiment)
        if not runs:
            return self.experiments[experiment].verdict is None and bool(self.experiments[experiment].reason)
        return all(run.state is RunState.CANCELLED for run in runs)

    def incumbent(self) -> Experiment | None:
        """Return the best experiment: the one kept last, or None before the baseline is judged."""
        return self._lineage[-1] if self._lineage else None

    def lineage(self) -> list[Experiment]:
        """Return the kept experiments in the order they were kept."""
        return list(self._lineage)

    def proposed(self) -> int:
        """Return how many experiments came from proposals, that is all but the baseline."""
        return sum(1 for name in self.experiments if name != BASELINE)


def oldest_first(names: Iterable[str]) -> list[str]:
    """Return the names of experiments by number: shorter ones have the lower."""
    return sorted(sorted(names), key=len)


def added(things: dict[str, Any], known: int) -> list[str]:
    """Return the keys of what only grows beyond the first ones, which are known; in order."""
    return list(islice(reversed(things), max(0, len(things) - known)))[::-1]


def fresh(run: Run) -> bool:
    """Whether a run's value was not what its experiment was chosen for: it is free of selection."""
    return run.purpose is not Purpose.SCREEN


def is_unselected(run: Run) -> bool:
    """Whether an experiment's fate did not hang on a run: a control's, or the baseline's."""
    return run.purpose in {Purpose.BASELINE, Purpose.CALIBRATE}
