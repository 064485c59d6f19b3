"""The command line: thin commands over `study`, `dispatcher` and `console`.

Data goes to stdout, talk to stderr. Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 not
found, 4 refused, 5 budget exhausted, 6 pool unavailable, 124 wait timed out, 130 interrupted.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from autoresearch.cli import look, run, scaffold
from autoresearch.cli.output import fail, guard

app = typer.Typer(
    name="autoresearch",
    help="An agent edits train.py, a pool of workers measures, statistics decides what to keep.",
    rich_markup_mode=None,  # plain help: five times faster to start
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    scaffold.init,
    scaffold.doctor,
    run.run,
    look.status,
    look.results,
    look.show,
    look.diff,
    look.log,
    look.plot,
    look.export,
    run.stop,
):
    app.command(rich_help_panel=None)(guard(command))


Version = Annotated[bool, typer.Option("--version", help="Print the version and exit.")]


@app.callback(invoke_without_command=True)
def _version(*, version: Version = False) -> None:
    if version:
        from autoresearch import __version__

        typer.echo(f"autoresearch {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; the entry point of the package."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(fail_interrupted())


def fail_interrupted() -> int:
    """Report an interrupt outside of `run`; return its exit code."""
    from autoresearch.errors import StoppedError

    return fail(StoppedError("interrupted; nothing was changed"))
