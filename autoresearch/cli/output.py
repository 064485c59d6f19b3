"""How commands speak: JSON documents, TSV, one-line errors with stable exit codes."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import typer

from autoresearch.errors import AutoresearchError, StorageError

SCHEMA_VERSION = 1

P = ParamSpec("P")
R = TypeVar("R")


def print_json(document: Mapping[str, Any]) -> None:
    """Write one JSON document to stdout."""
    typer.echo(json.dumps({"schema_version": SCHEMA_VERSION, **document}, allow_nan=False))


def print_tsv(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Write rows as tab-separated values with a header; absent values are empty."""
    typer.echo("\t".join(columns))
    for row in rows:
        typer.echo("\t".join("" if row[name] is None else str(row[name]) for name in columns))


def say(text: str) -> None:
    """Tell a person something: to stderr."""
    typer.echo(text, err=True)


def wants_json() -> bool:
    """Whether this command line asked for JSON; for errors raised before its options are read."""
    return "--json" in sys.argv


def fail(error: AutoresearchError) -> int:
    """Report an error in one line, with its way out; return its exit code."""
    if wants_json():
        typer.echo(json.dumps(error.as_dict()))
    else:
        say(f"autoresearch: {error.message}" + (f"\n  {error.hint}" if error.hint else ""))
    return error.exit_code


def guard(command: Callable[P, R]) -> Callable[P, R]:
    """Return the command with our errors, and the disk's, turned into one line and an exit code."""

    @functools.wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except AutoresearchError as error:
            raise typer.Exit(fail(error)) from None
        except BrokenPipeError:  # `| head` has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except OSError as error:
            raise typer.Exit(fail(_from_os(error))) from None

    return guarded


def _from_os(error: OSError) -> StorageError:
    where = f"{error.filename}: " if error.filename else ""
    return StorageError(
        f"{where}{(error.strerror or str(error)).lower()}",
        "free some space or make the folder writable; `autoresearch run` then resumes",
    )
