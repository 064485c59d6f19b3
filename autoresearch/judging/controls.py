"""How often the best itself is measured: what everything is compared with, and what a study claims. Pure.

A control teaches of every experiment on the best code, so it is worth knowing it as well as by many
runs, the more the more is compared with it (Dunnett 1955, Journal of the American Statistical
Association 50). A pool has so many workers for that; one too small to have any makes a control now and
then, as often as it measures what is promising, since more runs of that alone tell ever less of the
difference; and the last ones a claim needs before its study ends.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from autoresearch.experiment import OVER, Experiment, Purpose, Run, Worker
from autoresearch.history import History, is_unselected
from autoresearch.judging.learning import Learner
from autoresearch.judging.policy import ASKED_FOR, FRESH_RUNS, Order, Withdraw

TOLD = "told by runs it was not chosen by"
ENOUGH = 0.7  # of what a control teaches on the best worker for it


class Controls:
    """Says when the best is measured again, and when that is no longer wanted."""

    def __init__(self, learner: Learner, *, share: float, start: float, growth: float, runs: float) -> None:
        """Read from a learner how well the best is known.

        A `share` of the workers may be at it. It should be known as well as by `runs` runs, to begin with
        by `start`, and by `growth` more for every experiment compared with it.
        """
        self._learner = learner
        self._share, self._start, self._growth, self._runs = share, start, growth, runs
        self._taught: dict[str, float] = {}  # by code: what a control teaches on the best worker for it,
        self._taught_at = -1  # in a version of the belief

    def has_place(self, workers: int) -> bool:
        """Whether a pool has a worker that controls may have for themselves."""
        return self._share * workers >= 1

    def wanted(
        self, history: History, incumbent: Experiment, workers: int, as_well: int = 0
    ) -> Iterator[Order]:
        """Yield the controls wanted beside those under way, to know the best by `as_well` runs or more."""
        belief, places = self._learner.belief, self._share * workers
        if not belief.knows(incumbent.id) or _fails(history, incumbent):
            return
        compared, most = self._learner.compared[incumbent.id], math.ceil(places)
        start = min(self._start, 1 + 2 * places)
        grown = start + min(1.0, places) * self._growth * compared
        wanted = min(self._runs, max(grown, as_well))
        variance, noise = belief.value(incumbent.id).variance, belief.noise()
        under_way = len(uncancelled(history, incumbent.id))
        missing = self._fresh_runs(workers) - len(belief.unselected(incumbent.id)) - under_way
        if history.without_verdict() and variance > noise / wanted:
            missing = max(missing, min(most - under_way, math.ceil(wanted - noise / variance)))
        known, aim = math.sqrt(variance), math.sqrt(noise / wanted)
        why = f"{incumbent.id} is the best and known to {known:.5f}; wanted {aim:.5f}"
        if known <= aim:
            why = f"{incumbent.id} is the best, and its value is {TOLD}"
        for _ in range(missing):
            yield _control(incumbent, why)

    def closing(self, history: History) -> list[Order]:
        """Return the controls that a claim of the best's value lacks, when nothing else is to be done."""
        best = history.incumbent()
        if best is None or not self._learner.has_learned or _fails(history, best):
            return []
        missing = FRESH_RUNS - len(self._learner.belief.unselected(best.id))
        why = f"{best.id} is the best at the end, and its value is {TOLD}"
        return [_control(best, why)] * (missing - len(uncancelled(history, best.id)))

    def unwanted(self, history: History, incumbent: Experiment, workers: int) -> Iterator[Withdraw]:
        """Yield the controls and confirmations whose question is answered."""
        fresh = len(self._learner.belief.unselected(incumbent.id))
        over = not history.without_verdict() and fresh >= self._fresh_runs(workers)
        for name in history.open_experiments():
            e = history.experiments[name]
            if e.verdict is None or (name == incumbent.id and not over):
                continue
            for run in uncancelled(history, name):
                ours = run.purpose in {Purpose.CONFIRM, Purpose.CALIBRATE}
                closing = name == incumbent.id and run.why.endswith(TOLD) and fresh < FRESH_RUNS
                if ours and not closing and not run.why.startswith(ASKED_FOR):
                    yield Withdraw(run=run.id, why=f"{name} is judged: {e.verdict}")

    def teaches_enough(self, base: str, worker: Worker, workers: Sequence[Worker]) -> bool:
        """Whether a control teaches about as much on a worker as on the best one for it."""
        belief = self._learner.belief if self._learner.has_learned else None
        if belief is None or not belief.knows(base):
            return True
        if self._taught_at != belief.version:
            self._taught, self._taught_at = {}, belief.version
        if base not in self._taught:
            others = [belief.teaches(base, other.name, other.kind) for other in workers if other.ready]
            self._taught[base] = max(others, default=0.0)
        return belief.teaches(base, worker.name, worker.kind) >= ENOUGH * self._taught[base]

    def _fresh_runs(self, workers: int) -> int:
        """Return how many runs a new best needs at once for a claim of its value; more at the end."""
        return FRESH_RUNS if self.has_place(workers) else 1


def uncancelled(history: History, name: str) -> list[Run]:
    """Return the runs of an experiment under way that nobody has taken back."""
    return [run for run in history.open_runs(name) if run.cancelled_by is None]


def _control(best: Experiment, why: str) -> Order:
    return Order(experiment=best.id, purpose=Purpose.CALIBRATE, kind=None, why=why)


def _fails(history: History, incumbent: Experiment) -> bool:
    """Whether the best fails on some seeds: that is no reason to run it for ever."""
    controls = [run for run in history.runs_of(incumbent.id) if is_unselected(run) and run.state in OVER]
    return sum(run.measurement is None and run.cancelled_by is None for run in controls) >= FRESH_RUNS
