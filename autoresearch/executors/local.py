"""Jobs on this machine: one worker per GPU, or CPU slots. They outlive the dispatcher.

A job is its folder below the study's `runs`; any process can pick it up again from there. See
`shim` for how it is started, found and recorded.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoresearch.config import KINDS, Pool
from autoresearch.errors import PoolError, StorageError
from autoresearch.executors.processes import JOB_VARIABLE, end_job
from autoresearch.experiment import JobResult, JobSpec, JobStatus, Worker

DEFAULT_CPU_WORKERS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A worker and what its jobs are told about it."""

    worker: Worker
    env: Mapping[str, str]


class LocalExecutor:
    """Runs jobs in folders below `runs`, on the slots it is given."""

    poll_seconds = 0.25
    place = None

    def __init__(self, runs: Path, slots: Sequence[Slot]) -> None:
        """Take over the folder. Jobs a dead dispatcher left running there are simply found."""
        self._runs = runs
        self._slots = {slot.worker.name: slot for slot in slots}

    def workers(self) -> Sequence[Worker]:
        """Return this machine's slots; they are always ready."""
        return [slot.worker for slot in self._slots.values()]

    def submit(self, job: JobSpec, worker: str) -> None:
        """Start a job in its folder, unless it was started before."""
        folder = self._runs / job.folder
        env = {**job.env, **self._slots[worker].env, JOB_VARIABLE: str(folder)}
        _create(folder, job, env)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.close(os.open(folder / "claim", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
            except (BlockingIOError, FileExistsError):
                return  # it runs, or it ran
            shim = [sys.executable, "-m", "autoresearch.executors.shim", str(folder), str(lock)]
            subprocess.run(
                ["/bin/sh", "-c", '"$@" &', "sh", *shim],  # not our child: nobody here need wait for it
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=env | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
                pass_fds=(lock,),
                start_new_session=True,
                check=True,
            )
        except (OSError, subprocess.CalledProcessError) as error:
            raise PoolError(f"cannot start {job.name} on {worker}: {error}") from error
        finally:
            os.close(lock)

    def poll(self, names: Collection[str]) -> Mapping[str, JobStatus]:
        """Return the status of jobs, from their locks and records."""
        return {name: _status(self._folder(name)) for name in names}

    def fetch(self, name: str) -> JobResult:
        """Return how a done job ended."""
        folder = self._folder(name)
        try:
            record = json.loads((folder / "exit.json").read_text())
        except (OSError, ValueError) as error:
            raise StorageError(f"the record of {name} cannot be read: {error}") from error
        return JobResult(
            log=str(folder / "log"),
            exit_code=record["exit_code"],
            started_at=record["started_at"],
            ended_at=record["ended_at"],
            timed_out=record["timed_out"],
            cancelled=record["cancelled"],
        )

    def cancel(self, name: str) -> None:
        """End a job: ask its shim where one lives, and kill what carries its name where none does."""
        folder = self._folder(name)
        status = _status(folder)
        if status is JobStatus.RUNNING:
            (folder / "cancel").touch()
        elif status is JobStatus.LOST:
            end_job(str(folder))

    def release(self, worker: str, *, replace: bool) -> None:
        """Do nothing: this machine's slots cost nothing while they wait."""

    def close(self, *, release: bool) -> Sequence[Worker]:  # noqa: ARG002  there is nothing to give back
        """Leave running jobs alone: they record their own end and are found by name."""
        return self.workers()

    def _folder(self, name: str) -> Path:
        """Return a job's folder from its name, STUDY-e0042.1-a1."""
        _, run, attempt = name.rsplit("-", 2)
        return self._runs / run / attempt


def _create(folder: Path, job: JobSpec, env: Mapping[str, str]) -> None:
    """Write a job's folder in one step: whoever sees it sees all of it."""
    if folder.exists():
        return
    scratch = folder.with_name(f".{folder.name}.tmp")
    try:
        shutil.rmtree(scratch, ignore_errors=True)  # of a dispatcher that died here
        scratch.mkdir(parents=True)
        if env.get("AUTORESEARCH_BESIDE"):
            _copy_pinned(Path(env["AUTORESEARCH_PROTECTED"]), scratch)
        for name, text in job.files.items():
            target = scratch / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        spec = {
            "name": job.name,
            "command": list(job.command),
            "env": dict(env),
            "timeout_seconds": job.timeout_seconds,
        }
        (scratch / "spec.json").write_text(json.dumps(spec))
        scratch.rename(folder)
    except OSError as error:
        shutil.rmtree(scratch, ignore_errors=True)
        raise StorageError(
            f"cannot write {folder}: {error.strerror}", "free some space; `autoresearch run` then resumes"
        ) from error


def _copy_pinned(protected: Path, folder: Path) -> None:
    """Copy the files a study has pinned, and nothing that has come to lie beside them."""
    for name in json.loads((protected / "protected.json").read_bytes()):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(protected / name, target)


def _status(folder: Path) -> JobStatus:
    """Return a job's status. The lock is tried first: a record is in place before it is released."""
    try:
        lock = os.open(folder / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return JobStatus.ABSENT
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return JobStatus.RUNNING
    finally:
        os.close(lock)
    if (folder / "exit.json").exists():
        return JobStatus.DONE
    return JobStatus.LOST if (folder / "claim").exists() else JobStatus.ABSENT


# ---------------------------------------------------------------------------
# This machine's slots
# ---------------------------------------------------------------------------


def slots(pool: Pool) -> list[Slot]:
    """Return the slots the configuration asks for; PoolError where this machine lacks a GPU it names."""
    wanted = pool.workers
    gpus = [] if isinstance(wanted, int) else find_gpus()
    if wanted == "auto":
        wanted = dict(Counter(kind for _, kind in gpus))
        wanted = wanted or {"cpu": min(DEFAULT_CPU_WORKERS, os.cpu_count() or 1)}
    if isinstance(wanted, int):
        wanted = {"cpu": wanted}
    found: list[Slot] = []
    for kind, count in wanted.items():
        if kind in {"cpu", "mps"}:
            devices = [{"AUTORESEARCH_DEVICE": kind, "CUDA_VISIBLE_DEVICES": ""}] * count
        else:
            devices = [
                {"AUTORESEARCH_DEVICE": "cuda", "CUDA_VISIBLE_DEVICES": index}
                for index, name in gpus
                if name == kind
            ]
        if len(devices) < count:
            raise PoolError(
                f"pool.workers asks for {count} {kind}, this machine has {len(devices)}",
                "lower the number, or use another executor",
            )
        for i, env in enumerate(devices[:count], 1):
            worker = Worker(
                name=f"{kind.lower()}-{i:02d}", kind=kind, price_per_hour=pool.prices.get(kind, 0.0)
            )
            found.append(Slot(worker=worker, env=env | {"AUTORESEARCH_KIND": kind}))
    return found


def find_gpus() -> list[tuple[str, str]]:
    """Return (index, kind) of this machine's NVIDIA GPUs; empty where there is no driver."""
    query = ["nvidia-smi", "--query-gpu=index,name", "--format=csv,noheader"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    pairs = [line.split(",", 1) for line in listed.splitlines() if "," in line]
    return [(index.strip(), kind_of(name)) for index, name in pairs]


def kind_of(device: str) -> str:
    """Return the worker kind of a device by its name; "GPU" for one we have no name for."""
    flat = device.upper().replace(" ", "").replace("-", "")
    by_length = sorted((k for k in KINDS if k not in {"cpu", "mps", "GPU"}), key=len, reverse=True)
    for kind in by_length:
        parts = kind.upper().split("-")
        if all(part in flat for part in parts):
            return kind
    return "GPU"
