"""SkyPilot by its Python SDK: each method is one request to its API server, or two.

Costs, on Slurm: clusters and pending 0.2 s; queue, logs, cancel, exec and down 2 to 8 s, as each is an
ssh connection to the cluster; launch half a minute or more. It knows nothing of experiments.
"""

from __future__ import annotations

import contextlib
import copy
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from autoresearch.executors.sky.calls import Calls
from autoresearch.executors.sky.client import (
    ClusterState,
    GoneError,
    JobState,
    SkyCluster,
    SkyJob,
    Task,
)
from autoresearch.files import write_whole

_JOB_STATES = {
    "INIT": JobState.PENDING,
    "PENDING": JobState.PENDING,
    "SETTING_UP": JobState.PENDING,
    "RUNNING": JobState.RUNNING,
    "SUCCEEDED": JobState.SUCCEEDED,
    "FAILED": JobState.FAILED,
    "FAILED_SETUP": JobState.BROKEN,
    "FAILED_DRIVER": JobState.BROKEN,
    "CANCELLED": JobState.CANCELLED,
}
_CLUSTER_STATES = {"UP": ClusterState.UP, "STOPPED": ClusterState.STOPPED}  # any other is unclear
_STARTS = frozenset({"sky.launch", "sky.exec"})


class SdkClient:
    """The SkyClient of the user's API server; a local one is started where none runs.

    May be used by several threads at once.
    """

    def __init__(
        self,
        *,
        launch_seconds: float = 1800.0,
        exec_seconds: float = 180.0,
        query_seconds: float = 120.0,
    ) -> None:
        self._calls = Calls()
        self._launch_seconds = launch_seconds
        self._exec_seconds = exec_seconds
        self._query_seconds = query_seconds

    def launch(self, task: Task, cluster: str, *, idle_minutes: int) -> None:
        """Bring a cluster up for a task and submit it; a launch that takes too long is withdrawn."""

        def submit(sky: ModuleType) -> Any:
            return sky.launch(
                _task(sky, task), cluster_name=cluster, idle_minutes_to_autostop=idle_minutes, down=True
            )

        self._calls.request(f"launch {cluster}", self._launch_seconds, submit, cancel=True)

    def exec(self, task: Task, cluster: str) -> int | None:
        """Submit a task to a cluster that is up; return its job id."""
        answer = self._calls.request(
            f"exec on {cluster}",
            self._exec_seconds,
            lambda sky: sky.exec(_task(sky, task), cluster_name=cluster),
            cancel=True,
        )
        job: int | None = answer[0]
        return job

    def queue(self, cluster: str) -> Sequence[SkyJob]:
        """Return all jobs of a cluster, oldest first."""
        records = self._calls.request(
            f"queue of {cluster}", self._query_seconds, lambda sky: sky.queue(cluster), cancel=True
        )
        return sorted((_job(record) for record in records), key=lambda job: job.id)

    def logs(self, cluster: str, job: int, path: Path) -> None:
        """Write what a job has printed, byte for byte but for invalid UTF-8; empty before it runs.

        SkyPilot's other way, `tail_logs`, costs the same, prefixes every line and rewrites line ends.
        """
        what = f"logs of job {job} on {cluster}"
        write_whole(path, self._calls.call(what, self._query_seconds, lambda sky: _log(sky, cluster, job)))

    def cancel(self, cluster: str, jobs: Sequence[int]) -> None:
        """End jobs; those that are over, or unknown, are left as they are."""
        if jobs:  # SkyPilot takes none for the latest
            self._calls.request(
                f"cancel on {cluster}",
                self._query_seconds,
                lambda sky: sky.cancel(cluster, job_ids=list(jobs)),
            )

    def clusters(self, names: Collection[str], *, refresh: bool = False) -> Sequence[SkyCluster]:
        """Return those of the named clusters that exist."""
        if not names:
            return []
        records = self._calls.request(
            "status",
            self._query_seconds,
            lambda sky: sky.status(
                cluster_names=sorted(names),
                refresh=sky.StatusRefreshMode.FORCE if refresh else sky.StatusRefreshMode.NONE,
            ),
            cancel=True,
        )
        return [_cluster(record) for record in records]

    def pending(self, cluster: str) -> bool:
        """Whether the API server still works on a launch or exec for this cluster."""
        found = self._calls.call(
            f"requests for {cluster}",
            self._query_seconds,
            lambda sky: sky.api_status(cluster_name=cluster, all_status=False),
        )
        return any(request.name in _STARTS and request.cluster_name == cluster for request in found)

    def set_autodown(self, cluster: str, idle_minutes: int) -> None:
        """Have a cluster go down after so many idle minutes."""
        self._calls.request(
            f"autodown of {cluster}",
            self._query_seconds,
            lambda sky: sky.autostop(cluster, idle_minutes, down=True),
        )

    def down(self, cluster: str) -> None:
        """Tear one cluster down; nothing where there is none."""
        try:
            self._calls.request(f"down of {cluster}", self._query_seconds, lambda sky: sky.down(cluster))
        except GoneError:
            return


def _task(sky: ModuleType, task: Task) -> Any:
    return sky.Task.from_yaml_config(copy.deepcopy(dict(task)))  # it takes its argument apart


def _log(sky: ModuleType, cluster: str, job: int) -> bytes:
    """Return the output of a job, or of its setup where it got no further; empty before either.

    SkyPilot puts it into ~/sky_logs/<cluster>; it is removed there, so that no later job of a cluster
    with the same name is taken for this one.
    """
    folders = sky.download_logs(cluster, [str(job)])
    if str(job) not in folders:
        return b""
    folder = Path(folders[str(job)]).expanduser()
    try:
        logs = [*folder.glob("tasks/run.log")] or sorted(folder.glob("tasks/setup-*.log"))
        return b"".join(log.read_bytes() for log in logs)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # other jobs of the cluster are being fetched
            folder.parent.rmdir()


def _job(record: Any) -> SkyJob:
    return SkyJob(
        id=record.job_id,
        name=record.job_name,
        state=_JOB_STATES[record.status.name],
        submitted_at=record.submitted_at or None,
        started_at=record.start_at or None,
        ended_at=record.end_at or None,
    )


def _cluster(record: Any) -> SkyCluster:
    return SkyCluster(
        name=record.name,
        state=_CLUSTER_STATES.get(record.status.name, ClusterState.INIT),
        idle_minutes=record.autostop if record.autostop >= 0 else None,
        autodown=record.to_down,
    )
