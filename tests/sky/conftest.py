"""A real SkyPilot on a real Slurm cluster, on this machine's loopback, for the tests marked `sky`."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from sky_process import Process, keep_output

SCRIPT = Path(__file__).with_name("local_slurm.sh")
UP_SECONDS = 900  # the first time it downloads packages


@dataclass(frozen=True, slots=True, kw_only=True)
class Slurm:
    """A Slurm cluster with one H100 and one H200, in name only, and a SkyPilot that knows no other."""

    folder: Path
    env: dict[str, str] = field(repr=False)  # of a process that talks to this SkyPilot; without colours

    def squeue(self) -> list[tuple[str, str]]:
        """Return the name and state of each job of Slurm, which SkyPilot takes as a cluster."""
        listed = subprocess.check_output(["squeue", "--noheader", "--format=%j %T"], env=self.env, text=True)
        return [(name, state) for name, state in (line.split() for line in listed.splitlines())]

    def preempt(self, cluster: str) -> None:
        """End a cluster behind SkyPilot's back, as the owner of the machines may."""
        found = [name for name, _ in self.squeue() if name.startswith(f"{cluster}-")]
        subprocess.run(["scancel", *[f"--name={name}" for name in found]], env=self.env, check=True)


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """Bring the cluster up, one at a time on a machine, for its ports."""
    with Path(tempfile.gettempdir(), "autoresearch-slurm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # not pytest's own folder: its path is too long for a socket, and other users may not enter it
        folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
        try:
            _run(folder, "up")
            yield Slurm(folder=folder, env=_environment(folder))
        finally:
            _run(folder, "down")
            shutil.rmtree(folder)


def _run(folder: Path, action: str) -> None:
    """Run the script, skipping where this machine cannot have a cluster."""
    ended = subprocess.run(
        [SCRIPT, folder, action],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=UP_SECONDS,
    )
    if ended.returncode == 3:
        pytest.skip(ended.stderr.strip())
    assert ended.returncode == 0, ended.stderr


def _environment(folder: Path) -> dict[str, str]:
    ours = dict(line.split("=", 1) for line in (folder / "env").read_text().splitlines())
    return {name: value for name, value in os.environ.items() if not name.startswith("SKYPILOT_")} | ours


@pytest.fixture(scope="module")
def process(slurm: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A process that talks to the cluster's SkyPilot; at the end it must have printed nothing."""
    printed = tmp_path_factory.mktemp("sky") / "printed"
    process = Process(ctx=get_context("spawn"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in slurm.env.items():
            patch.setenv(name, value)
        process.start(keep_output, (str(printed),))
    yield process
    process.shutdown()
    assert printed.read_text() == ""
