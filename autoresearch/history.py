"""What a study has tried and measured, as one value; the questions everyone asks of it.

Values are kept in the metric's own unit. Comparisons go through `History.goal.sign`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from autoresearch.experiment import IN_FLIGHT, OVER, Experiment, Goal, Purpose, Run, RunState, Verdict

BASELINE = "e0001"


@dataclass(frozen=True, kw_only=True)
class History:
    """All experiments and runs of a study, in the order of their ids."""

    goal: Goal
    experiments: Mapping[str, Experiment]
    runs: Mapping[str, tuple[Run, ...]]  # by experiment id
    # Where they are known, the experiments with runs that are not over, without a verdict, and kept:
    opened: tuple[str, ...] | None = None
    undecided: tuple[str, ...] | None = None
    kept: tuple[str, ...] | None = None

    @cached_property
    def _opened(self) -> tuple[Run, ...]:
        """The runs that are not over."""
        names = self.runs if self.opened is None else self.opened
        return tuple(run for name in names for run in self.open_runs(name))

    @cached_property
    def _lineage(self) -> tuple[Experiment, ...]:
        names = self.experiments if self.kept is None else self.kept
        kept = [e for name in names if (e := self.experiments[name]).verdict is Verdict.KEEP]
        return tuple(sorted(kept, key=lambda e: (e.judged_at or 0.0, e.id)))

    def without_verdict(self) -> list[Experiment]:
        """Return the experiments that were not judged, oldest first."""
        names = self.experiments if self.undecided is None else self.undecided
        return [e for name in names if (e := self.experiments[name]).verdict is None]

    def open_experiments(self) -> list[str]:
        """Return the experiments that have runs which are not over."""
        return list(dict.fromkeys(run.experiment for run in self._opened))

    def runs_of(self, experiment: str) -> tuple[Run, ...]:
        """Return an experiment's runs, oldest first."""
        return self.runs.get(experiment, ())

    def all_runs(self) -> Iterator[Run]:
        """Yield every run."""
        for runs in self.runs.values():
            yield from runs

    def latest_runs(self) -> Iterator[Run]:
        """Yield every run, those of the latest experiments first."""
        for name in reversed(list(self.runs)):
            yield from reversed(self.runs[name])

    def in_flight(self) -> list[Run]:
        """Return the runs that are on a worker or on their way to one."""
        return [run for run in self._opened if run.state in IN_FLIGHT]

    def queued(self) -> list[Run]:
        """Return the runs that wait for a worker, oldest first."""
        return [run for run in self._opened if run.state is RunState.QUEUED]

    def finished(self, experiment: str, kind: str | None = None) -> list[Run]:
        """Return an experiment's measured runs, on one worker kind or on all."""
        return [
            run
            for run in self.runs_of(experiment)
            if run.measurement is not None and (kind is None or run.worker_kind == kind)
        ]

    def open_runs(self, experiment: str) -> tuple[Run, ...]:
        """Return an experiment's runs that are not over."""
        return tuple(run for run in self.runs_of(experiment) if run.state not in OVER)

    def is_open(self, experiment: str) -> bool:
        """Whether an experiment still has runs that are not over."""
        return bool(self.open_runs(experiment))

    def ideas_of(self, experiment: str) -> frozenset[str]:
        """Return the experiments that had an experiment's ideas first: itself, unless it does others anew."""
        found, seen, left = set(), set(), [experiment]
        while left:
            name = left.pop()
            if name not in seen:
                seen.add(name)
                known = self.experiments.get(name)
                left += known.reworks if known else ()
                if not (known and known.reworks):
                    found.add(name)
        return frozenset(found or {experiment})

    def ideas_in(self, experiment: str) -> frozenset[str]:
        """Return the ideas that an experiment's code is made of, each as the experiment that had it first."""
        found: set[str] = set()
        name = self.experiments.get(experiment)
        while name is not None:
            found |= self.ideas_of(name.id)
            name = self.experiments.get(name.parent or "")
        return frozenset(found)

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


def fresh(run: Run) -> bool:
    """Whether a run's value was not what its experiment was chosen for: it is free of selection."""
    return run.purpose is not Purpose.SCREEN


def is_unselected(run: Run) -> bool:
    """Whether an experiment's fate did not hang on a run: a control's, or the baseline's."""
    return run.purpose in {Purpose.BASELINE, Purpose.CALIBRATE}
