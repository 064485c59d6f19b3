"""Edited code as names and occurrences, and what somebody should look at in it. Pure.

A suspicion refuses nothing: the harness holds the code whatever it does. It is for a person, who wants to
know which of a night's experiments reached for something that training does not need.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache

from autoresearch.syntax import parse
from autoresearch.untrusted import clean

SOURCES = 32  # texts whose trees are kept in memory
Occurrence = tuple[str, int]  # what was found, and in which line
Finder = Callable[["Source"], Iterable[Occurrence]]

SEEDERS = re.compile(r"(?:^|\.)(?:manual_seed|manual_seed_all|seed|default_rng|Random|RandomState|PRNGKey)$")
IMPORTS = {
    **dict.fromkeys(("ctypes", "cffi", "mmap"), "reaches into memory"),
    **dict.fromkeys(("subprocess", "multiprocessing", "torch.multiprocessing"), "starts processes"),
    **dict.fromkeys(("threading", "_thread", "concurrent"), "starts threads"),
    **dict.fromkeys(("socket", "ssl", "urllib", "http", "requests", "httpx", "ftplib"), "opens sockets"),
    **dict.fromkeys(("pickle", "marshal", "dill", "shelve", "cloudpickle"), "unpickles objects"),
    **dict.fromkeys(("gc", "inspect", "importlib", "builtins", "dis", "code"), "walks the interpreter"),
    **dict.fromkeys(("signal", "atexit", "faulthandler", "psutil"), "handles processes"),
    **dict.fromkeys(("glob", "shutil", "tempfile", "pathlib"), "handles files"),
    "torch.utils.cpp_extension": "compiles programs",
}
CALLS = {
    **dict.fromkeys(("eval", "exec", "compile", "__import__"), "runs text as code"),
    **dict.fromkeys(("open", "io.open", "os.open", "numpy.load", "numpy.memmap"), "opens a file"),
    **dict.fromkeys(("numpy.fromfile", "numpy.save", "torch.save", "torch.from_file"), "opens a file"),
    **dict.fromkeys(("os.listdir", "os.walk", "os.scandir"), "lists files"),
    **dict.fromkeys(("os.fork", "os.forkpty", "os.system", "os.popen"), "starts processes"),
    **dict.fromkeys(("os._exit", "os.abort", "os.kill", "os.killpg"), "ends processes"),
    **dict.fromkeys(("sys.settrace", "sys.setprofile", "sys._getframe", "vars"), "walks the interpreter"),
    **dict.fromkeys(("torch.load", "torch.jit.load"), "unpickles objects"),
    **dict.fromkeys(("torch.enable_grad", "torch.set_grad_enabled"), "may train while it is evaluated"),
}
ATTRIBUTES = {
    **dict.fromkeys(("os.environ", "os.getenv", "os.putenv"), "reads the environment"),
    "sys.modules": "walks the interpreter",
}
SPECIAL = re.compile(
    r"__(?:globals|code|closure|builtins|subclasses|bases|mro|dict|loader|spec|reduce|reduce_ex)__|f_back"
)
TEXTS = (
    (re.compile(r"/proc\b|/dev/|/sys/"), "names the system's files"),
    (re.compile(r"\bval\.bin\b|tokenizer\.json|\.parquet\b|weights\.pt"), "names prepared files"),
    (re.compile(r"CUDA_VISIBLE_DEVICES"), "chooses GPUs"),
    (re.compile(r"\bautoresearch:|\bval_bpb\b"), "prints what looks like a score"),
    (re.compile(r"AUTORESEARCH_"), "names the harness's variables"),
)
SETTINGS = re.compile(r"\.(?:backends|config)(?:\.|$)")  # of torch, which are there to be set


class Source:
    """A module's tree, and what its names stand for."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.nodes = tuple(ast.walk(parse(text)))
        self.names: dict[str, str] = {}  # what an imported name is: np -> numpy, F -> torch.nn.functional
        self._found: dict[Finder, tuple[Occurrence, ...]] = {}
        for node in self.nodes:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    whole = alias.name if alias.asname else alias.name.split(".", maxsplit=1)[0]
                    self.names[alias.asname or whole] = whole
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                for alias in node.names:
                    self.names[alias.asname or alias.name] = f"{node.module}.{alias.name}"

    def all(self, finder: Finder) -> tuple[Occurrence, ...]:
        """Return what a finder finds here; it looks once."""
        if finder not in self._found:
            self._found[finder] = tuple(finder(self))
        return self._found[finder]

    def dotted(self, node: ast.expr) -> str:
        """Return what an expression names, as `torch.nn.functional.relu`; "" where it is no name."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            whole = self.dotted(node.value)
            return f"{whole}.{node.attr}" if whole else ""
        if isinstance(node, ast.Subscript) and self.dotted(node.value) == "sys.modules":
            return str(node.slice.value) if isinstance(node.slice, ast.Constant) else ""
        return ""

    def called(self, node: ast.Call) -> str:
        """Return what is called, as `numpy.load`; of what has no name, the method alone, as `?.load`."""
        name = self.dotted(node.func)
        return name or (f"?.{node.func.attr}" if isinstance(node.func, ast.Attribute) else "")

    def is_imported(self, node: ast.expr) -> bool:
        """Whether an expression names something of an imported module."""
        while isinstance(node, ast.Attribute):
            node = node.value
        if isinstance(node, ast.Subscript):
            return self.dotted(node.value) == "sys.modules"
        return isinstance(node, ast.Name) and node.id in self.names


@lru_cache(maxsize=SOURCES)
def source_of(text: str) -> Source:
    """Return a text as a source: a proposal is looked at twice, and its parent with every child."""
    return Source(text)


def new(finder: Finder, found: Source, known: Source) -> Iterator[Occurrence]:
    """Yield what a finder finds more often than in the parent, with its line."""
    left = Counter(key for key, _ in known.all(finder))
    for key, line in found.all(finder):
        if left[key] > 0:
            left[key] -= 1
        else:
            yield key, line


def flags_of(found: Source, known: Source) -> Iterator[str]:
    """Yield what to look at in code, of what its parent does not have; each once, with its line."""
    seen: set[str] = set()
    for what, line in new(_suspicions, found, known):
        if what not in seen:
            seen.add(what)
            yield clean(f"{what} (line {line})", 100)


def _suspicions(source: Source) -> Iterator[tuple[str, int]]:
    for node in source.nodes:
        line = getattr(node, "lineno", 0)
        for what in _suspicion(source, node):
            yield what, line


def _suspicion(source: Source, node: ast.AST) -> Iterator[str]:
    """Yield what one node of a tree is suspected of."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield from _by_prefix(IMPORTS, imported(node))
    elif isinstance(node, ast.Call):
        name = source.called(node)
        if name in CALLS:
            yield CALLS[name]
        if name.startswith(("os.exec", "os.spawn", "os.posix_spawn")):
            yield "starts processes"
        if SEEDERS.search(name):
            yield "sets a seed"
        for keyword in node.keywords:
            if (
                keyword.arg == "is_causal"
                and isinstance(keyword.value, ast.Constant)
                and not keyword.value.value
            ):
                yield "attends without a causal mask"
    elif isinstance(node, ast.Name | ast.Attribute):
        name = source.dotted(node)
        yield from _by_prefix(ATTRIBUTES, [name])
        if SPECIAL.fullmatch(node.attr if isinstance(node, ast.Attribute) else node.id) or name in {
            "__file__",
            "globals",
        }:
            yield "walks the interpreter"
        patched = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del)
        if patched and source.is_imported(node) and not SETTINGS.search(name):
            yield f"patches {name}"
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield from (what for pattern, what in TEXTS if pattern.search(node.value))


def _by_prefix(table: Mapping[str, str], names: Iterable[str]) -> Iterator[str]:
    for name in names:
        for prefix, what in table.items():
            if name == prefix or name.startswith(f"{prefix}."):
                yield what


def imported(node: ast.Import | ast.ImportFrom) -> list[str]:
    """Return the modules and names that an import brings, dotted."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
