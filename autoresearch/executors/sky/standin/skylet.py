"""What lives on a stand-in cluster: it carries requests out, runs the queue and goes down when idle.

It works in its cluster's folder as its current one. When that folder is renamed away from its name,
the cluster is gone: every process of it is ended, then the lock is let go.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

import psutil

from autoresearch.executors.processes import adopt_orphans, end_descendants
from autoresearch.executors.sky.client import JobState
from autoresearch.executors.sky.standin.cluster import Cluster, Job, Request, shape_of, write_json

POLL_SECONDS = 0.03


class Skylet:
    """Runs one cluster until that is gone."""

    def __init__(self, root: Path, name: str, lock: int) -> None:
        self._root = root
        self._name = name
        self._lock = lock
        self._cluster = Cluster(Path())
        self._gone: Path | None = None  # where the cluster is once it went down by itself

    def run(self) -> None:
        """Work until the cluster is gone; leave no process."""
        while self._is_ours(self._root / "clusters" / self._name / "lock"):
            self._carry_out()
            self._run_queue()
            self._go_down_if_idle()
            _reap()
            time.sleep(POLL_SECONDS)
        end_descendants()
        if self._gone is not None:
            Cluster(self._gone).erase()

    def _is_ours(self, lock: Path) -> bool:
        """Return whether the cluster of our name is still the one we were started for."""
        try:
            return os.path.samestat(lock.stat(), os.fstat(self._lock))
        except FileNotFoundError:
            return False

    # -- requests ----------------------------------------------------------

    def _carry_out(self) -> None:
        """Do what is due. While the cluster is being launched, its first launch is all there is."""
        requests = self._cluster.requests()
        for request in requests if self._cluster.up else requests[:1]:
            if request.due_at > time.time():
                continue
            if request.doomed:
                self._gone = leave(self._root, self._name, remembered=False)
                return
            Path("up").touch()
            self._submit(request)

    def _submit(self, request: Request) -> None:
        """Make a request's jobs, those that a skylet which died here has not made."""
        jobs = self._cluster.jobs()
        made = sum(job.request == request.id for job in jobs)
        last = jobs[-1].id if jobs else 0
        for number in range(last + 1, last + 1 + request.copies - made):
            scratch = Path("jobs") / f".{number}"
            shutil.rmtree(scratch, ignore_errors=True)
            setup = request.setup and bool(request.task.get("setup"))
            (scratch / "setup" if setup else scratch).mkdir(parents=True)
            job = {"request": request.id, "task": request.task, "submitted_at": time.time(), "setup": setup}
            write_json(scratch / "job.json", job)
            scratch.rename(Path("jobs") / str(number))
        (Path("inbox") / f"{request.id}.json").unlink()

    # -- the queue ---------------------------------------------------------

    def _run_queue(self) -> None:
        """Start waiting jobs, oldest first, as long as the next one's setup is done and its GPUs are free."""
        states = [(job, job.state()) for job in self._cluster.jobs()]
        waiting = [job for job, state in states if state is JobState.PENDING]
        for job, state in states:
            if state is JobState.BROKEN and job.ended_at is None:  # its shim was killed
                end_carrying(self._task_id(job))
                job.close(broken=True)
        for job in waiting:
            if job.cancelled:
                _drop(job)
        held = {gpu for job, state in states if state is JobState.RUNNING for gpu in _gpus(job)}
        free = [gpu for gpu in range(self._cluster.shape.gpus) if gpu not in held]
        for job in waiting:
            if job.cancelled:
                continue
            needed = shape_of(job.task).gpus
            if not self._is_set_up(job) or needed > len(free):
                return
            if not job.state().over:  # a failed setup ends it
                self._start(job, tuple(free[:needed]))
                free = free[needed:]

    def _is_set_up(self, job: Job) -> bool:
        """Return whether a job's setup is over; start it, or record its failure, where that is due."""
        if job.setup is None:
            return True
        state = job.setup.state()
        if job.setup.claim is None:
            base = self._environment(job)
            job.setup.begin(job.task["setup"], base | _told(job), base)
        elif state.over and state is not JobState.SUCCEEDED:
            job.close(broken=True)
        return job.setup.claim is not None and state.over

    def _start(self, job: Job, gpus: tuple[int, ...]) -> None:
        base = self._environment(job)
        env = {**base, **_told(job), "CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus))}
        job.begin(job.task.get("run") or "true", env, base, gpus)

    def _environment(self, job: Job) -> dict[str, str]:
        """Return what every process of a job sees."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self._cluster.home),
            "SKYPILOT_TASK_ID": self._task_id(job),
        }

    def _task_id(self, job: Job) -> str:
        return f"{self._cluster.mark}{self._name}_{job.id}-0"

    # -- the end -----------------------------------------------------------

    def _go_down_if_idle(self) -> None:
        """Leave when nothing ran or waited for the cluster's idle minutes."""
        minutes = self._cluster.idle_minutes
        jobs = self._cluster.jobs()
        if minutes is None or self._cluster.requests() or not all(job.state().over for job in jobs):
            return
        since = max([Path("idle.json").stat().st_mtime, *(job.ended_at or 0.0 for job in jobs)])
        if self._cluster.up and time.time() - since > minutes * 60:
            self._gone = leave(self._root, self._name, remembered=True)


def _drop(job: Job) -> None:
    """End a job that waits, its setup first."""
    if job.setup is not None and job.setup.state() is JobState.RUNNING:
        job.setup.cancel()
    else:
        job.close(cancelled=True)


def _gpus(job: Job) -> list[int]:
    """Return the GPUs a running job holds."""
    return (job.claim or {"gpus": []})["gpus"]  # type: ignore[no-any-return]


def _told(job: Job) -> dict[str, str]:
    """Return the environment a task brings along."""
    given: Mapping[str, object] = (job.task.get("envs") or {}) | (job.task.get("secrets") or {})
    return {name: str(value) for name, value in given.items()}


def _reap() -> None:
    """Bury the dead: shims that ended, and what they left to us."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def leave(root: Path, name: str, *, remembered: bool) -> Path | None:
    """Take a cluster away from its name and return where it is now; None where there was none.

    A remembered one stays in SkyPilot's cache as it was.
    """
    folder = root / "clusters" / name
    gone = root / "gone" / f"{name}-{uuid.uuid4().hex}"
    for parent in (gone.parent, root / "cached"):
        parent.mkdir(exist_ok=True)
    if remembered and folder.exists():
        (root / "cached" / name).write_text("up" if Cluster(folder).up else "init")
    try:
        folder.rename(gone)
    except FileNotFoundError:
        return None
    return gone


def end_carrying(mark: str, seconds: float = 10.0) -> None:
    """Kill every process whose SKYPILOT_TASK_ID starts with a mark."""
    deadline = time.monotonic() + seconds
    while (strays := [p for p in psutil.process_iter() if _carries(p, mark)]) and time.monotonic() < deadline:
        for process in strays:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(strays, timeout=0.2)


def _carries(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get("SKYPILOT_TASK_ID", "").startswith(mark)
    except (psutil.Error, OSError):  # gone, or another user's
        return False


def main() -> None:
    """Run the cluster named on the command line."""
    root, name, lock = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    try:
        os.chdir(root / "clusters" / name)
        ours = os.path.samestat(Path("lock").stat(), os.fstat(lock))
    except FileNotFoundError:
        return
    if ours:
        adopt_orphans()
        Skylet(root, name, lock).run()
