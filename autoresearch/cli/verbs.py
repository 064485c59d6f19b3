"""The commands an agent drives a study with: each one plain line, never asking anything.

Off a terminal they answer with one JSON document of at most 2,000 bytes. Repeating one does no harm.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoresearch.cli.app import (
    HERE,
    Agent,
    Author,
    DryRun,
    Executor,
    ExperimentId,
    Experiments,
    Folder,
    Hours,
    Json,
    Tag,
    UntilCeiling,
    Workers,
    Yes,
    app,
    examples,
)
from autoresearch.cli.output import TakesText, guard


@app.command(epilog=examples("autoresearch up", "autoresearch up --experiments 100 --hours 8"))
@guard
def up(
    *,
    study: Tag = None,
    agent: Agent = None,
    executor: Executor = None,
    workers: Workers = None,
    experiments: Experiments = None,
    hours: Hours = None,
    until_ceiling: UntilCeiling = None,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait for its start.")] = 90,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = None,
    folder: Folder = HERE,
) -> None:
    """Start the study's dispatcher in the background, with its workers; nothing where it runs.

    It survives this shell and is started again after a crash, three times at most. Without --agent
    nobody proposes but those who submit.
    """
    from autoresearch.cli.background import up
    from autoresearch.cli.run import Wishes

    wishes = Wishes(
        agent=agent,
        executor=executor,
        workers=workers,
        experiments=experiments,
        hours=hours,
        until_ceiling=until_ceiling,
        yes=yes,
        dry_run=dry_run,
    )
    up(folder, study, wishes, timeout=timeout, as_json=bool(as_json))


@app.command(epilog=examples("autoresearch down", "autoresearch down --study nov22"))
@guard
def down(
    *,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait for its end.")] = 90,
    study: Tag = None,
    as_json: Json = None,
    folder: Folder = HERE,
) -> None:
    """End the study's dispatcher and take its machines down. What runs is cut short and repeated later."""
    from autoresearch.cli.background import down

    down(folder, study, timeout=timeout, as_json=bool(as_json))


@app.command(epilog=examples("autoresearch stop", "autoresearch stop --now"))
@guard
def stop(
    *,
    now: Annotated[bool, typer.Option("--now", help="Cancel what runs instead of waiting for it.")] = False,
    study: Tag = None,
    as_json: Json = None,
    folder: Folder = HERE,
) -> None:
    """Ask the study's dispatcher to stop: running experiments finish first."""
    from autoresearch.cli.background import stop

    stop(folder, study, now=now, as_json=bool(as_json))


@app.command(epilog=examples("autoresearch brief", "autoresearch brief --code"))
@guard
def brief(
    *,
    full: Annotated[bool, typer.Option("--full", help="All an agent is told, up to 24,000 bytes.")] = False,
    code: Annotated[bool, typer.Option("--code", help="Add the best code, and its constants.")] = False,
    study: Tag = None,
    as_json: Json = None,
    folder: Folder = HERE,
) -> None:
    """Say all an agent needs to know now: the best, what was tried, what runs, what is left."""
    from autoresearch.cli.brief import brief

    brief(folder, study, full=full, code=code, as_json=bool(as_json))


@app.command(
    epilog=examples(
        "autoresearch submit --hypothesis 'deeper, fewer steps' --set DEPTH=3",
        "autoresearch submit --factor DEPTH=2,3 --factor MATRIX_LR=0.02,0.04,0.08",
        "autoresearch submit --train mine/train.py --hypothesis 'no value embeddings'",
        "autoresearch submit --file wave.json --request-id wave-7",
        """autoresearch submit --wave '[{"hypothesis": "H", "edits": [{"old": "A", "new": "B"}]}]'""",
    )
)
@guard
def submit(
    *,
    file: Annotated[str | None, typer.Option(help="A wave of experiments as JSON; - is stdin.")] = None,
    wave: Annotated[str | None, typer.Option(help="The same JSON, here on the command line.")] = None,
    train: Annotated[list[str] | None, typer.Option(help="An edited file, whole: PATH or NAME=PATH.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="A constant to set: NAME=VALUE.")] = None,
    factor: Annotated[list[str] | None, typer.Option(help="A grid's factor: NAME=LEVEL,LEVEL,...")] = None,
    hypothesis: Annotated[str | None, typer.Option("--hypothesis", "-m", help="What it should do.")] = None,
    parent: Annotated[str | None, typer.Option(help="What it builds on.", show_default="the best")] = None,
    expected: Annotated[float | None, typer.Option(help="Predicted change of the metric.")] = None,
    reworks: Annotated[list[str] | None, typer.Option(help="An experiment whose idea it does anew.")] = None,
    notes: Annotated[str | None, typer.Option(help="What you have learnt, for the notebook.")] = None,
    author: Author = None,
    request_id: Annotated[str | None, typer.Option(help="The same id is answered the same way.")] = None,
    dry_run: DryRun = False,
    study: Tag = None,
    as_json: Json = None,
    folder: Folder = HERE,
) -> None:
    """Hand in experiments: constants, edits, whole files or a grid. Answers with their ids at once.

    Code that is known gets the id it has. A wave's JSON: {"experiments": [{"hypothesis": "...", and
    one of "set": {"DEPTH": 6}, "edits": [{"old": "...", "new": "..."}], "files": {"train/train.py":
    "..."}}], "factors": {"DEPTH": [2, 3]}, "parent": "e0007", "notes": "..."}
    """
    from autoresearch.cli.submit import Given, submit

    given = Given(
        file=file,
        wave=wave,
        train=tuple(train or ()),
        set=tuple(set_ or ()),
        factor=tuple(factor or ()),
        hypothesis=hypothesis,
        parent=parent,
        expected=expected,
        reworks=tuple(reworks or ()),
        notes=notes,
    )
    submit(
        folder,
        study,
        given,
        author=author,
        request_id=request_id,
        dry_run=dry_run,
        as_json=bool(as_json),
    )


@app.command(epilog=examples("autoresearch wait --since 431", "autoresearch wait --min-done 4 --timeout 60"))
@guard
def wait(
    *,
    min_done: Annotated[int, typer.Option(min=0, help="Experiments that must have ended.")] = 1,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait at most.")] = 100,
    since: Annotated[
        int | None,
        typer.Option(min=0, max=2**62, help="The last answer's cursor.", show_default="your last submission"),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Rows at most.", show_default="2,000 bytes")
    ] = None,
    author: Author = None,
    study: Tag = None,
    as_json: Json = None,
    folder: Folder = HERE,
) -> None:
    """Wait for experiments to end; say which have since a cursor, and the next cursor."""
    from autoresearch.cli.wait import wait

    wait(
        folder,
        study,
        min_done=min_done,
        timeout=timeout,
        since=since,
        limit=limit,
        author=author,
        as_json=bool(as_json),
    )


@app.command(epilog=examples("autoresearch status", "autoresearch status --watch"))
@guard
def status(
    *,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay and show what happens.")] = False,
    study: Tag = None,
    as_json: Json = None,
    folder: Folder = HERE,
) -> None:
    """Show how good the best is, and what is going on."""
    from autoresearch.cli.status import status

    status(folder, study, watch=watch, as_json=bool(as_json))


@app.command(epilog=examples("autoresearch results --limit 50", "autoresearch results --grid g7"))
@guard
def results(
    *,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=1, help="Rows at most.", show_default="20; 2,000 bytes")
    ] = None,
    fields: Annotated[str | None, typer.Option(help="Columns, separated by commas.")] = None,
    grid: Annotated[str | None, typer.Option(help="A grid's main effects and interactions.")] = None,
    study: Tag = None,
    as_json: Json = None,
    folder: Folder = HERE,
) -> None:
    """Print the results table, the best first; with --no-json into a pipe, as TSV."""
    if grid is not None:
        from autoresearch.cli.grid import grid_results

        grid_results(folder, study, grid, as_json=bool(as_json))
        return
    from autoresearch.cli.look import results

    results(folder, study, limit=limit, fields=fields, as_json=bool(as_json))


@app.command(epilog=examples("autoresearch show e0042", "autoresearch show e0042 --save mine"))
@guard
def show(
    experiment: ExperimentId,
    *,
    task: Annotated[bool, typer.Option("--task", help="Print its last run's SkyPilot task.")] = False,
    save: Annotated[Path | None, typer.Option(help="Write its code into this folder.")] = None,
    study: Tag = None,
    as_json: Json = None,
    folder: Folder = HERE,
) -> None:
    """Show one experiment: why, what changed, each run, the decision, and what it led to."""
    from autoresearch.cli.look import save_code, show, show_task

    if task:
        show_task(folder, study, experiment)
    elif save is not None:
        save_code(folder, study, experiment, save, as_json=bool(as_json))
    else:
        show(folder, study, experiment, as_json=bool(as_json))


@app.command(epilog=examples("autoresearch diff e0042", "autoresearch diff e0042 e0001 --full"))
@guard
def diff(
    experiment: ExperimentId,
    against: Annotated[str | None, typer.Argument(help="Compare with this one. Default: its parent.")] = None,
    *,
    full: Annotated[bool, typer.Option("--full", help="However long it is.")] = False,
    study: Tag = None,
    as_json: Json = None,
    folder: Folder = HERE,
) -> None:
    """Print what an experiment changed, as a unified diff."""
    from autoresearch.cli.look import diff

    diff(folder, study, experiment, against, full=full, as_json=bool(as_json))


@app.command(epilog=examples("autoresearch log e0042", "autoresearch log e0042.2 --lines 100 --no-json"))
@guard
def log(
    experiment: ExperimentId,
    *,
    lines: Annotated[
        int | None, typer.Option("--lines", "-n", min=1, help="Lines from the end.", show_default="40; 8")
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="The whole log, byte for byte.")] = False,
    study: Tag = None,
    as_json: Json = None,
    folder: Folder = HERE,
) -> None:
    """Print typed facts of a run, and the end of its log, cleaned of control characters."""
    from autoresearch.cli.log import log

    log(folder, study, experiment, lines=lines, raw=raw, as_json=bool(as_json))


@app.command(epilog=examples("autoresearch confirm e0042", "autoresearch confirm e0042 --runs 3"))
@guard
def confirm(
    experiment: ExperimentId,
    *,
    runs: Annotated[int, typer.Option(min=1, max=16, help="Runs that should be open.")] = 1,
    kind: Annotated[str | None, typer.Option(help="On this kind of worker.", show_default="any")] = None,
    author: Author = None,
    study: Tag = None,
    as_json: Json = None,
    folder: Folder = HERE,
) -> None:
    """Measure an experiment again, with fresh seeds. Nothing where that many runs are open already."""
    from autoresearch.cli.steer import confirm

    confirm(folder, study, experiment, runs=runs, kind=kind, author=author, as_json=bool(as_json))


@app.command(epilog=examples("autoresearch cancel e0042", "autoresearch cancel e0042.2 e0043"))
@guard
def cancel(
    experiments: Annotated[list[str], typer.Argument(help="Experiments or runs.")],
    *,
    author: Author = None,
    study: Tag = None,
    as_json: Json = None,
    folder: Folder = HERE,
) -> None:
    """Take back what waits or runs. What has ended stays."""
    from autoresearch.cli.steer import cancel

    cancel(folder, study, experiments, author=author, as_json=bool(as_json))


@app.command(
    epilog=examples("autoresearch note 'depth 3 wins at every width'", "autoresearch note 'next: schedules'"),
    cls=TakesText,
)
@guard
def note(
    text: Annotated[str, typer.Argument(help="What you have learnt.")],
    *,
    author: Author = None,
    study: Tag = None,
    as_json: Json = None,
    folder: Folder = HERE,
) -> None:
    """Write into the study's notebook; briefs tell the last notes."""
    from autoresearch.cli.steer import note

    note(folder, study, text, author=author, as_json=bool(as_json))


@app.command(epilog=examples("autoresearch budget", "autoresearch budget --study nov22"))
@guard
def budget(*, study: Tag = None, as_json: Json = None, folder: Folder = HERE) -> None:
    """Say what is spent, what the ceilings are, and what is left of them."""
    from autoresearch.cli.steer import budget

    budget(folder, study, as_json=bool(as_json))


@app.command(epilog=examples("autoresearch mcp", "claude mcp add autoresearch -- autoresearch mcp"))
@guard
def mcp(*, study: Tag = None, folder: Folder = HERE) -> None:
    """Serve these commands over MCP, on stdin and stdout, for agents that speak it."""
    from autoresearch.cli.mcp import serve

    serve(folder, study)
