"""What a study has tried and measured, as one value; the questions everyone asks of it.

Values are kept in the metric's own unit. Comparisons go through `History.goal.sign`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from autoresearch.experiment import IN_FLIGHT, OVER, Experiment, Goal, Purpose, Run, RunState, Verdict

BASELINE = "e0001"


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """All experiments and runs of a study, in the order of their ids."""

    goal: Goal
    experiments: Mapping[str, Experiment]
    runs: Mapping[str, tuple[Run, ...]]  # by experiment id

    def runs_of(self, experiment: str) -> tuple[Run, ...]:
        """Return an experiment's runs, oldest first."""
        return self.runs.get(experiment, ())

    def all_runs(self) -> Iterator[Run]:
        """Yield every run."""
        for runs in self.runs.values():
            yield from runs

    def in_flight(self) -> list[Run]:
        """Return the runs that are on a worker or on their way to one."""
        return [run for run in self.all_runs() if run.state in IN_FLIGHT]

    def queued(self) -> list[Run]:
        """Return the runs that wait for a worker, oldest first."""
        return [run for run in self.all_runs() if run.state is RunState.QUEUED]

    def finished(self, experiment: str, kind: str | None = None) -> list[Run]:
        """Return an experiment's measured runs, on one worker kind or on all."""
        return [
            run
            for run in self.runs_of(experiment)
            if run.measurement is not None and (kind is None or run.worker_kind == kind)
        ]

    def is_open(self, experiment: str) -> bool:
        """Whether an experiment still has runs that are not over."""
        return any(run.state not in OVER for run in self.runs_of(experiment))

    def incumbent(self) -> Experiment | None:
        """Return the best experiment: the one kept last, or None before the baseline is judged."""
        kept = [e for e in self.experiments.values() if e.verdict is Verdict.KEEP]
        return max(kept, key=lambda e: (e.judged_at or 0.0, e.id), default=None)

    def lineage(self) -> list[Experiment]:
        """Return the kept experiments in the order they were kept."""
        kept = [e for e in self.experiments.values() if e.verdict is Verdict.KEEP]
        return sorted(kept, key=lambda e: (e.judged_at or 0.0, e.id))

    def proposed(self) -> int:
        """Return how many experiments came from proposals, that is all but the baseline."""
        return sum(1 for name in self.experiments if name != BASELINE)


def fresh(run: Run) -> bool:
    """Whether a run's value was not what its experiment was chosen for: it is free of selection."""
    return run.purpose is not Purpose.SCREEN
