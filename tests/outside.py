"""A study driven from outside, as an agent at a shell does: by the real command, in the background."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil

from autoresearch.study import Study, open_study, state_folder
from lab import ROOT, Lab

PATIENCE = 90.0  # seconds a busy machine may take for what takes one
EXITING = 20.0  # seconds until an interpreter that let go of its lock has gone, on a busy machine
CONFIG = """
study: t
target:
  editable: [train.py]
  protected: [fake_training.py]
  command: "{{python}} {{protected}}/fake_training.py"
  score: log
  profile: cpu
  budget_seconds: 5
  timeout_seconds: 60
  env: {{JOURNAL: {journal}}}
  {target}
pool: {{workers: {{cpu: {workers}}}}}
budget: {budget}
judging: {{baseline_runs: 2}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a command answered."""

    code: int
    document: dict[str, Any]
    errors: str


class Outside:
    """A lab whose study is dispatched in the background, if at all."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.folder = lab.folder
        self.journal = lab.folder.with_suffix(".journal")
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def configure(self, *, workers: int = 2, budget: str = "{}", target: str = "", rest: str = "") -> None:
        text = CONFIG.format(journal=self.journal, workers=workers, budget=budget, target=target)
        (self.folder / "autoresearch.yaml").write_text(f"{text}{rest}\n")
        self.lab.commit("configured")

    # -- commands --------------------------------------------------------------------------------

    def begin(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "autoresearch", *arguments]
        settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
        return subprocess.Popen(command, cwd=self.folder, env=self.environment, **settings)

    def end(self, process: subprocess.Popen[str]) -> Said:
        """Return what a command says, which is one JSON document and nothing else."""
        output, errors = process.communicate(timeout=2 * PATIENCE)
        assert output.count("\n") == 1, f"{output}{errors}"
        document = json.loads(output)
        assert document["schema_version"] == 1
        assert len(output) <= 2001, "small enough for an agent"
        return Said(code=process.returncode, document=document, errors=errors)

    def call(self, *arguments: str) -> Said:
        return self.end(self.begin(*arguments))

    def ask(self, *arguments: str) -> dict[str, Any]:
        """Call a command that is to succeed, and return its document."""
        said = self.call(*arguments)
        assert said.code == 0, said
        return said.document

    def submit(self, *ideas: dict[str, float], **more: Any) -> dict[str, Any]:
        """Hand in ideas as constants that are set; return the answer."""
        wave = json.dumps({"experiments": [{"set": idea} for idea in ideas], **more})
        return self.ask("submit", "--wave", wave)

    # -- what is there ---------------------------------------------------------------------------

    @property
    def state(self) -> Path:
        return state_folder(self.folder) / "t"

    @cached_property
    def study(self) -> Study:
        return open_study(self.folder, state_folder(self.folder), "t")

    @property
    def kept(self) -> dict[str, Any]:
        """What the keeper left."""
        return json.loads((self.state / "keeper.json").read_text())

    @property
    def pid(self) -> int:
        """The dispatcher's, which is or was the last."""
        return self.study.store.sessions()[-1].pid

    def keepers(self) -> list[psutil.Process]:
        return [process for process in self.processes() if "autoresearch.keeper" in told(process)]

    def processes(self) -> list[psutil.Process]:
        """Return all processes that have to do with the study's folder."""
        return [process for process in psutil.process_iter() if self._belongs(process)]

    def await_quiet(self) -> None:
        """Assert that none of its processes is left, but for the instant in which one that ended exits."""
        await_(lambda: not self.processes(), "no process is left", EXITING)

    def jobs(self) -> list[psutil.Process]:
        """Return the shims of runs and checks, each of which lives as long as its job."""
        return [process for process in self.processes() if "autoresearch.executors.shim" in told(process)]

    def _belongs(self, process: psutil.Process) -> bool:
        try:
            if process.status() == psutil.STATUS_ZOMBIE or process.pid == os.getpid():
                return False
            named = any(str(self.folder) in word for word in told(process))
            return named or process.cwd().startswith(str(self.folder))
        except (psutil.Error, OSError):
            return False

    def running(self) -> list[str]:
        """Return the runs whose training has begun and not ended, by the training's own word."""
        words = self.journal.read_text().split("\n") if self.journal.exists() else []
        pairs = [tuple(line.split()[:2]) for line in words if line]
        ended = {name for word, name in pairs if word == "end"}
        return [name for word, name in pairs if word == "start" and name not in ended]

    def starts(self) -> Counter[str]:
        """Return how often training was started, by run."""
        words = [line.split() for line in self.journal.read_text().splitlines()]
        return Counter(
            name.removeprefix("t-").rsplit("-a", 1)[0] for word, name, _ in words if word == "start"
        )

    def close(self) -> None:
        """End whatever is left of it: the keeper first, which else would start another dispatcher."""
        while left := self.processes():
            for process in self.keepers() or left:
                signal_one(process, signal.SIGKILL)
            psutil.wait_procs(left, timeout=0.2)
        if "study" in self.__dict__:
            self.study.close()


def told(process: psutil.Process) -> list[str]:
    """Return a process's command line; empty where it is gone."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def signal_one(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def await_(what: Callable[[], Any], why: str, seconds: float = PATIENCE) -> Any:
    """Return what a call returns, once that is something."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {why}"
        time.sleep(0.05)
    return found
