"""What the results of a study add up to, beside who is best: effects, families, what to do again. Pure.

An effect is an experiment's value minus its parent's, on one worker kind, in the metric's unit. Its
standard error counts the noise of both.
"""

from __future__ import annotations

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
    error: float | None  # None while the noise is unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """All ideas that touch one constant, function or method."""

    name: str
    tried: int
    kept: int
    crashed: int
    mean_effect: float | None
    best_effect: float | None
    values: tuple[float, ...]  # of a constant, as far as they were tried; sorted
    exhausted: bool
    last: str  # the latest experiment


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """How well effects were predicted, over the experiments that were measured."""

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
        kinds = sorted({r.worker_kind for r in history.all_runs() if r.worker_kind and r.measurement})
        self.noise: Mapping[str, Noise] = {kind: found for kind in kinds if (found := noise(history, kind))}
        self._known: dict[tuple[str, str], Estimate | None] = {}
        self.values: dict[str, Estimate] = {}
        self.effects: dict[str, Effect] = {}
        for name in history.experiments:
            best = best_estimate(history, name)
            if best:
                self.values[name] = best
        for experiment in history.experiments.values():
            effect = self._effect(experiment)
            if effect:
                self.effects[experiment.id] = effect

    def error(self, value: Estimate) -> float | None:
        """Return the standard error of a value."""
        return value.standard_error(self.noise.get(value.kind))

    def families(self) -> tuple[Family, ...]:
        """Return all families, the one tried last first."""
        members: defaultdict[str, list[Experiment]] = defaultdict(list)
        for experiment in self._history.experiments.values():
            for name in self.touches(experiment):
                members[name].append(experiment)
        found = [self._family(name, tried) for name, tried in members.items()]
        return tuple(sorted(found, key=lambda family: (family.last, family.name), reverse=True))

    def touches(self, experiment: Experiment) -> tuple[str, ...]:
        """Return what an experiment changes: as it was noted, or else the constants that differ."""
        if experiment.touches or experiment.parent is None:
            return experiment.touches
        parent = self._history.experiments.get(experiment.parent)
        was = parent.constants if parent else {}
        names = {
            name.split("[", maxsplit=1)[0]
            for name, value in experiment.constants.items()
            if was.get(name) != value
        }
        return tuple(sorted(names))

    def rework(self) -> tuple[str, ...]:
        """Return the winners on an old base that nobody has done anew on today's, the best first."""
        return self._again(MAX_REWORK, won=True)

    def near(self) -> tuple[str, ...]:
        """Return the near misses on an old base that nobody has done anew on today's, the best first."""
        return self._again(MAX_NEAR, won=False)

    def predictions(self) -> Predictions:
        """Return how the stated expectations compare with what was measured."""
        pairs = [
            (e.expected, self.effects[e.id].delta)
            for e in self._history.experiments.values()
            if e.expected is not None and e.id in self.effects
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

    def _effect(self, experiment: Experiment) -> Effect | None:
        mine = self.values.get(experiment.id)
        if mine is None or experiment.parent is None:
            return None
        kinds = {run.worker_kind or "" for run in self._history.finished(experiment.id)}
        for kind in (mine.kind, *sorted(kinds - {mine.kind})):
            own, base = self._estimate(experiment.id, kind), self._estimate(experiment.parent, kind)
            if own and base:
                spread = self.noise.get(kind)
                error = spread.of_difference(own.n, base.n) if spread else None
                return Effect(delta=own.mean - base.mean, error=error)
        return None

    def _estimate(self, experiment: str, kind: str) -> Estimate | None:
        if (experiment, kind) not in self._known:
            self._known[experiment, kind] = estimate(self._history, experiment, kind)
        return self._known[experiment, kind]

    def _family(self, name: str, tried: list[Experiment]) -> Family:
        effects = [self.effects[e.id] for e in tried if e.id in self.effects]
        deltas = [effect.delta for effect in effects]
        best = min(effects, key=lambda effect: self._sign * effect.delta, default=None)
        kept = sum(e.verdict is Verdict.KEEP for e in tried)
        seen = best is not None and best.error is not None and self._sign * best.delta < -best.error
        return Family(
            name=name,
            tried=len(tried),
            kept=kept,
            crashed=sum(e.verdict is Verdict.CRASH for e in tried),
            mean_effect=sum(deltas) / len(deltas) if deltas else None,
            best_effect=best.delta if best else None,
            values=tuple(sorted({e.constants[name] for e in tried if name in e.constants})),
            exhausted=kept == 0 and not seen and len(deltas) >= DRY,
            last=max(e.id for e in tried),
        )

    def _again(self, limit: int, *, won: bool) -> tuple[str, ...]:
        """Return what improved on an old base, by more than the noise of a difference or by less."""
        history = self._history
        lineage = {experiment.id for experiment in history.lineage()}
        incumbent = history.incumbent()
        done = {e.reworks for e in history.experiments.values() if e.reworks} | lineage | {BASELINE}
        found = []
        for experiment in history.experiments.values():
            effect = self.effects.get(experiment.id)
            moved = incumbent is not None and experiment.parent in lineage - {incumbent.id}
            over = experiment.verdict is Verdict.DISCARD
            if not effect or effect.error is None or not moved or not over or experiment.id in done:
                continue
            gain = -self._sign * effect.delta
            if (gain > effect.error) if won else (0 < gain <= effect.error):
                found.append((-gain, experiment.id))
        return tuple(name for _, name in sorted(found)[:limit])
