"""`verify`: do a study's books still hold, and what does a run give when it is measured again?"""

from __future__ import annotations

import dataclasses
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from autoresearch.cli.common import configuration, existing_study, experiment_of, learned
from autoresearch.cli.output import fit, print_json, say
from autoresearch.errors import BusyError, NotFoundError, UsageError
from autoresearch.executors.local import LocalExecutor, slots
from autoresearch.experiment import JobStatus, Run
from autoresearch.history import BASELINE, History
from autoresearch.outcome import read_outcome
from autoresearch.study import Study
from autoresearch.untrusted import clean
from autoresearch.verification import Check, verify

AGREES = 4.0  # standard deviations of the difference of two runs
POLL_SECONDS = 0.2


def run_verification(
    folder: Path, study: str | None, names: Sequence[str], *, rerun: bool, as_json: bool
) -> None:
    """Print what holds and what does not; exit code 1 where something does not."""
    opened = existing_study(folder, study)
    chosen = frozenset(experiment_of(name) for name in names)
    for name in chosen:
        opened.store.experiment(name)
    checks = list(verify(opened, chosen or None))
    wrong = [check for check in checks if check.wrong]
    again = [_again(opened, name) for name in (names or [_best(opened)])] if rerun else []
    if as_json:
        rows = [{**dataclasses.asdict(check), "wrong": clean(check.wrong)} for check in wrong]
        document = {"study": opened.tag, "checks": len(checks), "rerun": again, "failed": rows}
        print_json(fit(document, "failed"))
    else:
        for line in _lines(checks, again):
            typer.echo(line)
    if wrong or not all(row["agrees"] is not False for row in again):
        raise typer.Exit(1)


def _lines(checks: Sequence[Check], again: Sequence[Mapping[str, Any]]) -> list[str]:
    counted = Counter(check.fact for check in checks)
    bad = Counter(check.fact for check in checks if check.wrong)
    lines = []
    for fact, count in counted.items():
        wrong = f", {bad[fact]} wrong" if bad[fact] else ""
        lines.append(f"{'fail' if bad[fact] else 'ok':<6}{fact:<16}{count} checked{wrong}")
    lines += [
        f"      {check.subject:<9} {check.fact}: {clean(check.wrong)}" for check in checks if check.wrong
    ]
    for row in again:
        word = {True: "ok", False: "fail", None: "ran"}[row["agrees"]]
        lines.append(f"{word:<6}{row['run']:<16}{row['said']}")
    return lines


# ---------------------------------------------------------------------------
# Measuring again
# ---------------------------------------------------------------------------


def _best(opened: Study) -> str:
    best = opened.store.history().incumbent()
    return best.id if best else BASELINE


def _again(opened: Study, name: str) -> dict[str, Any]:
    """Measure a run again here, with its seed, and return how it compares. It does not enter the books."""
    history = opened.store.history()
    run = _measured(opened, history, name)
    ended = _execute(opened, run)
    then, now = run.value, ended
    row: dict[str, Any] = {"run": run.id, "then": then, "now": now, "agrees": None}
    if now is None or then is None:
        return row | {"agrees": False, "said": f"{then:.6f} then, no value now"}
    learner = learned(opened, history)
    difference = f"{then:.6f} then, {now:.6f} now: {now - then:+.6f}"
    if learner is None:
        return row | {"said": f"{difference}; nothing was repeated yet, so what that means is not known"}
    spread = math.sqrt(2 * learner.belief.noise(run.worker_kind))
    agrees = abs(now - then) <= AGREES * spread
    return row | {"agrees": agrees, "said": f"{difference}; two such runs differ by {spread:.6f} (sd)"}


def _measured(opened: Study, history: History, name: str) -> Run:
    """Return the run a name means, of an experiment its last measured one."""
    id_ = experiment_of(name)
    runs = [run for run in history.runs_of(id_) if run.measurement and name in {id_, run.id}]
    if not runs:
        raise NotFoundError(f"{name} was not measured", "`autoresearch results` lists what was")
    if opened.dispatched():
        raise BusyError(
            "this study is being dispatched, and its workers are in use",
            f"`autoresearch confirm {id_}` measures it again there; or wait until it has ended",
        )
    return runs[-1]


def _execute(opened: Study, run: Run) -> float | None:
    """Run a job again on this machine, beside the study's own, and return its value."""
    pool = dataclasses.replace(configuration(opened.folder).pool, executor="local")
    here = [slot for slot in slots(pool) if slot.worker.kind == run.worker_kind]
    if not here:
        raise UsageError(
            f"{run.id} ran on {run.worker_kind}, which this machine is not",
            f"`autoresearch confirm {run.experiment}` measures it again on the pool",
        )
    folder = opened.state / "reruns"
    attempt = 1 + len(list((folder / run.id).glob("a*")))
    job = opened.job_spec(dataclasses.replace(run, attempt=attempt))
    executor = LocalExecutor(folder, here)
    say(f"measuring {run.id} again, seed {run.seed}")
    executor.submit(job, here[0].worker.name)
    try:
        while executor.poll([job.name])[job.name] is JobStatus.RUNNING:
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        executor.cancel(job.name)
        raise
    report = read_outcome(executor.fetch(job.name), opened.target).report
    if report.failure:
        say(f"{run.id}: {report.failure}")
    return report.measurement.value if report.measurement else None
