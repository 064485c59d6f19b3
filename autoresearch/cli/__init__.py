"""The command line: every command with its options, and nothing else.

What a command does stands in a module of this package that is imported when it is called, so that
`--help` and completion load nothing but typer. Data goes to stdout, talk to stderr. Exit codes: 0
done, 1 failed, 2 usage or configuration, 3 not found, 4 refused, 5 budget exhausted, 6 pool
unavailable, 124 wait timed out, 130 interrupted.
"""

from __future__ import annotations

import enum
import sys
from pathlib import Path
from typing import Annotated

import typer

from autoresearch.cli.output import guard

app = typer.Typer(
    name="autoresearch",
    help="An agent edits train.py, a pool of workers measures, statistics decides what to keep.",
    rich_markup_mode=None,  # plain help: Rich takes as long to load as all the rest
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Tag = Annotated[str | None, typer.Option("--study", help="The study's tag. Default: the latest one.")]
Folder = Annotated[Path, typer.Option("--folder", "-C", help="The study's folder.", show_default="here")]
ExperimentId = Annotated[str, typer.Argument(help="An experiment, e0042, or one of its runs, e0042.1.")]
HERE = Path()


class Format(enum.StrEnum):
    """What `export` writes."""

    TSV = "tsv"
    JSON = "json"


Version = Annotated[bool, typer.Option("--version", help="Print the version and exit.")]


@app.callback(invoke_without_command=True)
def _version(*, version: Version = False) -> None:
    if version:
        from autoresearch import __version__

        typer.echo(f"autoresearch {__version__}")
        raise typer.Exit


@app.command()
@guard
def init(folder: Annotated[Path, typer.Argument(help="Where to scaffold the study.")] = HERE) -> None:
    """Scaffold a study folder: train/, instructions.md, autoresearch.yaml, under git."""
    from autoresearch.cli.scaffold import init

    init(folder)


@app.command()
@guard
def doctor(*, as_json: Json = False, folder: Folder = HERE) -> None:
    """Check this machine and this folder, and say how to fix what is missing."""
    from autoresearch.cli.doctor import doctor

    doctor(folder, as_json=as_json)


@app.command()
@guard
def run(
    *,
    study: Tag = None,
    agent: Annotated[str | None, typer.Option(help="Who proposes: sweep or claude.")] = None,
    executor: Annotated[str | None, typer.Option(help="Where runs go: local or skypilot.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="CPU workers of this machine.")] = None,
    experiments: Annotated[int | None, typer.Option(min=0, help="Ceiling on experiments.")] = None,
    hours: Annotated[float | None, typer.Option(min=0, help="Ceiling on hours.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before machines start.")] = False,
    plan_only: Annotated[bool, typer.Option("--dry-run", help="Print the plan; start nothing.")] = False,
    keep_workers: Annotated[bool, typer.Option(help="Leave the machines up at the end.")] = False,
    folder: Folder = HERE,
) -> None:
    """Run a study, or resume it. Prints what happens, then the results table."""
    from autoresearch.cli.run import Wishes, run

    wishes = Wishes(
        agent=agent,
        executor=executor,
        workers=workers,
        experiments=experiments,
        hours=hours,
        yes=yes,
        dry_run=plan_only,
        keep_workers=keep_workers,
    )
    run(folder, study, wishes)


@app.command()
@guard
def status(
    *,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay and show what happens.")] = False,
    study: Tag = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Show how good the best is, and what is going on."""
    from autoresearch.cli.status import status

    status(folder, study, watch=watch, as_json=as_json)


@app.command()
@guard
def results(
    *,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Rows at most.")] = 20,
    study: Tag = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Print the results table, the best first. Piped, it is TSV."""
    from autoresearch.cli.look import results

    results(folder, study, limit=limit, as_json=as_json)


@app.command()
@guard
def show(
    experiment: ExperimentId,
    *,
    task: Annotated[bool, typer.Option("--task", help="Print its last run's SkyPilot task.")] = False,
    study: Tag = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Show one experiment: why, what changed, each run, the decision, and what it led to."""
    from autoresearch.cli.look import show, show_task

    if task:
        show_task(folder, study, experiment)
    else:
        show(folder, study, experiment, as_json=as_json)


@app.command()
@guard
def diff(
    experiment: ExperimentId,
    against: Annotated[str | None, typer.Argument(help="Compare with this one. Default: its parent.")] = None,
    *,
    study: Tag = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Print what an experiment changed, as a unified diff."""
    from autoresearch.cli.look import diff

    diff(folder, study, experiment, against, as_json=as_json)


@app.command()
@guard
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
    from autoresearch.cli.look import log

    log(folder, study, experiment, lines=lines, raw=raw, as_json=as_json)


@app.command()
@guard
def plot(
    path: Annotated[Path, typer.Argument(help="Where to write the picture.")] = Path("progress.png"),
    *,
    study: Tag = None,
    folder: Folder = HERE,
) -> None:
    """Draw progress.png."""
    from autoresearch.cli.export import plot

    plot(folder, study, path)


@app.command()
@guard
def notebook(*, study: Tag = None, as_json: Json = False, folder: Folder = HERE) -> None:
    """Print the lab notebook: the agent's notes in order, with what they led to."""
    from autoresearch.cli.notebook import notebook

    notebook(folder, study, as_json=as_json)


@app.command()
@guard
def export(
    path: Annotated[Path | None, typer.Argument(help="The file to write. Default: stdout.")] = None,
    *,
    kind: Annotated[Format, typer.Option("--format", help="tsv: upstream's five columns.")] = Format.TSV,
    study: Tag = None,
    folder: Folder = HERE,
) -> None:
    """Write all results: results.tsv as upstream tools read it, or everything as JSON."""
    from autoresearch.cli.export import export

    export(folder, study, path, as_json=kind is Format.JSON)


@app.command()
@guard
def stop(
    *,
    now: Annotated[bool, typer.Option("--now", help="Cancel what runs instead of waiting for it.")] = False,
    study: Tag = None,
    folder: Folder = HERE,
) -> None:
    """Ask the study's dispatcher to stop: running experiments finish first."""
    from autoresearch.cli.run import stop

    stop(folder, study, now=now)


@app.command()
@guard
def down(*, study: Tag = None, as_json: Json = False, folder: Folder = HERE) -> None:
    """Take down the machines that a study has left."""
    from autoresearch.cli.machines import down

    down(folder, study, as_json=as_json)


@app.command()
@guard
def reap(*, as_json: Json = False, folder: Folder = HERE) -> None:
    """Take down the machines of all studies whose dispatcher died."""
    from autoresearch.cli.machines import reap

    reap(folder, as_json=as_json)


def main() -> None:
    """Run the command line; the entry point of the package."""
    try:
        app()
    except KeyboardInterrupt:
        from autoresearch.cli.output import fail
        from autoresearch.errors import StoppedError

        sys.exit(fail(StoppedError("interrupted; nothing was changed")))
