"""How fast the command line starts, as multiples of an empty Python in the same run.

    python benchmarks/cli.py [ROUNDS]

Makes a study of 1,000 experiments, then times `python -c pass`, `autoresearch --help` and
`autoresearch status` in turn, and prints the medians and the median of the pairwise ratios.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from autoresearch.config import Config
from autoresearch.experiment import Candidate, Edit, Experiment, Measurement, Proposal, Verdict, Worker
from autoresearch.founding import create_study
from autoresearch.store import Store
from autoresearch.target import Target

EXPERIMENTS = 1000
NOW = 1_700_000_000.0


def make_study(folder: Path) -> None:
    """Write a study of EXPERIMENTS judged experiments into a folder under git."""
    folder.mkdir()
    (folder / "train.py").write_text("X = 1.0\n")
    yaml = "target: {editable: [train.py], protected: [], command: 'true', score: log, profile: cpu}\n"
    (folder / "autoresearch.yaml").write_text(yaml)
    for command in (("init", "--quiet"), ("add", "-A"), ("commit", "--quiet", "-m", "start")):
        identity = ("-c", "user.name=b", "-c", "user.email=b@localhost")
        subprocess.run(["git", "-C", str(folder), *identity, *command], check=True)
    target = Target(editable=("train.py",), protected=(), command="true", score="log", profile="cpu")
    worker = Worker(name="cpu-01", kind="cpu")
    study = create_study(folder, Config(target=target), "bench", [worker], 0, NOW)
    study.close()
    store = Store(folder / ".autoresearch" / "bench" / "study.db", durable=False)
    names = ["e0001"]
    for i in range(EXPERIMENTS):
        proposal = Proposal(
            hypothesis=f"idea {i}", edits=(Edit(old="a", new="b"),), parent="e0001", author="bench"
        )
        (number,) = store.add_proposals([proposal], NOW + i)
        proposal = Proposal(
            hypothesis=f"idea {i}", edits=proposal.edits, parent="e0001", author="bench", number=number
        )
        admitted = store.admit(proposal, Candidate(files={}, digest=str(i)), {"X": float(i)}, 0, NOW + i)
        assert isinstance(admitted, Experiment)
        names.append(admitted.id)
    for i, name in enumerate(names):
        for run in store.history().runs_of(name):
            store.claim(run, "bench", worker, NOW + i)
            measured = Measurement(value=1.0 + i / 1000, steps=100, memory_gb=1.0)
            store.close_run(run, measurement=measured, now=NOW + i + 1)
        store.decide(name, Verdict.KEEP if i == 0 else Verdict.DISCARD, "measured", NOW + i + 1)
    store.close()


def timed(command: list[str], folder: Path) -> float:
    """Return the wall seconds of one run of a command."""
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, capture_output=True, env={**os.environ, "NO_COLOR": "1"})
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    program = str(Path(sys.executable).with_name("autoresearch"))
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "autoresearch --help": [program, "--help"],
        "autoresearch status": [program, "status"],
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "study"
        make_study(folder)
        for command in commands.values():
            timed(command, folder)  # warm the disk's cache
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, command in commands.items():
                times[name].append(timed(command, folder))
    base = times["python -c pass"]
    print(f"{rounds} rounds in turn, a study of {EXPERIMENTS} experiments")
    for name, values in times.items():
        ratio = statistics.median(a / b for a, b in zip(values, base, strict=True))
        print(f"{name:<20} {1000 * statistics.median(values):7.0f} ms   {ratio:5.1f} x")


if __name__ == "__main__":
    main()
