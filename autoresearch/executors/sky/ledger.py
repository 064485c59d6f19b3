"""What a study knows of its machines and jobs, on disk: enough to find all of them after any death.

workers/h100-01/machine.json    written before the machine is launched
workers/h100-01/task.yaml       what it is launched from
workers/h100-01/down            it was taken down
runs/e0042.1/a1/task.yaml       what the job is
runs/e0042.1/a1/where.json      written before the job is handed to its machine
runs/e0042.1/a1/log, exit.json  how it ended; `lost` where it never will
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autoresearch.errors import StorageError
from autoresearch.experiment import JobResult
from autoresearch.files import read_tail, write_whole

_EXIT = re.compile(rb"^autoresearch-exit: (\d+) ?(timed out)?", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineRecord:
    """A machine as it was asked for."""

    name: str  # h100-01
    cluster: str  # ar-nov22-h100-01
    kind: str
    gpus: int


class Machines:
    """The machines of one study there ever were."""

    def __init__(self, folder: Path, study: str) -> None:
        """Use the study's folder `workers`."""
        self._folder = folder
        self._study = study

    def living(self) -> list[MachineRecord]:
        """Return the machines that were asked for and not taken down, oldest first."""
        found = sorted(self._folder.glob("*/machine.json"), key=lambda path: path.stat().st_mtime)
        return [_machine(path) for path in found if not (path.parent / "down").exists()]

    def name(self, kind: str, number: int) -> str:
        """Return the next name for the machine of that number: h100-01, and h100-01-2 for its heir."""
        base, generation = f"{kind.lower()}-{number:02d}", 1
        name = base
        while (self._folder / name).exists():
            generation += 1
            name = f"{base}-{generation}"
        return name

    def cluster(self, name: str) -> str:
        """Return the cluster's name of a machine."""
        return f"ar-{self._study}-{name}"

    def begin(self, record: MachineRecord, task: str) -> None:
        """Note that a machine is about to be launched."""
        folder = self._folder / record.name
        _make(folder)
        write_whole(folder / "task.yaml", task.encode())
        write_whole(folder / "machine.json", json.dumps(asdict(record)).encode())

    def knows(self, name: str) -> bool:
        """Whether a machine was ever about to be launched."""
        return (self._folder / name / "machine.json").exists()

    def log(self, name: str) -> Path:
        """Return where a machine's setup log goes."""
        return self._folder / name / "setup.log"

    def came_up(self, name: str, at: float) -> None:
        """Note since when a machine is paid for."""
        write_whole(self._folder / name / "up", f"{at}".encode())

    def up_at(self, name: str) -> float | None:
        """Return since when a machine is paid for; None where it never came up."""
        try:
            return float((self._folder / name / "up").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def end(self, name: str) -> None:
        """Note that a machine is down."""
        write_whole(self._folder / name / "down", b"")


def number_of(name: str) -> int:
    """Return the number in a machine's name: 1 of h100-01-2."""
    found = re.match(r".*?-(\d\d+)(?:-\d+)?$", name)
    return int(found[1]) if found else 0


def _machine(path: Path) -> MachineRecord:
    try:
        return MachineRecord(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise StorageError(f"{path} cannot be read: {error}", "see `sky status` for what is up") from error


class Jobs:
    """The folders of jobs."""

    def __init__(self, folder: Path) -> None:
        """Use the study's folder `runs`."""
        self._folder = folder

    def folder(self, name: str) -> Path:
        """Return a job's folder from its name, STUDY-e0042.1-a1."""
        _, run, attempt = name.rsplit("-", 2)
        return self._folder / run / attempt

    def begin(self, name: str, slot: str, limit: float, task: str) -> None:
        """Note that a job is about to be handed to a machine: all of it at once."""
        folder = self.folder(name)
        scratch = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(scratch, ignore_errors=True)
        _make(scratch)
        write_whole(scratch / "task.yaml", task.encode())
        write_whole(scratch / "where.json", json.dumps({"worker": slot, "seconds": limit}).encode())
        shutil.rmtree(folder, ignore_errors=True)
        scratch.rename(folder)

    def where(self, name: str) -> tuple[str, float] | None:
        """Return the worker a job was handed to, and its limit in seconds; None where it never was."""
        path = self.folder(name) / "where.json"
        try:
            found = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise StorageError(f"{path} cannot be read: {error}") from error
        return found["worker"], found["seconds"]

    def forget(self, name: str) -> None:
        """Note that a job was not handed over after all."""
        (self.folder(name) / "where.json").unlink(missing_ok=True)

    def log(self, name: str) -> Path:
        """Return where a job's log goes."""
        return self.folder(name) / "log"

    def end(
        self, name: str, *, code: int | None, cancelled: bool, began: float | None, ended: float | None
    ) -> None:
        """Record how a job ended, with what its log says where it says something."""
        said, timed_out = _said(self.log(name))
        if not self.log(name).exists():
            write_whole(self.log(name), b"")
        record: Mapping[str, Any] = {
            "exit_code": said if said is not None and (said == 0) == (code == 0) else code,
            "started_at": began,
            "ended_at": ended,
            "timed_out": timed_out,
            "cancelled": cancelled,
        }
        write_whole(self.folder(name) / "exit.json", json.dumps(record).encode())

    def lose(self, name: str) -> None:
        """Record that a job will never report."""
        write_whole(self.folder(name) / "lost", b"")

    def is_lost(self, name: str) -> bool:
        """Whether a job was recorded as lost."""
        return (self.folder(name) / "lost").exists()

    def has_ended(self, name: str) -> bool:
        """Whether a job's end is on record."""
        return (self.folder(name) / "exit.json").exists()

    def result(self, name: str) -> JobResult:
        """Return how a job ended."""
        try:
            record = json.loads((self.folder(name) / "exit.json").read_text())
        except (OSError, ValueError) as error:
            raise StorageError(f"the record of {name} cannot be read: {error}") from error
        return JobResult(log=str(self.log(name)), **record)


def _said(log: Path) -> tuple[int | None, bool]:
    """Return the exit code a task printed last, and whether it ran out of time."""
    try:
        found = _EXIT.findall(read_tail(log, 4096))
    except OSError:
        return None, False
    if not found:
        return None, False
    code, timed_out = int(found[-1][0]), bool(found[-1][1])
    return (128 - code if 128 < code < 192 else code), timed_out


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot write {folder}: {error.strerror}", "free some space; `autoresearch run` then resumes"
        ) from error
