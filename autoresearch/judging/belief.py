"""What a study believes about its bases and its workers, from all of its runs. Pure.

The measurement model, of values whose sign makes lower better:

    y = value(code) + offset(worker) + noise,   offset(worker) = offset(kind) + its own

    value    of the codes that were kept, each its parent's plus the effect it was kept for; any
             other code's is eliminated: its repeated runs tell of offsets alone, by their contrasts
    offset   normal, its spread 1.7 noises and common to a kind thirty; a random walk in time. The
             first kind of worker is the scale: a code's value is what its workers measure on average
    noise    by kind, pooled from everything repeated, shrunk towards all kinds'; it grows with how
             much worse than the best a code is (bad configurations vary by six times as much); a
             run far from its expectation counts for less (Huber's weights), since tails are heavy

The estimate is a Kalman filter over the runs in the order of their ends (Kalman 1960; West and
Harrison, Bayesian Forecasting and Dynamic Models, 1997, section 4), so it is the same whenever it is
asked for. What an effect is believed to be stands in `effects`; the two meet where a code is kept.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING, Protocol

from autoresearch.experiment import Run
from autoresearch.history import BASELINE, History, is_unselected
from autoresearch.judging.arrivals import Arrivals
from autoresearch.judging.state import Gaussian, State

if TYPE_CHECKING:
    from autoresearch.judging.state import Vector

WORKER_SPREAD = 1.7  # in noises, as are the next ones
KIND_SPREAD = 30.0
DRIFT = 0.3  # per square root of an hour
GROWTH = 40.0  # how much worse a code is whose noise is doubled
PRIOR_RUNS = 8.0  # degrees of freedom of the noise that was expected; where the baseline told it:
FEW_RUNS = 2.0
KIND_RUNS = 20.0  # of all kinds' noise in one kind's
HUBER = 2.5
SURE, UNSURE = 9.0, 100.0  # noises squared that one run may add to what is known of the noise; after
SURE_RUNS = 20.0  # degrees of freedom it is the first

_Event = tuple[tuple[float, int, str], Run | None]  # its place in time, and a run; or a keep


@dataclass(slots=True)
class _Sum:
    """The squares behind an estimate of noise."""

    squares: float = 0.0
    df: float = 0.0


class Listener(Protocol):
    """Follows what a belief takes in."""

    def begin_anew(self) -> None:
        """Forget all: what comes now was not in the order of time, and begins from the start."""
        ...

    def first_measured(self, history: History, experiment: str) -> None:
        """Hear of an experiment's first measured run, before any later one counts."""
        ...

    def cavity(self, experiment: str, found: Gaussian, /) -> Gaussian:
        """Return how a kept code differs from its parent, beyond what its runs say of it."""
        ...


class Belief(State):
    """Takes in the runs of a history, oldest first, and answers what is known of values and offsets.

    Call `update` with each later history: what comes in the order of time is added, anything else
    makes it begin anew.
    """

    def __init__(
        self,
        expected_noise: float,
        first_kind: str,
        *,
        prior_runs: float = PRIOR_RUNS,
        drift: float = DRIFT,
        offsets: bool = True,
    ) -> None:
        """Expect runs to differ by that much; without `offsets` all workers are taken to be alike."""
        self._expected = expected_noise
        self._prior_runs = prior_runs
        self._first_kind = first_kind
        self._drift = drift
        self._offsets = offsets
        self._reset()

    def _reset(self) -> None:
        self._clear()  # its variables are workers and kept codes
        self._kind_of: dict[str, str] = {}  # worker -> kind
        self._noise = _Sum(self._prior_runs * self._expected**2, self._prior_runs)
        self._by_kind: defaultdict[str, _Sum] = defaultdict(_Sum)
        self._runs: dict[str, list[Run]] = {}  # measured, by experiment
        self._arrivals = Arrivals()
        self._history: History | None = None  # the last one
        self._kept: set[str] = set()
        self._early: set[str] = set()  # kept before any of their runs has ended, by the clocks
        self._last: tuple[float, int, str] = (-math.inf, 0, "")
        self._last_moment: float | None = None
        self._average_of: tuple[str, int] = ("", -1)
        self._average: tuple[Vector, Vector] = (self._mean, self._mean)
        self.version = 0  # changes with every event

    # -- taking in -------------------------------------------------------------------------------

    def update(self, history: History, listener: Listener) -> None:
        """Take in what is new, telling the listener."""
        if history is self._history:
            return
        self._history = history
        events = self._new_events(history)
        if events and events[0][0] < self._last:
            self._reset()
            listener.begin_anew()
            events = self._new_events(history)
        for key, run in events:
            self._last = key
            self.version += 1
            if run is None:
                self._keep(history, key[2], listener)
            else:
                self._take(history, run, listener)

    def _new_events(self, history: History) -> list[_Event]:
        """Return the measured runs and the keeps not taken in yet, in order of time."""
        new, line = self._arrivals.new(history), history.lineage()
        keeps = [e for e in line if e.id not in self._kept and e.id != BASELINE]
        events: list[_Event] = [((run.ended_at or 0.0, 0, run.id), run) for run in new]
        events += [((e.judged_at or 0.0, 1, e.id), None) for e in keeps]
        return sorted(events, key=lambda event: event[0])

    def _take(self, history: History, run: Run, listener: Listener) -> None:
        name, value = run.experiment, history.goal.sign * (run.value or 0.0)
        earlier = self._runs.setdefault(name, [])
        worker = self._worker(run)
        self._pass_time(run.ended_at or 0.0)
        if name == BASELINE and name not in self._index:
            self._add(name, value - self._mean[worker], (100 * self._expected) ** 2)
        if name in self._index:
            self._observe([(worker, 1.0), (self._index[name], 1.0)], value, self.noise(run.worker_kind), run)
        elif earlier:
            self._contrast(history, run, earlier, worker, value)
        else:
            listener.first_measured(history, name)
        earlier.append(run)
        if name in self._early:
            self._early.discard(name)
            self._keep(history, name, listener)

    def _contrast(
        self, history: History, run: Run, earlier: Sequence[Run], worker: int, value: float
    ) -> None:
        """Learn of offsets from one more run of a code whose own value does not matter (Helmert)."""
        n = len(earlier)
        middle = sum(history.goal.sign * (other.value or 0.0) for other in earlier) / n
        row = [(worker, 1.0), *((self._worker(other), -1.0 / n) for other in earlier)]
        self._observe(row, value - middle, self.noise(run.worker_kind) * (1 + 1 / n), run)

    def _keep(self, history: History, name: str, listener: Listener) -> None:
        """Give a kept code a value: its parent's, its effect, and what its runs say."""
        self._kept.add(name)
        parent = history.experiments[name].parent or BASELINE
        runs = self._runs.get(name, [])
        if parent not in self._index:  # kept from code that never was the best
            parent = ""
        found = self.mean_of(history, name, parent or None)
        if found is None:  # the clock of its machine is ahead of ours: its runs come after
            self._early.add(name)
            return
        if parent:
            effect = listener.cavity(name, found)
            j = self._index[parent]
            i = self._add(name, self._mean[j] + effect.mean, self._cov[j, j] + effect.variance)
            self._cov[i, :i] = self._cov[j, :i]
            self._cov[:i, i] = self._cov[:i, j]
        else:
            i = self._add(name, found.mean, (100 * self._expected) ** 2)
        shares = 1.0 / len(runs)
        row = [(self._worker(run), shares) for run in runs]
        value = sum(history.goal.sign * (run.value or 0.0) for run in runs) * shares
        noise = sum(self.noise(run.worker_kind) for run in runs) * shares**2
        self._observe([*row, (i, 1.0)], value, noise, None)

    def _worker(self, run: Run) -> int:
        """Return the index of a run's worker, which may be new."""
        import numpy as np

        name = f"@{run.worker}"
        if name in self._index:
            return self._index[name]
        kind = run.worker_kind or ""
        own = (WORKER_SPREAD * self._expected) ** 2 if self._offsets else 1e-6 * self._expected**2
        mates = [i for n, i in self._index.items() if self._kind_of.get(n) == kind]
        shared = 0.0 if kind == self._first_kind else (KIND_SPREAD * self._expected) ** 2
        i = self._add(name, 0.0, own + shared)
        if mates and shared:
            # what a kind has in common is known from its other workers: condition on their mean
            rows = np.array(mates)
            inner = self._cov[np.ix_(rows, rows)].sum() / len(rows) ** 2
            self._cov[i, :i] = self._cov[rows, :i].mean(axis=0)
            self._cov[:i, i] = self._cov[i, :i]
            self._mean[i] = self._mean[rows].mean()
            self._cov[i, i] = inner + own * (1 + 1 / len(rows))
        self._kind_of[name] = kind
        return i

    def _pass_time(self, moment: float) -> None:
        """Let the offsets walk on to a moment."""
        import numpy as np

        hours = (moment - self._last_moment) / 3600 if self._last_moment is not None else 0.0
        self._last_moment = moment
        if hours > 0 and self._drift and self._offsets:
            rows = np.array([i for n, i in self._index.items() if n in self._kind_of], dtype=int)
            self._cov[rows, rows] += (self._drift * self._expected) ** 2 * hours

    def _observe(self, row: Sequence[tuple[int, float]], value: float, noise: float, run: Run | None) -> None:
        """Learn from one number: the sum of some variables, and noise of that variance."""
        import numpy as np

        k = self._size
        h = np.zeros(k)
        for i, weight in row:
            h[i] += weight
        gain = self._cov[:k, :k] @ h
        known = float(h @ gain)
        surprise = value - float(h @ self._mean[:k])
        off = abs(surprise) / math.sqrt(known + noise)
        if run is not None and known < 4 * noise:
            share = noise / (known + noise)
            most = SURE if self._noise.df > SURE_RUNS else UNSURE  # a tail, or noise not known yet?
            square = min(surprise**2 * share, most * noise) * (self.noise(run.worker_kind) / noise)
            for sums in (self._noise, self._by_kind[run.worker_kind or ""]):
                sums.squares += square
                sums.df += share
        weighted = noise * max(1.0, off / HUBER) ** 2 if known < 100 * noise else noise
        self._learn(gain, surprise, known + weighted)

    # -- answers ---------------------------------------------------------------------------------

    def noise(self, kind: str | None = None) -> float:
        """Return the variance of a run of a good code, on a kind or on all."""
        pooled = self._noise.squares / self._noise.df
        own = self._by_kind.get(kind) if kind else None
        if own is None or not own.df:
            return pooled
        return (KIND_RUNS * pooled + own.squares) / (KIND_RUNS + own.df)

    @property
    def sigma(self) -> float:
        """The standard deviation of a run of a good code, over all kinds."""
        return math.sqrt(self.noise())

    def df(self, kind: str | None = None) -> float:
        """Return how many degrees of freedom the noise has, those it was expected with left out."""
        if not kind:
            return self._noise.df - self._prior_runs
        return self._by_kind[kind].df if kind in self._by_kind else 0.0

    @property
    def measured(self) -> dict[str, list[Run]]:
        """The measured runs taken in, by experiment, by its first; the same one as it grows."""
        return self._runs

    def runs_of(self, experiment: str) -> Sequence[Run]:
        """Return the measured runs taken in, in order."""
        return self._runs.get(experiment, ())

    def unselected(self, experiment: str) -> list[Run]:
        """Return the measured runs that an experiment's fate did not hang on, in order."""
        return [run for run in self.runs_of(experiment) if is_unselected(run)]

    def knows(self, experiment: str) -> bool:
        """Whether a code's value is estimated: it was kept, or it is the baseline."""
        return experiment in self._index

    def value(self, experiment: str) -> Gaussian:
        """Return the value of a kept code on the first kind's workers, its sign making lower better."""
        h, known = self._on_average(experiment)
        k = self._size
        return Gaussian(mean=float(h @ self._mean[:k]), variance=max(0.0, float(h @ known)))

    def _on_average(self, experiment: str) -> tuple[Vector, Vector]:
        """Return the row of a code's value on an average worker of the first kind, and its covariances."""
        if self._average_of != (experiment, self.version):
            h = self._first_average()
            h[self._index[experiment]] += 1.0
            self._average_of = (experiment, self.version)
            self._average = (h, self._cov[: self._size, : self._size] @ h)
        return self._average

    def difference(self, one: str, other: str) -> Gaussian:
        """Return the value of one kept code minus another's."""
        i, j = self._index[one], self._index[other]
        variance = self._cov[i, i] + self._cov[j, j] - 2 * self._cov[i, j]
        return Gaussian(mean=float(self._mean[i] - self._mean[j]), variance=max(0.0, float(variance)))

    def offset(self, worker: str) -> Gaussian | None:
        """Return how much worse a worker's results are than the first kind's average; None: nothing ran."""
        i = self._index.get(f"@{worker}")
        if i is None:
            return None
        h = -self._first_average()
        h[i] += 1.0
        return Gaussian(mean=float(h @ self._mean[: self._size]), variance=self._spread_of_all(h))

    def kind_offset(self, kind: str) -> Gaussian | None:
        """Return the mean offset of a kind's workers from the first kind's, None where none ran."""
        mine = [i for n, i in self._index.items() if self._kind_of.get(n) == kind]
        if not mine or self._first_kind not in self._kind_of.values():
            return None
        h = -self._first_average()
        h[mine] += 1 / len(mine)
        return Gaussian(mean=float(h @ self._mean[: self._size]), variance=self._spread_of_all(h))

    def workers(self) -> dict[str, str]:
        """Return the workers something ran on, with their kinds."""
        return {name[1:]: kind for name, kind in self._kind_of.items()}

    def mean_of(self, history: History, experiment: str, base: str | None) -> Gaussian | None:
        """Return what an experiment's runs say of its value, minus a base's where one is given.

        The weighted mean of the runs, each corrected for its worker's offset; None without runs. Runs
        far from the median count less where there are three or more.
        """
        runs = self._runs.get(experiment)
        if not runs:
            return None
        j = self._index[base] if base else None
        start = float(self._mean[j]) if j is not None else None
        mean, noise, row = self._weigh(history, runs, start)
        if j is not None:
            row[j] = 1.0
        return Gaussian(mean=mean - (start or 0.0), variance=noise + self._spread(row))

    def claim_of(self, history: History, experiment: str) -> Gaussian | None:
        """Return an experiment's value on the first kind by the runs it was not chosen by; None without."""
        runs = self.unselected(experiment)
        if not runs:
            return None
        mean, noise, row = self._weigh(history, runs, None)
        h = -self._first_average()
        offset = -float(h @ self._mean[: self._size])
        h[list(row)] += list(row.values())
        return Gaussian(mean=mean + offset, variance=noise + self._spread_of_all(h))

    def _weigh(
        self, history: History, runs: Sequence[Run], start: float | None
    ) -> tuple[float, float, dict[int, float]]:
        """Return the weighted mean of runs, the variance of its noise, and the offsets' weights in it."""
        sign = history.goal.sign
        workers = [self._worker(run) for run in runs]
        pairs = zip(runs, workers, strict=True)
        values = [sign * (run.value or 0.0) - float(self._mean[worker]) for run, worker in pairs]
        worse = max(0.0, fmean(values) - start) if start is not None else 0.0
        growth = (1 + worse / (GROWTH * self.sigma)) ** 2
        noise = [self.noise(run.worker_kind) * growth for run in runs]
        if len(runs) >= 3:
            middle = median(values)
            noise = [
                each * max(1.0, abs(value - middle) / math.sqrt(each) / 2) ** 2
                for each, value in zip(noise, values, strict=True)
            ]
        whole = sum(1 / each for each in noise)
        row: dict[int, float] = {}
        for worker, each in zip(workers, noise, strict=True):
            row[worker] = row.get(worker, 0.0) + 1 / each / whole
        mean = sum(value / each for value, each in zip(values, noise, strict=True)) / whole
        return mean, 1 / whole, row

    def _first_average(self) -> Vector:
        """Return the row of the mean offset of the first kind's workers."""
        import numpy as np

        first = [i for n, i in self._index.items() if self._kind_of.get(n) == self._first_kind]
        h = np.zeros(self._size)
        h[first] = 1 / max(1, len(first))
        return h

    def teaches(self, base: str, worker: str, kind: str) -> float:
        """Return by how much one more run of a kept code on a worker lowers the variance of its value."""
        _, known = self._on_average(base)
        j, i = self._index[base], self._index.get(f"@{worker}")
        noise = self.noise(kind)
        if i is None:
            own = (WORKER_SPREAD * self._expected) ** 2
            return float(known[j] ** 2 / (self._cov[j, j] + own + noise))
        scale = self._cov[i, i] + self._cov[j, j] + 2 * self._cov[i, j] + noise
        return float((known[i] + known[j]) ** 2 / scale)
