"""How long a worker idles between two queued runs, and what a run costs SkyPilot in requests.

    python benchmarks/handover.py [RUNS] [SECONDS]

Needs root and Debian: brings up the Slurm cluster of the tests on this machine's loopback, with one
worker, and hands it RUNS jobs that sleep for SECONDS, each queued behind the last just in time. Prints
the idle seconds between a run's end and the next one's start, as the cluster's own clock has them, and
the requests per run by kind, those of setting up and taking down left out.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "tests" / "sky" / "local_slurm.sh"


class Counting:
    """A client that counts what is asked of it."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            self.calls[name] += 1
            return getattr(self._client, name)(*arguments, **options)

        return counted


def measure(folder: Path, runs: int, seconds: float) -> None:
    """Run the jobs on one worker, then print what was measured. SkyPilot's variables are set."""
    from autoresearch.config import Pool
    from autoresearch.executors.sky import render
    from autoresearch.executors.sky.executor import SkyPilotExecutor
    from autoresearch.executors.sky.sdk import SdkClient
    from autoresearch.experiment import JobResult, JobSpec, JobStatus

    protected = folder / "protected"
    protected.mkdir()
    recipe = render.Recipe(
        worker=(ROOT / "tasks" / "worker.yaml").read_text(),
        experiment=(ROOT / "tasks" / "experiment.yaml").read_text(),
        protected=str(protected),
        protected_sha256="",
        baseline={"train.py": ""},
        command=("true",),
        prepare=None,
        env={"AUTORESEARCH_PROFILE": "cpu"},
        python="/usr/bin/python3",
        infra="slurm",
        cpus="1",
    )
    client = Counting(SdkClient())
    pool = Pool(executor="skypilot", workers={"H100": 1}, infra="slurm")
    executor = SkyPilotExecutor(
        client, recipe, pool, study=f"bench{os.getpid()}", state=folder, usual_seconds=seconds + 5
    )
    job = JobSpec(name="", command=("sleep", str(seconds)), files={}, env={}, folder="", timeout_seconds=600)
    names = [f"bench-e{i:04d}.1-a1" for i in range(1, runs + 1)]
    ended: dict[str, JobResult] = {}
    began = time.time()
    try:
        while not executor.workers()[0].ready:
            time.sleep(1)
        print(f"the worker is ready after {time.time() - began:.0f} s", flush=True)
        before = client.calls.copy()
        waiting = list(names)
        while len(ended) < runs:
            (worker,) = executor.workers()
            active = [name for name in names if name not in waiting and name not in ended]
            takes = worker.handover_at is not None and time.time() >= worker.handover_at
            if waiting and worker.ready and len(active) < 2 and (not active or takes):
                executor.submit(dataclasses.replace(job, name=waiting.pop(0)), worker.name)
            for name, status in executor.poll(active).items():
                if status is JobStatus.DONE:
                    ended[name] = executor.fetch(name)
                    print(f"{name} ended", flush=True)
            time.sleep(0.5)
        spent = client.calls - before
    finally:
        executor.close(release=True)
    report([ended[name] for name in names], spent)


def report(ended: list[Any], spent: Counter[str]) -> None:
    """Print the figures."""
    gaps = [after.started_at - before.ended_at for before, after in pairwise(ended)]
    lasted = [run.ended_at - run.started_at for run in ended]
    useful = sum(lasted) / (ended[-1].ended_at - ended[0].started_at)
    print(f"runs of {statistics.median(lasted):.0f} s; the worker was busy {100 * useful:.1f} % of the time")
    print(f"idle between runs: median {statistics.median(gaps):.1f} s, worst {max(gaps):.1f} s")
    shown = ", ".join(f"{count / len(ended):.1f} {name}" for name, count in spent.most_common())
    print(f"requests a run: {sum(spent.values()) / len(ended):.1f} ({shown})")


def main() -> None:
    """Bring the cluster up, measure in a process of its own, and take it down."""
    if "--inside" in sys.argv:
        measure(Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
        return
    runs, seconds = (*sys.argv[1:], "6", "60")[:2] if len(sys.argv) < 3 else sys.argv[1:3]
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    try:
        subprocess.run([SCRIPT, folder, "up"], check=True, stdout=subprocess.DEVNULL)
        ours = dict(line.split("=", 1) for line in (folder / "env").read_text().splitlines())
        state = folder / "study"
        state.mkdir()
        command = [sys.executable, __file__, "--inside", str(state), runs, seconds]
        subprocess.run(command, env={**os.environ, **ours, "PYTHONPATH": str(ROOT)}, check=True)
    finally:
        subprocess.run([SCRIPT, folder, "down"], check=False, stdout=subprocess.DEVNULL)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
