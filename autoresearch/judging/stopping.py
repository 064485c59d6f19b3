"""What the next hour of a search promises, when it should stop, and what its noise hides. Pure.

Gains are found now and then, and differ in size. Their rate and their size are estimated together, of
experiments that count for less the longer ago they were (Smith 1979, discounted updating; West and
Harrison, Bayesian Forecasting and Dynamic Models, 1997, section 10.8):

    number of gains in an experiment    Poisson(rate),         rate ~ Gamma(found, tried)
    size of a gain                      exponential(mean m),   m ~ Inverse-gamma(found + 1, gained)
    found, gained, tried                multiplied by 1 - 1/memory, then the next one's are added

so that an experiment promises gained/tried, and rate times m over its mean is distributed as
found/(found + 1) F(2 found, 2 found + 2). The memory is 60 experiments, and from 300 on a fifth of all:
then what was found counts by (its number / all)^5, as where progress is a power of effort (Crow 1974). As
finds get rarer, an hour of h experiments counts as memory (1 - exp(-h/memory)) of them. A gain is what is
believed of it: a difference d that has the standard error e counts max(0, d - e^2/d), the positive-part
estimator of James and Stein (1961). To stop where the upper end of the interval is not worth an hour is
one-stage look-ahead (Ferguson, Optimal Stopping and Applications, chapter 5). In simulated nights it is about
break-even: the hours that are left out would have brought about what they had to be worth.

What it cannot know: in public tables gains of ten noises came after droughts as long as any
(benchmarks/stopping.py), hence the long memory, the margin, and no stop before MINIMUM experiments.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from autoresearch.experiment import Prior
from autoresearch.history import BASELINE, History
from autoresearch.judging.statistics import Noise, estimate, noise

MINIMUM = 40  # experiments, and an hour's, that must have been judged before it may stop
MEMORY = 60.0  # experiments; a constant at first,
SHARE = 5.0  # then the number of all divided by this
PRIOR_FOUND, PRIOR_SIZE = 3.0, 4.0  # gains in the first MEMORY experiments, and sigmas of each
COVERAGE = 0.8  # of the interval
CLEAR = 2.0  # standard errors of a difference that can be told from nothing
LEAVING = 1.5  # a phase is gone back to when an hour promises so many times what ended it
USUAL_GAIN = 0.002  # of the baseline's value: 19 of the 22 keeps of the public H100 run are smaller
MOST_RUNS = 40  # of each code, that a decision may take
RECENT = 100  # experiments that tell what one costs


class Phase(StrEnum):
    """What a search is like, by what its next hour promises."""

    BROAD = "broad search"  # a gain that a single run could show; and before MINIMUM experiments
    REFINEMENT = "refinement"
    DIMINISHING = "diminishing returns"  # less than an hour must be worth


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One experiment that was judged, in the order of time; gains are positive where it is better."""

    gain: float = 0.0  # as believed: shrunk; 0 where it was not kept
    claimed: float | None = None  # as measured; None where it was not kept
    error: float = 0.0  # standard error of that
    hours: float = 0.0  # of workers, in all its runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Hour:
    """What an hour would take."""

    experiments: float
    workers: int
    dollars: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What the next hour promises, and for how much. Gains are positive, in the metric's unit."""

    phase: Phase
    gain: float  # expected
    low: float
    high: float
    chance: float  # that anything is gained at all
    hour: Hour
    worth: float  # what an hour must promise
    tried: int
    missing: int  # experiments before it may stop
    sign: int = 1  # 1: lower values are better

    @property
    def stop(self) -> bool:
        """Whether there is evidence enough, and even the upper end of the interval is not worth an hour."""
        return not self.missing and self.high < self.worth

    @property
    def cost(self) -> str:
        """What the hour costs, in words: dollars, or where they are unknown the workers' time."""
        if self.hour.dollars:
            return f"${self.hour.dollars:.0f}" if self.hour.dollars >= 10 else f"${self.hour.dollars:.2f}"
        return f"{self.hour.workers} worker-hour{'s' * (self.hour.workers != 1)}"

    def __str__(self) -> str:
        """Return the outlook in one sentence: refinement: next hour expects -.0006 for $32."""
        if self.tried < MINIMUM:
            return f"{self.phase}: {self.tried} of the {MINIMUM} experiments that tell what an hour promises"
        better = "-" if self.sign > 0 else "+"
        advice = ", not worth it" if self.stop else ""
        return f"{self.phase}{advice}: next hour expects {better}{few(self.gain)} for {self.cost}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """Why nothing can be decided: a usual gain takes more runs than may be spent on it."""

    sigma: float  # of one run
    resolves: float  # the difference that one run of each code can show
    gain: float  # that is to be told from nothing
    runs: int  # of each code, which that would take

    def __str__(self) -> str:
        """Return why, in one sentence of less than 80 characters."""
        about = f"noise sigma {few(self.sigma)}: one run resolves {few(self.resolves)}"
        return f"{about}, a gain of {few(self.gain)} would take {self.runs:,} runs"


# ---------------------------------------------------------------------------
# The next hour
# ---------------------------------------------------------------------------


def outlook(
    trials: Sequence[Trial], sigma: float, hour: Hour, *, worth: float | None = None, sign: int = 1
) -> Outlook:
    """Return what the next hour promises after these trials, oldest first.

    `sigma` is the noise of one run: the prior is in its units, and so is what an hour must be `worth`
    where that is None: one sigma, less than which a single run could not show.
    """
    worth = sigma if worth is None else worth
    found, gained, tried, phase = PRIOR_FOUND, PRIOR_FOUND * PRIOR_SIZE * sigma, MEMORY, Phase.BROAD
    for n, trial in enumerate(trials, 1):
        kept = 1.0 - 1.0 / _memory(n)
        found = kept * found + (trial.gain > 0)
        gained = kept * gained + trial.gain
        tried = kept * tried + 1.0
        if n >= MINIMUM:
            phase = _phase(phase, _ahead(hour, n) * gained / tried, sigma, worth)
    ahead = _ahead(hour, len(trials))
    gain = ahead * gained / tried
    return Outlook(
        phase=phase,
        gain=gain,
        low=gain * _relative(found, (1 - COVERAGE) / 2),
        high=gain * _relative(found, (1 + COVERAGE) / 2),
        chance=1.0 - (tried / (tried + ahead)) ** found,
        hour=hour,
        worth=worth,
        tried=len(trials),
        missing=max(0, math.ceil(max(MINIMUM, hour.experiments)) - len(trials)),
        sign=sign,
    )


def _memory(n: int) -> float:
    return max(MEMORY, n / SHARE)


def _ahead(hour: Hour, n: int) -> float:
    """Return for how many of the latest experiments those of the next hour count."""
    return -_memory(n) * math.expm1(-hour.experiments / _memory(n))


def _phase(before: Phase, gain: float, sigma: float, worth: float) -> Phase:
    """Return the phase after one more experiment: it changes at once when worse, and back with a margin."""
    broad = max(resolution(sigma), LEAVING**2 * worth)
    back = {Phase.BROAD: (1.0, 1.0), Phase.REFINEMENT: (LEAVING, 1.0), Phase.DIMINISHING: (LEAVING, LEAVING)}
    to_broad, to_refinement = back[before]
    if gain >= broad * to_broad:
        return Phase.BROAD
    return Phase.REFINEMENT if gain >= worth * to_refinement else Phase.DIMINISHING


def _relative(found: float, probability: float) -> float:
    """Return a quantile of rate times mean size, over its expectation: Gamma(found) over Gamma(found + 1)."""
    from scipy.special import betaincinv  # type: ignore[import-untyped]

    share = float(betaincinv(found, found + 1.0, probability))
    return share / max(1.0 - share, 1e-12)


# ---------------------------------------------------------------------------
# What the noise hides
# ---------------------------------------------------------------------------


def resolution(sigma: float, runs: int = 1) -> float:
    """Return the difference of two codes that so many runs of each can tell from nothing."""
    return CLEAR * sigma * math.sqrt(2.0 / runs)


def runs_needed(sigma: float, gain: float) -> int:
    """Return how many runs of each of two codes tell that gain from nothing, by CLEAR standard errors."""
    return max(1, math.ceil(2.0 * (CLEAR * sigma / gain) ** 2 - 1e-9))


def doubt(trials: Sequence[Trial], sigma: float, baseline: float, *, most: int = MOST_RUNS) -> Doubt | None:
    """Return why gains cannot be told from noise; None where they can.

    In doubt is a usual gain, USUAL_GAIN of the baseline's value: where it takes more than `most` runs of
    each code, and fewer than half of the keeps stand out of the noise of the runs they had.
    """
    gain = USUAL_GAIN * abs(baseline)
    kept = [(trial.claimed, trial.error) for trial in trials if trial.claimed is not None]
    clear = sum(claimed > CLEAR * error for claimed, error in kept)
    if not gain or runs_needed(sigma, gain) <= most or 2 * clear >= max(1, len(kept)):
        return None
    return Doubt(sigma=sigma, resolves=resolution(sigma), gain=gain, runs=runs_needed(sigma, gain))


# ---------------------------------------------------------------------------
# What was tried
# ---------------------------------------------------------------------------


def believed(difference: float, error: float) -> float:
    """Return what is believed of a measured gain: shrunk towards nothing, none of it within its error."""
    return max(0.0, difference - error**2 / difference) if difference > 0 else 0.0


def trials_of(history: History) -> list[Trial]:
    """Return what a study has judged beside its baseline, in the order of the verdicts."""
    judged = [e for e in history.experiments.values() if e.verdict is not None and e.id != BASELINE]
    lineage = [e.id for e in history.lineage()]
    before = dict(zip(lineage[1:], lineage, strict=False))
    spread = {kind: noise(history, kind) for kind in {run.worker_kind or "" for run in history.all_runs()}}
    found = []
    for e in sorted(judged, key=lambda e: (e.judged_at or 0.0, e.id)):
        hours = sum(run.seconds or 0.0 for run in history.runs_of(e.id)) / 3600
        claim = _claim(history, e.id, before[e.id], spread) if e.id in before else None
        if claim is None:
            found.append(Trial(hours=hours))
        else:
            found.append(Trial(gain=believed(*claim), claimed=claim[0], error=claim[1], hours=hours))
    return found


def _claim(
    history: History, kept: str, base: str, noises: Mapping[str, Noise | None]
) -> tuple[float, float] | None:
    """Return how much better a kept code measured than the one before, and the standard error of that."""
    found = []
    for kind in dict.fromkeys(run.worker_kind or "" for run in history.finished(kept)):
        new, old, spread = estimate(history, kept, kind), estimate(history, base, kind), noises.get(kind)
        if new is not None and old is not None and spread is not None:
            error = spread.of_difference(new.n, old.n)
            found.append((error, history.goal.sign * (old.mean - new.mean)))
    error, gain = min(found, default=(0.0, None))
    return None if gain is None else (gain, error)


def trials_of_table(rows: Sequence[Prior], sigma: float, hours: float, sign: int = 1) -> Iterator[Trial]:
    """Yield the experiments of a results.tsv after its baseline, each a single run of so many hours."""
    best: float | None = None
    error = math.sqrt(2) * sigma
    for row in rows:
        if best is None:
            best = row.value
        elif row.status == "keep" and row.value is not None:
            gain = sign * (best - row.value)
            best = row.value if gain > 0 else best
            yield Trial(gain=believed(gain, error), claimed=gain, error=error, hours=hours)
        elif row.status != "skip":
            yield Trial(hours=hours)


def hour_of(trials: Sequence[Trial], workers: int, dollars: float = 0.0) -> Hour | None:
    """Return what an hour of so many workers holds, by what an experiment took lately; None: unknown."""
    taken = [trial.hours for trial in trials[-RECENT:]]
    if not workers or not sum(taken):
        return None
    return Hour(experiments=workers * len(taken) / sum(taken), workers=workers, dollars=dollars)


def few(number: float) -> str:
    """Return a positive number with two digits that count, without the zero before the point: .0006."""
    if not number or not math.isfinite(number):
        return "0" if not number else str(number)
    places = max(0, 1 - math.floor(math.log10(abs(number))))
    text = f"{number:.{places}f}"
    text = text.rstrip("0").rstrip(".") if places else text
    return text.removeprefix("0") if text.startswith("0.") else text


class Lookout:
    """Looks at one study again and again: anew only when another experiment was judged."""

    def __init__(self, worth: float | None) -> None:
        """Take what an hour must be worth; None: one sigma."""
        self._worth = worth
        self._seen: tuple[int, int, float] | None = None
        self._found: Outlook | None = None

    def look(self, history: History, workers: int, dollars: float) -> Outlook | None:
        """Return what the next hour of so many workers promises; None before noise and cost are known."""
        judged = sum(e.verdict is not None for e in history.experiments.values())
        if self._seen != (judged, workers, dollars):
            self._seen = (judged, workers, dollars)
            self._found = outlook_of(history, workers, dollars, self._worth)
        return self._found


def outlook_of(history: History, workers: int, dollars: float, worth: float | None) -> Outlook | None:
    """Return what the next hour of a study promises; None before its noise and what it costs are known."""
    sigma, trials = sigma_of(history), trials_of(history)
    hour = hour_of(trials, workers, dollars)
    if sigma is None or hour is None:
        return None
    return outlook(trials, sigma, hour, worth=worth, sign=history.goal.sign)


def doubt_of(history: History, baseline: float | None, most: int | None) -> Doubt | None:
    """Return why a study can decide nothing with at most so many runs of an idea; None where it can."""
    sigma = sigma_of(history)
    if sigma is None or baseline is None:
        return None
    return doubt(
        trials_of(history), sigma, baseline, most=MOST_RUNS if most is None else min(most, MOST_RUNS)
    )


def sigma_of(history: History) -> float | None:
    """Return the noise of one run where the best code was measured most; None before it is known."""
    best = history.incumbent()
    kinds = [run.worker_kind or "" for run in history.finished(best.id)] if best else []
    known = [(spread.df, spread.sigma) for kind in dict.fromkeys(kinds) if (spread := noise(history, kind))]
    return max(known)[1] if known else None
