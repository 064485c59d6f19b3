"""Commands that read a study."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from autoresearch.cli.common import HERE, ExperimentId, Folder, Json, Tag, existing_study, experiment_of
from autoresearch.cli.output import print_json, print_tsv, say
from autoresearch.console import text
from autoresearch.errors import NotFoundError, UsageError
from autoresearch.experiment import Run
from autoresearch.history import BASELINE
from autoresearch.report import Row, results_tsv
from autoresearch.report import results as result_rows
from autoresearch.study import Study

RESULT_COLUMNS = ("experiment", "value", "standard_error", "delta", "runs", "kind", "verdict", "hypothesis")


def status(
    *,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay and show what happens.")] = False,
    study: Tag = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Show how good the best is, and what is going on."""
    opened, config = existing_study(folder, study)
    from autoresearch.console.look import Watcher

    watcher = Watcher(opened, config)
    if watch and not as_json:
        _watch(watcher)
        return
    look = watcher.look(time.time())
    if as_json:
        print_json(_status_document(opened, look))
        return
    for line in text.status_lines(look, pm=_plus_minus()):
        typer.echo(line)


def _status_document(opened: Study, look: Any) -> Mapping[str, Any]:
    view = look.overview
    best = view.best
    return {
        "study": look.tag,
        "metric": opened.target.metric.name,
        "goal": str(opened.target.goal),
        "dispatching": look.alive,
        "request": look.request,
        "outcome": look.outcome,
        "best": best
        and {"experiment": best.experiment, "value": best.value, "standard_error": best.standard_error},
        "baseline": view.baseline and view.baseline.value,
        "noise": view.noise and view.noise.sigma,
        "experiments": view.experiments,
        "verdicts": {str(verdict): count for verdict, count in view.verdicts.items()},
        "in_flight": view.in_flight,
        "queued": view.queued,
        "runs_finished": view.runs_finished,
        "runs_per_hour": _round(view.runs_per_hour, 2),
        "useful": _round(view.useful, 4),
        "pool": look.pool,
        "agent": look.agent,
        "usage": {k: _round(v, 4) for k, v in asdict(look.usage).items()},
        "budget": asdict(look.budget),
    }


def _watch(watcher: Any) -> None:
    """Show the live screen until Ctrl-C, or until nothing is dispatched any more."""
    from rich.console import Console
    from rich.live import Live

    from autoresearch.console.live import Screen

    console = Console()
    if not console.is_terminal:
        for line in text.status_lines(watcher.look(time.time())):
            typer.echo(line)
        return
    footer = "Ctrl-C ends watching; the study goes on."
    try:
        with Live(console=console, auto_refresh=False, screen=True) as live:
            look = watcher.look(time.time())
            while look.alive:
                live.update(Screen(look, footer), refresh=True)
                time.sleep(1)
                look = watcher.look(time.time())
    except KeyboardInterrupt:
        pass
    for line in text.status_lines(watcher.look(time.time()), pm=_plus_minus()):
        typer.echo(line)


def results(
    *,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Rows at most.")] = 20,
    study: Tag = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Print the results table, the best first. Piped, it is TSV."""
    opened, _ = existing_study(folder, study)
    history = opened.store.history()
    rows = result_rows(history)
    shown = rows[:limit]
    if as_json:
        fields = ("experiment", "value", "delta", "runs", "kind", "verdict", "hypothesis")
        document = [{name: _field(row, name) for name in fields} for row in shown]
        print_json(
            {
                "study": opened.tag,
                "metric": opened.target.metric.name,
                "total": len(rows),
                "results": document,
            }
        )
    elif sys.stdout.isatty():
        print_results(opened, shown, len(rows))
    else:
        print_tsv(RESULT_COLUMNS, ({name: _field(row, name) for name in RESULT_COLUMNS} for row in shown))


def print_results(opened: Study, rows: list[Row], total: int) -> None:
    """Print rows as a table for people."""
    from rich.console import Console

    from autoresearch.console.live import results_table

    metric = opened.target.metric.name
    columns = ["experiment", metric, "delta", "runs", "on", "verdict", "hypothesis"]
    cells = [
        {
            "experiment": row.experiment,
            metric: text.value(row.value, row.standard_error, pm=_plus_minus()),
            "delta": text.signed(row.delta),
            "runs": str(row.runs),
            "on": row.kind or "",
            "verdict": str(row.verdict or "open"),
            "hypothesis": row.hypothesis
            if row.value is not None
            else f"{row.hypothesis} ({row.reason})".strip(),
        }
        for row in rows
    ]
    Console().print(results_table(cells, columns))
    if total > len(rows):
        say(f"... and {total - len(rows)} more: --limit {total}")


def print_outcome(opened: Study) -> None:
    """Print what a run ends with: the table, the best experiment's diff, and progress.png."""
    from autoresearch.plotting import plot_progress

    history = opened.store.history()
    rows = result_rows(history)
    if not any(row.value is not None for row in rows):
        return
    if sys.stdout.isatty():
        print_results(opened, rows[:20], len(rows))
    else:
        print_tsv(RESULT_COLUMNS, ({name: _field(row, name) for name in RESULT_COLUMNS} for row in rows))
    incumbent = history.incumbent()
    if incumbent is None:
        return
    typer.echo("")
    if incumbent.parent is None:
        typer.echo("nothing beat the noise: the committed code is still the best")
    else:
        typer.echo(f"best: {incumbent.id}, {incumbent.hypothesis}; against the committed code:")
        typer.echo(opened.diff(incumbent.id, BASELINE).rstrip())
        typer.echo(
            f"take it over with: git checkout {opened.workspace.branch.removeprefix('refs/heads/')} -- "
            + " ".join(opened.target.editable)
        )
    typer.echo("")
    try:
        if plot_progress(history, opened.folder / "progress.png", metric=opened.target.metric.name):
            say("wrote results.tsv and progress.png")
    except UsageError as error:
        say(f"wrote results.tsv; {error.message}: {error.hint}")


def show(
    experiment: ExperimentId, *, study: Tag = None, as_json: Json = False, folder: Folder = HERE
) -> None:
    """Show one experiment: why, what changed, each run, the decision, and what it led to."""
    opened, _ = existing_study(folder, study)
    id_ = experiment_of(experiment)
    found = opened.store.experiment(id_)
    history = opened.store.history()
    children = [e.id for e in history.experiments.values() if e.parent == id_]
    row = next(row for row in result_rows(history) if row.experiment == id_)
    if as_json:
        print_json(
            {
                **{
                    name: _field(row, name)
                    for name in ("experiment", "value", "standard_error", "delta", "kind")
                },
                "verdict": found.verdict and str(found.verdict),
                "reason": found.reason,
                "hypothesis": found.hypothesis,
                "author": found.author,
                "parent": found.parent,
                "children": children,
                "commit": found.commit,
                "runs": [_run_document(run) for run in history.runs_of(id_)],
            }
        )
        return
    typer.echo(f"{id_}  {found.hypothesis}")
    typer.echo(
        f"by {found.author}, from {found.parent or 'the committed code'}, {text.iso(found.created_at)}"
    )
    spread = text.value(row.value, row.standard_error, pm=_plus_minus())
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
    return "  ".join(parts) + f"\n           why: {run.why}"


def _run_document(run: Run) -> dict[str, Any]:
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
        "started_at": text.iso(run.started_at),
        "ended_at": text.iso(run.ended_at),
    }


def diff(
    experiment: ExperimentId,
    against: Annotated[str | None, typer.Argument(help="Compare with this one. Default: its parent.")] = None,
    *,
    study: Tag = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Print what an experiment changed, as a unified diff."""
    opened, _ = existing_study(folder, study)
    id_ = experiment_of(experiment)
    other = experiment_of(against) if against else opened.store.experiment(id_).parent
    changed = opened.diff(id_, other) if other else ""
    if as_json:
        print_json({"experiment": id_, "against": other, "diff": changed})
    else:
        typer.echo(changed, nl=False)


def log(
    experiment: ExperimentId,
    *,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="Lines from the end.")] = 40,
    raw: Annotated[bool, typer.Option("--raw", help="The whole log, byte for byte.")] = False,
    study: Tag = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Print the end of a run's log, cleaned of control characters."""
    from autoresearch.files import read_tail
    from autoresearch.logparse import clean

    opened, _ = existing_study(folder, study)
    run = _run_of(opened, experiment)
    path = opened.job_folder(run) / "log"
    if raw:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                sys.stdout.buffer.write(chunk)
        return
    tail = read_tail(path, 256 << 10).decode("utf-8", "replace").replace("\r", "\n")
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


def plot(
    path: Annotated[Path, typer.Argument(help="Where to write the picture.")] = Path("progress.png"),
    *,
    study: Tag = None,
    folder: Folder = HERE,
) -> None:
    """Draw progress.png."""
    from autoresearch.plotting import plot_progress

    opened, _ = existing_study(folder, study)
    if not plot_progress(opened.store.history(), path, metric=opened.target.metric.name):
        raise NotFoundError("nothing is measured yet", "`autoresearch status` shows how far the baseline is")
    say(f"wrote {path}")


def export(
    path: Annotated[Path | None, typer.Argument(help="The file to write. Default: stdout.")] = None,
    *,
    kind: Annotated[
        Literal["tsv", "json"], typer.Option("--format", help="tsv: upstream's five columns.")
    ] = "tsv",
    study: Tag = None,
    folder: Folder = HERE,
) -> None:
    """Write all results: results.tsv as upstream tools read it, or everything as JSON."""
    import json

    from autoresearch.files import write_whole

    opened, _ = existing_study(folder, study)
    history = opened.store.history()
    content = results_tsv(history)
    if kind == "json":
        rows = [
            {
                **{name: _field(row, name) for name in Row.__slots__},
                "runs": [_run_document(r) for r in history.runs_of(row.experiment)],
            }
            for row in result_rows(history)
        ]
        content = json.dumps({"schema_version": 1, "study": opened.tag, "experiments": rows}, indent=1) + "\n"
    if path is None:
        typer.echo(content, nl=False)
    else:
        write_whole(path, content.encode())
        say(f"wrote {path}")


def _field(row: Row, name: str) -> Any:
    found = getattr(row, name)
    if isinstance(found, float):
        return round(found, 6)
    return str(found) if name == "verdict" and found is not None else found


def _round(number: float | None, digits: int) -> float | None:
    return None if number is None else round(number, digits)


def _plus_minus() -> str:
    """Return how this terminal can show plus or minus."""
    return "±" if sys.stdout.isatty() and (sys.stdout.encoding or "").lower().startswith("utf") else "+-"
