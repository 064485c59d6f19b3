"""The example of a study without a language model: its measurement is fair, repeatable and bounded."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from autoresearch.logparse import parse_progress
from lab import ROOT, git

EXAMPLE = Path(__file__).parents[1] / "examples" / "pendulum"
TARGET = yaml.safe_load((EXAMPLE / "autoresearch.yaml").read_text())["target"]
STEPS = 50_000  # one generation of the committed code takes 40,000
SPENT = """
def search(env, seed):
    yield [0.0] * 4
    for _ in range(2 * env.budget):
        try:
            env.step(0.0)
        except Exception as error:
            spent = error
    assert env.steps == env.budget
    raise spent
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A job's folder as a study makes it: the edited files and nothing else."""
    for name in TARGET["editable"]:
        shutil.copy(EXAMPLE / name, tmp_path)
    return tmp_path


def run(key: str, job: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the target in a job's folder, with nothing of our environment but PATH."""
    words = [w.format(python=sys.executable, protected=EXAMPLE) for w in TARGET[key].split()]
    env |= {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", "PENDULUM_STEPS": str(STEPS)}
    return subprocess.run(words, cwd=job, env=env, capture_output=True, text=True, timeout=180, check=False)


def measured(job: Path, seed: int) -> float:
    done = run("command", job, AUTORESEARCH_SEED=str(seed))
    found = re.findall(TARGET["metric"]["pattern"], done.stdout, re.MULTILINE)
    assert (done.returncode, len(found)) == (0, 1), done.stderr
    return float(found[0])


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_the_files_that_the_target_names_exist() -> None:
    assert all((EXAMPLE / name).is_file() for name in [*TARGET["editable"], *TARGET["protected"]])


def test_a_measurement_depends_on_the_seed_and_on_nothing_else(job: Path) -> None:
    first, again, other = (measured(job, seed) for seed in (1, 1, 2))
    assert first == again != other


def test_a_measurement_is_of_the_edited_code(job: Path) -> None:
    before = measured(job, 1)
    edit(job / "controller.py", "HOLD_DEGREES = 60.0", "HOLD_DEGREES = 90.0")
    assert measured(job, 1) != before


def test_progress_is_as_the_screen_reads_it(job: Path) -> None:
    progress = parse_progress(run("command", job, AUTORESEARCH_SEED="1").stdout.encode())
    assert progress is not None
    assert (progress.step, progress.share) == (1, 0.8)
    assert progress.loss is not None


def test_training_cannot_take_more_steps_than_the_budget(job: Path) -> None:
    """Not even by catching every exception: search goes on asking, and gets none."""
    (job / "search.py").write_text(SPENT)
    assert measured(job, 1) < 0


def test_preflight_passes_for_the_committed_code(job: Path) -> None:
    done = run("preflight", job, AUTORESEARCH_PREFLIGHT="1")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "preflight passed")
    assert "METRIC" not in done.stdout


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("controller.py", "cos, sin, speed = state", "cos, sin = state", "too many values to unpack"),
        ("controller.py", "return TORQUE_SCALE", "return math.nan", "the torque is nan"),
        ("search.py", "        yield mean", "        yield []", "search() yielded no parameters"),
        ("search.py", "from controller import", "from brain import", "No module named 'brain'"),
    ],
)
def test_preflight_fails_for_code_that_cannot_work(
    job: Path, file: str, old: str, new: str, said: str
) -> None:
    edit(job / file, old, new)
    done = run("preflight", job, AUTORESEARCH_PREFLIGHT="1")
    assert done.returncode == 1
    assert said in done.stderr
    assert "preflight passed" not in done.stdout


@pytest.mark.slow
def test_the_example_is_a_study(tmp_path: Path) -> None:
    """As its README says, with a shorter budget: a copy, a repository, a run, a table."""
    folder = tmp_path / "mine"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    short = f"  profile: cpu\n  env: {{PENDULUM_STEPS: '{STEPS}'}}\n"
    edit(folder / "autoresearch.yaml", "  profile: cpu\n", short)
    git(folder, "init", "--quiet")
    git(folder, "add", "-A")
    git(folder, "commit", "--quiet", "-m", "start")

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "autoresearch", *words]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            command, cwd=folder, env=env, capture_output=True, text=True, timeout=180, check=False
        )

    done = call("run", "--experiments", "4")
    assert done.returncode == 0, done.stderr
    assert "score self-reported" in done.stderr
    found = json.loads(call("results").stdout)
    assert (found["metric"], found["score"], found["total"]) == ("return", "self-reported", 5)
    values = [row["value"] for row in found["results"] if row["value"] is not None]
    assert values == sorted(values, reverse=True), "a return is to be maximised"
    assert (folder / "results.tsv").read_text().startswith("commit\treturn\t")
    moved = call("submit", "--set", "HOLD_DEGREES=90", "--set", "POPULATION=40")
    assert moved.returncode == 5, "its budget is used up"
