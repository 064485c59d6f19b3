"""The application and the options that many commands share. Loads next to nothing but typer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoresearch.cli.output import Commands

app = typer.Typer(
    name="autoresearch",
    cls=Commands,
    help="An agent edits train.py, a pool of workers measures, statistics decides what to keep.",
    rich_markup_mode=None,  # plain help: Rich takes as long to load as all the rest
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

HERE = Path()
Json = Annotated[
    bool | None,
    typer.Option("--json/--no-json", help="Answer with one JSON document.", show_default="off a terminal"),
]
Tag = Annotated[str | None, typer.Option("--study", help="The study's tag. Default: the latest one.")]
Folder = Annotated[Path, typer.Option("--folder", "-C", help="The study's folder.", show_default="here")]
ExperimentId = Annotated[str, typer.Argument(help="An experiment, e0042, or one of its runs, e0042.1.")]
Author = Annotated[
    str | None,
    typer.Option(help="Who you are.", show_default="$AUTORESEARCH_AUTHOR, claude-code or your user name"),
]
Agent = Annotated[str | None, typer.Option(help="Who proposes: sweep, claude, or external for nobody here.")]
Executor = Annotated[str | None, typer.Option(help="Where runs go: local or skypilot.")]
Workers = Annotated[int | None, typer.Option(min=1, help="CPU workers of this machine.")]
Experiments = Annotated[int | None, typer.Option(min=0, help="Ceiling on experiments.")]
Hours = Annotated[float | None, typer.Option(min=0, help="Ceiling on hours.")]
UntilCeiling = Annotated[
    bool | None,
    typer.Option(
        "--until-ceiling/--no-until-ceiling",
        help="Stop by itself when gains have reached their ceiling: the next hour is not worth its cost. "
        "Never before 40 experiments.",
        show_default="autoresearch.yaml",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before machines start.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would happen; change nothing.")]


def examples(*lines: str) -> str:
    """Return the end of a command's help: lines to copy."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
