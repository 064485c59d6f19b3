"""`run` and `stop`: begin or resume a study from this terminal, and end it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import typer

from autoresearch.cli.agents import check_agent, make_agent
from autoresearch.cli.common import configuration
from autoresearch.cli.dispatch import conclude, dispatch
from autoresearch.cli.output import say
from autoresearch.cli.pool import (
    check_affordable,
    check_prices,
    confirm,
    counted,
    make_executor,
    rehearsal,
    workers_of,
)
from autoresearch.clock import WallClock
from autoresearch.config import Config, check_tag
from autoresearch.errors import AutoresearchError, NotFoundError, UsageError
from autoresearch.executors.preflight import LocalPreflight
from autoresearch.experiment import FailureKind, Worker
from autoresearch.files import write_whole
from autoresearch.founding import create_study, default_tag, same_target
from autoresearch.history import BASELINE
from autoresearch.keeper import KEPT
from autoresearch.study import Study, existing_tags, open_study, state_folder
from autoresearch.target import FILE_NAME

LOG_BYTES = 5 << 20
POOL = "pool.json"  # in a study's folder: what its dispatcher was started with
CEILINGS = ("experiments", "hours", "until_ceiling")  # of a command line


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the command line says over the configuration; None: nothing."""

    agent: str | None = None
    executor: str | None = None
    workers: int | None = None
    experiments: int | None = None
    hours: float | None = None
    until_ceiling: bool | None = None
    yes: bool = False
    dry_run: bool = False
    keep_workers: bool = False


def run(folder: Path, tag: str | None, wishes: Wishes) -> None:
    """Run a study, or resume it; print what happens, then the results."""
    folder = folder.absolute()
    scaffold_if_empty(folder)
    config = overridden(configuration(folder), wishes)
    if wishes.dry_run:
        for line in rehearse(folder, config, tag)[1]:
            typer.echo(line)
        return
    opened = found_study(folder, config, tag)
    config = with_ceilings(opened, config, wishes)
    try:
        with opened.dispatching():
            _refuse_checked_out_branch(opened)
            if config.pool.executor == "local":
                _prepare(opened)
            else:
                check_affordable(opened, config)
                confirm(config, yes=wishes.yes)
            preflight = _preflight(opened)
            clock = WallClock()
            executor = make_executor(opened, config, keep_workers=wishes.keep_workers, wake=clock.wake)
            agent = make_agent(config, opened)
            _note_pool(opened, config)
            with _log_file(opened.state / "dispatcher.log"):
                finish, idle = dispatch(opened, config, agent, executor, preflight, clock)
        conclude(opened, finish, idle=idle)
    finally:
        opened.close()


def rehearse(folder: Path, config: Config, tag: str | None) -> tuple[str, list[str]]:
    """Return the tag of the study that would be dispatched, and what would be started, as lines."""
    state = state_folder(folder, config.state_dir)
    name = _tag(config, tag, existing_tags(state))
    return name, list(rehearsal(folder, config, name, state / name))


def found_study(folder: Path, config: Config, tag: str | None) -> Study:
    """Return the study to run, begun where it has to be, after all that can be checked beforehand."""
    workers = workers_of(config.pool)
    check_prices(config)
    check_agent(config.agent)
    return _open_or_create(folder, config, tag, workers)


def _note_pool(opened: Study, config: Config) -> None:
    told = {"executor": config.pool.executor, "workers": counted(config.pool)}
    write_whole(opened.state / POOL, json.dumps(told).encode())


def with_ceilings(opened: Study, config: Config, wishes: Wishes) -> Config:
    """Return the configuration with the ceilings this study was last given on a command line.

    They hold until others are given, or autoresearch.yaml is edited.
    """
    path, file = opened.state / "ceilings.json", opened.folder / FILE_NAME
    said: dict[str, Any] = {}
    if path.exists() and path.stat().st_mtime >= file.stat().st_mtime:
        said = json.loads(path.read_text())
    given = _given(wishes)
    if given:
        write_whole(path, json.dumps(said | given).encode())
    return replace(config, budget=replace(config.budget, **said | given))


def _given(wishes: Wishes) -> dict[str, Any]:
    """Return the ceilings that a command line names."""
    return {name: ceiling for name in CEILINGS if (ceiling := getattr(wishes, name)) is not None}


def scaffold_if_empty(folder: Path) -> None:
    """Scaffold a study where there is nothing yet."""
    if folder.is_dir() and not [entry for entry in folder.iterdir() if entry.name != ".git"]:
        from autoresearch.cli.scaffold import scaffold

        scaffold(folder)
        say(f"{folder} was empty: scaffolded a study there")


def overridden(config: Config, wishes: Wishes) -> Config:
    """Return the configuration with the command line's wishes in it."""
    pool, agent = config.pool, config.agent
    match wishes.agent:
        case None:
            pass
        case "sweep" | "claude" | "external" as name:
            agent = replace(agent, name=name)
        case other:
            raise UsageError(f"no agent {other!r}", "use --agent sweep, claude or external")
    match wishes.executor:
        case None:
            pass
        case "local" | "skypilot" as executor:
            pool = replace(pool, executor=executor)
        case other:
            raise UsageError(f"no executor {other!r}", "use --executor local or --executor skypilot")
    if wishes.workers is not None:
        if pool.executor != "local":
            raise UsageError(
                "--workers counts CPU workers of this machine", f"set pool.workers in {FILE_NAME}"
            )
        pool = replace(pool, workers={"cpu": wishes.workers})
    if pool.executor == "skypilot" and not isinstance(pool.workers, dict):
        raise UsageError("the skypilot executor needs pool.workers by kind", "such as {H100: 8}")
    budget = replace(config.budget, **_given(wishes))
    return replace(config, budget=budget, pool=pool, agent=agent)


def _open_or_create(folder: Path, config: Config, tag: str | None, workers: Sequence[Worker]) -> Study:
    """Return the study to run: the one named, else the latest, else one of today's date."""
    state = state_folder(folder, config.state_dir)
    tags = existing_tags(state)
    tag = _tag(config, tag, tags)
    if tag not in tags:
        return create_study(folder, config, tag, workers, config.agent.seed, time.time())
    try:
        opened = open_study(folder, state, tag)
    except NotFoundError:  # its creation was cut short
        return create_study(folder, config, tag, workers, config.agent.seed, time.time())
    changed = same_target(opened, config)
    if changed:
        opened.close()
        raise UsageError(
            f"{changed} in {FILE_NAME} has changed since study {tag} began, and results would differ",
            "change it back, or start another study with --study",
        )
    return opened


def _tag(config: Config, tag: str | None, tags: Sequence[str]) -> str:
    """Return the tag of the study to run: the one named, else the latest, else today's date."""
    tag = tag or config.study or (tags[-1] if tags else default_tag(time.time()))
    problem = check_tag(tag)
    if problem:
        raise UsageError(f"--study {problem}")
    return tag


def _refuse_checked_out_branch(opened: Study) -> None:
    if opened.workspace.branch in opened.workspace.checked_out():
        name = opened.workspace.branch.removeprefix("refs/heads/")
        raise UsageError(f"{name} is checked out, and keeps would move it", "run `git switch main` first")


def _prepare(opened: Study) -> None:
    """Prepare this machine's data, showing what the target's command prints."""
    prepared = opened.prepare_command()
    if prepared is None:
        return
    command, variables = prepared
    done = subprocess.run(command, env={**os.environ, **variables}, stdout=sys.stderr, check=False)
    if done.returncode != 0:
        raise AutoresearchError(
            f"preparing the data failed with exit code {done.returncode}", "its last lines say why"
        )


def _preflight(opened: Study) -> LocalPreflight | None:
    """Return the preflight, after the baseline itself has passed it. None where the target has none."""
    if opened.target.preflight is None:
        return None
    folder = opened.state / "preflight"
    preflight = LocalPreflight(folder, opened.tag, opened.preflight_spec, opened.target.editable)
    runs = opened.store.history().runs_of(BASELINE)
    if any(run.submitted_at is not None for run in runs):
        return preflight
    preflight.forget(0)
    preflight.start(0, opened.files(BASELINE))
    while not (found := preflight.result(0))[0]:
        time.sleep(0.1)
    preflight.forget(0)
    failure = found[1]
    if failure:
        opened.close()
        _discard(opened.state)  # nothing was measured: the next run starts from the corrected code
        raise UsageError(
            f"the baseline fails its preflight: {failure}",
            "pip install 'autoresearch[train]'"
            if failure.kind is FailureKind.IMPORT
            else "correct it, commit, and run again",
        )
    return preflight


def _discard(state: Path) -> None:
    """Remove a study, but not what its keeper has there: that has yet to say how this ended."""
    for path in state.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in KEPT:
            path.unlink()
    if not any(state.iterdir()):
        state.rmdir()


@contextmanager
def _log_file(path: Path) -> Iterator[None]:
    handler = RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=1, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root = logging.getLogger("autoresearch")
    root.setLevel(logging.INFO)
    root.propagate = False
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.propagate = True
        handler.close()
