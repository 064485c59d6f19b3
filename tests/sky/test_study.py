"""A study of real training on a real Slurm through real SkyPilot, its dispatcher killed in the middle."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoresearch.experiment import OVER, Run, RunState, Verdict
from autoresearch.history import History
from autoresearch.study import open_study, state_folder
from lab import ROOT, git

pytestmark = [pytest.mark.slow, pytest.mark.sky]

DRIVE = Path(__file__).with_name("drive.py")
CONFIG = """\
target:
  editable: [train/train.py]
  protected: [train]
  command: "{{python}} {{protected}}/train/harness.py train/train.py"
  prepare: "{{python}} {{protected}}/train/prepare.py"
  preflight: "{{python}} {{protected}}/train/harness.py train/train.py"
  profile: cpu
  budget_seconds: 2
  timeout_seconds: 120
  env: {{AUTORESEARCH_DEVICE: cpu}}
pool:
  executor: skypilot
  workers: {{H100: 1, H200: 1}}
  infra: slurm
  cpus: "1"
  python: {python}
  prices: {{H100: 2.0, H200: 2.3}}
budget: {{experiments: 4, gpu_dollars: 20}}
agent: {{backlog: 1}}
judging: {{baseline_runs: 2, policy: confirm}}  # the one whose runs are bounded: each takes a minute
"""


@pytest.fixture(scope="module")
def python(slurm: Any) -> Path:
    """A Python with torch that the cluster's user may run: the system's, on top of our packages."""
    made = slurm.folder / "training"
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", made], check=True)
    packages, ours = next(made.glob("lib/python*/site-packages")), Path(sysconfig.get_path("purelib"))
    if packages.parent.name != ours.parent.name:
        pytest.skip(f"the system's Python is not {ours.parent.name}, which our packages are for")
    for source in (ours, made / "copied"):
        if source != ours:
            unneeded = shutil.ignore_patterns("claude_agent_sdk", "__pycache__")
            shutil.copytree(ours, source, ignore=unneeded)  # ours lie in a private folder
        (packages / "ours.pth").write_text(f"{source}\n")
        command = [
            "runuser",
            "-u",
            "localslurm",
            "--",
            made / "bin" / "python",
            "-c",
            "import torch, rustbpe",
        ]
        if subprocess.run(command, cwd="/", check=False, capture_output=True).returncode == 0:
            return made / "bin" / "python"
    pytest.fail("the cluster's user cannot run Python with torch")


@pytest.fixture
def folder(slurm: Any, python: Path, tmp_path: Path) -> Path:
    """A study folder under git, with the real training side and a small budget."""
    study = tmp_path / "study"
    study.mkdir()
    for name in ("train", "tasks"):
        shutil.copytree(ROOT / name, study / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    (study / "autoresearch.yaml").write_text(CONFIG.format(python=python))
    git(study, "init", "--quiet")
    git(study, "add", "-A")
    git(study, "commit", "--quiet", "-m", "start")
    return study


def test_a_study_survives_its_dispatcher_and_loses_nothing(slurm: Any, folder: Path) -> None:
    """Killed once, interrupted once: each experiment has its row, and no run ran twice."""
    began = time.monotonic()
    with drive(slurm, folder, "--keep") as dispatcher:
        wait_until(dispatcher, folder, lambda past: measured(past) and running(past))
        dispatcher.send_signal(signal.SIGKILL)
    before = measured(history(folder))
    machines = {name for name, _ in slurm.squeue()}
    assert len(machines) == 2, "the machines outlive their dispatcher"

    with drive(slurm, folder, "--keep") as dispatcher:
        wait_until(dispatcher, folder, lambda past: taking_its_time(past) and measured(past) > before)
        for _ in range(2):
            dispatcher.send_signal(signal.SIGINT)
            time.sleep(1)
        assert dispatcher.wait(240) == 130
    cancelled = [run for run in history(folder).all_runs() if was_cancelled(folder, run)]
    assert cancelled
    assert all((run.state, run.attempt) == (RunState.QUEUED, 2) for run in cancelled), "they start anew"
    assert {name for name, _ in slurm.squeue()} == machines, "they were found again, none was launched"
    assert call(slurm, folder, "reap", "--no-json").count(" is down") == 2
    assert slurm.squeue() == []

    with drive(slurm, folder) as dispatcher:
        assert dispatcher.wait(900) == 0
    check(slurm, folder)
    print(f"the study took {time.monotonic() - began:.0f} s after the cluster was up")


def check(slurm: Any, folder: Path) -> None:
    past = history(folder)
    assert sorted(past.experiments) == ["e0001", "e0002", "e0003", "e0004", "e0005"]
    assert all(run.state in OVER for run in past.all_runs())
    assert all(e.verdict is not None for e in past.experiments.values())
    crashed = [e for e in past.experiments.values() if e.verdict is Verdict.CRASH]
    assert [e.hypothesis for e in crashed] == ["breaks when the training is under way"]
    (failed,) = [run for run in past.all_runs() if run.state is RunState.FAILED]
    assert failed.failure is not None
    assert (failed.failure.exception, failed.failure.message) == ("ValueError", "on purpose")
    finished = [run for run in past.all_runs() if run.state is RunState.FINISHED]
    assert {run.worker_kind for run in finished} == {"H100", "H200"}
    assert all(run.measurement and 1.5 < run.measurement.value < 4 for run in finished)
    assert slurm.squeue() == [], "every machine was released"
    opened = open_study(folder, state_folder(folder), "t")
    with_worker = opened.store.workers()
    assert {row.kind for row in with_worker} == {"H100", "H200"}
    assert all(row.down_at is not None for row in with_worker)
    asked = [sys.executable, str(ROOT / "train" / "sandbox.py")]
    told = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    offered = json.loads(told)["reason"]
    usage = opened.store.usage(time.time(), 0)
    assert 0 < usage.gpu_dollars < 20
    for run in finished:
        facts = opened.store.facts(run.id)
        assert (facts["run"], facts["kind"], facts["seed"]) == (run.job_name("t"), run.worker_kind, run.seed)
        assert facts["digests"]["protected"] == opened.row.protected_sha256
        assert facts["unsandboxed"] == offered, "what holds code here holds it on machines, too"
    once_each(opened.runs_folder, finished)
    shown = subprocess.run(
        [sys.executable, "-m", "autoresearch", "show", "e0002", "--task"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "AUTORESEARCH_JOB: t-e0002." in shown


def once_each(runs: Path, finished: list[Any]) -> None:
    """Every finished run has one attempt that reported, and its log holds one report."""
    for run in finished:
        ended = [
            p for p in (runs / run.id).glob("a*/exit.json") if not json.loads(p.read_text())["cancelled"]
        ]
        assert [path.parent.name for path in ended] == [f"a{run.attempt}"]
        log = (ended[0].parent / "log").read_text(errors="replace")
        assert log.count("\nautoresearch: {") == 1
        assert log.count("autoresearch-exit: ") == 1


def call(slurm: Any, folder: Path, *arguments: str) -> str:
    """Return what a command says."""
    env = {**slurm.env, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "autoresearch", *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=True).stderr


class drive:  # noqa: N801  reads as what it does
    """A dispatcher of its own, ended with the block; what it said is in dispatcher.txt."""

    def __init__(self, slurm: Any, folder: Path, *options: str) -> None:
        env = {**slurm.env, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
        env["AUTORESEARCH_CACHE"] = str(slurm.folder / "cache")
        python = next(
            Path(part, "python") for part in env["PATH"].split(":") if Path(part, "python").exists()
        )
        with (folder.parent / "dispatcher.txt").open("ab") as said:
            self._process = subprocess.Popen(
                [python, DRIVE, folder, *options], env=env, stdin=subprocess.DEVNULL, stdout=said, stderr=said
            )

    def __enter__(self) -> subprocess.Popen[bytes]:
        return self._process

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def history(folder: Path) -> History:
    opened = open_study(folder, state_folder(folder), "t")
    try:
        return opened.store.history()
    finally:
        opened.close()


def taking_its_time(past: History) -> bool:
    """Whether the one long run has been with its machine for a while."""
    slow = {e.id for e in past.experiments.values() if e.hypothesis == "takes its time"}
    waited = [time.time() - (run.submitted_at or 0) for run in past.in_flight() if run.experiment in slow]
    return any(seconds > 25 for seconds in waited)


def was_cancelled(folder: Path, run: Run) -> bool:
    ends = (state_folder(folder) / "t" / "runs" / run.id).glob("a*/exit.json")
    return any(json.loads(path.read_text())["cancelled"] for path in ends)


def measured(past: History) -> int:
    return sum(1 for run in past.all_runs() if run.measurement)


def running(past: History) -> bool:
    return any(run.state is RunState.RUNNING for run in past.in_flight())


def wait_until(
    dispatcher: subprocess.Popen[bytes],
    folder: Path,
    holds: Callable[[History], object],
    seconds: float = 600.0,
) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and dispatcher.poll() is None:
        time.sleep(1)
        if (state_folder(folder) / "t" / "study.db").exists() and holds(history(folder)):
            return
    raise AssertionError((folder.parent / "dispatcher.txt").read_text()[-3000:])
