"""What a screen is judged by while it runs: curves of finished runs, each read once.

The harness reports a run's curve in its machine line, wherever it ran, and the store keeps that.
"""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

from autoresearch.experiment import Purpose, Run
from autoresearch.history import BASELINE, History
from autoresearch.judging.pruning import Curve, Thresholds, comparable, curve_of, thresholds
from autoresearch.study import Study

RUNS = 12  # of a code that are looked at, the latest: more would hardly move a mean


class References:
    """The reference curves of a study."""

    def __init__(self, study: Study) -> None:
        """Read nothing yet."""
        self._study = study
        self._curves: dict[str, Curve] = {}  # by run

    def thresholds(self, run: Run, kind: str, history: History) -> Thresholds | None:
        """Return what a run on a kind of worker is pruned by; None where it is not.

        Only screens are: what is confirmed, calibrated or repeated is measured to its end. A score that
        the code reports itself has no harness to prune it.
        """
        best = history.incumbent()
        if run.purpose is not Purpose.SCREEN or self._study.target.self_reported:
            return None
        names = dict.fromkeys((best.id if best else BASELINE, BASELINE))
        runs = {name: history.finished(name, kind)[-RUNS:] for name in names}
        curves = {name: [c for r in runs[name] if (c := self._curve(r.id))] for name in names}
        if not any(curves.values()):
            return None
        code = self._study.files(run.experiment)
        alike = [name for name in names if curves[name] and comparable(code, self._study.files(name))]
        steps = [_steps(runs[name]) for name in alike]
        # What a code says of its steps cannot end others' runs: of both codes the one with fewer counts.
        fewest = min((known for known in steps if known), key=median, default=[])
        return thresholds({name: curves[name] for name in alike}, fewest)

    def _curve(self, run: str) -> Curve:
        """Return a finished run's curve; it never changes."""
        if run not in self._curves:
            self._curves[run] = curve_of(self._study.store.facts(run))
        return self._curves[run]


def _steps(runs: Iterable[Run]) -> list[int]:
    return [run.measurement.steps for run in runs if run.measurement and run.measurement.steps]
