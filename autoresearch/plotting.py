"""progress.png: the picture upstream users know, with error bars and what it cost.

Grey dots were discarded, green ones kept, the green step line is the best so far; triangles at the
edge lie beyond it, crosses crashed. A second axis counts worker-hours. Loads matplotlib on use, and
never opens a window.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from autoresearch.errors import UsageError
from autoresearch.experiment import Experiment, Verdict
from autoresearch.history import BASELINE, History
from autoresearch.report import results
from autoresearch.untrusted import clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABEL_CHARS = 45
DISCARDED, KEPT, LINE, CRASHED, LABEL = "#cccccc", "#2ecc71", "#27ae60", "#c0392b", "#1a7a3a"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One judged experiment in the picture."""

    experiment: str
    x: int
    y: float | None
    error: float
    verdict: Verdict
    label: str


def plot_progress(history: History, path: Path, *, metric: str) -> bool:
    """Write the picture; False, and no file, where no experiment has a value yet.

    Raises UsageError where matplotlib is missing.
    """
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # SkyPilot lets every logger speak
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        raise UsageError("progress.png needs matplotlib", "pip install 'autoresearch[plot]'") from None
    points = _points(history)
    if not any(point.y is not None for point in points):
        return False
    figure = Figure(figsize=(16, 8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    minimize = history.goal.sign > 0
    low, high = _limits(points, sign=history.goal.sign)
    axes.set_ylim(low, high)
    axes.set_xlim(-0.6, max(len(points) - 0.4, 1))
    _draw_discarded(axes, points, low, high)
    _draw_kept(axes, [p for p in points if p.verdict is Verdict.KEEP and p.y is not None], len(points) - 1)
    crashed = [point.x for point in points if point.verdict is Verdict.CRASH]
    if crashed:
        edge = [high if minimize else low] * len(crashed)
        axes.plot(crashed, edge, "x", color=CRASHED, clip_on=False, label=f"crashed ({len(crashed)})")
    proposed = [point for point in points if point.experiment != BASELINE]
    keeps = sum(point.verdict is Verdict.KEEP for point in proposed)
    title = f"Autoresearch Progress: {len(proposed)} Experiments, {keeps} Kept Improvements"
    axes.set_title(title, fontsize=14, pad=12)
    axes.set_xlabel("Experiment, in the order they were judged (0 is the baseline)", fontsize=12)
    better = "lower" if minimize else "higher"
    said = f"{metric} ({better} is better; bars: one standard error)"
    axes.set_ylabel(said, fontsize=12, parse_math=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=True, alpha=0.2)
    axes.legend(loc="upper right" if minimize else "lower right", fontsize=9)
    _draw_hours(axes, history, points)
    figure.savefig(path, dpi=100)
    return True


def _points(history: History) -> list[Point]:
    """Return the judged experiments in the order of their verdicts."""
    rows = {row.experiment: row for row in results(history)}
    judged = [e for e in history.experiments.values() if e.verdict is not None]
    judged.sort(key=lambda e: (e.judged_at or 0.0, e.id))
    return [_point(i, e, rows[e.id].value, rows[e.id].standard_error) for i, e in enumerate(judged)]


def _point(x: int, experiment: Experiment, value: float | None, error: float | None) -> Point:
    return Point(
        experiment=experiment.id,
        x=x,
        y=value,
        error=error or 0.0,
        verdict=experiment.verdict or Verdict.DISCARD,
        label=clean(experiment.hypothesis, LABEL_CHARS),
    )


def _limits(points: Sequence[Point], sign: int) -> tuple[float, float]:
    """Return the range to show: one exploded run must not flatten the rest.

    From a little beyond the best kept to what nine in ten experiments reach, or the worst kept.
    """
    values = sorted(sign * p.y for p in points if p.y is not None)
    kept = [sign * p.y for p in points if p.y is not None and p.verdict is Verdict.KEEP] or values[:1]
    most = values[int(0.9 * (len(values) - 1))]
    best, worst = min(kept), max(most, *kept)
    span = (worst - best) or abs(best) * 0.01 or 1.0
    low, high = sign * (best - 0.2 * span), sign * (worst + 0.25 * span)
    return min(low, high), max(low, high)


def _draw_discarded(axes: Axes, points: Sequence[Point], low: float, high: float) -> None:
    found = [(p.x, p.y) for p in points if p.verdict is Verdict.DISCARD and p.y is not None]
    inside = [(x, y) for x, y in found if low <= y <= high]
    beyond = [(x, y) for x, y in found if not low <= y <= high]
    size = 30 if len(points) < 100 else 12
    if inside:
        x, y = zip(*inside, strict=True)
        axes.scatter(x, y, c=DISCARDED, s=size, zorder=2, label=f"discarded ({len(found)})")
    for name, marker, edge in (("above", "^", high), ("below", "v", low)):
        out = [x for x, y in beyond if (y > high) == (edge == high)]
        if out:
            just_inside = edge + 0.02 * (high - low) * (1 if edge == low else -1)
            label = f"{name} the scale ({len(out)})"
            axes.plot(out, [just_inside] * len(out), marker, color="#999999", label=label)


def _draw_kept(axes: Axes, kept: Sequence[Point], last: int) -> None:
    if not kept:
        return
    x, y = [p.x for p in kept], [p.y or 0.0 for p in kept]
    axes.step([*x, max(last, x[-1])], [*y, y[-1]], where="post", color=LINE, linewidth=2, alpha=0.7, zorder=3)
    axes.errorbar(x, y, yerr=[p.error for p in kept], fmt="none", ecolor=LINE, capsize=3, zorder=3)
    count = f"kept ({len(kept) - 1} and the baseline)"
    axes.scatter(x, y, c=KEPT, s=50, edgecolors="black", linewidths=0.5, zorder=4, label=count)
    for point in kept:
        right = point.x > 0.7 * last > 0
        axes.annotate(
            point.label,
            (point.x, point.y or 0.0),
            textcoords="offset points",
            xytext=(-6, 6) if right else (6, 6),
            rotation=-30 if right else 30,
            rotation_mode="anchor",
            ha="right" if right else "left",
            fontsize=8,
            color=LABEL,
            parse_math=False,  # a hypothesis may hold dollar signs
        )


def _draw_hours(axes: Axes, history: History, points: Sequence[Point]) -> None:
    """Add the second axis: worker-hours spent on experiments up to each one."""
    spent, total = [], 0.0
    for point in points:
        for run in history.runs_of(point.experiment):
            if run.ended_at is not None and run.submitted_at is not None:
                total += (run.ended_at - run.submitted_at) / 3600
        spent.append(total)
    second = axes.twiny()
    second.set_xlim(axes.get_xlim())
    ticks = sorted({round(i * (len(points) - 1) / 6) for i in range(7)})
    second.set_xticks(ticks)
    second.set_xticklabels([f"{spent[i]:.2f}" if total < 10 else f"{spent[i]:.0f}" for i in ticks])
    gpus = any(run.worker_kind not in {None, "cpu"} for run in history.all_runs())
    second.set_xlabel("GPU-hours spent" if gpus else "CPU-hours of workers spent", fontsize=10)
