"""Results from before a study: upstream's results.tsv, or SkyPilot's, as values. Pure.

Columns are found by the header, whatever their order. One line is one row: a junk row costs itself at
most, never the table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from autoresearch.experiment import Goal, Prior
from autoresearch.untrusted import clean

TOLD = 10  # of the best to an agent, and as many of the last
COMMIT_CHARS, STATUS_CHARS, DESCRIPTION_CHARS = 40, 20, 2000
_COMMIT = ("commit", "experiment_id", "experiment")  # upstream's name first, then SkyPilot's
_NEEDED = ("val_bpb", "status", "description")


def read_results(text: str) -> tuple[Prior, ...]:
    """Return the rows of a results.tsv, in its order; () for an empty file.

    A number that is none is None, and so is 0, which is how a crash is written; a row that says
    nothing at all is left out. Raises ValueError where the header lacks a column that is needed.
    """
    lines = [line.rstrip("\r") for line in text.removeprefix("\ufeff").split("\n")]
    rows = [_cells(line) for line in lines if line.strip()]
    if not rows:
        return ()
    header = [name.lower() for name in rows[0]]
    missing = [name for name in _NEEDED if name not in header]
    if missing:
        shown = clean(" ".join(header), 80)
        raise ValueError(f"its first line names no column {missing[0]}, but {shown}")
    named = (dict(zip(header, row, strict=False)) for row in rows[1:] if [c.lower() for c in row] != header)
    return tuple(prior for prior in map(_prior, named) if prior is not None)


def _cells(line: str) -> list[str]:
    return [_unquoted(cell.strip()) for cell in line.split("\t")]


def _unquoted(cell: str) -> str:
    """Return a cell without the quotes a spreadsheet puts around it."""
    if len(cell) >= 2 and cell[0] == cell[-1] == '"':
        return cell[1:-1].replace('""', '"').strip()
    return cell


def _prior(row: Mapping[str, str]) -> Prior | None:
    value = _number(row.get("val_bpb", ""))
    status = clean(row.get("status", "").lower(), STATUS_CHARS)
    description = clean(row.get("description", ""), DESCRIPTION_CHARS)
    if value is None and not status and not description:
        return None
    return Prior(
        commit=clean(next((row[name] for name in _COMMIT if row.get(name)), ""), COMMIT_CHARS),
        value=value,
        memory_gb=_number(row.get("memory_gb", "")),
        status=status or ("crash" if value is None else "discard"),
        description=description,
    )


def _number(text: str) -> float | None:
    """Return a number that says something: neither junk, nor infinite, nor the 0 of a crash."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and number else None


def worth_telling(priors: Sequence[Prior], goal: Goal) -> tuple[Prior, ...]:
    """Return the best, best first, and then the last, newest first: at most TOLD of each, none twice."""
    measured = [i for i, prior in enumerate(priors) if prior.value is not None]
    best = sorted(measured, key=lambda i: (goal.sign * (priors[i].value or 0.0), i))[:TOLD]
    last = range(len(priors) - 1, -1, -1)[:TOLD]
    return tuple(priors[i] for i in dict.fromkeys([*best, *last]))
