"""A tool's input as proposals. The schema is not believed: what is not in its form is dropped and counted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoresearch.brief import Brief
from autoresearch.experiment import Edit, Proposal
from autoresearch.untrusted import clean

NOTE_CHARS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What an answer brought."""

    proposals: tuple[Proposal, ...]
    notes: str
    dropped: Mapping[str, int]  # experiments, by what was wrong with them

    def __str__(self) -> str:
        lost = ", ".join(f"{count} with {problem}" for problem, count in sorted(self.dropped.items()))
        found = f"{len(self.proposals)} usable experiment{'s' if len(self.proposals) != 1 else ''}"
        return f"{found}; dropped {lost}" if lost else found


class _BadError(Exception):
    """An experiment is not in the form asked for; its text says what is wrong."""


def read(inputs: Sequence[object], brief: Brief, n: int, *, author: str) -> Reading:
    """Return at most n proposals of an answer, whichever its calls; what is wrong never raises."""
    proposals: list[Proposal] = []
    dropped: Counter[str] = Counter()
    for given in _experiments(inputs):
        try:
            proposals.append(_proposal(given, brief, author))
        except _BadError as error:
            dropped[str(error)] += 1
    if len(proposals) > n:
        dropped["a number above that asked for"] += len(proposals) - n
    notes = [i["notes"] for i in inputs if isinstance(i, dict) and isinstance(i.get("notes"), str)]
    return Reading(proposals=tuple(proposals[:n]), notes=clean(" ".join(notes), NOTE_CHARS), dropped=dropped)


def _experiments(inputs: Sequence[object]) -> Iterator[object]:
    for given in inputs:
        found = given.get("experiments") if isinstance(given, dict) else None
        if isinstance(found, list):
            yield from found


def _proposal(given: object, brief: Brief, author: str) -> Proposal:
    if not isinstance(given, dict):
        raise _BadError("a wrong form")
    hypothesis = clean(_text(given, "hypothesis"))
    if not hypothesis:
        raise _BadError("no hypothesis")
    edits = given.get("edits")
    if not isinstance(edits, list) or not edits:
        raise _BadError("no edits")
    parent = _parent(given.get("parent"), brief)
    reworks = given.get("reworks")
    earlier = reworks if isinstance(reworks, list) else [reworks]
    return Proposal(
        hypothesis=hypothesis,
        edits=tuple(_edit(edit, brief) for edit in edits),
        parent=parent,
        author=author,
        base=brief.parent,
        follows=parent == brief.parent,
        expected=_finite(given.get("expected")),
        reworks=tuple(dict.fromkeys(name for name in earlier if isinstance(name, str) and brief.find(name))),
    )


def _parent(given: object, brief: Brief) -> str:
    if given is None or given in ("", brief.parent):
        return brief.parent
    if isinstance(given, str) and brief.find(given):
        return given
    raise _BadError("an unknown parent")


def _edit(given: object, brief: Brief) -> Edit:
    if not isinstance(given, dict):
        raise _BadError("a wrong form")
    file = given.get("file")
    if file is None and len(brief.files) > 1:
        raise _BadError("an edit of no file")
    if file is not None and file not in list(brief.files):
        raise _BadError("an edit of an unknown file")
    old = _text(given, "old")
    if not old:
        raise _BadError("an edit of nothing")
    return Edit(old=old, new=_text(given, "new"), file=file if len(brief.files) > 1 else None)


def _text(given: Mapping[Any, Any], key: str) -> str:
    """Return a text that can be stored: JSON may hold halves of characters."""
    found = given.get(key)
    if not isinstance(found, str):
        raise _BadError("a wrong form")
    try:
        found.encode()
    except UnicodeEncodeError:
        raise _BadError("a text that is none") from None
    return found


def _finite(given: object) -> float | None:
    if isinstance(given, bool) or not isinstance(given, int | float):
        return None
    try:
        number = float(given)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
