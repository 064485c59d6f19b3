"""Which ideas are worth more in one experiment than each in its own. Pure.

With many workers several ideas win on one base. Kept one at a time they would take a run's time each,
and every keep would make those under way stale again: what is sure is done anew together, at once.

Ideas too small to be told from noise one by one are most of what a study finds later, and most of what
it loses. Effects add up and noise does not, so several that are each a little more likely good than
bad are measured as one, and kept or dropped as one: group screening (Watson 1961, Technometrics 3).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from autoresearch.experiment import Experiment, Proposal, Verdict
from autoresearch.history import History
from autoresearch.judging.learning import Learner

SURE = 0.3  # the probability of being useless that a sure idea may have: it is measured once more
LEAST = 1.0  # what a sure idea must be expected to improve; in noises of a run, as are
NEAR = 0.1  # what another must be expected to improve,
GROUP = 1.0  # and what these must together
MOST = 8  # experiments done anew in one


class Combiner:
    """Says what is to be done anew together."""

    def __init__(
        self, learner: Learner, *, sure: float = SURE, near: float = NEAR, group: float = GROUP
    ) -> None:
        """Read from a learner what each idea promises; `sure` or `group` at 0 leave out that part."""
        self._learner = learner
        self._sure, self._near, self._group = sure, near, group
        self._measured: dict[str, frozenset[str]] = {}  # the ideas of what has a value
        self._gains: dict[str, float] = {}  # of what was judged, as it was then
        self._known: tuple[object, tuple[str, ...]] = (None, ())

    def together(self, history: History, proposals: Iterable[Proposal]) -> tuple[str, ...]:
        """Return the experiments whose ideas are to be done anew together on the best, oldest first.

        None where that is under way. Of each idea that is not in the best the latest measurement
        counts. Where such a combination has crashed, half of it is tried.
        """
        best = history.incumbent()
        if best is None:
            return ()
        waiting = tuple(p.reworks for p in proposals if p.reworks)
        undecided = tuple(e.id for e in history.without_verdict())
        key = (self._learner.belief.version, best.id, waiting, undecided, tuple(history.open_experiments()))
        if self._known[0] != key:
            self._known = (key, _halved(history, self._choose(history, best, waiting)))
        return self._known[1]

    def _choose(
        self, history: History, best: Experiment, waiting: Iterable[tuple[str, ...]]
    ) -> Sequence[str]:
        """Return what is sure, or else the most promising of what is not, unless that is under way."""
        redone = {name for e in history.experiments.values() for name in e.reworks}
        found = list(self._latest(history, best, redone))
        open_ = [history.experiments[name] for name in history.open_experiments()]
        here = [*waiting, *(e.reworks for e in open_ if e.parent == best.id)]
        sure = [e.id for e in found if self._sure and _is_free(e, redone) and self._is_sure(history, e)]
        if sure and not any(_ideas(history, sure) <= _ideas(history, names) for names in here):
            return sure[:MOST]
        busy = _ideas(history, [*(e.id for e in open_), *(name for names in waiting for name in names)])
        gains = {e.id: self._gain(history, e) for e in found}
        near = [name for name, gain in gains.items() if gain > self._near * self._learner.unit]
        near = sorted((n for n in near if not self._measured[n] & busy), key=lambda name: gains[name])[-MOST:]
        enough = self._group and sum(gains[name] for name in near) >= self._group * self._learner.unit
        return sorted(near, key=lambda name: (len(name), name)) if enough else ()

    def _latest(self, history: History, best: Experiment, redone: set[str]) -> Iterator[Experiment]:
        """Yield what measured an idea last that the best lacks, and is not being judged; oldest first."""
        inside, measured = history.ideas_in(best.id), self._measured
        latest: dict[str, Experiment] = {}
        for e in history.experiments.values():
            if e.id not in measured and history.finished(e.id):
                measured[e.id] = history.ideas_of(e.id)
            there = measured.get(e.id)
            if there and e.verdict is not Verdict.CRASH and not there & inside:
                for idea in there:
                    latest[idea] = e
        for e in {e.id: e for e in latest.values()}.values():
            judging = e.verdict is None and (e.parent == best.id or history.is_open(e.id))
            failed = len(e.reworks) > 1 and not _is_free(e, redone)
            if not judging and not failed:
                yield e

    def _is_sure(self, history: History, e: Experiment) -> bool:
        prospect = self._learner.prospect(history, e.id)
        least = LEAST * self._learner.unit
        return prospect is not None and prospect.useless <= self._sure and prospect.gain > least

    def _gain(self, history: History, e: Experiment) -> float:
        """Return what an idea is expected to improve; of what was judged, as it was then."""
        known = self._gains.get(e.id)
        if known is None or e.verdict is None:
            prospect = self._learner.prospect(history, e.id)
            known = self._gains[e.id] = prospect.gain if prospect else 0.0
        return known


def _ideas(history: History, names: Iterable[str]) -> frozenset[str]:
    """Return the ideas of several experiments."""
    return frozenset().union(*map(history.ideas_of, names))


def _is_free(e: Experiment, redone: set[str]) -> bool:
    """Whether an experiment was not discarded for what it did."""
    return e.verdict is not Verdict.DISCARD or e.id in redone


def _halved(history: History, names: Sequence[str]) -> tuple[str, ...]:
    """Return so many of the experiments that they have not crashed together."""
    crashed = [history.ideas_of(e.id) for e in history.experiments.values() if e.verdict is Verdict.CRASH]
    while len(names) > 1 and _ideas(history, names) in crashed:
        names = names[: len(names) // 2]
    return tuple(names)
