"""kill -9 at any instant over SkyPilot: nothing is lost, nothing runs twice, no machine stays behind.

Short studies with real git, a real store and the SkyPilot executor over its stand-in, whose clusters
and requests outlive the dispatcher. That is killed at random instants and started again until the study
is complete; meanwhile requests stay unanswered, before or after they took effect, and machines vanish.
"""

from __future__ import annotations

import contextlib
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
from sky_dispatch import SCRIPT

from autoresearch.cli.pool import workers_of
from autoresearch.config import load
from autoresearch.executors.sky.client import SkyError
from autoresearch.executors.sky.standin import StandIn
from autoresearch.experiment import OVER, RunState
from autoresearch.founding import create_study
from autoresearch.plan import MAX_LOSSES
from autoresearch.study import open_study, state_folder
from lab import ROOT, Lab

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("AUTORESEARCH_TEST_SKY_KILLS", "40"))
CONFIG = """
target:
  editable: [train.py]
  protected: [fake_training.py]
  command: "{{python}} {{protected}}/fake_training.py"
  score: log
  profile: gpu
  budget_seconds: 5
  timeout_seconds: 20
  env: {{JOURNAL: "{journal}"}}
pool: {{executor: skypilot, workers: {{H100: 1, H200: 1}}, python: "{python}"}}
budget: {{experiments: {experiments}}}
"""


def test_killed_at_random_instants_over_skypilot_every_study_completes(tmp_path: Path) -> None:
    rng = random.Random(20261122)
    counts: Counter[str] = Counter()
    while counts["kills"] < KILLS:
        counts["studies"] += 1
        lab = Lab(tmp_path / f"study{counts['studies']}")
        journal, root = lab.folder.with_suffix(".journal"), lab.folder.with_suffix(".sky")
        (lab.folder / "train.py").write_text("X = 1.0\nSLEEP = 0.2\nNOISE = 0.01\n")
        values = {"journal": journal, "python": sys.executable, "experiments": len(SCRIPT)}
        (lab.folder / "autoresearch.yaml").write_text(CONFIG.format(**values))
        lab.commit("configured")
        config = load(lab.folder / "autoresearch.yaml")
        tag = f"s{counts['studies']}"
        create_study(lab.folder, config, tag, workers_of(config.pool), seed=0, now=time.time()).close()
        try:
            kill_until_complete(lab.folder, root, rng, counts)
            check(lab.folder, journal, root, counts)
        finally:
            for cluster in clusters(root):
                with contextlib.suppress(SkyError):
                    StandIn(root).down(cluster)
    print(f"\n{', '.join(f'{count} {what}' for what, count in counts.items())}")


def kill_until_complete(folder: Path, root: Path, rng: random.Random, counts: Counter[str]) -> None:
    """Dispatch, killing after a random while and making trouble, until the study is complete."""
    sky = StandIn(root)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(Path(__file__).with_name("sky_dispatch.py")), str(folder), str(root)]
    losses = MAX_LOSSES - 1  # one more could end a run
    while True:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        # From before its first line of Python to well into its work.
        patience = rng.uniform(0.0, 3.0) if counts["kills"] < KILLS else 120.0
        for operation in ("launch", "exec", "queue", "logs", "down"):
            if rng.random() < 0.2:
                sky.fail(operation, after=rng.random() < 0.6)
                counts["unanswered requests"] += 1
        if rng.random() < 0.1:
            sky.submit_twice()
            counts["double submissions"] += 1
        try:
            _, errors = process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            counts["kills"] += 1
            there = clusters(root)
            if there and losses and rng.random() < 0.15:
                sky.lose(rng.choice(there))
                losses -= 1
                counts["machines lost"] += 1
            continue
        assert process.returncode == 0, errors
        return


def check(folder: Path, journal: Path, root: Path, counts: Counter[str]) -> None:
    """Assert what must hold after a study."""
    study = open_study(folder, state_folder(folder))
    history = study.store.history()
    runs = list(history.all_runs())
    assert history.proposed() == len(SCRIPT)
    assert all(e.verdict is not None for e in history.experiments.values())
    assert all(run.state in OVER for run in runs)
    assert Counter(run.state for run in runs) == {RunState.FINISHED: len(runs)}, "nothing was lost"
    lines = [line.split()[:2] for line in journal.read_text().splitlines() if " warm-up " not in line]
    started = Counter(name for word, name in lines if word == "start")
    ended = Counter(name for word, name in lines if word == "end")
    assert set(started.values()) == {1}, "no attempt ran twice"
    for run in runs:
        name = run.job_name(study.tag)
        assert started[name] == ended[name] == 1, "what was measured ran, to its end"
        attempts = [job for job in started if job.rpartition("-a")[0] == name.rpartition("-a")[0]]
        assert len(attempts) <= 1 + run.losses, "it ran again only where its machine was lost"
    assert {name.rpartition("-a")[0] for name in started} == {f"{study.tag}-{run.id}" for run in runs}
    study.close()
    deadline = time.monotonic() + 30  # a cluster that is down takes a moment to be gone
    while left := [*clusters(root), *(p.cmdline() for p in psutil.process_iter() if belongs(p, root))]:
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.1)
    counts["experiments"] += len(history.experiments)
    counts["runs"] += len(runs)
    counts["started anew"] += len(started) - len(runs)


def clusters(root: Path) -> list[str]:
    """Return the clusters there are."""
    folders = (root / "clusters").glob("[!.]*") if (root / "clusters").exists() else ()
    return sorted(folder.name for folder in folders)


def belongs(process: psutil.Process, root: Path) -> bool:
    try:
        return process.environ().get("HOME", "").startswith(str(root))
    except (psutil.Error, OSError):
        return False
