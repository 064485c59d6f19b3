"""kill -9 at any instant: nothing is lost, nothing runs twice, nothing stays behind.

Short studies run as the real command with real git, a real store, the real local executor and its
real shims; the dispatcher is killed with SIGKILL at random instants and started again until the
study is complete. The training command writes a line when it starts and one when it ends.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from autoresearch.dispatcher import POLICY
from autoresearch.experiment import OVER, RunState
from autoresearch.study import open_study, state_folder
from lab import ROOT, Lab

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("AUTORESEARCH_TEST_KILLS", "200"))
EXPERIMENTS = 8
CONFIG = """
target:
  editable: [train.py]
  protected: [fake_training.py]
  command: "{{python}} {{protected}}/fake_training.py"
  preflight: "{{python}} {{protected}}/fake_training.py"
  score: log
  profile: cpu
  budget_seconds: 5
  timeout_seconds: 20
  env: {{JOURNAL: {journal}}}
pool: {{workers: {{cpu: 3}}}}
budget: {{experiments: {experiments}}}
"""


def test_killed_at_random_instants_every_study_completes(tmp_path: Path) -> None:
    rng = random.Random(20261122)
    kills = studies = experiments = requeued = 0
    while kills < KILLS:
        studies += 1
        lab = Lab(tmp_path / f"study{studies}")
        journal = lab.folder.with_suffix(".journal")
        (lab.folder / "train.py").write_text("X = 1.0\nSLEEP = 0.15\nLR = 0.5\nDECAY = 0.1\nSTEPS = 16\n")
        config = CONFIG.format(journal=journal, experiments=EXPERIMENTS)
        (lab.folder / "autoresearch.yaml").write_text(config)
        lab.commit("configured")
        kills += kill_until_complete(lab.folder, rng, KILLS - kills)
        found = check(lab.folder, journal)
        experiments += EXPERIMENTS
        requeued += found
    print(
        f"\n{kills} kills over {studies} studies, {experiments} experiments and {requeued} runs started anew"
    )


def kill_until_complete(folder: Path, rng: random.Random, most: int) -> int:
    """Dispatch, killing after a random while, until the study is complete; return how often."""
    kills = 0
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "autoresearch", "run", "--study", "c"]
    while True:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        # From before its first line of Python to well into its work.
        patience = rng.uniform(0.0, 2.5) if kills < most else 120.0
        try:
            _, errors = process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
            continue
        assert process.returncode in {0, 5}, errors
        return kills


def check(folder: Path, journal: Path) -> int:
    """Assert what must hold after a study; return how many runs needed another attempt."""
    study = open_study(folder, state_folder(folder), "c")
    history = study.store.history()
    runs = list(history.all_runs())
    assert history.proposed() == EXPERIMENTS
    assert all(e.verdict is not None for e in history.experiments.values())
    assert all(run.state in OVER for run in runs)
    taken_back = [run for run in runs if run.state is RunState.CANCELLED]
    assert {run.cancelled_by for run in taken_back} <= {POLICY}, "only whose question was answered"
    runs = [run for run in runs if run not in taken_back]
    assert Counter(run.state for run in runs) == {RunState.FINISHED: len(runs)}, "nothing was lost"
    words = Counter(tuple(line.split()[:2]) for line in journal.read_text().splitlines())
    started = Counter(name.rsplit("-a", 1)[0] for word, name in words.elements() if word == "start")
    ended = Counter(name.rsplit("-a", 1)[0] for word, name in words.elements() if word == "end")
    done = {f"c-{run.id}" for run in runs}
    assert done <= set(started) <= done | {f"c-{run.id}" for run in taken_back}
    assert {started[name] for name in done} == {ended[name] for name in done} == {1}, (
        "a run was started twice"
    )
    for experiment in history.experiments.values():
        assert study.workspace.resolve(study.workspace.ref(experiment.id)) == experiment.commit
    incumbent = history.incumbent()
    assert incumbent is not None
    assert history.finished(incumbent.id), "the best was measured"
    wait_until_gone(folder)
    study.close()
    return sum(run.attempt > 1 for run in runs)


def wait_until_gone(folder: Path) -> None:
    """Assert that no process of the study is left; a check under way may take a moment to end."""
    deadline = time.monotonic() + 30
    left: list[psutil.Process] = []
    while time.monotonic() < deadline:
        left = [p for p in psutil.process_iter() if _belongs(p, folder)]
        if not left:
            return
        time.sleep(0.1)
    raise AssertionError(f"left behind: {[p.cmdline() for p in left]}")


def _belongs(process: psutil.Process, folder: Path) -> bool:
    try:
        return str(folder) in " ".join(process.cmdline()) or process.cwd().startswith(str(folder))
    except (psutil.Error, OSError):
        return False
