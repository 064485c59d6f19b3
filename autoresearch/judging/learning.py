"""What a study's runs tell of its experiments: belief and effects put together. Pure.

A candidate is an experiment that was measured and not judged; what it promises is read from the
posterior of its effect, on the base it was written for and, as it stands, against the best.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from autoresearch.experiment import Experiment
from autoresearch.history import BASELINE, History
from autoresearch.judging.belief import DRIFT, FEW_RUNS, PRIOR_RUNS, Belief
from autoresearch.judging.effects import SHARES, Effects, Prospect
from autoresearch.judging.policy import FRESH_RUNS, MERGE_QUEUE, MIN_BASELINE_RUNS
from autoresearch.judging.state import Gaussian

if TYPE_CHECKING:
    from autoresearch.judging.state import Vector

FIRST_RUNS = 3  # of the baseline, that tell it where nothing is expected


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An experiment that was measured and not judged."""

    experiment: Experiment
    runs: int
    prospect: Prospect  # against the base it was written for
    outright: Prospect  # as it stands, against the best
    stale: bool  # it was written for a base that is no longer the best


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a study says that a code is worth, on the first kind of worker."""

    value: float
    standard_error: float
    runs: int  # that it was not chosen for, and that the value rests on where there are two


class Learner:
    """Learns from one study's runs, in the order of their ends: the same history tells the same."""

    def __init__(
        self,
        first_kind: str,
        noise: float | None,
        *,
        shares: Sequence[float] = SHARES,
        drift: float = DRIFT,
        offsets: bool = True,
        reworked_hold: bool = True,
        wholes: bool = True,
    ) -> None:
        """Expect runs to differ by that standard deviation; None: as those of the baseline do.

        The switches are for benchmarks: shares of ideas as in `effects`; how workers drift;
        whether they differ at all; whether what its author does anew holds better than what is merely
        stacked; whether it counts what an idea did before the last base.
        """
        self._first_kind = first_kind
        self._given_noise = noise
        self._shares, self._drift, self._offsets = shares, drift, offsets
        self._reworked_hold, self._counts_all = reworked_hold, wholes
        self.unit = noise or 0.0  # what a noise is here, before any was measured
        self.risks: dict[str, float] = {}  # of what was kept: how likely it was useless, when it was
        self.compared: Counter[str] = Counter()  # experiments measured, by parent
        self._priors: dict[str, Vector] = {}
        self._wholes: dict[str, tuple[Vector, bool]] = {}  # of what is done anew: see `_whole`
        self._asked = (-1, "")  # what the candidates hang on: the belief's version, and the best
        self._known: dict[str, Candidate] = {}
        self._belief: Belief | None = None
        self._effects: Effects | None = None

    @property
    def has_learned(self) -> bool:
        """Whether there is a belief."""
        return self._belief is not None

    @property
    def belief(self) -> Belief:
        """What is known of values and offsets; only after `learn` said so."""
        if self._belief is None:
            raise ValueError("nothing was learned yet")
        return self._belief

    @property
    def effects(self) -> Effects:
        """The grid of effects; only after `learn` said so."""
        if self._effects is None:
            raise ValueError("nothing was learned yet")
        return self._effects

    def learn(self, history: History) -> bool:
        """Take in what was measured; False before the baseline tells how much runs differ."""
        if self._belief is None:
            noise = self._given_noise or _spread(history)
            if noise is None:
                return False
            self.unit = noise
            self._effects = Effects(noise, self._shares)
            prior_runs = PRIOR_RUNS if self._given_noise else FEW_RUNS
            self._belief = Belief(
                noise, self._first_kind, prior_runs=prior_runs, drift=self._drift, offsets=self._offsets
            )
        self._belief.update(history, self)
        return True

    def candidates(self, history: History, incumbent: Experiment) -> tuple[Candidate, ...]:
        """Return the measured experiments without a verdict, oldest first, and what each promises."""
        belief = self.belief
        undecided = [e for e in history.without_verdict() if belief.runs_of(e.id)]
        asked = (belief.version, incumbent.id)
        if self._asked != asked:
            self._asked, self._known = asked, {}
        new = [e for e in undecided if e.id not in self._known]
        known = self._known | {c.experiment.id: c for c in self._assess(history, new, incumbent)}
        self._known = {e.id: known[e.id] for e in undecided}
        return tuple(self._known.values())

    def worth(self, experiment: str) -> float:
        """Return what a run of a candidate was worth at the last look; infinite where it is none."""
        known = self._known.get(experiment)
        return known.prospect.worth if known else math.inf

    def prospect(self, history: History, experiment: str) -> Prospect | None:
        """Return what is known of one experiment against its parent; None where that cannot be told."""
        belief, parent = self.belief, history.experiments[experiment].parent or ""
        if experiment not in self._priors or not belief.knows(parent):
            return None
        known = self._known.get(experiment)
        if known is not None and self._asked[0] == belief.version:
            return known.prospect
        posterior, runs = self._posteriors(history, [history.experiments[experiment]], [parent])
        return self.effects.prospects(posterior, runs, belief.noise())[0]

    def gained_since(self, history: History, since: float) -> float:
        """Return by how much the best is better than the best of a moment ago, 0 where it is not."""
        lineage = [e for e in history.lineage() if self.belief.knows(e.id)]
        before = next((e for e in reversed(lineage) if (e.judged_at or 0.0) <= since), lineage[0])
        return max(0.0, -self.belief.difference(lineage[-1].id, before.id).mean)

    def claim(self, history: History, experiment: str) -> Claim:
        """Return what a kept code is said to be worth: by its unselected runs where there are two."""
        belief, sign = self.belief, history.goal.sign
        runs = len(belief.unselected(experiment))
        found = belief.claim_of(history, experiment)
        if found is None or runs < FRESH_RUNS:
            found = belief.value(experiment)
        return Claim(value=sign * found.mean, standard_error=math.sqrt(found.variance), runs=runs)

    def _assess(
        self, history: History, undecided: Sequence[Experiment], incumbent: Experiment
    ) -> list[Candidate]:
        if not undecided:
            return []
        belief, effects = self.belief, self.effects
        bases = [e.parent if belief.knows(e.parent or "") else incumbent.id for e in undecided]
        posteriors, runs = self._posteriors(history, undecided, bases)
        prospects = effects.prospects(posteriors, runs, belief.noise())
        behind = [belief.difference(base or "", incumbent.id) for base in bases]
        shifts = [d.mean + math.sqrt(d.variance) for d in behind]
        moved = effects.prospects(posteriors, runs, belief.noise(), shifts)
        return [
            Candidate(
                experiment=e,
                runs=n,
                prospect=prospect,
                outright=outright,
                stale=base != incumbent.id,
            )
            for e, n, base, prospect, outright in zip(undecided, runs, bases, prospects, moved, strict=True)
        ]

    def _posteriors(
        self, history: History, experiments: Sequence[Experiment], bases: Sequence[str | None]
    ) -> tuple[Vector, list[int]]:
        """Return the posteriors of effects, (m, POINTS), and how many runs each rests on."""
        import numpy as np

        belief = self.belief
        means = [belief.mean_of(history, e.id, base) for e, base in zip(experiments, bases, strict=True)]
        runs = [len(belief.runs_of(e.id)) for e in experiments]
        priors = np.stack([self._priors[e.id] for e in experiments])
        measured = [mean for mean in means if mean is not None]
        return self.effects.posteriors(priors, measured, runs, belief.noise()), runs

    # -- what the belief tells of ----------------------------------------------------------------

    def begin_anew(self) -> None:
        """Forget what was learned."""
        self.risks.clear()
        self.compared.clear()
        self._priors.clear()
        self._wholes.clear()

    def first_measured(self, history: History, name: str) -> None:
        """Fix an experiment's prior when its first run is in: what is known of it if it is done anew."""
        belief, effects = self.belief, self.effects
        experiment = history.experiments[name]
        self.compared[experiment.parent or ""] += 1
        prior = effects.prior
        earlier = [history.experiments[each] for each in experiment.reworks if each in self._priors]
        wholes = [self._whole(history, each) for each in earlier if belief.knows(each.parent or "")]
        if wholes:
            stacked = experiment.author == MERGE_QUEUE or not self._reworked_hold
            if self._counts_all:
                self._wholes[name] = reduce(effects.both, wholes), stacked
            prior = reduce(effects.both, (effects.remaining(each, stacked=stacked) for each in wholes))
        self._priors[name] = prior

    def _whole(self, history: History, experiment: Experiment) -> Vector:
        """Return what is believed of an idea's whole effect, of which each other base keeps a share.

        All that was measured of it counts, on any base: where it is done anew again and again, its
        share is lost once, not each time.
        """
        import numpy as np

        effects = self.effects
        posterior: Vector = self._posteriors(history, [experiment], [experiment.parent])[0][0]
        if experiment.id not in self._wholes:
            return posterior
        prior, stacked = self._wholes[experiment.id]
        likelihood = posterior / np.maximum(self._priors[experiment.id], 1e-300)
        return effects.whole(prior, likelihood, stacked=stacked)

    def cavity(self, name: str, found: Gaussian) -> Gaussian:
        """Return the effect a code was kept for, beyond what its runs say; note what was risked."""
        effects, belief, runs = self.effects, self.belief, [len(self.belief.runs_of(name))]
        prior = self._priors.get(name, effects.prior)
        posterior = effects.posteriors(prior[None, :], [found], runs, belief.noise())
        self.risks[name] = effects.prospects(posterior, runs, belief.noise())[0].useless
        return effects.cavity(posterior[0], found)


def _spread(history: History) -> float | None:
    """Return how much the baseline's first runs differ, as a standard deviation; None: not known yet."""
    runs = sorted(history.finished(BASELINE), key=lambda run: (run.ended_at or 0.0, run.id))
    values = [run.value or 0.0 for run in runs[:FIRST_RUNS]]  # later ones must not change it
    if len(values) < MIN_BASELINE_RUNS:
        return None
    return stdev(values) or abs(fmean(values)) * 1e-6 or 1e-9
