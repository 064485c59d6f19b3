"""What the effect of an idea is believed to be: most ideas do nothing, a few help, many harm. Pure.

The prior is a mixture, in units of the expected noise of a run; e < 0 is better:

    .45  normal, sd 0.29           does nothing that could be measured
    .12  exponential, mean 1.14    better
    .03  exponential, mean 5       much better: what early ideas are, and the rare later one
    .40  exponential, mean 4.3     worse

found by simulation for searches by language models. Shrinking towards it is what corrects for having
picked the best of many (Efron, Large-Scale Inference, 2010, chapters 1 and 5). A posterior is a
vector of probabilities over GRID points, the same for every experiment of a study.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from autoresearch.judging.state import Gaussian

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from autoresearch.judging.state import Vector

POINTS = 241
REACH = 86.0  # noises, to both sides; the points lie closest around nought
BEND = 6.2
EDGE = 0.9  # of REACH
SHARES = (0.45, 0.12, 0.03, 0.40)  # of ideas that do nothing, help, help much, harm
NOTHING, BETTER, MUCH_BETTER, WORSE = 0.29, 1.14, 5.0, 4.3  # their scales
# What remains of an idea's effect when the same edits are applied to another base, or when its author
# does it anew there, and how likely; nothing, where the base has the like of it
STACKED = ((0.0, 0.3), (0.35, 1.0), (0.5, 1.0), (0.65, 1.0), (0.8, 3.0), (0.9, 3.0), (1.0, 3.0))
REWORKED = ((0.0, 0.3), (0.35, 0.5), (0.5, 0.5), (0.65, 0.5), (0.8, 1.0), (0.9, 1.0), (1.0, 8.0))
TAIL_SHARE, TAIL_VARIANCE = 0.05, 8.0  # of a mean of one or two runs: heavier tails, in noises squared
USELESS = 1 / 7  # noises: an effect that is no better is not worth keeping
REPLICATE_SDS = 1.5  # how many sds of a mean a typical gain must be for the answer to be clear
MAX_NEED = 40.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospect:
    """What one more run of a candidate is worth."""

    useless: float  # probability that it is no better than its base, as far as that is worth keeping
    gain: float  # expected improvement, harm counted as such
    hope: float  # expected improvement where it is one, else nothing
    need: float  # runs until the answer is clear

    @property
    def worth(self) -> float:
        """Expected improvement per run still needed."""
        return self.hope / self.need


class Effects:
    """The grid of one study: its priors and posteriors."""

    def __init__(self, expected_noise: float, shares: Sequence[float] = SHARES) -> None:
        """Make the grid for runs that are expected to differ by that much."""
        import numpy as np

        self._unit = expected_noise
        self.grid: Vector = _grid() * expected_noise
        densities = _densities()
        weights = np.array(shares)[:, None] * densities
        prior = weights.sum(axis=0) * np.gradient(_grid())
        self.prior: Vector = prior / prior.sum()

    def posteriors(
        self, priors: Vector, found: Sequence[Gaussian], runs: Sequence[int], noise: float
    ) -> Vector:
        """Return the posterior of each effect, (m, POINTS), from its prior and what its runs say."""
        import numpy as np

        far = self.grid[-1] * EDGE  # beyond it the grid cannot tell one effect from another
        middle = np.clip(np.array([each.mean for each in found]), -far, far)[:, None]
        variance = np.array([each.variance for each in found])[:, None]
        n = np.array(runs)[:, None]
        square = (self.grid - middle) ** 2
        likelihood = np.exp(-0.5 * square / variance)
        wide = variance + TAIL_VARIANCE * noise / n**2
        tails = np.exp(-0.5 * square / wide) * np.sqrt(variance / wide)
        likelihood = np.where(n <= 2, (1 - TAIL_SHARE) * likelihood + TAIL_SHARE * tails, likelihood)
        posterior = priors * (likelihood + 1e-300)
        normal: Vector = posterior / posterior.sum(axis=1, keepdims=True)
        return normal

    def prospects(
        self, posteriors: Vector, runs: Sequence[int], noise: float, shifts: Sequence[float] | None = None
    ) -> list[Prospect]:
        """Return what more runs of candidates promise; a shift moves the bar one must be under."""
        import numpy as np

        moved = np.zeros((1, 1)) if shifts is None else np.array(shifts)[:, None]
        effects = self.grid + moved
        out = effects > -USELESS * self._unit
        useless = (posteriors * out).sum(axis=1)
        mean = -(posteriors * effects).sum(axis=1)
        hope = -(posteriors * np.where(out, 0.0, effects)).sum(axis=1)
        typical = hope / np.maximum(1 - useless, 1e-9)
        need = (REPLICATE_SDS**2 * noise) / np.maximum(typical, 0.03 * self._unit) ** 2 - np.array(runs)
        need = np.clip(need, 1.0, MAX_NEED)
        columns = (each.tolist() for each in (useless, mean, hope, need))
        return [Prospect(useless=u, gain=m, hope=h, need=k) for u, m, h, k in zip(*columns, strict=True)]

    def remaining(self, posterior: Vector, *, stacked: bool) -> Vector:
        """Return the prior of an idea on another base, given its posterior on the old.

        It is `stacked` where the same edits were applied there, else its author has done it anew.
        """
        remains: Vector = _remaining(stacked=stacked) @ posterior
        return remains

    def whole(self, prior: Vector, likelihood: Vector, *, stacked: bool) -> Vector:
        """Return the posterior of an idea's whole effect by what its share on another base was seen to be."""
        posterior = prior * (likelihood @ _remaining(stacked=stacked) + 1e-300)
        normal: Vector = posterior / posterior.sum()
        return normal

    def both(self, one: Vector, other: Vector) -> Vector:
        """Return the prior of two ideas done in one experiment: their effects add up."""
        import numpy as np

        at, less, more = self._pairs
        weight = np.outer(one, other).ravel()
        found = np.bincount(at, np.concatenate([less * weight, more * weight]), POINTS)
        return found.astype(np.float64, copy=False)  # as it is; its stub says that these are counts

    @cached_property
    def _pairs(self) -> tuple[NDArray[np.intp], Vector, Vector]:
        """Where the sum of each two effects lies: the points around it, all left ones first; its shares."""
        import numpy as np

        total = np.clip(np.add.outer(self.grid, self.grid).ravel(), self.grid[0], self.grid[-1])
        at = np.clip(np.searchsorted(self.grid, total) - 1, 0, POINTS - 2)
        part = (total - self.grid[at]) / (self.grid[at + 1] - self.grid[at])
        return np.concatenate([at, at + 1]), 1 - part, part

    def moments(self, posterior: Vector) -> Gaussian:
        """Return the mean and the variance of an effect."""
        mean = float(posterior @ self.grid)
        return Gaussian(mean=mean, variance=float(posterior @ (self.grid - mean) ** 2))

    def cavity(self, posterior: Vector, found: Gaussian) -> Gaussian:
        """Return what a posterior says beyond what the runs say of the effect: they are not counted twice."""
        own, widest = self.moments(posterior), (8.6 * self._unit) ** 2
        if abs(found.mean) > self.grid[-1] * EDGE:
            return Gaussian(mean=found.mean, variance=widest)
        variance = max(own.variance, 1e-12 * widest)
        precision = 1 / variance - 1 / found.variance
        if precision <= 1 / widest:
            return Gaussian(mean=found.mean, variance=widest)
        middle = (own.mean / variance - found.mean / found.variance) / precision
        return Gaussian(mean=middle, variance=1 / precision)


@lru_cache(maxsize=1)
def _grid() -> Vector:
    import numpy as np

    x = np.linspace(-1.0, 1.0, POINTS)
    points: Vector = np.sinh(x * BEND) / np.sinh(BEND) * REACH
    return points


@lru_cache(maxsize=1)
def _densities() -> Vector:
    """Return the densities of the parts of the prior, (4, POINTS), in noises."""
    import numpy as np

    e = _grid()
    nothing = np.exp(-0.5 * (e / NOTHING) ** 2) / NOTHING / np.sqrt(2 * np.pi)
    better, much = (
        np.where(e < 0, np.exp(np.minimum(e, 0) / scale) / scale, 0.0) for scale in (BETTER, MUCH_BETTER)
    )
    worse = np.where(e > 0, np.exp(-np.maximum(e, 0) / WORSE) / WORSE, 0.0)
    return np.stack([nothing, better, much, worse])


@lru_cache(maxsize=2)
def _remaining(*, stacked: bool) -> Vector:
    """Return the matrix that multiplies an effect by what remains of it, (POINTS, POINTS)."""
    import numpy as np

    e, shares = _grid(), STACKED if stacked else REWORKED
    moved = np.zeros((POINTS, POINTS))
    columns = np.arange(POINTS)
    whole = sum(weight for _, weight in shares)
    for share, weight in shares:
        at = np.clip(np.searchsorted(e, share * e) - 1, 0, POINTS - 2)
        part = (share * e - e[at]) / (e[at + 1] - e[at])
        np.add.at(moved, (at, columns), (1 - part) * weight / whole)
        np.add.at(moved, (at + 1, columns), part * weight / whole)
    return moved
