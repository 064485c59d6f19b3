"""A stand-in cluster is a folder; whoever knows its root can pick it up. This reads and writes it.

    clusters/NAME/           there is such a cluster; renamed away, there is none
        cluster.json         its GPUs, and a token no other cluster ever had
        lock                 held by its skylet while that lives
        up                   it is up; without, it is being launched
        idle.json            after how many idle minutes it goes down; its age counts as idle time
        inbox/REQUEST.json   a launch or exec the API server still works on
        home                 what jobs see as HOME: a link to homes/NAME/TOKEN/
        jobs/1/              job.json, perhaps setup/, and what `executors.shim` reads and writes

Only the skylet makes jobs, starts them and turns a cluster up.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from autoresearch.executors.sky.client import ClusterState, JobState, SkyCluster, SkyError, SkyJob, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The GPUs a task asks for, or a cluster has."""

    kind: str  # "cpu" where there are none
    gpus: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A launch or exec the API server accepted. The skylet carries it out when it is due."""

    task: Task
    due_at: float  # UTC epoch seconds; infinite: never
    setup: bool = False  # a launch runs the task's setup, an exec does not
    copies: int = 1  # how many jobs it becomes
    doomed: bool = False  # it will find no resources
    id: str = field(default_factory=lambda: f"{time.time_ns():020d}-{uuid.uuid4().hex}")  # sorts by age


class Unit:
    """What one shim runs: a job, or the setup before it. It is its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin(
        self, script: str, env: Mapping[str, str], base: Mapping[str, str], gpus: tuple[int, ...] = ()
    ) -> None:
        """Start the script under a shim, which gets the `base` environment; only the skylet may."""
        command = ["/bin/bash", "-c", f'cd "$HOME/sky_workdir" || exit\n{script}']
        spec = {"command": command, "env": dict(env), "timeout_seconds": math.inf}
        write_json(self.folder / "spec.json", spec)
        with holding(self.folder / "lock") as lock:
            write_json(self.folder / "claim", {"gpus": gpus, "started_at": time.time()})
            shim = ["-m", "autoresearch.executors.shim", str(self.folder), str(lock)]
            detach(shim, base, lock, self.folder / "shim.log")

    def state(self) -> JobState:
        """Return the state. In this order: claimed, then lock free, then without a record is lost."""
        claimed = self.claim is not None
        if not is_free(self.folder / "lock"):
            return JobState.RUNNING if claimed else JobState.PENDING
        record = read_json(self.folder / "exit.json")
        if record is None:
            return JobState.BROKEN if claimed else JobState.PENDING
        if record.get("broken"):
            return JobState.BROKEN
        if record["cancelled"]:
            return JobState.CANCELLED
        return JobState.SUCCEEDED if record["exit_code"] == 0 else JobState.FAILED

    def cancel(self) -> None:
        """Ask for the end of this unit."""
        (self.folder / "cancel").touch()

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked for its end."""
        return (self.folder / "cancel").exists()

    def close(self, **record: Any) -> None:
        """Record the end of what has no shim to do it."""
        write_json(self.folder / "exit.json", {"cancelled": False, "ended_at": time.time()} | record)

    @property
    def claim(self) -> dict[str, Any] | None:
        """What the skylet noted when it started this unit."""
        return read_json(self.folder / "claim")

    @property
    def ended_at(self) -> float | None:
        """When it ended; None while it has not, or where nothing recorded it."""
        record = read_json(self.folder / "exit.json")
        return record["ended_at"] if record else None

    def printed(self) -> bytes:
        """Return what it has printed so far."""
        log = self.folder / "log"
        return log.read_bytes() if log.exists() else b""


class Job(Unit):
    """A job of a cluster's queue."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.id = int(folder.name)
        made = json.loads((folder / "job.json").read_text())
        self.request: str = made["request"]
        self.task: Task = made["task"]
        self.submitted_at: float = made["submitted_at"]
        self.setup = Unit(folder / "setup") if made["setup"] else None

    def as_sky_job(self) -> SkyJob:
        """Return the job as SkyPilot's queue shows it."""
        state = self.state()
        claim = None if state is JobState.PENDING else self.claim
        return SkyJob(
            id=self.id,
            name=self.task.get("name") or "-",
            state=state,
            submitted_at=self.submitted_at,
            started_at=claim["started_at"] if claim else None,
            ended_at=self.ended_at if state.over else None,
        )


class Cluster:
    """The folder of a cluster."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, folder: Path, shape: Shape, homes: Path) -> Cluster:
        """Make an empty cluster that is not up, with a home of its own in `homes`."""
        token = uuid.uuid4().hex
        home = homes / token
        for part in (folder / "inbox", folder / "jobs", home / "sky_workdir"):
            part.mkdir(parents=True)
        (folder / "home").symlink_to(home)
        (folder / "lock").touch()
        write_json(folder / "cluster.json", asdict(shape) | {"token": token})
        return cls(folder)

    def erase(self) -> None:
        """Delete what is left of a cluster that is gone; its last processes may have written to its home."""
        shutil.rmtree(self.home, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def exists(self) -> bool:
        """Whether it is there at all."""
        return (self.folder / "lock").exists()

    @property
    def up(self) -> bool:
        """Whether it takes jobs."""
        return (self.folder / "up").exists()

    @property
    def home(self) -> Path:
        """What its jobs see as HOME: of this cluster alone, not of the next one by its name."""
        return (self.folder / "home").readlink()

    @property
    def shape(self) -> Shape:
        """The GPUs it has."""
        made = json.loads((self.folder / "cluster.json").read_text())
        return Shape(kind=made["kind"], gpus=made["gpus"])

    @property
    def mark(self) -> str:
        """What the SKYPILOT_TASK_ID of each of its processes starts with."""
        token: str = json.loads((self.folder / "cluster.json").read_text())["token"]
        return f"sky-{token}_"

    @property
    def idle_minutes(self) -> float | None:
        """After how many idle minutes it goes down."""
        minutes: float | None = json.loads((self.folder / "idle.json").read_text())
        return minutes

    def set_idle(self, minutes: float) -> None:
        """Have it go down after so many idle minutes from now."""
        write_json(self.folder / "idle.json", minutes)

    def ask(self, request: Request) -> None:
        """Put a launch or exec in the inbox."""
        write_json(self.folder / "inbox" / f"{request.id}.json", asdict(request))

    def requests(self) -> list[Request]:
        """Return what the API server still works on, oldest first."""
        found = (read_json(path) for path in sorted((self.folder / "inbox").glob("[0-9]*.json")))
        return [Request(**request) for request in found if request]

    def jobs(self) -> list[Job]:
        """Return all jobs, oldest first."""
        folders = (self.folder / "jobs").glob("[0-9]*")
        return [Job(folder) for folder in sorted(folders, key=lambda folder: int(folder.name))]

    def as_sky_cluster(self, name: str) -> SkyCluster:
        """Return the cluster as SkyPilot's status shows it."""
        minutes = self.idle_minutes
        return SkyCluster(
            name=name,
            state=ClusterState.UP if self.up else ClusterState.INIT,
            idle_minutes=None if minutes is None else math.ceil(minutes),
            autodown=minutes is not None,
        )


def shape_of(task: Task) -> Shape:
    """Return the GPUs a task asks for."""
    wanted = (task.get("resources") or {}).get("accelerators")
    if not wanted:
        return Shape(kind="cpu", gpus=0)
    kind, count = (
        next(iter(wanted.items())) if isinstance(wanted, Mapping) else str(wanted).partition(":")[::2]
    )
    return Shape(kind=str(kind), gpus=int(count or 1))


def refuse_misfit(task: Task, cluster: Cluster, name: str) -> None:
    """Raise SkyError where a cluster can never run a task."""
    wanted, there = shape_of(task), cluster.shape
    if wanted.gpus > there.gpus or (wanted.gpus and wanted.kind != there.kind):
        raise SkyError(f"{name} has {there.gpus} {there.kind}, the task asks for {wanted.gpus} {wanted.kind}")


# ---------------------------------------------------------------------------
# Files and processes
# ---------------------------------------------------------------------------


def write_json(path: Path, content: Any) -> None:
    """Write a file so that readers see all of it or nothing, whichever thread or process writes."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    partial.write_text(json.dumps(content, default=str))
    partial.rename(path)


def read_json(path: Path) -> dict[str, Any] | None:
    """Return what a file holds; None where there is none."""
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return content


@contextmanager
def holding(path: Path) -> Iterator[int]:
    """Hold a lock; a process that inherits the descriptor holds it on after we let go."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)


def is_free(path: Path) -> bool:
    """Return whether nobody holds a lock."""
    try:
        lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True


def detach(arguments: list[str], env: Mapping[str, str], lock: int, log: Path) -> None:
    """Start Python in a session of its own, as nobody's child, with a lock it inherits."""
    package = Path(__file__).resolve().parents[4]
    with log.open("ab") as errors:
        subprocess.run(
            ["/bin/sh", "-c", '"$@" &', "sh", sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            env={**env, "PYTHONPATH": str(package)},
            pass_fds=(lock,),
            start_new_session=True,
            check=True,
        )
