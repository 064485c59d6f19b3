"""A study folder whose training takes milliseconds, with real git, SQLite and processes."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from autoresearch.actions import Finish
from autoresearch.agents.scripted import ScriptedAgent
from autoresearch.brief import Brief
from autoresearch.clock import WallClock
from autoresearch.config import AgentConfig, Config, Judging, Pool
from autoresearch.dispatcher import Dispatcher
from autoresearch.executors.local import LocalExecutor, slots
from autoresearch.executors.preflight import LocalPreflight
from autoresearch.experiment import Edit, Proposal
from autoresearch.founding import create_study
from autoresearch.judging.policy import ConfirmPolicy
from autoresearch.study import Study
from autoresearch.target import Metric, Target

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
TRAIN = """X = 1.0
NOISE = 0.01
SLEEP = 0.0
"""


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "init.defaultBranch=main")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def target(**changes: Any) -> Target:
    """Return the target whose training is tests/fake_training.py."""
    base = Target(
        editable=("train.py",),
        protected=("fake_training.py",),
        command="{python} {protected}/fake_training.py",
        score="log",
        metric=Metric(name="val_bpb", goal="minimize"),
        profile="cpu",
        budget_seconds=5.0,
        timeout_seconds=20.0,
    )
    return dataclasses.replace(base, **changes)


class Lab:
    """A study folder under git, and what it takes to run studies in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "train.py").write_text(TRAIN)
        shutil.copy(TESTS / "fake_training.py", folder / "fake_training.py")
        git(folder, "init", "--quiet")
        self.commit()

    def commit(self, message: str = "start") -> None:
        git(self.folder, "add", "-A")
        git(self.folder, "commit", "--quiet", "--allow-empty", "-m", message)

    def config(self, *, workers: int = 2, **changes: Any) -> Config:
        base = Config(
            target=target(),
            pool=Pool(workers={"cpu": workers}),
            agent=AgentConfig(backlog=2),
            judging=Judging(baseline_runs=3),
        )
        return dataclasses.replace(base, **changes)

    def study(self, config: Config | None = None, tag: str = "t") -> Study:
        config = config or self.config()
        workers = [slot.worker for slot in slots(config.pool)]
        return create_study(self.folder, config, tag, workers, seed=0, now=1_700_000_000.0)

    def run(
        self,
        script: Sequence[Proposal] | Callable[[Brief, int], Sequence[Proposal]],
        config: Config | None = None,
        study: Study | None = None,
        **parts: Any,
    ) -> tuple[Study, Finish]:
        """Dispatch a study to its end with real parts; return it, open, and why it ended."""
        config = config or self.config()
        study = study or self.study(config)
        dispatcher = self.dispatcher(script, config, study, **parts)
        with study.dispatching():
            return study, dispatcher.run()

    def dispatcher(self, script: Any, config: Config, study: Study, **parts: Any) -> Dispatcher:
        executor = parts.pop("executor", None)
        if executor is None:
            executor = LocalExecutor(study.runs_folder, slots(config.pool))
            executor.poll_seconds = 0.02
        preflight = None
        if study.target.preflight:
            preflight = LocalPreflight(
                study.state / "preflight", study.tag, study.preflight_spec, study.target.editable
            )
        defaults: dict[str, Any] = {
            "agent": ScriptedAgent(script),
            "executor": executor,
            "policy": ConfirmPolicy(config.judging),
            "preflight": preflight,
            "clock": WallClock(),
        }
        return Dispatcher(study, config, **{**defaults, **parts})


def set_x(value: float, *, parent: str = "e0001", extra: str = "", old: str = "X = 1.0") -> Proposal:
    """Return a proposal that changes X, where the parent says `old`."""
    return Proposal(
        hypothesis=f"X {value:g}",
        edits=(Edit(old=old, new=f"X = {value}{extra}"),),
        parent=parent,
        author="test",
    )


def module(path: Path) -> ModuleType:
    """Load a script that is no part of the package."""
    spec = importlib.util.spec_from_file_location(f"loaded_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    spec.loader.exec_module(found)
    return found
