"""What a factorial grid of runs says about its factors: main effects, interactions, their intervals. Pure.

The model is linear: an offset per worker kind, main effects, and all interactions of two factors, in
sum-to-zero coding. Interactions of three or more factors are not estimated and are assumed nil, and
factors are assumed to act alike on all kinds. A pair of factors whose interaction the runs cannot tell
is taken to add. A difference is reported only if the runs can tell it, that is if it lies in the row
space of the design (Searle, Linear Models, 1971, chapter 5). Levels without a run are left out first.

Intervals and p-values are individual, not simultaneous: of twenty true nulls, one falls below 0.05.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from operator import contains
from statistics import stdev
from typing import TYPE_CHECKING, Literal

from autoresearch.judging.statistics import Noise

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

Term = tuple[str, ...]  # a factor, or a pair of them
Source = Literal["replicates", "residuals"]
WELL_KNOWN = 10  # degrees of freedom; weights from fewer made 95 % intervals cover 88 to 92 % in simulation
NIL = 1e-12  # of the largest value: less is rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One measured run: its levels in the order of the factors, and a finite value."""

    levels: tuple[float, ...]
    kind: str
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """A difference of means; its value is None where the runs cannot tell it."""

    value: float | None = None
    half_width: float | None = None  # of its interval; None while there is no noise to go by


@dataclass(frozen=True, slots=True, kw_only=True)
class Main:
    """What a factor does, averaged equally over the levels of the others."""

    against: float | None = None  # the first level that was measured; None if fewer than two were
    levels: Mapping[float, Contrast]  # every other level minus that one
    p: float | None = None  # of the F test that all levels are alike


@dataclass(frozen=True, slots=True, kw_only=True)
class Interaction:
    """How far two factors are from adding up.

    With two levels each, `departure` is the difference of differences, (d - c) - (b - a), and `at` is
    None. With more, it is the departure of one cell's mean from the sum of main effects, for the cell
    `at` that departs most. Being the largest of several it is flattered; `p` is not.
    """

    at: tuple[float, float] | None = None
    departure: Contrast = Contrast()
    p: float | None = None  # of the F test that the pair adds


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """What a grid says: by factor, by pair of factors, and how sure it is."""

    main: Mapping[str, Main]
    interactions: Mapping[tuple[str, str], Interaction]
    confidence: float
    noise: Noise | None  # what the intervals are based on, pooled over kinds; None if not known
    source: Source | None  # where it is from
    cells_measured: int
    cells: int
    notes: tuple[str, ...]  # what could not be estimated or had to be assumed, in plain words


def analyse(
    factors: Mapping[str, Sequence[float]],
    observations: Sequence[Observation],
    noise: Mapping[str, Noise],
    confidence: float = 0.95,
) -> Effects:
    """Return the effects of a grid's factors, by least squares with Student's t intervals.

    The error variance is that of repeated runs of a cell on a kind, pooled with `noise` by degrees of
    freedom (Box, Hunter and Hunter, Statistics for Experimenters, 2005, chapter 5). So `noise`, by
    kind, has to come from other runs than these, or they would count twice. Only without either is it
    the model's residuals, which hold what the model leaves out as well. Where the noise of every kind
    is known and differs, each keeps its own (Satterthwaite's degrees of freedom, 1946), and runs weigh
    by 1 / sigma^2 once each kind's has WELL_KNOWN degrees of freedom.

    Raises:
        ValueError: an observation is outside the grid or not finite, or `confidence` is no fraction.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; use a fraction such as 0.95")
    grid = _Grid(factors, observations)
    terms = _terms(grid)
    spread = _spread(grid, terms, noise)
    model = _Model(grid, terms, spread.by_kind)
    main = {name: _main(grid, model, name, confidence) for name in factors}
    pairs = list(combinations(factors, 2))
    return Effects(
        main=main,
        interactions={pair: _interaction(grid, model, pair, confidence) for pair in pairs},
        confidence=confidence,
        noise=spread.pooled,
        source=spread.source,
        cells_measured=len({run.levels for run in observations}),
        cells=math.prod(len(levels) for levels in grid.factors.values()),
        notes=(*_gaps(grid, main, model), *spread.notes),
    )


class _Grid:
    """The runs of a grid, and which levels of its factors they have measured."""

    def __init__(self, factors: Mapping[str, Sequence[float]], runs: Sequence[Observation]) -> None:
        self.factors = {name: tuple(dict.fromkeys(levels)) for name, levels in factors.items()}
        self.runs, self.kinds = runs, sorted({run.kind for run in runs})
        for run in runs:
            inside = len(run.levels) == len(factors) and all(map(contains, factors.values(), run.levels))
            if not (inside and math.isfinite(run.value)):
                raise ValueError(f"{run} is not of the grid {self.factors}; pass finite values of its cells")
        measured = {name: {run.levels[i] for run in runs} for i, name in enumerate(factors)}
        self.seen = {name: [v for v in self.factors[name] if v in measured[name]] for name in factors}
        self.varied = [name for name, levels in self.seen.items() if len(levels) >= 2]

    def places(self, term: Term) -> list[int]:
        """Return each run's cell among those of a term, numbered as in `codes`."""
        found = [0] * len(self.runs)
        for name in term:
            levels, axis = self.seen[name], list(self.factors).index(name)
            for i, run in enumerate(self.runs):
                found[i] = found[i] * len(levels) + levels.index(run.levels[axis])
        return found

    def codes(self, term: Term) -> Array:
        """Return the sum-to-zero code of each cell of a term, (cells, coefficients)."""
        import numpy as np

        found: Array = np.ones((1, 1))
        for name in term:
            last = len(self.seen[name]) - 1
            code = np.vstack([np.eye(last), -np.ones((1, last))])
            found = np.kron(found, code).astype(np.float64)
        return found

    def on(self, kinds: Collection[str]) -> Array:
        """Return 1 for the runs on these kinds and 0 for the others, (runs,)."""
        import numpy as np

        return np.array([run.kind in kinds for run in self.runs], dtype=np.float64)


class _Model:
    """A least-squares fit of the runs; they weigh by the noise of their kinds if it is well known."""

    def __init__(self, grid: _Grid, terms: Sequence[Term], noise: Mapping[str, Noise]) -> None:
        import numpy as np

        self._values = np.array([run.value for run in grid.runs], dtype=np.float64)
        columns = [np.ones((len(grid.runs), 1)), *(grid.on([kind])[:, None] for kind in grid.kinds[1:])]
        start, self.place = len(columns), dict[Term, slice]()
        for term in terms:
            columns.append(grid.codes(term)[grid.places(term)])
            self.place[term] = slice(start, start := start + columns[-1].shape[1])
        self._design = np.hstack(columns)
        alike = {known: [kind for kind in noise if noise[kind] == known] for known in noise.values()}
        self._groups = [(grid.on(kinds), known) for known, kinds in alike.items()]
        least = min((known.sigma for known in alike), default=1.0)
        even = not noise or min(known.df for known in alike) < WELL_KNOWN
        root = np.array([1.0 if even else least / noise[run.kind].sigma for run in grid.runs])
        self._solve = np.linalg.pinv(self._design * root[:, None], rcond=1e-9) * root  # (columns, runs)
        self._row_space = self._solve @ self._design  # a projection

    def residual(self) -> Noise | None:
        """Return the noise in what the model leaves unexplained, None if it fits any values."""
        import numpy as np

        df = len(self._values) - round(np.trace(self._row_space))
        left = self._values - self._design @ (self._solve @ self._values)
        return Noise(sigma=math.sqrt(float(left @ left) / df), df=df) if df else None

    def uses(self, term: Term, rows: Array) -> Array | None:
        """Return what each run counts in combinations of a term's coefficients, None if not estimable."""
        import numpy as np

        found = np.zeros((len(rows), len(self._solve)))
        found[:, self.place[term]] = rows
        told = np.allclose(found @ self._row_space, found, rtol=0, atol=1e-7)
        return found @ self._solve if told else None

    def contrast(self, term: Term, row: Array, confidence: float) -> Contrast:
        """Return one combination of a term's coefficients, with its interval."""
        from scipy.special import stdtrit  # type: ignore[import-untyped]

        use = self.uses(term, row[None])
        if use is None or not self._groups:
            return Contrast(value=None if use is None else float(use[0] @ self._values))
        variance, df = self._variance(use[0])
        half_width = float(stdtrit(df, (1 + confidence) / 2)) * math.sqrt(variance)
        return Contrast(value=float(use[0] @ self._values), half_width=half_width)

    def p(self, term: Term) -> float | None:
        """Return the p-value of the F test that all of a term's coefficients are nil."""
        import numpy as np
        from scipy.special import fdtrc

        use = self.uses(term, np.eye(self.place[term].stop - self.place[term].start))
        if use is None or not self._groups:
            return None
        found, covariance = use @ self._values, np.zeros((len(use), len(use)))
        for members, known in self._groups:
            covariance += (use * members) @ use.T * known.sigma**2
        f = float(found @ np.linalg.solve(covariance, found)) / len(found)
        return float(fdtrc(len(found), min(self._variance(row)[1] for row in use), f))

    def _variance(self, use: Array) -> tuple[float, float]:
        """Return the variance of a weighted sum of runs and its degrees of freedom."""
        parts = [(float(use**2 @ members) * known.sigma**2, known.df) for members, known in self._groups]
        total = sum(part for part, _ in parts)
        return total, total**2 / sum(part**2 / df for part, df in parts)


def _terms(grid: _Grid) -> list[Term]:
    """Return all main effects and those interactions that the runs can tell."""
    main: list[Term] = [(name,) for name in grid.varied]
    pairs: list[Term] = list(combinations(grid.varied, 2))
    full = _Model(grid, [*main, *pairs], {})
    return [*main, *(pair for pair in pairs if full.uses(pair, grid.codes(pair)) is not None)]


def _main(grid: _Grid, model: _Model, name: str, confidence: float) -> Main:
    """Return a factor's effects against the first level that was measured."""
    levels, declared = grid.seen[name], grid.factors[name]
    if name not in grid.varied:
        return Main(levels={level: Contrast() for level in declared if level not in levels})
    first, *others = grid.codes((name,))
    steps = [model.contrast((name,), code - first, confidence) for code in others]
    found = dict(zip(levels[1:], steps, strict=True))
    against = {level: found.get(level, Contrast()) for level in declared if level != levels[0]}
    return Main(against=levels[0], levels=against, p=model.p((name,)))


def _interaction(grid: _Grid, model: _Model, pair: tuple[str, str], confidence: float) -> Interaction:
    """Return how far a pair is from adding up; of cells that tie, the one of the latest levels."""
    if pair not in model.place:
        return Interaction()
    codes, p = grid.codes(pair), model.p(pair)
    if len(codes) == 4:
        return Interaction(departure=model.contrast(pair, 4 * codes[3], confidence), p=p)
    cells = list(product(*(enumerate(grid.seen[name]) for name in pair)))
    found = [model.contrast(pair, code, confidence) for code in codes]
    sizes = [abs(contrast.value or 0.0) for contrast in found]
    top = [k for k, size in enumerate(sizes) if size >= max(sizes) * (1 - 1e-9)]
    k = max(top, key=lambda k: (cells[k][0][0] + cells[k][1][0], cells[k][:: 1 if pair[0] < pair[1] else -1]))
    return Interaction(at=(cells[k][0][1], cells[k][1][1]), departure=found[k], p=p)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spread:
    """The noise of the runs, pooled and as it is to be used by kind; none by kind, no intervals."""

    pooled: Noise | None = None
    by_kind: Mapping[str, Noise] = field(default_factory=dict)
    source: Source | None = None
    notes: tuple[str, ...] = ()


def _spread(grid: _Grid, terms: Sequence[Term], noise: Mapping[str, Noise]) -> _Spread:
    """Return the noise of repeated runs, else of the residuals, else none."""
    known = _repeated(grid, noise)
    pooled = _pool(known.values()) or _Model(grid, terms, {}).residual()
    if pooled is None:
        return _Spread(notes=("too few runs to tell noise: effects have no intervals",))
    source: Source = "replicates" if known else "residuals"
    if pooled.sigma <= NIL * max(abs(run.value) for run in grid.runs):
        note = f"the {source} show no noise at all: effects have no intervals"
        return _Spread(pooled=pooled, source=source, notes=(note,))
    if len(known) == len(grid.kinds) and _differ(known.values(), pooled):
        note = "noise differs by kind: " + ", ".join(f"{kind} {n.sigma:.2g}" for kind, n in known.items())
        return _Spread(pooled=pooled, by_kind=known, source=source, notes=(note,))
    lacking = ", ".join(kind for kind in grid.kinds if known and kind not in known)
    notes = (f"the noise of {lacking} is taken to be that of {', '.join(known)}",) if lacking else ()
    return _Spread(pooled=pooled, by_kind=dict.fromkeys(grid.kinds, pooled), source=source, notes=notes)


def _repeated(grid: _Grid, noise: Mapping[str, Noise]) -> dict[str, Noise]:
    """Return the noise of each kind in the grid: the given, pooled with that of repeated cells."""
    parts = {kind: [noise[kind]] if kind in noise else [] for kind in grid.kinds}
    cells: defaultdict[tuple[str, tuple[float, ...]], list[float]] = defaultdict(list)
    for run in grid.runs:
        cells[run.kind, run.levels].append(run.value)
    for (kind, _), values in cells.items():
        if len(values) >= 2:
            parts[kind].append(Noise(sigma=stdev(values), df=len(values) - 1))
    return {kind: pooled for kind, found in parts.items() if (pooled := _pool(found))}


def _pool(parts: Collection[Noise]) -> Noise | None:
    """Return noises pooled by their degrees of freedom, None if they have none."""
    df = sum(part.df for part in parts)
    return Noise(sigma=math.sqrt(sum(part.df * part.sigma**2 for part in parts) / df), df=df) if df else None


def _differ(known: Collection[Noise], pooled: Noise) -> bool:
    """Whether kinds differ in noise at the 5 % level of Bartlett's test (1937); nil noise is no evidence."""
    from scipy.special import chdtrc

    if len(known) < 2 or min(n.sigma for n in known) <= 1e-6 * pooled.sigma:
        return False
    ratio = sum(2 * n.df * math.log(pooled.sigma / n.sigma) for n in known)
    scale = 1 + (sum(1 / n.df for n in known) - 1 / pooled.df) / (3 * (len(known) - 1))
    return bool(chdtrc(len(known) - 1, ratio / scale) < 0.05)


def _gaps(grid: _Grid, main: Mapping[str, Main], model: _Model) -> Iterator[str]:
    """Yield in plain words what the runs cannot tell."""
    if not grid.runs:
        yield "no cell was measured"
        return
    for name, levels in grid.seen.items():
        if len(levels) == 1:
            yield f"{name}: only {levels[0]:.12g} was measured"
            continue
        for level, contrast in main[name].levels.items():
            if contrast.value is None:
                why = "is confounded with kinds or other effects" if level in levels else "was not measured"
                yield f"{name}: {level:.12g} {why}"
    for pair in combinations(grid.varied, 2):
        if pair not in model.place:
            cells = math.prod(len(grid.seen[name]) for name in pair)
            lost = cells - len(set(grid.places(pair)))
            why = f"{lost} of {cells} cells are missing" if lost else "confounded with kinds or other effects"
            yield f"{' x '.join(pair)}: {why}; taken to add"
