"""Commands that read a study: results, show, diff, log."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from autoresearch.cli.common import existing_study, experiment_of, plus_minus
from autoresearch.cli.output import print_json, print_tsv, say
from autoresearch.console import text
from autoresearch.errors import NotFoundError
from autoresearch.experiment import Run
from autoresearch.files import read_tail
from autoresearch.report import Row
from autoresearch.report import results as result_rows
from autoresearch.study import Study
from autoresearch.untrusted import clean

RESULT_COLUMNS = ("experiment", "value", "standard_error", "delta", "runs", "kind", "verdict", "hypothesis")
LOG_TAIL_BYTES = 256 << 10


def results(folder: Path, study: str | None, *, limit: int, as_json: bool) -> None:
    """Print the results table, the best first. Piped, it is TSV."""
    opened = existing_study(folder, study)
    history = opened.store.history()
    rows = result_rows(history)
    shown = rows[:limit]
    if as_json:
        fields = ("experiment", "value", "delta", "runs", "kind", "verdict", "hypothesis")
        document = [{name: field_of(row, name) for name in fields} for row in shown]
        print_json(
            {
                "study": opened.tag,
                "metric": opened.target.metric.name,
                "total": len(rows),
                "results": document,
            }
        )
    else:
        print_results(opened, shown, len(rows))


def print_results(opened: Study, rows: Sequence[Row], total: int) -> None:
    """Print rows: as a table on a terminal, as TSV into a pipe."""
    if not sys.stdout.isatty():
        print_tsv(RESULT_COLUMNS, ({name: field_of(row, name) for name in RESULT_COLUMNS} for row in rows))
        return
    from rich.console import Console

    from autoresearch.console.live import results_table

    metric = opened.target.metric.name
    columns = ["experiment", metric, "delta", "runs", "on", "verdict", "hypothesis"]
    cells = [
        {
            "experiment": row.experiment,
            metric: text.value(row.value, row.standard_error, pm=plus_minus()),
            "delta": text.signed(row.delta),
            "runs": str(row.runs),
            "on": row.kind or "",
            "verdict": str(row.verdict or "open"),
            "hypothesis": row.hypothesis if row.value is not None else f"{row.hypothesis} ({row.reason})",
        }
        for row in rows
    ]
    Console().print(results_table(cells, columns))
    if total > len(rows):
        say(f"... and {total - len(rows)} more: `autoresearch results --limit {total}`")


def show(folder: Path, study: str | None, experiment: str, *, as_json: bool) -> None:
    """Show one experiment: why, what changed, each run, the decision, and what it led to."""
    opened = existing_study(folder, study)
    id_ = experiment_of(experiment)
    found = opened.store.experiment(id_)
    history = opened.store.history()
    children = [e.id for e in history.experiments.values() if e.parent == id_]
    row = next(row for row in result_rows(history) if row.experiment == id_)
    if as_json:
        print_json(
            {
                **{
                    name: field_of(row, name)
                    for name in ("experiment", "value", "standard_error", "delta", "kind")
                },
                "verdict": found.verdict and str(found.verdict),
                "reason": found.reason,
                "hypothesis": found.hypothesis,
                "author": found.author,
                "parent": found.parent,
                "children": children,
                "commit": found.commit,
                "runs": [run_document(run) for run in history.runs_of(id_)],
            }
        )
        return
    typer.echo(f"{id_}  {found.hypothesis}")
    typer.echo(
        f"by {found.author}, from {found.parent or 'the committed code'}, {text.iso(found.created_at)}"
    )
    spread = text.value(row.value, row.standard_error, pm=plus_minus())
    typer.echo(f"{opened.target.metric.name} {spread}  {text.signed(row.delta)}".rstrip())
    typer.echo(f"{found.verdict or 'not judged yet'}: {found.reason}".rstrip(": "))
    typer.echo("")
    for run in history.runs_of(id_):
        typer.echo(_run_line(run))
    if found.parent and found.commit:
        typer.echo("")
        typer.echo(opened.diff(id_, found.parent).rstrip())
    typer.echo("")
    if children:
        typer.echo(f"led to {', '.join(children)}")
    typer.echo(f"code: git show {opened.workspace.ref(id_)}    log: autoresearch log {id_}")


def show_task(folder: Path, study: str | None, experiment: str) -> None:
    """Print the SkyPilot task of an experiment's last run: `sky launch` on it alone repeats the run."""
    opened = existing_study(folder, study)
    run = _run_of(opened, experiment)
    try:
        typer.echo((opened.job_folder(run) / "task.yaml").read_text(), nl=False)
    except FileNotFoundError:
        raise NotFoundError(
            f"{run.id} ran on this machine, without a task", "`--executor skypilot` runs have one"
        ) from None


def _run_line(run: Run) -> str:
    parts = [f"  {run.id:<8} {run.purpose:<9} {run.state:<9} {run.worker or '':<8} seed {run.seed}"]
    if run.measurement:
        m = run.measurement
        parts.append(f"{m.value:.6f}")
        if m.steps is not None:
            parts.append(f"{m.steps} steps")
        if m.tokens_per_second is not None:
            parts.append(f"{m.tokens_per_second:,.0f} tok/s")
        if m.memory_gb is not None:
            parts.append(f"{m.memory_gb:.1f} GB")
    if run.failure:
        parts.append(str(run.failure))
    if run.attempt > 1:
        parts.append(f"attempt {run.attempt}")
    if run.seconds is not None:
        parts.append(f"{run.seconds:.0f} s" + (f", ${_dollars(run):.2f}" if run.price_per_hour else ""))
    return "  ".join(parts) + f"\n           why: {run.why}"


def _dollars(run: Run) -> float:
    """Return what a run's own time on its worker cost, in USD; what the worker idled is not in it."""
    return run.price_per_hour * (run.seconds or 0.0) / 3600


def run_document(run: Run) -> dict[str, Any]:
    """Return a run as JSON."""
    return {
        "run": run.id,
        "purpose": str(run.purpose),
        "state": str(run.state),
        "attempt": run.attempt,
        "worker": run.worker,
        "kind": run.worker_kind,
        "seed": run.seed,
        "why": run.why,
        "value": run.value,
        "steps": run.measurement.steps if run.measurement else None,
        "tokens_per_second": run.measurement.tokens_per_second if run.measurement else None,
        "memory_gb": run.measurement.memory_gb if run.measurement else None,
        "failure": str(run.failure) if run.failure else None,
        "seconds": None if run.seconds is None else round(run.seconds, 1),
        "dollars": None if run.seconds is None else round(_dollars(run), 4),
        "started_at": text.iso(run.started_at),
        "ended_at": text.iso(run.ended_at),
    }


def diff(folder: Path, study: str | None, experiment: str, against: str | None, *, as_json: bool) -> None:
    """Print what an experiment changed, as a unified diff."""
    opened = existing_study(folder, study)
    id_ = experiment_of(experiment)
    other = experiment_of(against) if against else opened.store.experiment(id_).parent
    changed = opened.diff(id_, other) if other else ""
    if as_json:
        print_json({"experiment": id_, "against": other, "diff": changed})
    else:
        typer.echo(changed, nl=False)


def log(folder: Path, study: str | None, experiment: str, *, lines: int, raw: bool, as_json: bool) -> None:
    """Print the end of a run's log, cleaned of control characters."""
    opened = existing_study(folder, study)
    run = _run_of(opened, experiment)
    path = opened.job_folder(run) / "log"
    if raw:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                sys.stdout.buffer.write(chunk)
        return
    tail = read_tail(path, LOG_TAIL_BYTES).decode("utf-8", "replace").replace("\r", "\n")
    cleaned = [clean(line, 300) for line in tail.split("\n") if line.strip()][-lines:]
    if as_json:
        failure = asdict(run.failure) if run.failure else None
        print_json(
            {
                "run": run.id,
                "state": str(run.state),
                "failure": failure,
                "log": str(path),
                "tail": cleaned[-8:],
            }
        )
        return
    for line in cleaned:
        typer.echo(line)


def _run_of(opened: Study, name: str) -> Run:
    """Return the run a name means: of an experiment, its last one that has started."""
    id_ = experiment_of(name)
    if "." in name:
        return opened.store.run(name)
    opened.store.experiment(id_)
    started = [run for run in opened.store.history().runs_of(id_) if run.submitted_at is not None]
    if not started:
        raise NotFoundError(f"{id_} has not run yet", "watch it with `autoresearch status --watch`")
    return started[-1]


def field_of(row: Row, name: str) -> Any:
    """Return a cell of a row as JSON and TSV show it."""
    found = getattr(row, name)
    if isinstance(found, float):
        return round(found, 6)
    return str(found) if name == "verdict" and found is not None else found
