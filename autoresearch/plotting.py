"""progress.png: the picture upstream users know, with error bars and what it cost.

Grey dots were discarded, green ones kept, the green step line is the best so far, crosses at the
upper edge crashed. A second axis counts worker-hours. Loads matplotlib on use, and never opens a
window.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from autoresearch.errors import UsageError
from autoresearch.experiment import Verdict
from autoresearch.history import BASELINE, History
from autoresearch.logparse import clean
from autoresearch.report import Row, results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABEL_CHARS = 45
DISCARDED, KEPT, LINE = "#cccccc", "#2ecc71", "#27ae60"


def plot_progress(history: History, path: Path, *, metric: str, title_note: str = "") -> bool:
    """Write the picture; False, and no file, where no experiment has a value yet.

    Raises UsageError where matplotlib is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("progress.png needs matplotlib", "pip install 'autoresearch[plot]'") from None
    rows = {row.experiment: row for row in results(history)}
    order = [e.id for e in history.experiments.values() if e.verdict is not None]
    place = {id_: i for i, id_ in enumerate(order)}
    measured = [rows[id_] for id_ in order if rows[id_].value is not None]
    if not measured:
        return False
    kept = [rows[e.id] for e in history.lineage() if rows[e.id].value is not None]
    kept.sort(key=lambda row: place[row.experiment])
    figure = Figure(figsize=(16, 8))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _dots(axes, place, [row for row in measured if row.verdict is Verdict.DISCARD])
    _kept(axes, place, kept, last=len(order) - 1)
    crashed = [place[id_] for id_ in order if rows[id_].verdict is Verdict.CRASH]
    _limits(axes, history, measured, kept)
    if crashed:
        top = [axes.get_ylim()[1 if history.goal.sign > 0 else 0]] * len(crashed)
        axes.plot(
            crashed, top, "x", color="#c0392b", markersize=7, label=f"crashed ({len(crashed)})", clip_on=False
        )
    better = "lower" if history.goal.sign > 0 else "higher"
    proposed, keeps = (
        len([i for i in order if i != BASELINE]),
        len([r for r in kept if r.experiment != BASELINE]),
    )
    axes.set_title(
        f"Autoresearch Progress: {proposed} Experiments, {keeps} Kept Improvements{title_note}", fontsize=14
    )
    axes.set_xlabel("Experiment, in the order of proposal", fontsize=12)
    axes.set_ylabel(f"{metric} ({better} is better; bars: one standard error)", fontsize=12)
    axes.set_xlim(-0.6, max(len(order) - 0.4, 1))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(visible=True, alpha=0.2)
    axes.legend(loc="upper right" if history.goal.sign > 0 else "lower right", fontsize=9)
    _hours(axes, history, order)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    return True


def _dots(axes: Axes, place: dict[str, int], rows: list[Row]) -> None:
    x = [place[row.experiment] for row in rows]
    axes.scatter(
        x,
        [row.value for row in rows],
        c=DISCARDED,
        s=12,
        alpha=0.5,
        zorder=2,
        label=f"discarded ({len(rows)})",
    )


def _kept(axes: Axes, place: dict[str, int], rows: list[Row], last: int) -> None:
    if not rows:
        return
    x, y = [place[row.experiment] for row in rows], [row.value for row in rows]
    errors = [row.standard_error or 0.0 for row in rows]
    axes.errorbar(x, y, yerr=errors, fmt="none", ecolor=LINE, elinewidth=1, capsize=3, zorder=3)
    axes.scatter(
        x, y, c=KEPT, s=50, edgecolors="black", linewidths=0.5, zorder=4, label=f"kept ({len(rows)})"
    )
    axes.step(
        [*x, max(last, x[-1])],
        [*y, y[-1]],
        where="post",
        color=LINE,
        linewidth=2,
        alpha=0.7,
        zorder=3,
        label="best so far",
    )
    for row, cx, cy in zip(rows, x, y, strict=True):
        text = clean(row.hypothesis, LABEL_CHARS)
        axes.annotate(
            text,
            (cx, cy),
            textcoords="offset points",
            xytext=(6, 6),
            rotation=30,
            fontsize=8,
            color="#1a7a3a",
            ha="left",
            va="bottom",
        )


def _limits(axes: Axes, history: History, measured: list[Row], kept: list[Row]) -> None:
    """Show what is near the kept values: one exploded run must not flatten the rest."""
    values = sorted(history.goal.sign * (row.value or 0.0) for row in measured)
    best = min([history.goal.sign * (row.value or 0.0) for row in kept] or values[:1])
    typical = values[min(len(values) - 1, int(0.9 * len(values)))]
    base = max([history.goal.sign * (row.value or 0.0) for row in kept] or [typical])
    span = max(typical, base) - best or abs(best) * 0.01 or 1.0
    low, high = best - 0.15 * span, max(typical, base) + 0.25 * span
    if history.goal.sign > 0:
        axes.set_ylim(low, high)
    else:
        axes.set_ylim(-high, -low)


def _hours(axes: Axes, history: History, order: list[str]) -> None:
    """Add the second axis: worker-hours spent up to each experiment."""
    spent, total = [], 0.0
    for id_ in order:
        total += sum(
            (r.ended_at or 0) - (r.submitted_at or 0)
            for r in history.runs_of(id_)
            if r.ended_at and r.submitted_at
        )
        spent.append(total / 3600)
    second = axes.twiny()
    second.set_xlim(axes.get_xlim())
    ticks = sorted({round(i * (len(order) - 1) / 6) for i in range(7)}) if len(order) > 1 else [0]
    second.set_xticks(ticks)
    gpus = any((run.worker_kind or "cpu") != "cpu" for run in history.all_runs())
    second.set_xticklabels([f"{spent[i]:.2f}" if spent[-1] < 10 else f"{spent[i]:.1f}" for i in ticks])
    second.set_xlabel("GPU-hours" if gpus else "CPU-hours of workers", fontsize=10)
