"""`status`: one look, or a live screen."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from autoresearch.cli.common import existing_study, plus_minus
from autoresearch.cli.look import standing
from autoresearch.cli.output import fit, print_json
from autoresearch.console.look import Look, Watcher
from autoresearch.console.text import DIED, status_lines
from autoresearch.judging.stopping import Outlook
from autoresearch.report import useful_seconds
from autoresearch.store import WorkerRow
from autoresearch.study import Study


def status(folder: Path, study: str | None, *, watch: bool, as_json: bool) -> None:
    """Show how good the best is, and what is going on."""
    opened = existing_study(folder, study)
    watcher = Watcher(opened)
    if watch and not as_json:
        _watch(watcher)
        return
    look = watcher.look(time.time())
    if as_json:
        print_json(fit(_document(opened, look), "workers"))
    else:
        _print(look)


def _print(look: Look) -> None:
    for line in status_lines(look, pm=plus_minus()):
        typer.echo(line)


def _document(opened: Study, look: Look) -> Mapping[str, Any]:
    view = look.overview
    best = view.best
    return {
        "study": look.tag,
        "metric": opened.target.metric.name,
        "goal": str(opened.target.goal),
        "request": look.request,
        "outcome": look.outcome or (None if opened.dispatched() else DIED),
        "best": best
        and {
            "experiment": best.experiment,
            "value": _round(best.value, 6),
            "standard_error": _round(best.standard_error, 6),
        },
        "baseline": view.baseline and _round(view.baseline.value, 6),
        "noise": view.noise and _round(view.noise.sigma, 6),
        "outlook": look.outlook and _outlook(look.outlook),
        "doubt": look.doubt
        and {
            "resolves": _round(look.doubt.resolves, 6),
            "gain": _round(look.doubt.gain, 6),
            "runs": look.doubt.runs,
        },
        "experiments": view.experiments,
        "verdicts": {str(verdict): count for verdict, count in view.verdicts.items()},
        "in_flight": view.in_flight,
        "queued": view.queued,
        "backlog": look.backlog,
        "runs_finished": view.runs_finished,
        "runs_per_hour": _round(view.runs_per_hour, 2),
        "useful": _round(view.useful, 4),
        "pool": look.pool,
        "ready": look.ready or None,
        "dollars_per_hour": _round(look.rate, 2),
        "useful_seconds": _round(useful_seconds(opened.store.history(), look.now), 1),
        "workers": [_worker(row, look.now) for row in opened.store.workers() if row.down_at is None],
        "agent": look.agent,
        "agent_trouble": look.trouble or None,
        "usage": {k: _round(v, 4) if not isinstance(v, dict) else v for k, v in asdict(look.usage).items()},
        "budget": asdict(look.budget),
        "flagged": list(look.trust.flagged[-8:]) if look.trust else [],
        **standing(opened),
    }


def _outlook(outlook: Outlook) -> Mapping[str, Any]:
    """Return what the next hour promises; gains are positive, whatever the goal."""
    figures = ("gain", "low", "high", "chance", "worth")
    return {
        "phase": str(outlook.phase),
        **{name: _round(getattr(outlook, name), 6) for name in figures},
        "experiments": _round(outlook.hour.experiments, 1),
        "dollars": _round(outlook.hour.dollars, 2),
        "stop": outlook.stop,
    }


def _worker(row: WorkerRow, now: float) -> Mapping[str, Any]:
    return {
        "worker": row.name,
        "ready": row.ready,
        "note": row.note or None,
        "allocated_seconds": _round(row.allocated_seconds(now), 0),
        "dollars": _round(row.price_per_hour * row.allocated_seconds(now) / 3600, 2),
    }


def _watch(watcher: Watcher) -> None:
    """Show the live screen until Ctrl-C, or until nothing is dispatched any more."""
    from rich.console import Console
    from rich.live import Live

    from autoresearch.console.live import Screen

    console = Console()
    look = watcher.look(time.time())
    if console.is_terminal and look.alive:
        footer = "Ctrl-C ends watching; the study goes on."
        try:
            with Live(console=console, auto_refresh=False, screen=True) as live:
                while look.alive:
                    live.update(Screen(look, footer), refresh=True)
                    time.sleep(1)
                    look = watcher.look(time.time())
        except KeyboardInterrupt:
            look = watcher.look(time.time())
    _print(look)


def _round(number: float | None, digits: int) -> float | None:
    return None if number is None else round(number, digits)
