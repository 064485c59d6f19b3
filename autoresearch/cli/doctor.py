"""`doctor`: is everything there that a study here needs?"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import typer

from autoresearch.cli.agents import KEY, check_agent
from autoresearch.cli.common import configuration
from autoresearch.cli.output import print_json
from autoresearch.config import Config, Pool
from autoresearch.errors import AutoresearchError
from autoresearch.executors.local import find_gpus, slots
from autoresearch.executors.sky.survey import Accelerator
from autoresearch.files import filesystem_type, read_mounts, refuse_network_filesystem
from autoresearch.study import existing_tags, state_folder
from autoresearch.target import FILE_NAME, Target
from autoresearch.untrusted import clean
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
    yield "ok", f"{FILE_NAME}: {config.pool.executor} executor, {config.agent.label} agent"
    yield from _agent(config)
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
    yield from _pool(config, folder)


def _agent(config: Config) -> Iterator[Finding]:
    """Say whether the agent can work here; a key is asked for only where it is needed."""
    if config.agent.name == "claude":
        try:
            check_agent(config.agent)
        except AutoresearchError as error:
            yield "fail", f"{error.message}: {error.hint}"
            return
        yield "ok", f"{KEY} is set"
        if config.budget.api_dollars is None:
            yield "warn", "no ceiling on API dollars: set budget.api_dollars"
    elif os.environ.get(KEY):
        yield "ok", f"{KEY} is set: --agent claude can be used"
    else:
        yield "ok", f"no {KEY}: --agent claude would need one, --agent sweep does not"


def _sandbox(target: Target, folder: Path) -> Finding:
    """Say whether edited code can be held here; the harness's own file knows."""
    if target.self_reported or target.sandbox == "off":
        why = "the score is the code's own" if target.self_reported else "switched off in the configuration"
        return "warn", f"unsandboxed: {why}; edited code can reach what you can"
    harness = next((word for word in target.command.split() if word.endswith("harness.py")), "")
    script = folder / harness.replace("{protected}/", "").replace("harness.py", "sandbox.py")
    if not harness or not script.is_file():
        return "ok", "sandbox: the target's command brings its own, or none"
    told = subprocess.run([sys.executable, "-I", "-S", script], capture_output=True, text=True, check=False)
    try:
        offer = json.loads(told.stdout)
    except ValueError:
        return "warn", f"sandbox: {script.name} cannot tell: {clean(told.stderr[-200:])}"
    if offer["reason"]:
        level = "fail" if target.sandbox == "required" else "warn"
        return level, f"unsandboxed: {offer['reason']}; edited code can reach what you can"
    return "ok", f"sandbox: Landlock {offer['landlock']} and seccomp"


def _pool(config: Config, folder: Path) -> Iterator[Finding]:
    if config.pool.executor == "skypilot":
        yield from _skypilot(config.pool)
        return
    found = slots(config.pool)
    kinds = [slot.worker.kind for slot in found]
    counted = " + ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    target = config.target.resolve(kinds)
    yield _sandbox(target, folder)
    yield "ok", f"pool: {counted}, profile {target.profile}, {target.seconds:g} s a run"
    if kinds.count("cpu") > (os.cpu_count() or 1):
        busy = f"{kinds.count('cpu')} CPU workers on {os.cpu_count()} cores"
        yield "warn", f"{busy}: runs take longer, results stay fair"


def _skypilot(pool: Pool) -> Iterator[Finding]:
    """Say what SkyPilot offers, and whether the pool's machines are among it, and priced."""
    from autoresearch.executors.sky.survey import survey

    found = survey()
    if found.endpoint is not None:
        state = "healthy" if found.healthy else "not healthy"
        yield (
            "ok" if found.healthy else "fail",
            f"skypilot API server {found.version}, {state}: {found.endpoint}",
        )
    for problem in found.problems:
        yield "fail" if not found.infra else "warn", problem
    if not found.infra:
        return
    yield "ok", f"enabled: {', '.join(found.infra)}"
    for infra in dict.fromkeys(each.infra for each in found.accelerators):
        there = [each for each in found.accelerators if each.infra == infra]
        counted = ", ".join(f"{each.free} of {each.total} {each.kind} free" for each in there)
        yield "ok", f"{infra}: {counted}"
    if pool.infra and pool.infra.split("/")[0] not in {name.split("/")[0] for name in found.infra}:
        yield "fail", f"pool.infra is {pool.infra}, which is not enabled: run `sky check`"
    for kind, count in pool.counts.items():
        yield from _kind(pool, kind, count, found.accelerators)


def _kind(pool: Pool, kind: str, count: int, offered: Sequence[Accelerator]) -> Iterator[Finding]:
    """Say whether a kind of worker can be had in that number, as far as infrastructure tells."""
    place = pool.infra or ""
    matching = [
        a for a in offered if a.kind == kind and (not place or a.infra.startswith(place.split("/")[0]))
    ]
    if place.split("/")[0] in {"kubernetes", "slurm", "ssh"} and not matching:
        yield "fail", f"{place} offers no {kind}: correct pool.workers"
    elif matching and sum(a.total for a in matching) < count:
        yield "warn", f"pool.workers asks for {count} {kind}, there are {sum(a.total for a in matching)}"
    if kind not in pool.prices:
        yield (
            "warn",
            f"no price for {kind}: set pool.prices.{kind} to see dollars and to have a ceiling on them",
        )


def _packages(folder: Path) -> Iterator[Finding]:
    for name, extra, use in (
        *(
            ()
            if _own_training(folder)
            else (("torch", "train", "training"), ("rustbpe", "train", "the tokenizer"))
        ),
        ("optuna", "sweep", "--agent sweep"),
        ("matplotlib", "plot", "progress.png"),
    ):
        if importlib.util.find_spec(name) is None:
            level = "fail" if name == "torch" else "warn"
            yield level, f"no {name}, which {use} needs: pip install 'autoresearch[{extra}]'"
        else:
            yield "ok", f"{name} {_version(name)}"
    yield "ok", f"skypilot {_version('skypilot')}, anthropic {_version('anthropic')}"


def _own_training(folder: Path) -> bool:
    """Whether the target brings its training, and says itself how good it is: what that needs is its own."""
    try:
        return configuration(folder).target.self_reported
    except AutoresearchError:  # which was said above
        return False


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "missing"
