"""Commands that read a study: results, show, diff."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from autoresearch.cli.common import existing_study, experiment_of, learned, plus_minus, say_if_idle
from autoresearch.cli.output import fit, print_json, print_tsv, say, shorten
from autoresearch.console import text
from autoresearch.errors import NotFoundError, UsageError
from autoresearch.experiment import Run, RunState
from autoresearch.files import write_whole
from autoresearch.history import History
from autoresearch.judging.stacking import interaction
from autoresearch.report import Row
from autoresearch.report import results as result_rows
from autoresearch.study import Study
from autoresearch.trust import trust_of
from autoresearch.untrusted import clean, clean_block

RESULT_COLUMNS = ("experiment", "value", "standard_error", "delta", "runs", "kind", "verdict", "hypothesis")
DIFF_BYTES = 1600
DEFAULT_ROWS = 20
SHOWN = ("experiment", "value", "standard_error", "delta", "kind")


def results(folder: Path, study: str | None, *, limit: int | None, fields: str | None, as_json: bool) -> None:
    """Print the results table, the best first: JSON, a table on a terminal, TSV into a pipe."""
    opened = existing_study(folder, study)
    history = opened.store.history()
    rows = result_rows(history)
    columns = _columns(fields)
    if not as_json:
        print_results(opened, rows[: limit or DEFAULT_ROWS], len(rows), columns if fields else RESULT_COLUMNS)
        say_if_idle(opened)
        return
    document = {
        "study": opened.tag,
        "metric": opened.target.metric.name,
        "total": len(rows),
        "cursor": opened.store.cursor(),
        "results": [{name: _short(field_of(row, name)) for name in columns} for row in rows],
    }
    print_json(fit(document | standing(opened), "results", limit=limit))


def standing(opened: Study) -> dict[str, Any]:
    """Return what every answer should say: is it dispatched, and what the score cannot be trusted for."""
    doubts = {"score": "self-reported"} if opened.target.self_reported else {}
    unsandboxed = opened.store.unsandboxed()
    if unsandboxed:
        doubts["unsandboxed"] = unsandboxed
    return {"dispatching": opened.dispatched(), **doubts}


def warnings(opened: Study) -> Iterator[str]:
    """Yield what a person should know before believing a study's score."""
    return trust_of(opened.store.history(), self_reported=opened.target.self_reported).lines()


def _columns(fields: str | None) -> Sequence[str]:
    """Return the columns asked for; UsageError for one there is not."""
    if fields is None:
        return ("experiment", "value", "delta", "runs", "kind", "verdict", "hypothesis")
    names = [name.strip() for name in fields.split(",") if name.strip()]
    unknown = [name for name in names if name not in Row.__slots__]
    if unknown or not names:
        known = ", ".join(Row.__slots__)
        raise UsageError(f"no column {', '.join(unknown) or fields!r}", f"use some of {known}")
    return names


def _short(cell: Any) -> Any:
    return clean(cell, 60) if isinstance(cell, str) else cell


def print_results(
    opened: Study, rows: Sequence[Row], total: int, columns: Sequence[str] = RESULT_COLUMNS
) -> None:
    """Print rows: as a table on a terminal, as TSV into a pipe."""
    for line in warnings(opened):
        say(line)
    if not sys.stdout.isatty() or columns is not RESULT_COLUMNS:
        print_tsv(columns, ({name: field_of(row, name) for name in columns} for row in rows))
        return
    from rich.console import Console

    from autoresearch.console.live import results_table

    metric, history = opened.target.metric.name, opened.store.history()
    shown = ["experiment", metric, "delta", "runs", "on", "verdict", "hypothesis"]
    cells = [
        {
            "experiment": row.experiment,
            metric: text.value(row.value, row.standard_error, pm=plus_minus()),
            "delta": text.signed(row.delta),
            "runs": str(row.runs),
            "on": row.kind or "",
            "verdict": str(row.verdict or ("cancelled" if history.taken_back(row.experiment) else "open")),
            "hypothesis": clean(
                row.hypothesis + (f" ({row.reason})" if row.value is None and row.reason else "")
            ),
        }
        for row in rows
    ]
    Console().print(results_table(cells, shown))
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
        document = {
            **{name: field_of(row, name) for name in SHOWN},
            "verdict": found.verdict and str(found.verdict),
            "reason": shorten(clean(found.reason, 300), 300),
            "reworks": list(found.reworks),
            **_believed(opened, history, id_),
            "hypothesis": shorten(clean(found.hypothesis, 300), 300),
            "author": found.author,
            "flags": [clean(flag, 80) for flag in found.flags[:4]],
            "parent": found.parent,
            "children": children[-8:],
            "commit": found.commit,
            "diff": f"autoresearch diff {id_}",
            "runs": [_without_nothing(run_document(run)) for run in reversed(history.runs_of(id_))],
        }
        print_json(fit(document | standing(opened), "runs"))
        return
    typer.echo(f"{id_}  {clean(found.hypothesis, 1000)}")
    base = found.parent or "the committed code"
    anew = f", with the ideas of {', '.join(found.reworks)}" if found.reworks else ""
    typer.echo(f"by {clean(found.author)}, from {base}{anew}, {text.iso(found.created_at)}")
    spread = text.value(row.value, row.standard_error, pm=plus_minus())
    typer.echo(f"{opened.target.metric.name} {spread}  {text.signed(row.delta)}".rstrip())
    typer.echo(f"{found.verdict or 'not judged yet'}: {clean(found.reason, 400)}".rstrip(": "))
    for line in _belief_lines(_believed(opened, history, id_)):
        typer.echo(line)
    for line in warnings(opened):
        typer.echo(line)
    for flag in [*found.flags, *(f for run in history.runs_of(id_) for f in _flags(run))]:
        typer.echo(f"flagged: {clean(flag)}")
    typer.echo("")
    for run in history.runs_of(id_):
        typer.echo(_run_line(run))
    if found.parent and found.commit:
        typer.echo("")
        typer.echo(clean_block(opened.diff(id_, found.parent).rstrip()))
    typer.echo("")
    if children:
        typer.echo(f"led to {', '.join(children)}")
    typer.echo(f"code: git show {opened.workspace.ref(id_)}    log: autoresearch log {id_}")
    say_if_idle(opened)


def _believed(opened: Study, history: History, id_: str) -> dict[str, Any]:
    """Return what all runs say of an experiment's effect on its base; nothing where they say nothing."""
    learner = learned(opened, history)
    prospect = learner.prospect(history, id_) if learner else None
    if learner is None or prospect is None:
        return {}
    told: dict[str, Any] = {
        "expected_effect": round(-history.goal.sign * prospect.gain, 6),
        "probability_better": round(1 - prospect.useless, 4),
        "tried": sum(learner.compared.values()),
    }
    found = interaction(history, learner, id_)
    return told if found is None else told | found.figures()


def _belief_lines(told: Mapping[str, Any]) -> Iterator[str]:
    if not told:
        return
    effect, better = f"{told['expected_effect']:+.5f}", f"{min(told['probability_better'], 0.9999):.4g}"
    yield f"effect on its base {effect}, better with P {better}, given the {told['tried']} measured so far"
    if "interaction" in told:
        differs = f"{told['interaction']:+.5f} {plus_minus()}{told['interaction_error']:.5f}"
        word = "they interact" if told["interacts"] else "no more than noise"
        yield (
            f"done anew: measured {told['effect_here']:+.5f}, before, on another base"
            f" {told['effect_there']:+.5f}; {differs}, {word}"
        )


def _flags(run: Run) -> tuple[str, ...]:
    return run.measurement.flags if run.measurement else ()


def _without_nothing(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if value is not None}


def save_code(folder: Path, study: str | None, experiment: str, to: Path, *, as_json: bool) -> None:
    """Write an experiment's editable files into a folder, by their names in the study."""
    opened = existing_study(folder, study)
    id_ = experiment_of(experiment)
    written = []
    for name, content in opened.files(id_).items():
        path = to / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content.encode())
        written.append(str(path))
    if as_json:
        print_json({"experiment": id_, "written": written})
    else:
        say(f"wrote {', '.join(written)}")


def show_task(folder: Path, study: str | None, experiment: str) -> None:
    """Print the SkyPilot task of an experiment's last run: `sky launch` on it alone repeats the run."""
    opened = existing_study(folder, study)
    run = run_of(opened, experiment)
    try:
        typer.echo((opened.job_folder(run) / "task.yaml").read_text(), nl=False)
    except FileNotFoundError:
        raise NotFoundError(
            f"{run.id} ran on this machine, without a task", "`--executor skypilot` runs have one"
        ) from None


def _run_line(run: Run) -> str:
    """Return a run in a line of 80 columns, and why it was made in another; finished is the usual end."""
    parts = [f"  {run.id:<8} {run.purpose:<9} {run.worker or '':<8}".rstrip()]
    if run.state is not RunState.FINISHED:
        parts.append(str(run.state))
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
        parts.append(clean(str(run.failure), 300))
    if run.attempt > 1:
        parts.append(f"attempt {run.attempt}")
    if run.seconds is not None:
        parts.append(f"{run.seconds:.0f} s" + (f", ${_dollars(run):.2f}" if run.price_per_hour else ""))
    return "  ".join(parts) + f"\n           seed {run.seed}, why: {clean(run.why, 400)}"


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
        "hidden": run.measurement.hidden if run.measurement else None,
        "flags": list(_flags(run)) or None,
        "steps": run.measurement.steps if run.measurement else None,
        "tokens_per_second": run.measurement.tokens_per_second if run.measurement else None,
        "memory_gb": run.measurement.memory_gb if run.measurement else None,
        "failure": str(run.failure) if run.failure else None,
        "seconds": None if run.seconds is None else round(run.seconds, 1),
        "dollars": None if run.seconds is None else round(_dollars(run), 4),
        "started_at": text.iso(run.started_at),
        "ended_at": text.iso(run.ended_at),
    }


def diff(
    folder: Path, study: str | None, experiment: str, against: str | None, *, full: bool, as_json: bool
) -> None:
    """Print what an experiment changed, as a unified diff; in JSON its beginning, unless in full."""
    opened = existing_study(folder, study)
    id_ = experiment_of(experiment)
    other = experiment_of(against) if against else opened.store.experiment(id_).parent
    changed = opened.diff(id_, other) if other else ""
    if not as_json:
        typer.echo(clean_block(changed), nl=False)
        return
    shown = changed if full else shorten(changed, DIFF_BYTES)
    more = {} if shown == changed else {"more": f"autoresearch diff {id_} --full"}
    print_json({"experiment": id_, "against": other, "diff": shown, **more, **standing(opened)})


def run_of(opened: Study, name: str) -> Run:
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
