"""What an edit touches: the names of constants, functions and methods that differ. Pure.

Ideas that touch the same names are one family, whoever had them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from autoresearch.constants import find_constants
from autoresearch.experiment import Files

MODULE = "module"


def touched(before: Files, after: Files, profile: str | None) -> tuple[str, ...]:
    """Return the names that differ between two codes, sorted; () where a file does not parse."""
    names: set[str] = set()
    for file in sorted(set(before) | set(after)):
        old, new = before.get(file, ""), after.get(file, "")
        if old != new and file.endswith(".py"):
            names |= _touched(old, new, profile)
    return tuple(sorted(names))


def _touched(before: str, after: str, profile: str | None) -> set[str]:
    try:
        old, new = _parts(ast.parse(before)), _parts(ast.parse(after))
    except (SyntaxError, ValueError, RecursionError):
        return set()
    names = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
    was, now = find_constants(before, profile), find_constants(after, profile)
    for name in was.keys() | now.keys():
        one, other = was.get(name), now.get(name)
        if (one.value if one else None) != (other.value if other else None):
            names.add(name.split("[", maxsplit=1)[0])
    return names


def _parts(tree: ast.Module) -> dict[str, str]:
    """Return the code of every part of a module by its name."""
    parts: dict[str, str] = {}
    for name, node in _named(tree.body, ""):
        parts[name] = parts.get(name, "") + ast.dump(node)
    return parts


def _named(body: list[ast.stmt], owner: str) -> Iterator[tuple[str, ast.AST]]:
    for node in body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield f"{owner}{name}", node
            case ast.ClassDef(name=name):
                yield from _named(node.body, f"{owner}{name}.")
                yield f"{owner}{name}", ast.Tuple(elts=[*node.bases, *node.decorator_list])
            case ast.If() if not owner:
                yield MODULE, node.test
                yield from _named([*node.body, *node.orelse], owner)
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                yield owner.rstrip(".") or name, node
            case ast.Expr(value=ast.Constant(value=str())):
                continue  # a docstring
            case _:
                yield owner.rstrip(".") or MODULE, node
