"""Measured noise and what an experiment is worth, within one worker kind.

Noise is the pooled standard deviation of repeated runs of the same code on the same kind. A run an
experiment was selected by (its screen) is left out, since the selected are the lucky ones.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

from autoresearch.history import History, fresh, is_unselected

# How much two runs of one code differ, as public data and our own have it, by metric and profile: one
# good configuration on H200 and its share of jobs; train.py on idle and busy cores (.002 to .009).
EXPECTED_NOISE = {("val_bpb", "gpu"): 3.5e-4, ("val_bpb", "cpu"): 4e-3}


def expected_noise(metric: str, profile: str) -> float | None:
    """Return the standard deviation of a run to expect before any was measured; None where none is known."""
    return EXPECTED_NOISE.get((metric, profile.split("-", maxsplit=1)[0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Standard deviation of one run, from `df` degrees of freedom."""

    sigma: float
    df: int

    def of_difference(self, n: int, m: int) -> float:
        """Return the standard deviation of a difference of means of n and m runs."""
        return self.sigma * math.sqrt(1 / n + 1 / m)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """An experiment's value on one worker kind."""

    mean: float
    n: int
    kind: str

    def standard_error(self, noise: Noise | None) -> float | None:
        """Return the standard error of the mean, None while the noise is unknown."""
        return noise.sigma / math.sqrt(self.n) if noise else None


def noise(history: History, kind: str) -> Noise | None:
    """Return the run-to-run noise on a worker kind, or None before anything was repeated there."""
    squares, df = 0.0, 0
    for experiment in history.experiments:
        values = [r.value for r in history.finished(experiment, kind) if fresh(r) and r.value is not None]
        if len(values) >= 2:
            mean = sum(values) / len(values)
            squares += sum((v - mean) ** 2 for v in values)
            df += len(values) - 1
    return Noise(sigma=math.sqrt(squares / df), df=df) if df else None


def estimate(history: History, experiment: str, kind: str) -> Estimate | None:
    """Return an experiment's value on a kind: the mean of its fresh runs, else of its screens.

    Two runs whose outcome its fate did not hang on do without the confirmations it was kept by.
    """
    runs = history.finished(experiment, kind)
    values = [r.value for r in runs if is_unselected(r) and r.value is not None]
    if len(values) < 2:
        values = [r.value for r in runs if fresh(r) and r.value is not None]
    values = values or [r.value for r in runs if r.value is not None]
    if not values:
        return None
    return Estimate(mean=sum(values) / len(values), n=len(values), kind=kind)


def best_estimate(history: History, experiment: str) -> Estimate | None:
    """Return the estimate on the kind with most fresh runs, ties to the kind measured first."""
    counts: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for run in history.finished(experiment):
        kind = run.worker_kind or ""
        counts[kind] = (counts[kind][0] + fresh(run), counts[kind][1] + 1)
    if not counts:
        return None
    return estimate(history, experiment, max(counts, key=lambda k: counts[k]))
