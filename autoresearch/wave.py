"""What agents outside hand in: a wave of ideas, or a grid over constants, as proposals. Pure.

    {"experiments": [
        {"hypothesis": "deeper", "set": {"DEPTH": 6}},
        {"hypothesis": "no softcap", "edits": [{"old": "softcap = 15", "new": "softcap = 0"}]},
        {"hypothesis": "rewritten", "files": {"train/train.py": "..."}, "parent": "e0007"}],
     "notes": "what I learnt so far"}

    {"factors": {"WIDTH": [512, 640, 768], "MATRIX_LR": [0.03, 0.04]}, "hypothesis": "wider, slower"}

A grid is every combination of its levels. What is not understood is refused with the way out.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from autoresearch.constants import find_constants, is_sound, setting
from autoresearch.errors import UsageError
from autoresearch.experiment import Edit, Files, Refusal
from autoresearch.patch import edits_between
from autoresearch.untrusted import as_text

MAX_IDEAS = 256  # of one wave
MAX_HYPOTHESIS = 1000  # characters
MAX_NOTES = 4000
_STRICT: dict[str, Any] = {"extra": "forbid", "strict": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class Idea:
    """One experiment that is asked for: constants set, edits, or whole files."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    hypothesis: str = ""
    set: dict[str, int | float] = field(default_factory=dict)
    edits: tuple[Edit, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    parent: str | None = None  # None: the wave's
    expected: float | None = None  # predicted change of the metric against the parent
    reworks: str | tuple[str, ...] | None = None  # the experiments whose ideas it does anew

    def problem(self) -> str:
        """Return what makes no sense in it; "" where it does."""
        given = [name for name in ("set", "edits", "files") if getattr(self, name)]
        if not given:
            return "has no edits; give `set`, `edits` or `files`"
        if "set" in given and len(given) > 1:
            return f"has {' and '.join(given)}; put the constants into the {given[1]}"
        if unsound := [name for name, value in self.set.items() if not is_sound(value)]:
            return f"set.{unsound[0]}: is no finite number"
        texts = (*(t for edit in self.edits for t in (edit.old, edit.new)), *self.files.values())
        if any(as_text(text) != text for text in texts):
            return "holds what is no text"
        if len(self.hypothesis) > MAX_HYPOTHESIS:
            return f"hypothesis: is longer than {MAX_HYPOTHESIS} characters"
        if not self.hypothesis.strip() and not self.set:
            return "needs a hypothesis: what should it do, and why?"
        return ""

    def edits_of(self, base: Files, profile: str) -> tuple[Edit, ...] | Refusal:
        """Return the idea as edits to its parent's files, or why it is none."""
        unknown = next((name for name in self.files if name not in base), None)
        if unknown is not None:
            return Refusal(reason="file", detail=f"{unknown} is not editable; editable: {', '.join(base)}")
        if self.set:
            try:
                return setting(base, self.set, profile)
            except KeyError as error:
                return _no_constant(str(error.args[0]), base, profile)
        several = len(base) > 1
        whole = [
            edit
            for name, text in self.files.items()
            for edit in edits_between(base[name], text, name if several else None)
        ]
        return (*self.edits, *whole)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wave:
    """All that is handed in at once."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    experiments: tuple[Idea, ...] = ()
    factors: dict[str, tuple[int | float, ...]] = field(default_factory=dict)
    hypothesis: str = ""  # of the grid
    parent: str | None = None  # of every idea that names none; None: the best
    notes: str = ""

    @property
    def digest(self) -> str:
        """What tells this wave from another."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def cells(self) -> tuple[tuple[Mapping[str, int | float], Idea], ...]:
        """Return the grid's cells, the last factor changing fastest: levels, and the idea that sets them."""
        names = list(self.factors)
        combined = [
            dict(zip(names, levels, strict=True)) for levels in itertools.product(*self.factors.values())
        ]
        return tuple(
            (levels, Idea(hypothesis=self._told(levels), set=dict(levels), parent=self.parent))
            for levels in (combined if names else [])
        )

    def problem(self) -> str:
        """Return what makes no sense in it; "" where it does."""
        if not self.experiments and not self.factors:
            return "there are no experiments and no factors"
        if len(self.notes) > MAX_NOTES:
            return f"notes: longer than {MAX_NOTES} characters"
        for i, idea in enumerate(self.experiments):
            problem = idea.problem()
            if problem:
                return f"experiments.{i}: {problem}"
        for name, levels in self.factors.items():
            if len(set(levels)) != len(levels) or not levels or not all(map(is_sound, levels)):
                return f"factors.{name}: needs levels, each once"
        cells = math.prod(map(len, self.factors.values())) if self.factors else 0
        size = len(self.experiments) + cells
        return f"{size} experiments at once; at most {MAX_IDEAS}" if size > MAX_IDEAS else ""

    def _told(self, levels: Mapping[str, int | float]) -> str:
        told = ", ".join(f"{name} {level:g}" for name, level in levels.items())
        return f"{self.hypothesis}: {told}" if self.hypothesis else told


def read_wave(text: str, source: str) -> Wave:
    """Return the wave some JSON describes; a bare list means its experiments.

    Raises UsageError, `SOURCE: where: what is wrong`, for anything it does not understand.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{source}: not JSON: {error}", _EXAMPLE) from None
    wave = _parse({"experiments": data} if isinstance(data, list) else data, source)
    problem = wave.problem()
    if problem:
        raise UsageError(f"{source}: {problem}", _EXAMPLE)
    return wave


def read_number(text: str, where: str) -> int | float:
    """Return a number as a command line gives it; UsageError where it is none."""
    try:
        number = int(text)
    except ValueError:
        try:
            number = float(text)  # type: ignore[assignment]
        except ValueError:
            number = math.nan  # type: ignore[assignment]
    if not is_sound(number):
        raise UsageError(f"{where}: {text!r} is no number", "constants are set to numbers: --set DEPTH=6")
    return number


def _parse(data: object, source: str) -> Wave:
    from pydantic import TypeAdapter, ValidationError

    try:  # as JSON: strict validation then still takes lists for tuples
        return TypeAdapter(Wave).validate_json(json.dumps(data))
    except ValidationError as error:
        raise UsageError(f"{source}: {_first(error.errors())}", _EXAMPLE) from None


def _first(errors: Sequence[Any]) -> str:
    """Return the most telling of pydantic's errors: an unknown key, else the first."""
    unknown = [e for e in errors if e["type"] in {"unexpected_keyword_argument", "extra_forbidden"}]
    first = (unknown or errors)[0]
    place = [str(part) for part in first["loc"]]
    if place[-1:] in (["int"], ["float"]):  # of the two kinds of number it might have been
        return f"{'.'.join(place[:-1])}: is no number"
    where = ".".join(place)
    if not unknown:
        said = str(first["msg"]).lower()
        return f"{where}: {said}" if where else said
    if where in Idea.__dataclass_fields__:
        return f"{where}: belongs into one of `experiments`, which is a list"
    known = (*Idea.__dataclass_fields__, *Wave.__dataclass_fields__, *Edit.__dataclass_fields__)
    close = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
    return f"{where}: unknown key" + (f"; did you mean {close[0]}?" if close else "")


def _no_constant(name: str, base: Files, profile: str) -> Refusal:
    known = [c for file, text in base.items() if file.endswith(".py") for c in find_constants(text, profile)]
    close = difflib.get_close_matches(name, known, n=1)
    way = f"did you mean {close[0]}?" if close else f"constants: {', '.join(known[:12])}"
    return Refusal(reason="constant", detail=f"{name} is no numeric constant of the parent's code; {way}")


_EXAMPLE = '{"experiments": [{"hypothesis": "deeper", "set": {"DEPTH": 6}}]}; `autoresearch submit --help`'
