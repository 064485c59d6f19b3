"""`notebook`: the agent's notes in order, each with the experiments it led to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from autoresearch.cli.common import existing_study
from autoresearch.cli.output import fit, print_json, shorten
from autoresearch.console import text
from autoresearch.report import Row
from autoresearch.report import results as result_rows
from autoresearch.study import Study
from autoresearch.untrusted import clean

NOTE_CHARS = 2000
ENTRY_BYTES, NOTE_BYTES = 1600, 800  # in JSON, where nobody asked for more


@dataclass(frozen=True, slots=True, kw_only=True)
class Idea:
    """A proposal and what became of it."""

    hypothesis: str
    state: str  # waiting, admitted or refused
    experiment: str | None
    row: Row | None  # of the experiment it became


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One note and its ideas."""

    at: float
    notes: str
    ideas: tuple[Idea, ...]


def notebook(folder: Path, study: str | None, *, limit: int | None, as_json: bool) -> None:
    """Print the lab notebook, or its last entries; in JSON those that fit, unless so many are asked for."""
    opened = existing_study(folder, study)
    entries = list(_entries(opened))
    if as_json:
        document = {"study": opened.tag, "entries": [_document(e, whole=limit is not None) for e in entries]}
        print_json(_last(document, limit))
        return
    entries = entries[-limit:] if limit else entries
    if not entries:
        typer.echo(f"{opened.tag}: no notes yet; the agent claude writes them")
    for entry in entries:
        typer.echo("\n".join([*_lines(entry), ""]))


def _entries(opened: Study) -> Iterator[Entry]:
    rows = {row.experiment: row for row in result_rows(opened.store.history())}
    became = opened.store.became()
    after = 0
    while events := opened.store.events(after=after, kinds=["noted"]):
        after = events[-1].seq
        for event in events:
            ideas = []
            for number in event.data["proposals"]:
                hypothesis, state, experiment = became[number]
                row = rows.get(experiment or "") if state == "admitted" else None
                ideas.append(Idea(hypothesis=clean(hypothesis), state=state, experiment=experiment, row=row))
            notes = clean(str(event.data["notes"]), NOTE_CHARS)
            yield Entry(at=event.at, notes=notes, ideas=tuple(ideas))


def _lines(entry: Entry) -> Sequence[str]:
    lines = [f"{text.clock_time(entry.at)}  {entry.notes}"]
    for idea in entry.ideas:
        delta = text.signed(idea.row.delta if idea.row else None)
        what = f"{idea.experiment or '-':<6} {_verdict(idea):<8} {delta:>7}"
        lines.append(f"       {what}   {idea.hypothesis}")
    return lines


def _verdict(idea: Idea) -> str:
    if idea.state != "admitted":
        return idea.state
    return str(idea.row.verdict or "open") if idea.row else "open"


def _last(document: Mapping[str, Any], limit: int | None) -> Mapping[str, Any]:
    """Return the document with its last entries, in order; how many it leaves out stands under `more`."""
    fitted = fit({**document, "entries": document["entries"][::-1]}, "entries", limit=limit)
    return {**fitted, "entries": fitted["entries"][::-1]}


def _document(entry: Entry, *, whole: bool) -> Mapping[str, Any]:
    """Return an entry; unless it is wanted whole, as much of it as leaves room for others."""
    ideas = [
        {
            "hypothesis": idea.hypothesis if whole else clean(idea.hypothesis, 60),
            "state": idea.state,
            "experiment": idea.experiment,
            "verdict": _verdict(idea) if idea.state == "admitted" else None,
            "delta": None if idea.row is None or idea.row.delta is None else round(idea.row.delta, 6),
        }
        for idea in entry.ideas
    ]
    if whole:
        return {"at": text.iso(entry.at), "notes": entry.notes, "ideas": ideas}
    document = {"at": text.iso(entry.at), "notes": shorten(entry.notes, NOTE_BYTES), "ideas": ideas}
    return fit(document, "ideas", room=ENTRY_BYTES)
