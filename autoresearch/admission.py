"""What can be known of edited code before it runs: what is refused, and what somebody should look at. Pure.

Only what the parent does not have counts: a study may begin from code with long texts or seeds. Refused is
what could carry the text that is to be predicted (long literals, much added text), what only draws another
seed, and what reaches for the evaluation's windows; measuring those would tell nothing. What is merely
suspicious is flagged and measured, since the harness holds the code whatever it does.
"""

from __future__ import annotations

import ast
import difflib
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass

from autoresearch.experiment import Files, Refusal
from autoresearch.suspicions import SEEDERS, Occurrence, Source, flags_of, imported, new, source_of
from autoresearch.syntax import parse, without_docstrings

LONGEST_TEXT = 500  # characters of one new literal
MOST_TEXT = 4_000  # of all new literals, and of all new comments
LONGEST_DISPLAY = 256  # constant elements of one new list, tuple, set or dictionary
MOST_ELEMENTS = 1_024  # of all new ones
LONGEST_NUMBER = 40  # digits
MAX_FLAGS = 12

PROTECTED = frozenset(
    {"prepare", "evaluate", "serve", "harness", "corpus", "launch", "report", "spec", "supervise"}
    | {"prune", "processes", "sandbox", "seal"}
)
ROWS = frozenset({"evaluation_rows", "hidden_rows", "load_rows"})
WINDOWS = frozenset({"SEQUENCE_LEN", "VOCAB_SIZE", "PREFLIGHT", "EVAL_TOKENS", "MAX_SEQ_LEN", "TIME_BUDGET"})


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found in edited code before it ran."""

    refusal: Refusal | None = None
    flags: tuple[str, ...] = ()


def inspect(files: Files, base: Files, *, max_added: int) -> Inspection:
    """Return why edited files are refused, or what somebody should look at in them.

    `base` holds the parent's files; both parse. `max_added` is how many characters may be added.
    """
    refusal = _size(files, base, max_added)
    flags: list[str] = []
    for name, text in files.items():
        if refusal is not None or not name.endswith(".py") or text == base.get(name, ""):
            continue
        found, known = source_of(text), source_of(base.get(name, ""))
        refusal = _literals(found, known) or _evaluation(found, known) or _seeds(found, known)
        flags += flags_of(found, known)
    return Inspection(refusal, () if refusal else tuple(dict.fromkeys(flags))[:MAX_FLAGS])


def _size(files: Files, base: Files, most: int) -> Refusal | None:
    added = sum(_added(base.get(name, ""), text) for name, text in files.items())
    if added <= most:
        return None
    return Refusal(
        reason="size", detail=f"it adds {added:,} characters, {most:,} may be: propose a smaller change"
    )


def _added(before: str, after: str) -> int:
    """Return how many characters stand in lines that were not there."""
    if before == after:
        return 0
    matcher = difflib.SequenceMatcher(None, before.splitlines(), after.splitlines(), autojunk=False)
    lines = after.splitlines()
    return sum(
        len(line)
        for tag, _, _, low, high in matcher.get_opcodes()
        if tag != "equal"
        for line in lines[low:high]
    )


def _literals(found: Source, known: Source) -> Refusal | None:
    """Return a refusal where new literals or comments are long enough to carry text."""
    way = "code needs no such text or table; compute it"
    texts = list(new(_texts, found, known))
    for text, line in texts:
        if len(text) > LONGEST_TEXT:
            return _literal(
                f"line {line} holds a text of {len(text)} characters, {LONGEST_TEXT} may be: {way}"
            )
    numbers = new(_numbers, found, known)
    line = next((line for _, line in numbers), 0)
    if line:
        return _literal(f"line {line} holds a number of more than {LONGEST_NUMBER} digits: {way}")
    displays = [(len(key.split(",")), line) for key, line in new(_displays, found, known)]
    for size, line in displays:
        if size > LONGEST_DISPLAY:
            return _literal(f"line {line} lists {size} constants, {LONGEST_DISPLAY} may be: {way}")
    for total, most, what in (
        (sum(len(text) for text, _ in texts), MOST_TEXT, "characters of new texts"),
        (sum(len(text) for text, _ in new(_comments, found, known)), MOST_TEXT, "of new comments"),
        (sum(size for size, _ in displays), MOST_ELEMENTS, "constants in new lists"),
    ):
        if total > most:
            return _literal(f"it holds {total} {what}, {most} may be: {way}")
    return None


def _literal(detail: str) -> Refusal:
    return Refusal(reason="literal", detail=detail)


def _texts(source: Source) -> Iterator[Occurrence]:
    for node in source.nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
            value = node.value
            yield value if isinstance(value, str) else value.decode("latin-1"), node.lineno
        elif isinstance(node, ast.Name | ast.Attribute | ast.arg | ast.FunctionDef | ast.ClassDef):
            name = getattr(node, "id", None) or getattr(node, "attr", None) or getattr(node, "name", None)
            name = name or getattr(node, "arg", "")
            if len(str(name)) > LONGEST_NUMBER:  # text can be spelt in names, too
                yield str(name), node.lineno


def _numbers(source: Source) -> Iterator[Occurrence]:
    for node in source.nodes:
        value = node.value if isinstance(node, ast.Constant) else None
        if isinstance(value, int) and abs(value) >= 10**LONGEST_NUMBER:
            yield hex(value), getattr(node, "lineno", 0)


def _displays(source: Source) -> Iterator[Occurrence]:
    """Yield displays of constants: their constants, joined by commas."""
    for node in source.nodes:
        if isinstance(node, ast.List | ast.Tuple | ast.Set):
            elements = node.elts
        elif isinstance(node, ast.Dict):
            elements = [*(key for key in node.keys if key), *node.values]
        elif isinstance(node, ast.Call):
            elements = node.args
        else:
            continue
        shown = [_constant(element) for element in elements]
        constants = [text for text in shown if text]
        if len(constants) >= 8:
            yield ",".join(constants), node.lineno


def _constant(node: ast.expr) -> str:
    if isinstance(node, ast.UnaryOp):
        node = node.operand
    return repr(node.value).replace(",", ";") if isinstance(node, ast.Constant) else ""


def _comments(source: Source) -> Iterator[Occurrence]:
    try:
        for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
            if token.type == tokenize.COMMENT:
                yield token.string, token.start[0]
    except (tokenize.TokenError, IndentationError):  # what parses may still not be tokenized alike
        return


def _seeds(found: Source, known: Source) -> Refusal | None:
    """Return a refusal where nothing but seeds is changed."""
    if found.all(_seedless) != known.all(_seedless):
        return None
    if found.all(_seeded) == known.all(_seeded):
        return None
    return Refusal(
        reason="seed",
        detail="it changes nothing but seeds: every run gets its seed from outside, so this is noise;"
        " `confirm` repeats a run with fresh ones",
    )


def _seeded(source: Source) -> Iterator[Occurrence]:
    """Yield the form of a source without its imports."""
    yield ast.dump(_Out(source, seeds=False).visit(without_docstrings(parse(source.text)))), 1


def _seedless(source: Source) -> Iterator[Occurrence]:
    """Yield the same without what sets seeds."""
    yield ast.dump(_Out(source, seeds=True).visit(without_docstrings(parse(source.text)))), 1


class _Out(ast.NodeTransformer):
    """Takes imports and seeds out of a tree."""

    def __init__(self, source: Source, *, seeds: bool) -> None:
        self._source, self._seeds = source, seeds

    def _is_seeder(self, node: ast.expr) -> bool:
        called = self._source.called(node) if isinstance(node, ast.Call) else ""
        return self._seeds and SEEDERS.search(called) is not None

    def visit_Import(self, _node: ast.Import) -> None:
        return None

    def visit_ImportFrom(self, _node: ast.ImportFrom) -> None:
        return None

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if self._is_seeder(node.value) else self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if self._is_seeder(node):
            return ast.Call(func=node.func, args=[], keywords=[])
        return self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        names = [self._source.dotted(target) for target in node.targets]
        if self._seeds and all("seed" in name.lower() for name in names):
            return None
        return self.generic_visit(node)


def _evaluation(found: Source, known: Source) -> Refusal | None:
    """Return a refusal where code reaches for what it is measured by."""
    for what, line in new(_reaches, found, known):
        return Refusal(
            reason="evaluation",
            detail=f"line {line} {what}: the evaluation runs elsewhere, with windows that are fixed",
        )
    return None


def _reaches(source: Source) -> Iterator[Occurrence]:
    for node in source.nodes:
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
            name = source.dotted(node)
            if _is_protected(name) and (isinstance(node, ast.Attribute) or name.split(".")[-1] in WINDOWS):
                yield f"changes {name}", node.lineno
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            key = str(node.slice.value) if isinstance(node.slice, ast.Constant) else ""
            whole = node.value.func if isinstance(node.value, ast.Call) else node.value
            if key in WINDOWS or _is_protected(source.dotted(whole)):
                yield f"changes {key or source.dotted(whole)}", node.lineno
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for name in imported(node):
                if name in PROTECTED - {"prepare"}:
                    yield f"imports {name}", node.lineno
        elif isinstance(node, ast.Call):
            yield from _reaching_call(source, node)


def _reaching_call(source: Source, node: ast.Call) -> Iterator[Occurrence]:
    name = source.dotted(node.func)
    first = node.args[0] if node.args else None
    if name in {"setattr", "delattr", "vars"} and first is not None and _is_module(source.dotted(first)):
        yield f"changes {source.dotted(first)}", node.lineno
    trains = isinstance(first, ast.Constant) and first.value == "train"
    if _is_protected(name) and name.split(".")[-1] in ROWS and not trains:
        yield f"calls {name}", node.lineno


def _is_module(name: str) -> bool:
    return name.split(".", maxsplit=1)[0] in PROTECTED


def _is_protected(name: str) -> bool:
    return "." in name and _is_module(name)
