"""SkyPilot without SkyPilot: clusters are folders of this machine, and jobs really run.

All state lies below a root, so clients of any process see the same clusters, and both clusters and
requests outlive the client that made them, as they do with SkyPilot's API server. It misbehaves as
`faults` scripts it. What it does not do: several nodes, stopped clusters, prices, regions.
"""

from __future__ import annotations

import fcntl
import os
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

from autoresearch.executors.sky.client import (
    ClusterState,
    GoneError,
    JobState,
    SkyClient,
    SkyCluster,
    SkyError,
    SkyJob,
    Task,
    UnansweredError,
    UnavailableError,
)
from autoresearch.executors.sky.standin.cluster import (
    Cluster,
    Request,
    detach,
    read_json,
    refuse_misfit,
    shape_of,
    write_json,
)
from autoresearch.executors.sky.standin.faults import Fault, Mishap, Script
from autoresearch.executors.sky.standin.mounts import copy_mounts, mounts_of
from autoresearch.executors.sky.standin.skylet import end_carrying, leave

POLL_SECONDS = 0.01


class StandIn(Script, SkyClient):
    """A SkyClient whose clusters are folders below a root."""

    def __init__(
        self,
        root: Path,
        *,
        latency: Mapping[str, float] = MappingProxyType({}),
        timeout_seconds: float = 60.0,
    ) -> None:
        """Take over a root; `latency` is in seconds by operation, more than the timeout is no answer."""
        self._root = root.resolve()
        super().__init__(self._root)
        self._latency = latency
        self._timeout = timeout_seconds
        (self._root / "clusters").mkdir(exist_ok=True)

    # -- what SkyClient asks -------------------------------------------------

    def launch(self, task: Task, cluster: str, *, idle_minutes: float) -> None:
        """Make a cluster's folder and have its skylet submit the task; on one that is up, submit again."""
        with self._request("launch", cluster) as fault:
            request = None
            if self._find(cluster) is None:
                request = self._provision(task, cluster, idle_minutes, fault)
            if request is None:
                found = self._existing(cluster)
                request = Request(task=task, due_at=self._due("launch", fault), setup=True)
                refuse_misfit(task, found, cluster)
                copy_mounts(mounts_of(task), found.home)
                found.set_idle(idle_minutes)
                found.ask(request)
            self._submitted(request, cluster, fault)

    def exec(self, task: Task, cluster: str) -> int | None:
        """Have a cluster's skylet submit the task; return the id of its job."""
        with self._request("exec", cluster) as fault:
            found = self._up(cluster)
            refuse_misfit(task, found, cluster)
            twice = self._take(Mishap.TWICE, "exec", cluster) is not None
            request = Request(task=task, due_at=self._due("exec", fault), copies=2 if twice else 1)
            found.ask(request)
            return self._submitted(request, cluster, fault)

    def queue(self, cluster: str) -> Sequence[SkyJob]:
        """Return all jobs of a cluster, oldest first."""
        with self._request("queue", cluster):
            found = self._up(cluster)
            previous = read_json(found.folder / "answer.json")
            if previous is not None and self._take(Mishap.STALE, "queue", cluster):
                return _read_answer(previous)
            answer = {"jobs": [asdict(job.as_sky_job()) for job in found.jobs()]}
            write_json(found.folder / "answer.json", answer)
            return _read_answer(answer)

    def logs(self, cluster: str, job: int, path: Path) -> None:
        """Write what a job, and its setup before it, has printed so far."""
        with self._request("logs", cluster):
            found = next((j for j in self._up(cluster).jobs() if j.id == job), None)
            if found is None:
                raise SkyError(f"{cluster} has no job {job}")
            printed = (found.setup.printed() if found.setup else b"") + found.printed()
            partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
            partial.write_bytes(printed)
            partial.rename(path)

    def cancel(self, cluster: str, jobs: Sequence[int]) -> None:
        """End jobs, and return when no process of them is left."""
        with self._request("cancel", cluster):
            named = [job for job in self._up(cluster).jobs() if job.id in jobs]
            for job in named:
                if not job.state().over:
                    job.cancel()
            self._wait(lambda: all(job.state().over for job in named), cluster)

    def clusters(self, names: Collection[str], *, refresh: bool = False) -> Sequence[SkyCluster]:
        """Return those of the named clusters that exist, or that the cache still believes in."""
        with self._request("clusters"):
            listed = (self._seen(name, refresh=refresh) for name in names)
            return [cluster for cluster in listed if cluster is not None]

    def pending(self, cluster: str) -> bool:
        """Whether a launch or exec for this cluster waits to be carried out."""
        with self._request("pending", cluster):
            found = self._find(cluster)
            return found is not None and bool(found.requests())

    def set_autodown(self, cluster: str, idle_minutes: float) -> None:
        """Have a cluster go down after so many idle minutes."""
        with self._request("set_autodown", cluster):
            self._up(cluster).set_idle(idle_minutes)

    def down(self, cluster: str) -> None:
        """End a cluster and every process of it."""
        with self._request("down", cluster):
            self._remove(cluster, remembered=False)
            self._cached(cluster).unlink(missing_ok=True)

    # -- what only a test does -----------------------------------------------

    def lose(self, cluster: str) -> None:
        """Have a cluster preempted: it is gone at once, but listed as it was until it is refreshed."""
        self._remove(cluster, remembered=True)

    # -- how -----------------------------------------------------------------

    @contextmanager
    def _request(self, operation: str, cluster: str | None = None) -> Iterator[Fault | None]:
        """Count a request, take its time and let its faults strike; yield that which strikes after it."""
        self._count(operation)
        self._check_server()
        self._check_refused(operation, cluster)
        fault = self._take(Mishap.UNANSWERED, operation, cluster)
        if fault and not fault.after:
            raise UnansweredError(f"{operation} was not answered")
        if operation not in {"launch", "exec"}:  # these take their time on the cluster's side
            self._spend(operation)
        try:
            yield fault
        except FileNotFoundError as error:
            if cluster is None or Cluster(self._root / "clusters" / cluster).exists:
                raise
            raise GoneError(f"{cluster} went away") from error
        if fault:
            raise UnansweredError(f"{operation} was not answered")

    def _spend(self, operation: str) -> None:
        seconds = self._latency.get(operation, 0.0)
        time.sleep(min(seconds, self._timeout))
        if seconds > self._timeout:
            raise UnansweredError(f"{operation} was not answered in {self._timeout} s")

    def _due(self, operation: str, fault: Fault | None) -> float:
        """Return when a launch or exec is to be carried out."""
        return time.time() + self._latency.get(operation, 0.0) + (fault.late if fault else 0.0)

    def _provision(self, task: Task, name: str, idle_minutes: float, fault: Fault | None) -> Request | None:
        """Make a new cluster's folder with its first request in one step; None where another's came first."""
        shape = shape_of(task)
        mounts = mounts_of(task)
        doomed = self._take(Mishap.UNAVAILABLE, shape.kind) is not None
        stuck = self._take(Mishap.STUCK, "launch", name) is not None
        due_at = float("inf") if stuck else self._due("launch", fault)
        request = Request(task=task, due_at=due_at, setup=True, doomed=doomed)
        folder = self._root / "clusters" / name
        scratch = Cluster.create(
            folder.with_name(f".{name}.{uuid.uuid4().hex}"), shape, self._root / "homes" / name
        )
        copy_mounts(mounts, scratch.home)
        scratch.set_idle(idle_minutes)
        scratch.ask(request)
        self._cached(name).unlink(missing_ok=True)
        try:
            scratch.folder.rename(folder)
        except OSError:  # it is there already
            scratch.erase()
            return None
        self._wake(name)
        return request

    def _submitted(self, request: Request, name: str, fault: Fault | None) -> int | None:
        """Wait until a request is carried out; return the id of its last job."""
        if fault and fault.late:
            return None  # nobody waits for it: the caller is told that there was no answer
        cluster = Cluster(self._root / "clusters" / name)
        inbox = cluster.folder / "inbox" / f"{request.id}.json"
        gone: SkyError = GoneError(f"{name} went away")
        if request.doomed:
            gone = UnavailableError(f"there is no {shape_of(request.task).kind} for {name}")
        try:
            self._wait(lambda: not inbox.exists(), name)
        except GoneError as error:
            raise gone from error
        made = [job.id for job in cluster.jobs() if job.request == request.id]
        if not made:
            raise gone
        return made[-1]

    def _wait(self, done: Callable[[], bool], cluster: str) -> None:
        deadline = time.monotonic() + self._timeout
        while not done():
            self._check_server()
            self._existing(cluster)
            if time.monotonic() > deadline:
                raise UnansweredError(f"{cluster} did not answer in {self._timeout} s")
            time.sleep(POLL_SECONDS)

    def _find(self, name: str) -> Cluster | None:
        """Return a cluster that exists, with its skylet running."""
        self._wake(name)
        cluster = Cluster(self._root / "clusters" / name)
        return cluster if cluster.exists else None

    def _existing(self, name: str) -> Cluster:
        found = self._find(name)
        if found is None:
            raise GoneError(f"there is no cluster {name}")
        return found

    def _up(self, name: str) -> Cluster:
        found = self._existing(name)
        if not found.up:
            raise GoneError(f"{name} is not up")
        return found

    def _wake(self, name: str) -> None:
        """Start a cluster's skylet unless it runs; a client that died may have left it without one."""
        folder = self._root / "clusters" / name
        try:
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            env = {"PATH": os.environ["PATH"], "HOME": str(Cluster(folder).home)}
            command = ["-m", "autoresearch.executors.sky.standin", str(self._root), name, str(lock)]
            detach(command, env, lock, folder / "skylet.log")
        except (BlockingIOError, FileNotFoundError):
            return  # it runs, or its cluster went away
        finally:
            os.close(lock)

    def _seen(self, name: str, *, refresh: bool) -> SkyCluster | None:
        """Return what SkyPilot says of a cluster: of one that went away by itself, what it last knew."""
        found = self._find(name)
        if found is not None:
            return found.as_sky_cluster(name)
        if refresh:
            self._cached(name).unlink(missing_ok=True)
        if not self._cached(name).exists():
            return None
        return SkyCluster(name=name, state=ClusterState(self._cached(name).read_text()))

    def _remove(self, name: str, *, remembered: bool) -> None:
        """Take a cluster away and wait until its skylet has ended what ran there."""
        gone = leave(self._root, name, remembered=remembered)
        if gone is None:
            return
        lock = os.open(gone / "lock", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        finally:
            os.close(lock)
        left = Cluster(gone)
        end_carrying(left.mark)  # of a skylet that was killed
        left.erase()

    def _cached(self, name: str) -> Path:
        """Return where SkyPilot's belief in a cluster that went away is kept."""
        return self._root / "cached" / name


def _read_answer(answer: Mapping[str, Any]) -> list[SkyJob]:
    return [SkyJob(**{**job, "state": JobState(job["state"])}) for job in answer["jobs"]]
