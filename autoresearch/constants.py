"""The numeric constants of a Python file, found and changed by syntax tree.

A constant is a module-level assignment of a number to an upper-case name: `MATRIX_LR = 0.04`,
`TOTAL_BATCH_SIZE = 2**19`, `ADAM_BETAS = (0.8, 0.95)` (as ADAM_BETAS[0] and ADAM_BETAS[1]), also in
the branch of `if PROFILE == "cpu":` that the study's profile takes. Nothing is executed.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from autoresearch.experiment import Edit, Files
from autoresearch.patch import edits_between
from autoresearch.syntax import parse

_BINARY: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}
_MAX_EXPONENT = 64
LARGEST = 1e300


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """A number in the source: where it stands and what it is."""

    name: str
    value: int | float
    power_of_two: bool  # written as 2**k
    start: int  # character offsets of the expression in the text
    end: int


def find_constants(text: str, profile: str | None = None) -> dict[str, Constant]:
    """Return the constants of a module by name; of one assigned twice, the last. {} if it won't parse."""
    try:
        tree = parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return {}
    starts = _line_starts(text)
    found: dict[str, Constant] = {}
    for target, node in _assignments(tree.body, profile):
        entries = [(target, node)]
        if isinstance(node, ast.Tuple | ast.List):
            entries = [(f"{target}[{i}]", element) for i, element in enumerate(node.elts)]
        for name, expression in entries:
            value = _number(expression)
            if value is not None and is_sound(value):
                found[name] = Constant(
                    name=name,
                    value=value,
                    power_of_two=_is_power_of_two(expression),
                    start=_offset(text, starts, expression.lineno, expression.col_offset),
                    end=_offset(text, starts, expression.end_lineno or 0, expression.end_col_offset or 0),
                )
    return found


def is_sound(value: float) -> bool:
    """Whether a number can be reckoned with: finite, and no larger than a float holds."""
    return -LARGEST < value < LARGEST


def values(text: str, profile: str | None = None) -> dict[str, float]:
    """Return the value of every constant by name."""
    return {name: float(c.value) for name, c in find_constants(text, profile).items()}


def constants_of(files: Files, profile: str | None = None) -> dict[str, float]:
    """Return the value of every constant of the Python files, by name."""
    found: dict[str, float] = {}
    for name, text in files.items():
        if name.endswith(".py"):
            found |= values(text, profile)
    return found


def set_constants(text: str, changes: Mapping[str, int | float], profile: str | None = None) -> str:
    """Return the text with constants set to new values; KeyError for a name that is none."""
    found = find_constants(text, profile)
    for constant in sorted((found[name] for name in changes), key=lambda c: -c.start):
        text = text[: constant.start] + _written(constant, changes[constant.name]) + text[constant.end :]
    return text


def setting(files: Files, changes: Mapping[str, int | float], profile: str | None = None) -> tuple[Edit, ...]:
    """Return edits that set constants of the Python files to new values, each in the first file that has it.

    Raises KeyError for a name that none has. A value that stands already needs no edit.
    """
    edits: list[Edit] = []
    left = dict(changes)
    for name, text in files.items():
        found = find_constants(text, profile) if name.endswith(".py") else {}
        here = {constant: left.pop(constant) for constant in list(left) if constant in found}
        after = set_constants(text, here, profile)
        if after != text:
            edits += edits_between(text, after, name if len(files) > 1 else None)
    if left:
        raise KeyError(next(iter(left)))
    return tuple(edits)


def _assignments(body: list[ast.stmt], profile: str | None) -> Iterator[tuple[str, ast.expr]]:
    for node in body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target: ast.expr | None = node.targets[0]
            value: ast.expr | None = node.value
        elif isinstance(node, ast.AnnAssign):
            target, value = node.target, node.value
        elif isinstance(node, ast.If):
            yield from _assignments(_taken(node, profile), profile)
            continue
        else:
            continue
        if isinstance(target, ast.Name) and target.id.isupper() and value is not None:
            yield target.id, value


def _taken(node: ast.If, profile: str | None) -> list[ast.stmt]:
    """Return the branch a profile takes of `if PROFILE == "name"`; [] where that can't be told."""
    match node.test:
        case ast.Compare(
            left=ast.Name(id="PROFILE"),
            ops=[ast.Eq() | ast.NotEq() as op],
            comparators=[ast.Constant(value=str(name))],
        ) if profile is not None:
            return node.body if (name == profile) == isinstance(op, ast.Eq) else node.orelse
    return []


def _number(node: ast.expr) -> int | float | None:
    match node:
        case ast.Constant(value=bool()):
            return None
        case ast.Constant(value=int() | float() as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner = _number(operand)
            return None if inner is None else -inner
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _number(left), _number(right)
            if a is None or b is None:
                return None
            try:
                if isinstance(op, ast.Pow):
                    result = a**b if abs(b) <= _MAX_EXPONENT else None
                    return result if isinstance(result, int | float) else None
                return _BINARY[type(op)](a, b) if type(op) in _BINARY else None
            except (ArithmeticError, ValueError):
                return None
    return None


def _is_power_of_two(node: ast.expr) -> bool:
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) and _number(node.left) == 2


def _written(constant: Constant, value: float) -> str:
    """Return a value as the source would write it: 2**k stays a power, an int stays an int."""
    if constant.power_of_two:
        exponent = int(value).bit_length() - 1
        if value == 2**exponent:
            return f"2**{exponent}"
    if isinstance(constant.value, int) and float(value).is_integer():
        return str(int(value))
    return repr(float(value))


def _line_starts(text: str) -> list[int]:
    """Return where each line begins; lines end as Python's own do, not as str.splitlines has it."""
    return [0, *(match.end() for match in re.finditer(r"\r\n|\r|\n", text))]


def _offset(text: str, starts: list[int], line: int, column: int) -> int:
    """Return a character offset from a line, from 1, and a column in UTF-8 bytes."""
    start = starts[line - 1]
    prefix = text[start : starts[line] if line < len(starts) else len(text)].encode()[:column]
    return start + len(prefix.decode())
