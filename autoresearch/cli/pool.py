"""The pool a command line asks for: its executor, its price, and what it could cost at most."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import typer

from autoresearch.cli.agents import forecast
from autoresearch.cli.common import read_instructions
from autoresearch.cli.output import say
from autoresearch.cli.scaffold import scaffold_source
from autoresearch.commitment import Commitment
from autoresearch.config import Config, Pool
from autoresearch.errors import BudgetError, StoppedError, UsageError
from autoresearch.executors.local import LocalExecutor, slots
from autoresearch.executors.sky import render
from autoresearch.executors.sky.executor import SkyPilotExecutor
from autoresearch.executors.sky.ledger import Machines
from autoresearch.experiment import Files, Worker
from autoresearch.history import BASELINE
from autoresearch.protocols import Executor
from autoresearch.study import Study, command_at
from autoresearch.target import FILE_NAME, Target
from autoresearch.workspace import Workspace


def workers_of(pool: Pool) -> list[Worker]:
    """Return the workers a pool asks for; PoolError where this machine lacks a GPU it names."""
    if pool.executor == "local":
        return [slot.worker for slot in slots(pool)]
    return [
        Worker(name=f"{kind.lower()}-{i:02d}", kind=kind, price_per_hour=pool.prices.get(kind, 0.0))
        for kind, count in pool.counts.items()
        for i in range(1, count + 1)
    ]


def counted(pool: Pool) -> str:
    """Return a pool's workers by kind: 13 H100 + 3 H200."""
    kinds = Counter(worker.kind for worker in workers_of(pool))
    return " + ".join(f"{count} {kind}" for kind, count in kinds.most_common())


def make_executor(opened: Study, config: Config, *, keep_workers: bool, wake: Callable[[], None]) -> Executor:
    """Return the executor the configuration names. Nothing is launched yet."""
    if config.pool.executor == "local":
        return LocalExecutor(opened.runs_folder, slots(config.pool))
    from autoresearch.executors.sky.sdk import SdkClient

    baseline, facts = opened.files(BASELINE), opened.facts()
    return SkyPilotExecutor(
        SdkClient(launch_seconds=60.0 * config.pool.launch_minutes),
        _recipe(opened.folder, config.pool, opened.target, baseline, facts, opened.state / "protected"),
        config.pool,
        study=opened.tag,
        state=opened.state,
        usual_seconds=opened.target.seconds + 20,  # rather early: a look in vain costs less than an idle GPU
        keep_workers=keep_workers,
        wake=wake,
    )


def _recipe(
    folder: Path, pool: Pool, target: Target, baseline: Files, facts: dict[str, str], protected: Path
) -> render.Recipe:
    return render.Recipe(
        worker=_task_text(folder, "worker.yaml"),
        experiment=_task_text(folder, "experiment.yaml"),
        protected=str(protected),
        protected_sha256=facts.get("AUTORESEARCH_PROTECTED_SHA256", ""),
        baseline=baseline,
        command=command_at(render.PLACE, target.command),
        prepare=command_at(render.PLACE, target.prepare) if target.prepare else None,
        env=facts,
        python=pool.python,
        infra=pool.infra,
        image=pool.image,
        spot=pool.spot,
        cpus=pool.cpus,
        memory=pool.memory,
        resources=pool.resources,
        secrets=_secrets(pool),
    )


def _task_text(folder: Path, name: str) -> str:
    """Return a task of the study's folder, or the one that comes with the package."""
    own = folder / "tasks" / name
    return (own if own.is_file() else scaffold_source() / "tasks" / name).read_text()


def _secrets(pool: Pool) -> dict[str, str]:
    missing = [name for name in pool.env if name not in os.environ]
    if missing:
        raise UsageError(
            f"pool.env names {missing[0]}, which is not set", f"export it, or take it out of {FILE_NAME}"
        )
    return {name: os.environ[name] for name in pool.env}


# ---------------------------------------------------------------------------
# Money
# ---------------------------------------------------------------------------


def rate(pool: Pool) -> float:
    """Return what the pool costs, in USD per hour."""
    return sum(worker.price_per_hour for worker in workers_of(pool))


def describe(config: Config) -> str:
    """Return the pool in a line: 13 H100 + 3 H200 on kubernetes, $32.90/h."""
    pool = config.pool
    kinds = " + ".join(f"{count} {kind}" for kind, count in pool.counts.items())
    where = pool.infra or "any infra that is enabled"
    price = (
        f"no price known for {pool.unpriced[0]} (pool.prices)" if pool.unpriced else f"${rate(pool):.2f}/h"
    )
    return f"{kinds}{' spot' if pool.spot else ''} on {where}, {price}"


def ceiling(config: Config) -> str:
    """Return what a study of this configuration may cost at most, in words."""
    budget, dollars = config.budget, rate(config.pool)
    parts = []
    if budget.gpu_dollars is not None:
        parts.append(f"GPU ${budget.gpu_dollars:g}")
    if budget.hours is not None:
        worth = f" (${budget.hours * dollars:.2f} of this pool)" if dollars else ""
        parts.append(f"{budget.hours:g} h{worth}")
    if budget.experiments is not None:
        parts.append(f"{budget.experiments} experiments")
    if budget.api_dollars is not None and config.agent.name == "claude":
        parts.append(f"API ${budget.api_dollars:g}")
    return "at most " + ", ".join(parts) if parts else "no ceiling"


def check_prices(config: Config) -> None:
    """Raise UsageError where a ceiling on dollars cannot be kept, or the pool is above its rate."""
    pool, budget = config.pool, config.budget
    limited = budget.gpu_dollars is not None or budget.gpu_dollars_per_hour is not None
    if pool.executor == "skypilot" and limited and pool.unpriced:
        kind = pool.unpriced[0]
        raise UsageError(
            f"no price for {kind}, and there is a ceiling on dollars",
            f"set pool.prices.{kind} in {FILE_NAME} to its USD per hour (0 where it is free)",
        )
    if budget.gpu_dollars_per_hour is not None and rate(pool) > budget.gpu_dollars_per_hour:
        raise UsageError(
            f"the pool costs ${rate(pool):.2f}/h, above the ceiling of ${budget.gpu_dollars_per_hour:g}/h",
            "lower pool.workers, or raise budget.gpu_dollars_per_hour",
        )


def check_affordable(opened: Study, config: Config) -> None:
    """Raise BudgetError where the pool's start and one run could already pass the ceiling."""
    now = time.time()
    pool = [_paid(worker, now) for worker in workers_of(config.pool)]
    usage = opened.store.usage(now, opened.worst_seconds)
    worst = opened.worst_seconds + 60.0 * config.pool.launch_minutes
    commitment = Commitment(config.budget, usage, pool, (), worst_seconds=worst, now=now)
    if all(commitment.refusal(worker) == "gpu_dollars" for worker in pool):
        hours = worst / 3600
        raise BudgetError(
            f"${usage.gpu_dollars:.2f} of ${config.budget.gpu_dollars:g} are spent, and starting the pool and"
            f" one run could take {hours:.1f} h at ${rate(config.pool):.2f}/h",
            "ask for fewer workers, lower pool.launch_minutes, or raise budget.gpu_dollars",
        )


def _paid(worker: Worker, now: float) -> Worker:
    return Worker(name=worker.name, kind=worker.kind, price_per_hour=worker.price_per_hour, up_at=now)


def confirm(config: Config, *, yes: bool) -> None:
    """State the pool and its ceiling; ask once on a terminal. Raises StoppedError on a no."""
    say(f"{describe(config)}; {ceiling(config)}")
    if yes:
        return
    if sys.stdin.isatty() and sys.stderr.isatty():
        if not typer.confirm("Start it?", default=True, err=True):
            raise StoppedError("nothing was started", "change the pool or the budget, or come back")
    elif config.budget.gpu_dollars is None and config.budget.hours is None:
        raise UsageError(
            "no ceiling on dollars or hours, and nobody here to ask",
            "set budget.gpu_dollars or budget.hours, or pass --yes",
        )


# ---------------------------------------------------------------------------
# --dry-run
# ---------------------------------------------------------------------------


def rehearsal(folder: Path, config: Config, tag: str, state: Path) -> Iterator[str]:
    """Yield what would be started and could cost, a line each, and the first task. Starts nothing."""
    workers = workers_of(config.pool)
    target = config.target.resolve([worker.kind for worker in workers])
    workspace = Workspace(folder, tag)
    baseline = workspace.read_text(workspace.head(), target.editable)
    said = read_instructions(folder, config)
    costs = [f"  {line}" for line in forecast(config, baseline, said, len(workers), target.seconds)]
    if config.pool.executor == "local":
        kinds = " + ".join(dict.fromkeys(f"{worker.kind}" for worker in workers))
        yield f"study {tag}: {len(workers)} workers of this machine ({kinds}); {ceiling(config)}"
        yield from costs
        return
    check_prices(config)
    yield f"study {tag}: {describe(config)}; {ceiling(config)}"
    ledger = Machines(state / "workers", tag)
    for kind, names in _machines(config.pool, ledger).items():
        shown = names[0] if len(names) == 1 else f"{names[0]} ... {names[-1]}"
        yield f"  would launch {len(names)} x {kind}:{config.pool.gpus_per_cluster}   {shown}"
    yield f"  a run: {target.seconds:g} s of training, at most {target.timeout / 60:g} min"
    yield f"  idle machines go down by themselves after {config.pool.idle_minutes} min"
    yield from (f"  {line}" for line in _worst_cases(config))
    yield from costs
    recipe = _recipe(folder, config.pool, target, baseline, target.facts, state / "protected")
    kind, names = next(iter(_machines(config.pool, ledger).items()))
    task = render.worker_task(recipe, name=names[0], kind=kind, gpus=config.pool.gpus_per_cluster)
    yield ""
    yield render.to_yaml(task, f"The first of them. By hand: sky launch -c {names[0]} FILE").rstrip("\n")


def _machines(pool: Pool, ledger: Machines) -> dict[str, Sequence[str]]:
    return {
        kind: [
            ledger.cluster(ledger.name(kind, number))
            for number in range(1, count // pool.gpus_per_cluster + 1)
        ]
        for kind, count in pool.counts.items()
    }


def _worst_cases(config: Config) -> list[str]:
    """Return what could be spent at most, ceiling by ceiling."""
    budget, dollars = config.budget, rate(config.pool)
    lines = []
    if budget.gpu_dollars is not None:
        until = f", reached after {budget.gpu_dollars / dollars:.1f} h" if dollars else ""
        lines.append(f"budget.gpu_dollars: ${budget.gpu_dollars:g}{until}; nothing starts that could pass it")
    if budget.hours is not None and dollars:
        lines.append(f"budget.hours: {budget.hours:g} h, ${budget.hours * dollars:.2f} at the full rate")
    if not lines:
        lines.append("no ceiling on dollars or hours: set budget.gpu_dollars")
    return lines
