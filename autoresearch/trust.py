"""How far a study's score can be trusted: who measures, what holds the code, what a second split says. Pure.

A search that tries much fits its validation split a little, by selection alone. The harness therefore also
measures each run on windows of a second, hidden split; no decision looks at it. A run's gap is its value
there less its value on the first, the same difference in text for every code; what is watched is whether the
gap of the best is larger than the baseline's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from autoresearch.history import BASELINE, History

SURE = 3.5  # standard errors from which a gap that has grown is called so
MIN_DF = 4  # degrees of freedom of the gap's noise, before which nothing is called


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """What the second split says of the best's gain; positive gains are better, in the metric's unit."""

    gain: float  # of the best against the baseline, on the split that decides
    hidden_gain: float  # the same on the second split
    error: float  # standard error of their difference
    df: int
    runs: int  # of the best, with both values

    @property
    def overfitted(self) -> bool:
        """Whether the gain is smaller on the second split, beyond doubt."""
        return self.df >= MIN_DF and self.gain - self.hidden_gain > SURE * self.error

    def __str__(self) -> str:
        word = "too much of it is the split's" if self.overfitted else f"{self.runs} runs"
        lost = self.gain - self.hidden_gain
        return (
            f"the best's gain of {self.gain:.5f} is {self.hidden_gain:.5f} on the second split, "
            f"{lost:+.5f} lost, standard error {self.error:.5f}: {word}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """What stands between a study's score and the code that it is about."""

    self_reported: bool
    unsandboxed: str  # why code ran without a sandbox; "" where none did
    flagged: tuple[str, ...]  # experiments with something for a person to look at
    gap: Gap | None

    def lines(self) -> Iterator[str]:
        """Yield what a person should know before believing the score; nothing where all is well."""
        if self.self_reported:
            yield "score self-reported, code unsandboxed: what the edited code prints is believed"
        elif self.unsandboxed:
            yield f"unsandboxed: {self.unsandboxed}; edited code can reach what its user can"
        if self.gap is not None and self.gap.overfitted:
            yield f"overfitted: {self.gap}"
        if self.flagged:
            last = self.flagged[-1]
            yield f"{len(self.flagged)} flagged for you to look at, {last} last: `autoresearch show {last}`"


def trust_of(history: History, *, self_reported: bool) -> Trust:
    """Return how far the score of a study can be trusted."""
    unsandboxed = ""
    flagged = {e.id: None for e in history.experiments.values() if e.flags}
    for run in history.all_runs():
        if run.measurement is not None:
            unsandboxed = run.measurement.unsandboxed or unsandboxed
            if run.measurement.flags:
                flagged[run.experiment] = None
    return Trust(
        self_reported=self_reported,
        unsandboxed=unsandboxed,
        flagged=tuple(sorted(flagged)),
        gap=gap_of(history),
    )


def gap_of(history: History) -> Gap | None:
    """Return what the second split says of the best; None before that can be told."""
    best = history.incumbent()
    if best is None or best.id == BASELINE:
        return None
    pairs = {name: _pairs(history, name) for name in history.experiments}
    base, top = pairs[BASELINE], pairs[best.id]
    squares, df = 0.0, 0
    for found in pairs.values():
        gaps = [hidden - value for value, hidden in found]
        mean = sum(gaps) / max(1, len(gaps))
        squares += sum((gap - mean) ** 2 for gap in gaps)
        df += max(0, len(gaps) - 1)
    if not base or not top or not df:
        return None
    (value, hidden), (best_value, best_hidden) = (_means(found) for found in (base, top))
    sign = history.goal.sign
    return Gap(
        gain=sign * (value - best_value),
        hidden_gain=sign * (hidden - best_hidden),
        error=math.sqrt(squares / df * (1 / len(base) + 1 / len(top))),
        df=df,
        runs=len(top),
    )


def _pairs(history: History, experiment: str) -> list[tuple[float, float]]:
    """Return the values of an experiment's runs on both splits."""
    measured = [run.measurement for run in history.runs_of(experiment) if run.measurement]
    return [(m.value, m.hidden) for m in measured if m.hidden is not None]


def _means(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    return sum(a for a, _ in pairs) / len(pairs), sum(b for _, b in pairs) / len(pairs)
