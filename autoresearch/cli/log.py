"""`log`: typed facts of a run, and the end of what it printed."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from autoresearch.cli.common import existing_study
from autoresearch.cli.look import run_of, standing
from autoresearch.cli.output import fit, print_json, shorten
from autoresearch.experiment import Failure
from autoresearch.files import read_tail
from autoresearch.logparse import parse_progress
from autoresearch.untrusted import clean

TAIL_BYTES = 256 << 10
DEFAULT_LINES, JSON_LINES = 40, 8
LINE_BYTES, MESSAGE_BYTES = 160, 320  # in JSON, where nobody asked for more


def log(
    folder: Path, study: str | None, experiment: str, *, lines: int | None, raw: bool, as_json: bool
) -> None:
    """Print the end of a run's log, cleaned of control characters; in JSON with typed facts."""
    opened = existing_study(folder, study)
    run = run_of(opened, experiment)
    path = opened.job_folder(run) / "log"
    if raw:
        _copy(path)
        return
    tail = read_tail(path, TAIL_BYTES)
    told = _lines(tail)[-(lines or (JSON_LINES if as_json else DEFAULT_LINES)) :]
    if not as_json:
        typer.echo("\n".join(told))
        return
    progress = parse_progress(tail)
    document = {
        "run": run.id,
        "state": str(run.state),
        "value": run.value,
        "failure": run.failure and _failure(run.failure),
        "progress": progress and asdict(progress),
        "log": str(path),
        **standing(opened),
    }
    print_json(document | {"tail": told} if lines else _fitted(document, told))


def _copy(path: Path) -> None:
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            sys.stdout.buffer.write(chunk)


def _lines(tail: bytes) -> list[str]:
    """Return what a log says, without empty lines; progress that overwrites itself is a line each time."""
    said = tail.decode("utf-8", "replace").replace("\r", "\n").split("\n")
    return [line for line in (clean(each, 300) for each in said) if line]


def _failure(failure: Failure) -> Mapping[str, Any]:
    return {**asdict(failure), "message": shorten(failure.message, MESSAGE_BYTES)}


def _fitted(document: Mapping[str, Any], told: Sequence[str]) -> Mapping[str, Any]:
    """Return the document with as much of the log's end as fits."""
    last_first = [shorten(line, LINE_BYTES) for line in reversed(told)]
    shown = fit({**document, "tail": last_first}, "tail")["tail"]
    return {**document, "tail": list(reversed(shown))}
