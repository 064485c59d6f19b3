"""Which runs of a growing history are new. Pure, and cheap where little has changed."""

from __future__ import annotations

from collections.abc import Iterator

from autoresearch.experiment import Run
from autoresearch.history import History, added


class Arrivals:
    """Tells each measured run of a study once."""

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._opened: tuple[str, ...] = ()
        self._seen: dict[str, tuple[Run, ...]] = {}  # by experiment, as they were

    def new(self, history: History) -> list[Run]:
        """Return the measured runs that were not told yet, in any order.

        They belong to new experiments and to those that were or are open. Where these do not account
        for all that was measured, every experiment is looked at.
        """
        there = history.index.opened
        near = {*self._opened, *there, *added(history.runs, len(self._seen))}
        self._opened = there
        found = [run for name in near for run in self._new_of(history, name)]
        if len(self._told) != history.index.measured:
            found += [run for name in history.runs for run in self._new_of(history, name)]
        return found

    def _new_of(self, history: History, experiment: str) -> Iterator[Run]:
        runs = history.runs_of(experiment)
        if self._seen.get(experiment) is runs:
            return
        self._seen[experiment] = runs
        for run in runs:
            if run.measurement is not None and run.id not in self._told:
                self._told.add(run.id)
                yield run
