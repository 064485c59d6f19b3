"""Commands for the first minutes: `init` and `doctor`."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from autoresearch.cli.common import HERE, Folder, Json, configuration
from autoresearch.cli.output import print_json, say
from autoresearch.config import FILE_NAME, Config
from autoresearch.errors import AutoresearchError, UsageError

SCAFFOLD = ("train", "instructions.md", FILE_NAME)
IGNORED = (".autoresearch/", "results.tsv", "progress.png", "run.log", "__pycache__/", ".venv/")

Finding = tuple[str, str]  # ("ok" | "warn" | "fail", text)


def init(
    folder: Annotated[Path, typer.Argument(help="Where to scaffold the study.")] = HERE,
) -> None:
    """Scaffold a study folder: train/, instructions.md, autoresearch.yaml, under git."""
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


def doctor(*, as_json: Json = False, folder: Folder = HERE) -> None:
    """Check this machine and this folder, and say how to fix what is missing."""
    findings: list[Finding] = []
    for check in (_machine, _folder_checks, _packages):
        findings += _guarded(check, folder)
    if as_json:
        print_json({"checks": [{"level": level, "text": text} for level, text in findings]})
    else:
        for level, text in findings:
            typer.echo(f"{level:<5} {text}")
    if any(level == "fail" for level, _ in findings):
        raise typer.Exit(1)


def _guarded(check: Callable[[Path], Iterator[Finding]], folder: Path) -> Iterator[Finding]:
    try:
        yield from check(folder)
    except AutoresearchError as error:
        yield "fail", error.message + (f": {error.hint}" if error.hint else "")


def _machine(folder: Path) -> Iterator[Finding]:
    import psutil

    from autoresearch.executors.local import find_gpus

    git = subprocess.run(["git", "--version"], capture_output=True, text=True, check=False)
    memory, free = psutil.virtual_memory().total / 1e9, shutil.disk_usage(folder).free / 1e9
    software = f"python {platform.python_version()}, {git.stdout.strip().replace('version ', '')}"
    yield "ok", f"{software}, {os.cpu_count()} cores, {memory:.0f} GB, disk {free:.0f} GB free"
    if free < 2:
        yield "warn", f"only {free:.1f} GB free: the data and the logs of a night need about 2"
    gpus = find_gpus()
    if gpus:
        yield "ok", f"{len(gpus)} GPUs: {', '.join(sorted({kind for _, kind in gpus}))}"
    else:
        yield "ok", "no NVIDIA GPU: studies run on the CPU"


def _folder_checks(folder: Path) -> Iterator[Finding]:
    from autoresearch.files import filesystem_type, read_mounts, refuse_network_filesystem
    from autoresearch.study import existing_tags, state_folder
    from autoresearch.workspace import Workspace

    config = configuration(folder)
    yield "ok", f"{FILE_NAME}: {config.pool.executor} executor, {config.agent.name} agent"
    workspace = Workspace(folder.absolute(), config.study or "study")
    head = workspace.head()
    dirty = workspace.dirty([*config.target.editable, *config.target.protected])
    if dirty:
        yield (
            "fail",
            f"uncommitted changes in {', '.join(dirty[:3])}: commit or stash them before a study starts",
        )
    else:
        yield "ok", f"git: target committed at {head[:7]}"
    state = state_folder(folder.absolute(), config.state_dir)
    refuse_network_filesystem(state)
    yield "ok", f"state in {state} on {filesystem_type(state, read_mounts()) or 'an unknown file system'}"
    tags = existing_tags(state)
    if tags:
        yield "ok", f"studies: {', '.join(tags)}"
    yield from _pool(config)


def _pool(config: Config) -> Iterator[Finding]:
    from autoresearch.executors.local import slots

    found = slots(config.pool)
    kinds = [slot.worker.kind for slot in found]
    counted = " + ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    target = config.target.resolve(kinds)
    yield "ok", f"pool: {counted}, profile {target.profile}, {target.seconds:g} s a run"
    if kinds.count("cpu") > (os.cpu_count() or 1):
        busy = f"{kinds.count('cpu')} CPU workers on {os.cpu_count()} cores"
        yield "warn", f"{busy}: runs take longer, results stay fair"


def _packages(_: Path) -> Iterator[Finding]:
    for name, extra, use in (
        ("torch", "train", "training"),
        ("rustbpe", "train", "the tokenizer"),
        ("optuna", "sweep", "--agent sweep"),
        ("matplotlib", "plot", "progress.png"),
    ):
        if importlib.util.find_spec(name) is None:
            level = "fail" if name == "torch" else "warn"
            yield level, f"no {name}, which {use} needs: pip install 'autoresearch[{extra}]'"
        else:
            yield "ok", f"{name} {_version(name)}"
    yield "ok", f"skypilot {_version('skypilot')}, anthropic {_version('anthropic')}"


def _version(distribution: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return "missing"
