"""`init`: scaffold a study folder."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from autoresearch.cli.output import say
from autoresearch.errors import UsageError
from autoresearch.target import FILE_NAME

SKILL = ".claude/skills/autoresearch"
SCAFFOLD = ("train", "tasks", "instructions.md", "AGENTS.md", SKILL, FILE_NAME)
IGNORED = (".autoresearch/", "results.tsv", "progress.png", "run.log", "__pycache__/", ".venv/")


def init(folder: Path) -> None:
    """Scaffold a study folder and say what comes next."""
    written = scaffold(folder)
    say(f"scaffolded {', '.join(written)} in {folder.absolute()}")
    say("next: `autoresearch doctor`, then `autoresearch run`")


def scaffold(folder: Path) -> list[str]:
    """Copy what a study needs into a folder, commit it there, and return what was written.

    Raises UsageError where something of it exists already: nothing is overwritten.
    """
    source = scaffold_source()
    taken = [name for name in SCAFFOLD if (folder / name).exists()]
    if taken:
        raise UsageError(
            f"{folder.absolute()} already has {taken[0]}", "choose an empty folder: `autoresearch init DIR`"
        )
    if shutil.which("git") is None:
        raise UsageError("git is not installed", "install git 2.25 or newer")
    folder.mkdir(parents=True, exist_ok=True)
    for name in SCAFFOLD:
        if (source / name).is_dir():
            shutil.copytree(source / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source / name, folder / name)
    ignore = folder / ".gitignore"
    known = ignore.read_text().splitlines() if ignore.exists() else []
    ignore.write_text("\n".join([*known, *(line for line in IGNORED if line not in known)]) + "\n")
    _commit(folder, [*SCAFFOLD, ".gitignore"])
    return [*SCAFFOLD]


def scaffold_source() -> Path:
    """Return where the files to copy are: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    return package / "scaffold" if (package / "scaffold").is_dir() else package.parent


def _commit(folder: Path, names: list[str]) -> None:
    """Put the scaffold under git, in a new repository or as a commit of the one around it."""

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
        )

    if git("rev-parse", "--show-toplevel").returncode != 0:
        git("init", "--quiet")
    identity = (
        []
        if git("config", "user.email").stdout.strip()
        else ["-c", "user.name=autoresearch", "-c", "user.email=autoresearch@localhost"]
    )
    git("add", "--", *names)
    done = git(
        *identity, "commit", "--quiet", "--no-verify", "-m", "Scaffold an autoresearch study", "--", *names
    )
    if done.returncode != 0:
        raise UsageError(
            f"git commit failed: {done.stderr.strip().splitlines()[-1:]}",
            "commit the files yourself, then run",
        )
