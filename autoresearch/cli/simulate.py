"""`simulate`: nights of the real dispatcher in a simulated laboratory, and what came of them."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import typer

from autoresearch.cli.output import print_json
from autoresearch.config import KINDS, Judging
from autoresearch.errors import UsageError
from autoresearch.judging.policy import ConfirmPolicy
from autoresearch.prior import read_results
from autoresearch.protocols import Policy
from autoresearch.simulation import Night, posterior_policy, simulate
from autoresearch.world import WORLDS, Record, recorded

PRICES = {"H100": 2.0, "H200": 2.3}  # USD per hour, as the 16-GPU night of the article paid


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be simulated."""

    workers: Mapping[str, int]
    hours: float
    policy: str
    world: str
    record: Record | None


def run_simulation(
    *,
    workers: str,
    hours: float,
    policy: str,
    world: str,
    seeds: int,
    first_seed: int,
    reach: float | None,
    replay: Path | None,
    as_json: bool,
) -> None:
    """Simulate nights and print what they have in common."""
    if world not in WORLDS:
        raise UsageError(f"no world {world!r}", f"use one of {', '.join(WORLDS)}")
    if policy not in _POLICIES:
        raise UsageError(f"no policy {policy!r}", f"use one of {', '.join(_POLICIES)}")
    if seeds < 1 or hours <= 0:
        raise UsageError("nothing to simulate", "use at least one seed and some hours")
    plan = Plan(
        workers=parse_workers(workers),
        hours=hours,
        policy=policy,
        world=world,
        record=_record(replay) if replay else None,
    )
    numbers = range(first_seed, first_seed + seeds)
    processes = min(len(numbers), os.cpu_count() or 1)
    if processes == 1:
        nights = [_night(plan, seed) for seed in numbers]
    else:
        with ProcessPoolExecutor(processes) as pool:
            nights = list(pool.map(partial(_night, plan), numbers))
    if as_json:
        print_json(_document(plan, nights, reach))
    else:
        for line in _lines(plan, nights, reach):
            typer.echo(line)


def parse_workers(text: str) -> dict[str, int]:
    """Return a pool from H100=13,H200=3; UsageError where it cannot be read."""
    found: dict[str, int] = {}
    for part in text.split(","):
        kind, _, count = part.strip().partition("=")
        if kind not in KINDS or not count.isdigit() or int(count) < 1:
            raise UsageError(f"{part.strip()!r} is no kind of worker with a number", "such as H100=13,H200=3")
        found[kind] = found.get(kind, 0) + int(count)
    return found


def _record(path: Path) -> Record:
    try:
        return recorded(read_results(path.read_text(errors="replace")))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "give a results.tsv") from error
    except ValueError as error:
        raise UsageError(f"{path} is no results.tsv: {error}", "give one with upstream's columns") from error


def _confirm(_: str) -> Policy:
    return ConfirmPolicy(Judging())


_POLICIES: Mapping[str, Callable[[str], Policy]] = {"posterior": posterior_policy, "confirm": _confirm}


def _night(plan: Plan, seed: int) -> Night:
    return simulate(
        WORLDS[plan.world],
        _POLICIES[plan.policy],
        workers=plan.workers,
        hours=plan.hours,
        seed=seed,
        prices=PRICES,
        record=plan.record,
    )


def _document(plan: Plan, nights: Sequence[Night], reach: float | None) -> Mapping[str, Any]:
    found = figures(nights, reach)
    return {
        "policy": plan.policy,
        "world": plan.world,
        "workers": dict(plan.workers),
        "hours": plan.hours,
        "seeds": [night.seed for night in nights],
        "means": {name: round(mean, 6) for name, mean, _ in found if mean is not None},
        "standard_errors": {name: round(error, 6) for name, _, error in found if error is not None},
        "nights": [{k: v for k, v in asdict(night).items() if k != "path"} for night in nights],
    }


def figures(nights: Sequence[Night], reach: float | None) -> list[tuple[str, float | None, float | None]]:
    """Return what nights have in common: names, means, and standard errors of the means."""
    keeps = sum(night.keeps for night in nights)
    reached = [spent for night in nights if reach is not None and (spent := night.cost_of(reach)) is not None]
    rate = nights[0].dollars / nights[0].gpu_hours
    found = [
        ("experiments_per_hour", *_mean([night.experiments / night.hours for night in nights])),
        ("runs_per_hour", *_mean([night.runs / night.hours for night in nights])),
        ("busy", *_mean([night.busy for night in nights])),
        ("true_best", *_mean([night.best for night in nights])),
        ("reported_minus_true", *_mean([night.reported - night.best for night in nights])),
        ("keeps", *_mean([float(night.keeps) for night in nights])),
        ("useless_keeps", sum(night.useless for night in nights) / keeps if keeps else None, None),
        ("gpu_hours", nights[0].gpu_hours, None),
        ("dollars", nights[0].dollars, None),
    ]
    if reach is not None:
        found += [
            ("share_that_reached", len(reached) / len(nights), None),
            ("gpu_hours_to_reach", *(_mean(reached) if reached else (None, None))),
            ("dollars_to_reach", statistics.mean(reached) * rate if reached else None, None),
        ]
    return found


def _mean(values: Sequence[float]) -> tuple[float, float | None]:
    spread = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
    return statistics.mean(values), spread


_WORDS = {
    "experiments_per_hour": ("experiments an hour", "{:.0f}"),
    "runs_per_hour": ("runs an hour", "{:.0f}"),
    "busy": ("worker time in runs", "{:.1%}"),
    "true_best": ("true best", "{:.5f}"),
    "reported_minus_true": ("reported minus true", "{:+.5f}"),
    "keeps": ("keeps", "{:.1f}"),
    "useless_keeps": ("useless keeps", "{:.1%}"),
    "gpu_hours": ("GPU hours a night", "{:.0f}"),
    "dollars": ("GPU dollars a night", "{:.0f}"),
    "share_that_reached": ("nights that reached it", "{:.0%}"),
    "gpu_hours_to_reach": ("GPU hours until then", "{:.1f}"),
    "dollars_to_reach": ("GPU dollars until then", "{:.0f}"),
}


def _lines(plan: Plan, nights: Sequence[Night], reach: float | None) -> list[str]:
    pool = " + ".join(f"{count} {kind}" for kind, count in plan.workers.items())
    where = "a recorded study" if plan.record else f"the world {plan.world!r}"
    count = "1 night" if len(nights) == 1 else f"{len(nights)} nights"
    lines = [f"{plan.policy}: {count} of {plan.hours:g} h on {pool}, in {where}"]
    for name, mean, error in figures(nights, reach):
        label, shape = _WORDS[name]
        if name == "share_that_reached":
            lines.append(f"to a true {reach:g}:")
        shown = shape.format(mean) if mean is not None else "-"
        spread = f"  +-{shape.format(error).lstrip('+')}" if error is not None else ""
        lines.append(f"  {label:<24}{shown:>10}{spread}")
    return lines
