"""`submit`: ideas from outside become experiments."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import typer

from autoresearch.cli.common import author_of, ceilings, existing_study, experiment_of, say_if_idle
from autoresearch.cli.output import fit, print_json, say
from autoresearch.errors import BudgetError, RefusedError, UsageError
from autoresearch.files import decode_source
from autoresearch.study import Study
from autoresearch.submission import rehearse
from autoresearch.submission import submit as take_in
from autoresearch.wave import Idea, Wave, read_number, read_wave

MAX_BYTES = 8 << 20  # of a wave
SHOWN_REFUSALS = 3
MAX_REQUEST_ID = 100  # characters


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What the command line says of an idea, a grid or a wave."""

    file: str | None
    wave: str | None
    train: tuple[str, ...]
    set: tuple[str, ...]
    factor: tuple[str, ...]
    hypothesis: str | None
    parent: str | None
    expected: float | None
    reworks: tuple[str, ...]
    notes: str | None


def submit(
    folder: Path,
    study: str | None,
    given: Given,
    *,
    author: str | None,
    request_id: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Hand in experiments and say what became of each.

    RefusedError where none was taken, BudgetError where that is for the ceiling.
    """
    opened = existing_study(folder, study)
    name = author_of(author)
    if request_id is not None and not (request_id.isprintable() and 0 < len(request_id) <= MAX_REQUEST_ID):
        raise UsageError("--request-id is no plain word", f"use up to {MAX_REQUEST_ID} letters and digits")
    wave = _wave(given, list(opened.target.editable))
    budget = ceilings(opened)
    if dry_run:
        answer = rehearse(opened, wave, author=name, budget=budget)
    else:
        answer = take_in(opened, wave, author=name, request_id=request_id, budget=budget, now=time.time())
    rows = answer["ideas"]
    refused = [(i, row["reason"]) for i, row in enumerate(rows) if row["state"] == "refused"]
    if len(refused) == len(rows):
        _raise(refused)
    document = _document(opened, answer, refused, dry_run=dry_run)
    if as_json:
        print_json(fit(fit(document, "refused", limit=SHOWN_REFUSALS), "experiments"))
        return
    _print(opened, rows, answer["grid"], dry_run=dry_run)
    say_if_idle(opened)


def _document(
    opened: Study, answer: Mapping[str, Any], refused: Sequence[tuple[int, str]], *, dry_run: bool
) -> dict[str, Any]:
    rows = answer["ideas"]
    document: dict[str, Any] = {
        "study": opened.tag,
        "queued": sum(row["state"] == "queued" for row in rows),
        "duplicates": sum(row["state"] == "duplicate" for row in rows),
        "experiments": [row["experiment"] for row in rows],
        "refused": [{"idea": i, "reason": reason[:300]} for i, reason in refused],
        "grid": answer["grid"],
        "cursor": answer["cursor"],
        "dispatching": opened.dispatched(),
    }
    if dry_run:
        return document | {"dry_run": True}
    following = "wait --since " + str(answer["cursor"]) if document["dispatching"] else "up"
    return document | {"next": f"autoresearch {following}"}


def _print(opened: Study, rows: Sequence[Mapping[str, Any]], grid: str | None, *, dry_run: bool) -> None:
    for row in rows:
        words = {"queued": "would be queued" if dry_run else "queued", "duplicate": "known: the same code"}
        typer.echo(f"{row['experiment'] or '-':<6} {words.get(row['state'], row.get('reason', ''))}")
    if grid:
        say(f"grid {grid}: `autoresearch results --grid {grid}` once it is measured")
    say(f"{opened.tag}: {len(rows)} ideas")


def _raise(refused: Sequence[tuple[int, str]]) -> None:
    reasons = list(dict.fromkeys(reason for _, reason in refused))
    if all(reason.startswith("budget") for reason in reasons):  # as a rehearsal has it
        raise BudgetError("the ceiling on experiments is reached", "wait for what is pending")
    said = f"{reasons[0]}" + (f" (and {len(refused) - 1} more refused)" if len(refused) > 1 else "")
    raise RefusedError(said[:600], "correct it and submit again; nothing was queued")


# ---------------------------------------------------------------------------
# What the command line says, as a wave
# ---------------------------------------------------------------------------


def _wave(given: Given, editable: Sequence[str]) -> Wave:
    """Return the wave that is asked for. UsageError unless it is exactly one of the ways."""
    ways = {
        "--file": given.file,
        "--wave": given.wave,
        "--train": given.train,
        "--set": given.set,
        "--factor": given.factor,
    }
    chosen = [name for name, value in ways.items() if value]
    if len(chosen) != 1:
        what = f"{' and '.join(chosen)} were given" if chosen else "nothing to submit"
        raise UsageError(f"{what}; use one of {', '.join(ways)}", "see `autoresearch submit --help`")
    if given.parent is not None:
        experiment_of(given.parent)
    if given.file or given.wave:
        return _written(given)
    if given.factor:
        pairs = [_pair(text, "--factor") for text in given.factor]
        levels = {
            name: tuple(read_number(v, f"--factor {name}") for v in text.split(",")) for name, text in pairs
        }
        data = Wave(
            factors=levels, hypothesis=given.hypothesis or "", parent=given.parent, notes=given.notes or ""
        )
        return _checked(data)
    idea = Idea(
        hypothesis=given.hypothesis or "",
        set=dict(_setting(text) for text in given.set),
        files=dict(_whole(text, editable) for text in given.train),
        expected=given.expected,
        reworks=given.reworks,
    )
    return _checked(Wave(experiments=(idea,), parent=given.parent, notes=given.notes or ""))


def _written(given: Given) -> Wave:
    """Return the wave that stands in a file, on stdin or on the command line."""
    source = given.file or "--wave"
    if given.wave is not None:
        text = given.wave
    elif given.file == "-":
        text = _decoded("stdin", sys.stdin.buffer.read(MAX_BYTES + 1))
    else:
        text = _read(Path(source))
    wave = read_wave(text, "stdin" if source == "-" else source)
    return replace(
        wave,
        parent=given.parent or wave.parent,
        hypothesis=given.hypothesis or wave.hypothesis,
        notes=given.notes or wave.notes,
    )


def _checked(wave: Wave) -> Wave:
    """Return a wave that was put together from options; UsageError where it makes no sense."""
    problem = wave.problem()
    if problem:
        raise UsageError(problem.removeprefix("experiments.0: "), "see `autoresearch submit --help`")
    return wave


def _setting(text: str) -> tuple[str, int | float]:
    name, value = _pair(text, "--set")
    return name, read_number(value, f"--set {name}")


def _pair(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip() or not value.strip():
        raise UsageError(f"{option} {text!r} is no NAME=VALUE", f"such as {option} DEPTH=2")
    return name.strip(), value.strip()


def _whole(text: str, editable: Sequence[str]) -> tuple[str, str]:
    """Return an edited file's name in the study, and its text."""
    named, equals, path = text.partition("=")
    if not equals:
        path = text
        fitting = [name for name in editable if Path(name).name == Path(path).name]
        fitting = fitting or ([editable[0]] if len(editable) == 1 else [])
        if len(fitting) != 1:
            raise UsageError(
                f"--train {text}: which file is it? editable: {', '.join(editable)}", "say --train NAME=PATH"
            )
        named = fitting[0]
    return named, _read(Path(path))


def _read(path: Path) -> str:
    """Return a file's text; UsageError where there is none or it is too long."""
    try:
        with path.open("rb") as file:
            return _decoded(str(path), file.read(MAX_BYTES + 1))
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise UsageError(f"{path}: {(error.strerror or '').lower()}", "give the path of a file") from None


def _decoded(name: str, data: bytes) -> str:
    if len(data) > MAX_BYTES:
        raise UsageError(f"{name} is longer than {MAX_BYTES >> 20} MB")
    try:
        return decode_source(name, data)
    except ValueError as error:
        raise UsageError(str(error)) from None
