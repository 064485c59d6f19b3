"""Python source as a syntax tree, one thread at a time.

CPython 3.11 counts the recursion of all threads that parse together, and then now and then fails on
sound code with a SystemError (gh-106905).
"""

from __future__ import annotations

import ast
import threading

_TURN = threading.Lock()


def parse(text: str, name: str = "<source>") -> ast.Module:
    """Return a module's tree; raises what `ast.parse` does."""
    with _TURN:
        return ast.parse(text, name)


def without_docstrings(tree: ast.Module) -> ast.Module:
    """Return a tree, changed in place, without its docstrings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:]
    return tree
