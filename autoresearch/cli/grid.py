"""`results --grid`: what the factors of a grid do, one by one and in pairs."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import typer

from autoresearch.cli.common import existing_study, plus_minus, say_if_idle
from autoresearch.cli.look import standing, warnings
from autoresearch.cli.output import DOCUMENT_BYTES, print_json, shorten
from autoresearch.console import text
from autoresearch.history import History
from autoresearch.judging.factorial import Contrast, Effects, Observation, analyse
from autoresearch.judging.statistics import Noise, noise
from autoresearch.store import GridRow
from autoresearch.untrusted import clean

MAX_LEVELS = 20  # that are told in JSON


def grid_results(folder: Path, study: str | None, name: str, *, as_json: bool) -> None:
    """Print a grid's main effects and interactions with their 95 % intervals."""
    opened = existing_study(folder, study)
    grid, history = opened.store.grid(name), opened.store.history()
    elsewhere = _noise(_without(history, {experiment for _, experiment in grid.cells}))
    effects = analyse(grid.factors, list(_observations(grid, history)), elsewhere)
    if as_json:
        print_json(_fitted(_document(opened.target.metric.name, grid, effects) | standing(opened)))
        return
    for line in warnings(opened):
        typer.echo(line)
    for line in _lines(opened.target.metric.name, grid, effects):
        typer.echo(line)
    say_if_idle(opened)


def _observations(grid: GridRow, history: History) -> Iterator[Observation]:
    """Yield every measured run of the grid's cells.

    Those that were repeated because they looked good count with all their runs: that is a little
    against them, never for them.
    """
    for levels, experiment in grid.cells:
        for run in history.finished(experiment) if experiment else []:
            if run.value is not None:
                place = tuple(float(levels[factor]) for factor in grid.factors)
                yield Observation(levels=place, kind=run.worker_kind or "", value=run.value)


def _without(history: History, experiments: Collection[str | None]) -> History:
    """Return a history without some experiments: a grid's own repeats are told by the grid itself."""
    kept = {name: found for name, found in history.experiments.items() if name not in experiments}
    return History(goal=history.goal, experiments=kept, runs=history.runs)


def _noise(history: History) -> Mapping[str, Noise]:
    kinds = {run.worker_kind or "" for run in history.all_runs() if run.measurement}
    return {kind: found for kind in sorted(kinds) if (found := noise(history, kind))}


def _document(metric: str, grid: GridRow, effects: Effects) -> dict[str, Any]:
    return {
        "grid": grid.name,
        "hypothesis": shorten(clean(grid.hypothesis), 200),
        "metric": metric,
        "parent": grid.parent,
        "cells": effects.cells,
        "measured": effects.cells_measured,
        "experiments": [experiment for _, experiment in grid.cells],
        "main": {
            name: {
                "against": main.against,
                "levels": {f"{level:g}": _contrast(found) for level, found in main.levels.items()},
                "p": _round(main.p),
            }
            for name, main in effects.main.items()
        },
        "interactions": [
            {"of": list(pair), "at": found.at, **_contrast(found.departure), "p": _round(found.p)}
            for pair, found in effects.interactions.items()
        ],
        "noise": effects.noise and {"sigma": _round(effects.noise.sigma), "df": effects.noise.df},
        "noise_from": effects.source,
        "notes": list(effects.notes),
    }


def _fitted(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document without what matters least, as far as it has to be shorter."""
    for key in ("experiments", "notes", "interactions"):
        if len(json.dumps(document)) <= DOCUMENT_BYTES - 40:
            break
        document = {**document, key: document[key][: 4 if key != "experiments" else 0]}
    if len(json.dumps(document)) > DOCUMENT_BYTES - 40:
        shown = MAX_LEVELS // max(1, len(document["main"]))
        main = {
            name: {**each, "levels": dict(islice(each["levels"].items(), shown))}
            for name, each in document["main"].items()
        }
        document = {**document, "main": main, "notes": [f"the first {shown} levels; --no-json has all"]}
    return document


def _contrast(found: Contrast) -> dict[str, float | None]:
    return {"effect": _round(found.value), "half_width": _round(found.half_width)}


def _round(number: float | None) -> float | None:
    return None if number is None else float(f"{number:.4g}")


# ---------------------------------------------------------------------------
# For people
# ---------------------------------------------------------------------------


def _lines(metric: str, grid: GridRow, effects: Effects) -> Iterator[str]:
    factors = " x ".join(grid.factors)
    yield f"{grid.name}: {factors} on {grid.parent}, by {grid.author}   {clean(grid.hypothesis)}".rstrip()
    measured = f"{effects.cells_measured} of {effects.cells} cells measured"
    yield f"{measured}; effects on {metric} with 95 % intervals"
    yield ""
    for name, main in effects.main.items():
        against = "" if main.against is None else f"against {main.against:g}"
        for level, found in main.levels.items():
            yield _line(f"{name} {level:g}", against, found, main.p)
    for (first, second), pair in effects.interactions.items():
        where = f"at {pair.at[0]:g}, {pair.at[1]:g}" if pair.at else ""
        yield _line(f"{first} x {second}", where, pair.departure, pair.p)
    if effects.noise:
        said = f"noise {plus_minus()}{text.short(effects.noise.sigma, 5)} from {effects.source}"
        yield f"\n{said}, {effects.noise.df} degrees of freedom"
    yield from effects.notes


def _line(name: str, where: str, found: Contrast, p: float | None) -> str:
    if found.value is None:
        return f"{name:<28} {where:<18} cannot be told yet"
    width = f" {plus_minus()}{text.short(found.half_width, 5)}" if found.half_width is not None else ""
    chance = "" if p is None else "   p <.001" if p < 0.0005 else f"   p {text.short(p, 3)}"
    return f"{name:<28} {where:<18} {text.signed(found.value, 5):>8}{width}{chance}"
