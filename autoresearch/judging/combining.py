"""Which ideas are worth more in one experiment than each in its own. Pure.

With many workers several ideas win on one base. Kept one at a time they would take a run's time each,
and every keep would make those under way stale again: what is sure is done anew together, at once.

Ideas too small to be told from noise one by one are most of what a study finds later, and most of what
it loses. Effects add up and noise does not, so several that are each a little more likely good than
bad are measured as one, and kept or dropped as one: group screening (Watson 1961, Technometrics 3).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from autoresearch.experiment import Experiment, Proposal, Run, Verdict
from autoresearch.history import History, added, oldest_first
from autoresearch.judging.effects import Prospect
from autoresearch.judging.learning import Learner

SURE = 0.3  # the probability of being useless that a sure idea may have: it is measured once more
LEAST = 1.0  # what a sure idea must be expected to improve; in noises of a run, as are
NEAR = 0.1  # what another must be expected to improve,
GROUP = 1.0  # and what these must together
MOST = 8  # experiments done anew in one
NOTHING = Prospect(useless=1.0, gain=0.0, hope=0.0, need=1.0)


class Combiner:
    """Says what is to be done anew together."""

    def __init__(
        self, learner: Learner, *, sure: float = SURE, near: float = NEAR, group: float = GROUP
    ) -> None:
        """Read from a learner what each idea promises; `sure` or `group` at 0 leave out that part."""
        self._learner = learner
        self._sure, self._near, self._group = sure, near, group
        self._of: dict[str, list[Run]] = {}  # what was measured, as the learner's belief has it
        self._seen = 0  # how many of it
        self._measured: dict[str, frozenset[str]] = {}  # the ideas of what was measured and may yet count
        self._promises: dict[str, Prospect] = {}  # of what was judged, as it was then
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
        redone = history.redone()
        found = list(self._latest(history, best, redone))
        open_ = [history.experiments[name] for name in history.open_experiments()]
        here = [*waiting, *(e.reworks for e in open_ if e.parent == best.id)]
        sure = [e.id for e in found if self._sure and _is_free(e, redone) and self._is_sure(history, e)]
        ideas = _ideas(history, sure)
        if sure and not any(ideas <= _ideas(history, names) for names in here):
            return sure[:MOST]
        busy = _ideas(history, [*(e.id for e in open_), *(name for names in waiting for name in names)])
        gains = {e.id: self._gain(history, e) for e in found}
        near = [name for name, gain in gains.items() if gain > self._near * self._learner.unit]
        near = sorted((n for n in near if not self._measured[n] & busy), key=lambda name: gains[name])[-MOST:]
        enough = self._group and sum(gains[name] for name in near) >= self._group * self._learner.unit
        return oldest_first(near) if enough else ()

    def _latest(self, history: History, best: Experiment, redone: frozenset[str]) -> Iterator[Experiment]:
        """Yield what measured an idea last that the best lacks, and is not being judged; oldest first."""
        self._take_in(history, redone)
        inside = history.ideas_in(best.id)
        latest: dict[str, Experiment] = {}
        for name in oldest_first(self._measured):
            e, there = history.experiments[name], self._measured[name]
            if self._is_settled(history, e, redone):
                del self._measured[name]
            elif e.verdict is not Verdict.CRASH and not there & inside:
                for idea in there:
                    latest[idea] = e
        for e in {e.id: e for e in latest.values()}.values():
            judging = e.verdict is None and (e.parent == best.id or history.is_open(e.id))
            failed = len(e.reworks) > 1 and not _is_free(e, redone)
            if not judging and not failed:
                yield e

    def _take_in(self, history: History, redone: Iterable[str]) -> None:
        """Add what was measured since the last look, and what was settled and is being done anew."""
        measured = self._learner.belief.measured
        if measured is not self._of:
            self._of, self._seen, self._measured = measured, 0, {}
        new = added(measured, self._seen)
        self._seen = len(measured)
        for name in (*new, *(name for name in redone if name in measured)):
            if name not in self._measured:
                self._measured[name] = history.ideas_of(name)

    def _is_settled(self, history: History, e: Experiment, redone: frozenset[str]) -> bool:
        """Whether an idea that was tried once is over: it is not near, and nobody has taken it up again."""
        first = e.verdict is Verdict.DISCARD and not e.reworks and e.id not in redone
        return first and self._gain(history, e) <= self._near * self._learner.unit

    def _is_sure(self, history: History, e: Experiment) -> bool:
        promise = self._promise(history, e)
        return promise.useless <= self._sure and promise.gain > LEAST * self._learner.unit

    def _gain(self, history: History, e: Experiment) -> float:
        return self._promise(history, e).gain

    def _promise(self, history: History, e: Experiment) -> Prospect:
        """Return what an idea promises; of what was judged, as it was then."""
        known = self._promises.get(e.id)
        if known is None or e.verdict is None:
            known = self._promises[e.id] = self._learner.prospect(history, e.id) or NOTHING
        return known


def _ideas(history: History, names: Iterable[str]) -> frozenset[str]:
    """Return the ideas of several experiments."""
    return frozenset().union(*map(history.ideas_of, names))


def _is_free(e: Experiment, redone: frozenset[str]) -> bool:
    """Whether an experiment was not discarded for what it did."""
    return e.verdict is not Verdict.DISCARD or e.id in redone


def _halved(history: History, names: Sequence[str]) -> tuple[str, ...]:
    """Return so many of the experiments that they have not crashed together."""
    crashed = {history.ideas_of(e.id) for e in history.crashed()} if len(names) > 1 else set()
    while len(names) > 1 and _ideas(history, names) in crashed:
        names = names[: len(names) // 2]
    return tuple(names)
