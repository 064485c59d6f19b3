"""What the results of a study add up to, beside who is best: effects, families, what to do again. Pure.

An effect is an experiment's value minus its parent's, on one worker kind, in the metric's unit. Its
standard error counts the noise of both. Where a kind's noise is not known, the largest noise of
another decides what counts, as in judging.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from autoresearch.experiment import Experiment, Verdict
from autoresearch.history import BASELINE, History
from autoresearch.judging.statistics import Estimate, Noise, best_estimate, estimate, noise

DRY = 6  # ideas measured and none kept, before a family counts as exhausted
MAX_REWORK = 8
MAX_NEAR = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What an idea did."""

    delta: float
    error: float | None  # None while the noise on its kind is unknown
    noise: float | None  # of such a difference; None while no noise is known at all


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """All ideas that touch one constant, function or method."""

    name: str
    tried: int
    kept: int
    crashed: int
    mean_effect: float | None
    best_effect: float | None
    values: tuple[float, ...] = ()  # of a constant, as far as they were tried; sorted
    exhausted: bool = False  # DRY or more were measured, none kept, the best within the noise
    last: str  # the latest experiment


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """How well effects were predicted, over the experiments that were measured and judged."""

    made: int = 0
    sign_held: int = 0
    mean_expected: float | None = None
    mean_measured: float | None = None


def as_of(history: History) -> float:
    """Return the moment of the last result; 0 before there is any."""
    ends = [run.ended_at for run in history.all_runs() if run.ended_at and (run.measurement or run.failure)]
    return max([*ends, *(e.judged_at or 0.0 for e in history.experiments.values())], default=0.0)


class Findings:
    """The effects of a history, reckoned once."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._sign = history.goal.sign
        self._lineage = history.lineage()
        self._kept_at = [e.judged_at or 0.0 for e in self._lineage]
        kinds = sorted({r.worker_kind for r in history.all_runs() if r.worker_kind and r.measurement})
        self.noise: Mapping[str, Noise] = {kind: known for kind in kinds if (known := noise(history, kind))}
        self._widest = max(self.noise.values(), key=lambda known: known.sigma, default=None)
        self._known: dict[tuple[str, str], Estimate | None] = {}
        self.values: Mapping[str, Estimate] = {
            name: value for name in history.experiments if (value := best_estimate(history, name))
        }
        self.effects: Mapping[str, Effect] = {
            name: effect
            for name, experiment in history.experiments.items()
            if (effect := self._effect(name, experiment.parent))
        }

    def error(self, value: Estimate) -> float | None:
        """Return the standard error of a value."""
        return value.standard_error(self.noise.get(value.kind))

    def progress(self) -> float | None:
        """Return the best's value minus the baseline's."""
        best = self._history.incumbent()
        effect = self._effect(best.id, BASELINE) if best else None
        return effect.delta if effect else None

    def families(self) -> tuple[Family, ...]:
        """Return all families, the one tried last first."""
        members: defaultdict[str, list[Experiment]] = defaultdict(list)
        for experiment in self._history.experiments.values():
            for name in self.touches(experiment):
                members[name].append(experiment)
        found = [self._family(name, tried) for name, tried in members.items()]
        order = {name: i for i, name in enumerate(self._history.experiments)}
        return tuple(sorted(found, key=lambda family: (-order[family.last], family.name)))

    def touches(self, experiment: Experiment) -> tuple[str, ...]:
        """Return what an experiment changes: as it was noted, or else the constants that differ."""
        parent = self._history.experiments.get(experiment.parent or "")
        if experiment.touches or parent is None:
            return experiment.touches
        was, now = parent.constants, experiment.constants
        if not was or not now:
            return ()
        differ = {name for name in was.keys() | now.keys() if was.get(name) != now.get(name)}
        return tuple(sorted({name.split("[", maxsplit=1)[0] for name in differ}))

    def rework(self) -> tuple[str, ...]:
        """Return the winners on an old base that nobody has done anew on today's, the best first."""
        found = {name for name in self._stale() if self._won(name)}
        return self._best(found)[:MAX_REWORK]

    def near(self) -> tuple[str, ...]:
        """Return what was better than an old base but by too little, and was not done anew, the best first.

        The base has moved since, so the idea is worth a try on today's.
        """
        experiments = self._history.experiments
        found = {
            name
            for name in self._stale()
            if experiments[name].verdict is Verdict.DISCARD and not self._won(name) and self._gain(name) > 0
        }
        return self._best(found)[:MAX_NEAR]

    def predictions(self) -> Predictions:
        """Return how the stated expectations compare with what was measured."""
        pairs = [
            (e.expected, self.effects[e.id].delta)
            for e in self._history.experiments.values()
            if e.expected is not None and e.verdict is not None and e.id in self.effects
        ]
        if not pairs:
            return Predictions()
        return Predictions(
            made=len(pairs),
            sign_held=sum(expected * delta > 0 for expected, delta in pairs),
            mean_expected=sum(expected for expected, _ in pairs) / len(pairs),
            mean_measured=sum(delta for _, delta in pairs) / len(pairs),
        )

    # -- how -----------------------------------------------------------------

    def _effect(self, experiment: str, parent: str | None) -> Effect | None:
        """Return the difference on the kind the experiment is best known on, else on any both ran on."""
        mine = self.values.get(experiment)
        if mine is None or parent is None:
            return None
        kinds = {run.worker_kind or "" for run in self._history.finished(experiment)}
        for kind in (mine.kind, *sorted(kinds - {mine.kind})):
            own, base = self._estimate(experiment, kind), self._estimate(parent, kind)
            if own and base:
                known = self.noise.get(kind)
                spread = known or self._widest
                return Effect(
                    delta=own.mean - base.mean,
                    error=known.of_difference(own.n, base.n) if known else None,
                    noise=spread.of_difference(own.n, base.n) if spread else None,
                )
        return None

    def _estimate(self, experiment: str, kind: str) -> Estimate | None:
        if (experiment, kind) not in self._known:
            self._known[experiment, kind] = estimate(self._history, experiment, kind)
        return self._known[experiment, kind]

    def _family(self, name: str, tried: list[Experiment]) -> Family:
        effects = [self.effects[e.id] for e in tried if e.id in self.effects]
        deltas = [effect.delta for effect in effects]
        kept = sum(e.verdict is Verdict.KEEP for e in tried)
        hopeful = any(e.noise is None or -self._sign * e.delta > e.noise for e in effects)
        return Family(
            name=name,
            tried=len(tried),
            kept=kept,
            crashed=sum(e.verdict is Verdict.CRASH for e in tried),
            mean_effect=sum(deltas) / len(deltas) if deltas else None,
            best_effect=min(deltas, key=lambda delta: self._sign * delta, default=None),
            values=tuple(sorted({e.constants[name] for e in tried if name in e.constants})),
            exhausted=len(deltas) >= DRY and kept == 0 and not hopeful,
            last=tried[-1].id,
        )

    def _stale(self) -> list[str]:
        """Return what was measured on a base that is not today's, was not kept, and not done anew since."""
        history = self._history
        today = self._lineage[-1].id if self._lineage else None
        old = {experiment.id for experiment in self._lineage} - {today}
        done = history.redone() | self._ancestors(today)
        return [
            e.id
            for e in history.experiments.values()
            if e.parent in old and e.id in self.effects and e.id not in done and self._over(e)
        ]

    def _over(self, experiment: Experiment) -> bool:
        """Whether an experiment was discarded or, without a verdict, nothing of it is queued or runs."""
        if experiment.verdict is None:
            return not self._history.is_open(experiment.id)
        return experiment.verdict is Verdict.DISCARD

    def _ancestors(self, experiment: str | None) -> set[str]:
        """Return the experiments whose code an experiment is made of, itself among them."""
        found: set[str] = set()
        while experiment is not None and experiment not in found:
            found.add(experiment)
            known = self._history.experiments.get(experiment)
            experiment = known.parent if known else None
        return found

    def _won(self, name: str) -> bool:
        """Whether an experiment beat its parent by more than noise, and was not judged against it."""
        if self._history.experiments[name].verdict is None:
            return self._gain(name) > 0  # the policy leaves it to its author
        spread = self.effects[name].noise
        if spread is None or self._gain(name) <= spread:
            return False
        experiment = self._history.experiments[name]
        return experiment.judged_at is None or self._best_at(experiment.judged_at) != experiment.parent

    def _best_at(self, moment: float) -> str | None:
        """Return what was the best just before a moment: a verdict and a keep may share one."""
        at = bisect_left(self._kept_at, moment)
        return self._lineage[at - 1].id if at else None

    def _gain(self, name: str) -> float:
        return -self._sign * self.effects[name].delta

    def _best(self, names: set[str]) -> tuple[str, ...]:
        return tuple(sorted(names, key=lambda name: (-self._gain(name), name)))
