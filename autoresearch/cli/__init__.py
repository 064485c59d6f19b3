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

from autoresearch.cli.app import (
    HERE,
    Agent,
    DryRun,
    Executor,
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
from autoresearch.cli.output import guard


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


@app.command(epilog=examples("autoresearch init", "autoresearch init --from ."))
@guard
def init(
    folder: Annotated[Path, typer.Argument(help="Where to scaffold the study.")] = HERE,
    *,
    source: Annotated[
        Path | None, typer.Option("--from", help="An upstream checkout: make a study of it, in place.")
    ] = None,
) -> None:
    """Scaffold a study folder: train/, instructions.md, autoresearch.yaml, under git."""
    if source is not None:
        from autoresearch.cli.adopt import init_from

        init_from(source, folder)
        return
    from autoresearch.cli.scaffold import init

    init(folder)


@app.command(epilog=examples("autoresearch doctor", "autoresearch doctor --folder mine"))
@guard
def doctor(*, as_json: Json = None, folder: Folder = HERE) -> None:
    """Check this machine and this folder, and say how to fix what is missing."""
    from autoresearch.cli.doctor import doctor

    doctor(folder, as_json=bool(as_json))


@app.command(epilog=examples("autoresearch run", "autoresearch run --agent claude --hours 8"))
@guard
def run(
    *,
    study: Tag = None,
    agent: Agent = None,
    executor: Executor = None,
    workers: Workers = None,
    experiments: Experiments = None,
    hours: Hours = None,
    until_ceiling: UntilCeiling = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    keep_workers: Annotated[bool, typer.Option(help="Leave the machines up at the end.")] = False,
    folder: Folder = HERE,
) -> None:
    """Run a study in this terminal, or resume it. Prints what happens, then the results table."""
    from autoresearch.cli.run import Wishes, run

    wishes = Wishes(
        agent=agent,
        executor=executor,
        workers=workers,
        experiments=experiments,
        hours=hours,
        until_ceiling=until_ceiling,
        yes=yes,
        dry_run=dry_run,
        keep_workers=keep_workers,
    )
    run(folder, study, wishes)


@app.command(epilog=examples("autoresearch plot", "autoresearch plot night.png --study nov22"))
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


@app.command(epilog=examples("autoresearch notebook", "autoresearch notebook --limit 5"))
@guard
def notebook(
    *,
    limit: Annotated[
        int | None,
        typer.Option("--limit", "-n", min=1, help="The last so many.", show_default="all; 2,000 bytes"),
    ] = None,
    study: Tag = None,
    as_json: Json = None,
    folder: Folder = HERE,
) -> None:
    """Print the lab notebook: the agent's notes in order, with what they led to."""
    from autoresearch.cli.notebook import notebook

    notebook(folder, study, limit=limit, as_json=bool(as_json))


@app.command(epilog=examples("autoresearch export results.tsv", "autoresearch export --format json all.json"))
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


@app.command(epilog=examples("autoresearch noise", "autoresearch noise --json"))
@guard
def noise(*, study: Tag = None, as_json: Json = None, folder: Folder = HERE) -> None:
    """How much runs differ, which workers are off by how much, and what a difference must be to show."""
    from autoresearch.cli.noise import noise

    noise(folder, study, as_json=bool(as_json))


@app.command(
    epilog=examples(
        "autoresearch simulate --seeds 4", "autoresearch simulate --replay results.tsv --workers H100=4"
    )
)
@guard
def simulate(
    *,
    workers: Annotated[str, typer.Option(help="The pool, by kind.")] = "H100=13,H200=3",
    hours: Annotated[float, typer.Option(min=0, help="How long a night is.")] = 8.0,
    policy: Annotated[str, typer.Option(help="Who judges: posterior or confirm.")] = "posterior",
    world: Annotated[str, typer.Option(help="What the laboratory is like.")] = "base",
    seeds: Annotated[int, typer.Option(help="How many nights.")] = 8,
    first_seed: Annotated[int, typer.Option(help="The first night's seed.")] = 0,
    reach: Annotated[float | None, typer.Option(help="Also tell what a true value this good costs.")] = None,
    replay: Annotated[
        Path | None, typer.Option(help="Take the ideas of a results.tsv instead of invented ones.")
    ] = None,
    as_json: Json = None,
) -> None:
    """Simulate nights of the real dispatcher: how a policy does in a world where the truth is known."""
    from autoresearch.cli.simulate import run_simulation

    run_simulation(
        workers=workers,
        hours=hours,
        policy=policy,
        world=world,
        seeds=seeds,
        first_seed=first_seed,
        reach=reach,
        replay=replay,
        as_json=bool(as_json),
    )


@app.command(epilog=examples("autoresearch verify", "autoresearch verify e0042 --rerun"))
@guard
def verify(
    experiments: Annotated[list[str] | None, typer.Argument(help="Some experiments. Default: all.")] = None,
    *,
    rerun: Annotated[
        bool, typer.Option("--rerun", help="Also measure them, or the best, again on this machine.")
    ] = False,
    study: Tag = None,
    as_json: Json = None,
    folder: Folder = HERE,
) -> None:
    """Check that the books hold: code, logs, digests, seeds; with --rerun measure again."""
    from autoresearch.cli.verify import run_verification

    run_verification(folder, study, experiments or [], rerun=rerun, as_json=bool(as_json))


@app.command(epilog=examples("autoresearch reap", "autoresearch reap --folder mine"))
@guard
def reap(*, as_json: Json = None, folder: Folder = HERE) -> None:
    """Take down the machines of all studies whose dispatcher died."""
    from autoresearch.cli.machines import reap

    reap(folder, as_json=bool(as_json))


def main() -> None:
    """Run the command line; the entry point of the package."""
    try:
        app()
    except KeyboardInterrupt:
        from autoresearch.cli.output import fail
        from autoresearch.errors import StoppedError

        error = StoppedError("interrupted; nothing was changed")
        sys.exit(fail(error, as_json="--json" in sys.argv))


from autoresearch.cli import verbs  # noqa: E402, F401  the commands for agents; they need `app`
