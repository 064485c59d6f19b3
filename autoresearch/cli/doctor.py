"""`doctor`: is everything there that a study here needs?"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import typer

from autoresearch.cli.common import configuration
from autoresearch.cli.output import print_json
from autoresearch.config import Config
from autoresearch.errors import AutoresearchError
from autoresearch.executors.local import find_gpus, slots
from autoresearch.files import filesystem_type, read_mounts, refuse_network_filesystem
from autoresearch.study import existing_tags, state_folder
from autoresearch.target import FILE_NAME
from autoresearch.workspace import Workspace

Finding = tuple[str, str]  # ("ok" | "warn" | "fail", text)


def doctor(folder: Path, *, as_json: bool) -> None:
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
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "missing"
