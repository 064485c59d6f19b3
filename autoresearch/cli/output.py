"""How commands speak: JSON documents, TSV, one-line errors with stable exit codes."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from autoresearch.errors import AutoresearchError, StoppedError, StorageError, UsageError
from autoresearch.untrusted import clean

SCHEMA_VERSION = 1
DOCUMENT_BYTES = 2000  # of JSON, where nobody asked for more
CELL_CHARS = 1000

P = ParamSpec("P")
R = TypeVar("R")


def print_json(document: Mapping[str, Any]) -> None:
    """Write one JSON document to stdout."""
    typer.echo(json.dumps({"schema_version": SCHEMA_VERSION, **document}, allow_nan=False))


def print_tsv(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Write rows as tab-separated values with a header; absent values are empty."""
    typer.echo("\t".join(columns))
    for row in rows:
        cells = ("" if row[name] is None else clean(str(row[name]), CELL_CHARS) for name in columns)
        typer.echo("\t".join(cells))


def say(text: str) -> None:
    """Tell a person something: to stderr."""
    typer.echo(text, err=True)


def fit(
    document: Mapping[str, Any], key: str, *, limit: int | None = None, room: int = DOCUMENT_BYTES
) -> Mapping[str, Any]:
    """Return a document with as many of the rows under `key` as fit into `room` bytes of JSON.

    With a `limit`, that many rows, whatever their size. What is left out is counted under `more`.
    """
    rows = list(document[key])
    shown = rows[:limit]
    if limit is None:
        left = room - len(json.dumps({"schema_version": SCHEMA_VERSION, **document, key: [], "more": 9999}))
        count = 0
        for row in rows:
            left -= len(json.dumps(row)) + 2
            if left < 0:
                break
            count += 1
        shown = rows[:count]
    more = {"more": len(rows) - len(shown)} if len(shown) < len(rows) else {}
    return {**document, key: shown, **more}


def shorten(text: str, room: int) -> str:
    """Return as much of a text's beginning as takes at most `room` bytes in JSON."""
    if len(json.dumps(text)) <= room:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(json.dumps(text[:middle])) <= room - 3 else (low, middle - 1)
    return text[:low] + "..."


def fail(error: AutoresearchError, *, as_json: bool, document: Mapping[str, Any] | None = None) -> int:
    """Report an error in one line, with its way out; return its exit code.

    As JSON it may come with what there was to say all the same.
    """
    if as_json:
        print_json({**(document or {}), **error.as_dict()})
    else:
        say(f"autoresearch: {error.message}" + (f"\n  {error.hint}" if error.hint else ""))
    return error.exit_code


def guard(command: Callable[P, R]) -> Callable[P, R]:
    """Return the command with our errors, and the disk's, turned into one line and an exit code.

    Where it was not said whether to answer in JSON, that is so off a terminal.
    """

    @functools.wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        if "as_json" in kwargs and kwargs["as_json"] is None:
            kwargs["as_json"] = not sys.stdout.isatty()
        as_json = bool(kwargs.get("as_json"))
        try:
            return command(*args, **kwargs)
        except AutoresearchError as error:
            raise typer.Exit(fail(error, as_json=as_json)) from None
        except KeyboardInterrupt:
            stopped = StoppedError("interrupted; nothing is lost", "run the same command again")
            raise typer.Exit(fail(stopped, as_json=as_json)) from None
        except BrokenPipeError:  # `| head` has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except OSError as error:
            raise typer.Exit(fail(from_os(error), as_json=as_json)) from None

    return guarded


class Commands(TyperGroup):
    """The commands, whose wrong use is told as all errors are: in JSON where they answer in JSON."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep the words of the command line: what is wrong with them may be told in JSON."""
        ctx.meta[_WORDS] = tuple(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        words = ctx.meta[_WORDS]
        try:
            return super().invoke(ctx)
        except _WRONG_USE as wrong:
            if not self._answers_in_json(words):
                raise
            hint = f"see `{getattr(wrong.ctx, 'command_path', None) or 'autoresearch'} --help`"
            error = UsageError(clean(wrong.format_message(), 300), hint)
            raise typer.Exit(fail(error, as_json=True)) from None

    def _answers_in_json(self, words: Sequence[str]) -> bool:
        """Whether these words ask for JSON: of a command that has it, off a terminal by default."""
        named = self.commands.get(next((word for word in words if not word.startswith("-")), ""))
        if named is not None and all(param.name != "as_json" for param in named.params):
            return False
        said = [word for word in words if word in {"--json", "--no-json"}]
        return said[-1] == "--json" if said else not sys.stdout.isatty()


class TakesText(TyperCommand):
    """A command whose argument is prose, which may begin with a dash, as a line of a list does."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Tell prose from options, whose names hold no blank."""
        prose = [word for word in args if word.startswith("-") and " " in word.partition("=")[0]]
        if prose and "--" not in args:
            args = [*(word for word in args if word not in prose), "--", *prose]
        return super().parse_args(ctx, args)


_WORDS = "autoresearch.words"
_WRONG_USE: Any = typer.BadParameter.__mro__[1]  # what typer, whatever its version, raises for wrong usage


def from_os(error: OSError) -> StorageError:
    """Return the disk's complaint as one of ours, with the way out."""
    where = f"{error.filename}: " if error.filename else ""
    return StorageError(
        f"{where}{(error.strerror or str(error)).lower()}",
        "free some space or make the folder writable; `autoresearch run` then resumes",
    )
