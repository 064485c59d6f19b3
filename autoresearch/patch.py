"""Edits to code, pure: apply them exactly once each, check the result, and know what was tried.

`normal_digest` is what "the same experiment" means: comments, layout and docstrings do not count.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache

from autoresearch.admission import inspect
from autoresearch.experiment import Candidate, Edit, Files, Proposal, Refusal
from autoresearch.syntax import parse, without_docstrings
from autoresearch.target import MAX_ADDED

CODES = 16  # files whose normal form is kept in memory: a proposal is looked at twice


def admit(
    proposal: Proposal, base: Files, tried: Mapping[str, str], *, max_added: int = MAX_ADDED
) -> Candidate | Refusal:
    """Return the code a proposal makes of its parent's, or why it is refused.

    `base` holds the parent's editable files, `tried` the experiment id of every digest measured so
    far, `max_added` is how many characters may be added. Preflight comes after this.
    """
    files = apply_edits(proposal.edits, base)
    if isinstance(files, Refusal):
        return files
    problem = check_syntax(files)
    if problem:
        return problem
    digest = normal_digest(files)
    if digest == normal_digest(base):
        return Refusal(reason="unchanged", detail=f"the edits leave the code of {proposal.parent} as it is")
    if digest in tried:
        earlier = tried[digest]
        return Refusal(reason="duplicate", detail=f"{earlier} is the same code", experiment=earlier)
    found = inspect(files, base, max_added=max_added)
    return found.refusal or Candidate(files=files, digest=digest, flags=found.flags)


def apply_edits(edits: Sequence[Edit], base: Files) -> Files | Refusal:
    """Return the files with every edit applied in order, each exactly once, or the refusal."""
    files = dict(base)
    if not edits:
        return Refusal(reason="edit", detail="the proposal has no edits")
    for i, edit in enumerate(edits, 1):
        name = edit.file if edit.file is not None else next(iter(files)) if len(files) == 1 else None
        if name is None:
            return Refusal(reason="file", detail=f"edit {i} names no file; use one of {', '.join(files)}")
        if name not in files:
            return Refusal(reason="file", detail=f"edit {i} touches {name}; editable: {', '.join(files)}")
        if not edit.old:
            return Refusal(reason="edit", detail=f"edit {i}: `old` is empty")
        count = occurrences(files[name], edit.old)
        if count != 1:
            found = "does not occur" if count == 0 else f"occurs {count} times"
            start = edit.old.strip().splitlines()[0][:60] if edit.old.strip() else "blank text"
            return Refusal(
                reason="edit",
                detail=f"edit {i}: `old` {found} in {name}, it must occur exactly once: {start!r}",
            )
        files[name] = files[name].replace(edit.old, edit.new)
    return files


def edits_between(before: str, after: str, file: str | None = None) -> tuple[Edit, ...]:
    """Return edits that turn `before`, which is not empty, into `after`.

    They hold for `apply_edits`: in order, each `old` occurring exactly once in the text it is applied to.
    """
    lines, wanted = before.split("\n"), after.split("\n")
    matcher = difflib.SequenceMatcher(None, lines, wanted, autojunk=False)
    edits, shift = [], 0
    for tag, start, end, first, last in matcher.get_opcodes():
        if tag == "equal":
            continue
        begin, stop, put = start + shift, end + shift, wanted[first:last]
        low, high = _unique_block(lines, begin, stop, grow=not put)
        old = "\n".join(lines[low:high])
        edits.append(Edit(old=old, new="\n".join([*lines[low:begin], *put, *lines[stop:high]]), file=file))
        lines[begin:stop] = put
        shift += len(put) - (end - start)
    if not all(edit.old for edit in edits):  # nothing but empty lines was left to hold on to
        return (Edit(old=before, new=after, file=file),)
    return tuple(edits)


def _unique_block(lines: Sequence[str], low: int, high: int, *, grow: bool) -> tuple[int, int]:
    """Return the lines around some that occur once; what is deleted needs a neighbour to `grow` into."""
    text = "\n".join(lines)
    while grow or not any(lines[low:high]) or occurrences(text, "\n".join(lines[low:high])) != 1:
        low, high, grow = max(0, low - 1), min(len(lines), high + 1), False
        if (low, high) == (0, len(lines)):
            break
    return low, high


def occurrences(text: str, part: str) -> int:
    """Return how often a part occurs, overlapping ones too: what str.count misses is ambiguous as well."""
    found, start = 0, text.find(part)
    while start >= 0:
        found, start = found + 1, text.find(part, start + 1)
    return found


def check_syntax(files: Files) -> Refusal | None:
    """Return a refusal unless every Python file parses."""
    for name, text in files.items():
        if not text.strip():
            return Refusal(reason="syntax", detail=f"{name} is empty")
        if not name.endswith(".py"):
            continue
        try:
            parse(text, name)
        except SyntaxError as error:
            return Refusal(reason="syntax", detail=f"{name} line {error.lineno}: {error.msg}")
        except (ValueError, RecursionError, MemoryError) as error:  # null bytes, absurd nesting
            return Refusal(reason="syntax", detail=f"{name}: {error}")
    return None


def normal_digest(files: Files) -> str:
    """Return a digest that ignores comments, layout and docstrings of Python files."""
    parts = [f"{name}\0{_normal(name, files[name])}" for name in sorted(files)]
    return hashlib.sha256("\0\0".join(parts).encode(errors="surrogatepass")).hexdigest()


@lru_cache(maxsize=CODES)
def _normal(name: str, text: str) -> str:
    if not name.endswith(".py"):
        return text
    return ast.dump(without_docstrings(parse(text)))


def unified_diff(before: Files, after: Files) -> str:
    """Return the change as a unified diff, files in name order."""
    lines: list[str] = []
    for name in sorted(set(before) | set(after)):
        old, new = before.get(name, ""), after.get(name, "")
        lines += difflib.unified_diff(
            old.splitlines(), new.splitlines(), f"a/{name}", f"b/{name}", lineterm=""
        )
    return "\n".join(lines) + ("\n" if lines else "")
