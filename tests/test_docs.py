"""What the documents say is what the program does."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click import ClickException, Context
from typer.main import get_command

from autoresearch import __version__
from autoresearch.cli import app
from autoresearch.cli.common import read_instructions
from autoresearch.config import Config
from lab import ROOT

DOCUMENTS = [
    *("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "instructions.md", "AGENTS.md"),
    *(".claude/skills/autoresearch/SKILL.md", "examples/pendulum/README.md"),
]


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


def commands_in(text: str) -> list[str]:
    """Return the `autoresearch ...` lines of a document: in code blocks, and in spans of code."""
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    shown = [line for block in blocks for line in block.splitlines()]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    spans = re.findall(r"``?([^`]+)``?", prose.replace("\n", " "))
    found = re.compile(r"^(?:[A-Z_]+=\S+ )?(?:\.venv/bin/)?autoresearch( .*)$")
    return [match[1].strip() for line in [*shown, *spans] if (match := found.match(line.strip()))]


def parse(line: str) -> None:
    """Parse a command line as the program does, without running it."""
    words = shlex.split(line, comments=True)
    group = get_command(app)
    if not words or words[0].startswith("--"):
        assert words in (["--help"], ["--version"], []), line
        return
    command = group.get_command(Context(group), words[0])  # type: ignore[attr-defined]
    assert command is not None, f"there is no command {words[0]}: {line}"
    try:
        command.make_context(words[0], words[1:])
    except ClickException as error:
        pytest.fail(f"autoresearch {line}: {error.format_message()}")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_command_in_a_document_exists_and_parses(name: str) -> None:
    for line in commands_in(read(name)):
        if "EXPERIMENT" not in line:
            parse(line)


def test_the_documents_for_agents_show_every_step_of_a_study() -> None:
    steps = {"up", "brief", "submit", "wait", "results", "show", "diff", "log", "confirm", "cancel", "note"}
    for name in ("instructions.md", ".claude/skills/autoresearch/SKILL.md"):
        shown = {line.split()[0] for line in commands_in(read(name)) if line}
        assert steps | {"budget", "down"} <= shown, name


def test_every_command_shows_two_examples_that_parse() -> None:
    group = get_command(app)
    assert {*verbs(), "run", "doctor"} <= set(group.commands)  # type: ignore[attr-defined]
    for name in group.commands:  # type: ignore[attr-defined]
        epilog = group.get_command(Context(group), name).epilog  # type: ignore[attr-defined, union-attr]
        lines = [
            line.strip() for line in (epilog or "").splitlines() if " autoresearch " in f" {line.strip()} "
        ]
        assert len(lines) >= 2, name
        for line in lines:
            if line.startswith("autoresearch "):
                parse(line.removeprefix("autoresearch "))


def verbs() -> list[str]:
    """Return the commands for agents."""
    mine = "autoresearch.cli.verbs"
    return [
        c.callback.__name__ for c in app.registered_commands if c.callback and c.callback.__module__ == mine
    ]


def test_the_skill_is_what_claude_code_takes() -> None:
    text = read(".claude/skills/autoresearch/SKILL.md")
    _, head, body = text.split("---\n", 2)
    fields = yaml.safe_load(head)
    assert fields["name"] == "autoresearch"
    assert 100 < len(fields["description"]) <= 1024
    assert len(body.splitlines()) < 500


def test_the_plugin_has_the_version_of_the_package() -> None:
    manifest = json.loads(read(".claude-plugin/plugin.json"))
    assert manifest["version"] == __version__
    for folder in manifest["skills"]:
        assert (ROOT / folder / "autoresearch" / "SKILL.md").is_file()


def test_the_built_in_agent_is_not_told_of_commands(tmp_path: Path) -> None:
    (tmp_path / "instructions.md").write_text(read("instructions.md"))
    told = read_instructions(tmp_path, Config())
    assert "autoresearch submit" not in told
    assert "## Strategy" in told


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_between_documents_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", read(name)):
        if "://" not in target:
            assert ((ROOT / name).parent / target).exists(), target


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
