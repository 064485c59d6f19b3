"""What an edit touches: the names of constants, functions and methods that differ. Pure.

Ideas that touch the same names are one family, whoever had them.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from autoresearch.constants import values
from autoresearch.experiment import Files
from autoresearch.syntax import parse

CODES = 16  # files whose parts are kept in memory: many children have one parent
MODULE = "module"  # for statements of a module that assign no name
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def touched(before: Files, after: Files, profile: str | None) -> tuple[str, ...]:
    """Return the names that differ between two codes, sorted; () where a file does not parse.

    A function stands for what is in it, but for functions defined there; a class for its own
    statements. Comments, layout and docstrings do not count, nor does a number written differently
    or in a branch that the profile does not take.
    """
    names: set[str] = set()
    try:
        for file in sorted(set(before) | set(after)):
            old, new = before.get(file, ""), after.get(file, "")
            if old != new and file.endswith(".py"):
                names |= _differing(old, new, profile)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # as patch.check_syntax has them
        return ()
    return tuple(sorted(names))


def _differing(before: str, after: str, profile: str | None) -> set[str]:
    old, new = _parts(before), _parts(after)
    was, now = values(before, profile), values(after, profile)
    moved = {
        name.split("[", maxsplit=1)[0] for name in was.keys() | now.keys() if was.get(name) != now.get(name)
    }
    stayed = {name for name, value in was.items() if now.get(name) == value}
    return {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)} - stayed | moved


@lru_cache(maxsize=CODES)
def _parts(text: str) -> Mapping[str, list[str]]:
    """Return the code of every part of a module by its name."""
    parts: defaultdict[str, list[str]] = defaultdict(list)
    for name, node in _named(parse(text).body, ""):
        parts[name].append(ast.dump(node))
    return parts


def _named(body: Sequence[ast.AST], owner: str) -> Iterator[tuple[str, ast.AST]]:
    """Yield the parts of a module or, with an owner such as "GPT.", of a class, and their names."""
    for node in body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield from _function(node, f"{owner}{node.name}")
            case ast.ClassDef():
                inside, node.body = node.body, []
                yield f"{owner}{node.name}", node
                yield from _named(inside, f"{owner}{node.name}.")
            case ast.Expr(value=ast.Constant(value=str())):
                continue  # a docstring
            case _ if owner:
                yield owner.removesuffix("."), node
            case ast.If():
                yield MODULE, node.test
                yield from _named([*node.body, *node.orelse], owner)
            case _:
                for name in _assigned(node) or [MODULE]:
                    yield name, node


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> Iterator[tuple[str, ast.AST]]:
    """Yield a function without its docstring and what is defined in it, and then each of that."""
    taken = _Definitions()
    node.body = [kept for each in node.body if (kept := taken.visit(each)) is not None]
    match node.body:
        case [ast.Expr(value=ast.Constant(value=str())), *rest]:
            node.body = rest
    yield name, node
    yield from _named(taken.found, f"{name}.")


class _Definitions(ast.NodeTransformer):
    """Takes definitions out of the code that it visits."""

    def __init__(self) -> None:
        self.found: list[Definition] = []

    def _take(self, node: Definition) -> None:
        self.found.append(node)

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _take  # noqa: N815  the names are ast's


def _assigned(node: ast.AST) -> list[str]:
    match node:
        case ast.Assign(targets=targets):
            pass
        case ast.AnnAssign(target=target) | ast.AugAssign(target=target):
            targets = [target]
        case _:
            return []
    found = (each for target in targets for each in ast.walk(target))
    return [each.id for each in found if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)]
