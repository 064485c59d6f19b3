"""Short ways to say a history, for tests of the pure floors."""

from __future__ import annotations

from typing import Any

from autoresearch.actions import Snapshot
from autoresearch.budget import Budget, Usage
from autoresearch.experiment import (
    Experiment,
    Failure,
    FailureKind,
    Goal,
    Measurement,
    Purpose,
    Run,
    RunState,
    Verdict,
    Worker,
)
from autoresearch.history import History

CPUS = (Worker(name="cpu-01", kind="cpu"), Worker(name="cpu-02", kind="cpu"))


def experiment(number: int, verdict: Verdict | None = None, **changes: Any) -> Experiment:
    defaults: dict[str, Any] = {
        "id": f"e{number:04d}",
        "parent": "e0001" if number > 1 else None,
        "hypothesis": f"idea {number}",
        "author": "test",
        "digest": f"digest {number}",
        "commit": f"{number:040x}",
        "created_at": float(number),
        "verdict": verdict,
        "judged_at": float(number) if verdict else None,
    }
    return Experiment(**{**defaults, **changes})


def run(
    id_: str,
    value: float | None = None,
    *,
    purpose: Purpose = Purpose.SCREEN,
    kind: str = "cpu",
    state: RunState | None = None,
    failure: FailureKind | None = None,
    **changes: Any,
) -> Run:
    if state is None:
        state = RunState.FINISHED if value is not None else RunState.FAILED if failure else RunState.QUEUED
    placed = state is not RunState.QUEUED
    defaults: dict[str, Any] = {
        "id": id_,
        "experiment": id_.split(".", maxsplit=1)[0],
        "purpose": purpose,
        "kind": None,
        "seed": 1,
        "state": state,
        "created_at": float(id_.rsplit(".", maxsplit=1)[1]),
        "worker": f"{kind}-01" if placed else None,
        "worker_kind": kind if placed else None,
        "measurement": Measurement(value=value) if value is not None else None,
        "failure": Failure(kind=failure, message="it broke") if failure else None,
    }
    return Run(**{**defaults, **changes})


def history(*things: Experiment | Run, goal: Goal = Goal.MINIMIZE) -> History:
    experiments = {t.id: t for t in things if isinstance(t, Experiment)}
    runs: dict[str, tuple[Run, ...]] = {}
    for thing in things:
        if isinstance(thing, Run):
            runs[thing.experiment] = (*runs.get(thing.experiment, ()), thing)
    return History(goal=goal, experiments=experiments, runs=runs)


def baseline(
    *values: float, kind: str = "cpu", verdict: Verdict | None = Verdict.KEEP
) -> list[Experiment | Run]:
    runs = [run(f"e0001.{i}", v, purpose=Purpose.BASELINE, kind=kind) for i, v in enumerate(values, 1)]
    return [experiment(1, verdict), *runs]


def snapshot(past: History, **changes: Any) -> Snapshot:
    defaults: dict[str, Any] = {
        "now": 1_700_000_000.0,
        "study": "t",
        "history": past,
        "workers": CPUS,
        "jobs": {},
        "proposals": (),
        "admitting": frozenset(),
        "admissions": 1,
        "asked": 0,
        "barren": 0,
        "agent_resting": False,
        "agent_gone": "",
        "backlog": 2,
        "budget": Budget(),
        "usage": Usage(),
        "worst_seconds": 600.0,
    }
    return Snapshot(**{**defaults, **changes})
