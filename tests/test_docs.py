"""What the documents say is what the program does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autoresearch.cli import app
from lab import ROOT

DOCUMENTS = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "instructions.md"]


def read(name: str) -> str:
    return (ROOT / name).read_text()


def test_the_help_in_the_readme_is_the_help() -> None:
    shown = re.search(r"<!-- help: autoresearch --help -->\n```\n(.*?)\n```", read("README.md"), re.DOTALL)
    assert shown is not None
    script = "import sys; sys.argv[0] = 'autoresearch'; from autoresearch.cli import main; main()"
    told = subprocess.run(
        [sys.executable, "-c", script, "--help"],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "80", "PYTHONPATH": str(ROOT)},
        check=True,
    ).stdout
    assert shown[1] == told.rstrip()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_command_in_a_document_exists_and_parses(name: str) -> None:
    commands = set(re.findall(r"(?:^|`|/)autoresearch ((?:[a-z]+)(?: [\w./=-]+)*)", read(name), re.MULTILINE))
    known = {command.name or command.callback.__name__ for command in app.registered_commands}  # type: ignore[union-attr]
    for line in commands:
        words = line.split()
        if words[0] not in known:
            assert name in {"README.md", "ARCHITECTURE.md"}, line
            assert words[0] in {"run", "edits", "never"} or words[0] not in known
            continue
        options = [word for word in words[1:] if word.startswith("--")]
        told = CliRunner().invoke(app, [words[0], "--help"], terminal_width=200).stdout
        for option in options:
            assert option.split("=")[0] in told, f"{name}: autoresearch {line}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_between_documents_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", read(name)):
        if "://" not in target:
            assert (ROOT / target).exists(), target


def test_the_architecture_names_every_module() -> None:
    text = read("ARCHITECTURE.md")
    for path in (ROOT / "autoresearch").rglob("*.py"):
        part = path.relative_to(ROOT / "autoresearch").parts[0].removesuffix(".py")
        if not part.startswith("_"):
            assert part in text, f"ARCHITECTURE.md does not name {part}"


def test_the_training_side_never_imports_the_package_nor_the_package_the_training_side() -> None:
    for path in (ROOT / "train").glob("*.py"):
        assert not re.search(r"^\s*(from|import) autoresearch", path.read_text(), re.MULTILINE), path
    for path in (ROOT / "autoresearch").rglob("*.py"):
        assert not re.search(r"^\s*(from|import) (torch|train|prepare)\b", path.read_text(), re.MULTILINE), (
            path
        )


def test_no_document_or_source_names_a_path_of_a_machine() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode != 0:
        pytest.skip("not a checkout")
    for name in tracked.stdout.split("\n"):
        path = ROOT / name
        if not name or path.suffix in {".xz", ".png"} or path == Path(__file__):
            continue
        text = path.read_text()
        for bad in ("/wo" + "rk/", "/ro" + "ot/", "pypi" + "-more"):
            assert bad not in text, f"{name} names {bad}"
        assert path.stat().st_size < 5_000_000


def test_modules_and_functions_stay_within_one_sitting() -> None:
    import ast

    for path in [*(ROOT / "autoresearch").rglob("*.py")]:
        text = path.read_text()
        assert len(text.splitlines()) <= 400, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                assert length <= 60, f"{path.name}: {node.name} has {length} lines"
    assert sys.version_info >= (3, 11)
