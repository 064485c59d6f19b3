"""The executor's contract on a real Slurm through real SkyPilot, on one machine for all of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoresearch.config import Pool
from autoresearch.executors.sky.executor import SkyPilotExecutor
from autoresearch.executors.sky.pace import Pace
from autoresearch.experiment import JobSpec
from executor_contract import ExecutorContract, wait_until
from sky_pool import recipe

pytestmark = [pytest.mark.slow, pytest.mark.sky]

PYTHON = "/usr/bin/python3"  # which the cluster's user may run


class Here:
    """The executor, with the Python of its machines in the place of ours."""

    def __init__(self, executor: SkyPilotExecutor) -> None:
        self._executor = executor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)

    def submit(self, job: JobSpec, worker: str) -> None:
        """Hand a job over."""
        self._executor.submit(dataclasses.replace(job, command=(PYTHON, *job.command[1:])), worker)


@pytest.fixture(scope="module")
def pool(slurm: Any, process: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SkyPilotExecutor]:
    """An executor with one machine that is ready."""
    folder = tmp_path_factory.mktemp("contract")
    executor = SkyPilotExecutor(
        process.SdkClient(),
        recipe(folder, python=PYTHON, infra="slurm", cpus="1"),
        Pool(executor="skypilot", workers={"H100": 1}, infra="slurm"),
        study="t",
        state=folder / "state",
        usual_seconds=3.0,
        pace=Pace(setup_look=5, unclear_look=3, early_look=5, late_look=1, repeats=(2.0, 4.0)),
    )
    try:
        wait_until(lambda: any(worker.ready for worker in executor.workers()), seconds=300)
        yield executor
    finally:
        executor.close(release=True)
        assert slurm.squeue() == []


class TestOnSlurm(ExecutorContract):
    @pytest.fixture
    def executor(self, pool: SkyPilotExecutor) -> Here:
        wait_until(lambda: any(worker.ready for worker in pool.workers()))
        return Here(pool)

    @pytest.fixture
    def tmp_path(self, slurm: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A folder that the cluster's user may write."""
        folder = slurm.folder / f"contract-{tmp_path_factory.mktemp('jobs').name}"
        folder.mkdir()
        folder.chmod(0o777)
        return folder
