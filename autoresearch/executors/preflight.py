"""Preflight: edited code is exercised for a few seconds on this machine before it takes a worker.

Each check is a job of its own on a LocalExecutor, so it survives the dispatcher and is found again
by the proposal's number. What a check cannot tell (it ran too long here, this machine is unfit) does
not count against a proposal: only a fault of the code refuses it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection
from pathlib import Path

from autoresearch.executors.local import LocalExecutor, Slot
from autoresearch.experiment import Failure, FailureKind, Files, JobSpec, JobStatus, Worker
from autoresearch.files import read_tail
from autoresearch.logparse import TAIL_BYTES, parse_report

SLOT = Slot(worker=Worker(name="preflight", kind="cpu"), env={"CUDA_VISIBLE_DEVICES": ""})
_INCONCLUSIVE = frozenset(  # this machine is not the worker, and may be smaller
    {FailureKind.TIMEOUT, FailureKind.KILLED, FailureKind.UNFIT, FailureKind.LOST}
    | {FailureKind.OUT_OF_MEMORY, FailureKind.LIMIT}
)


class LocalPreflight:
    """Checks proposals on this machine."""

    def __init__(
        self,
        folder: Path,
        study: str,
        spec: Callable[[str, str, Files], JobSpec],  # (job name, folder, files) -> job
        editable: tuple[str, ...],
    ) -> None:
        """Take over the folder; checks a dead dispatcher left running are found again."""
        self._folder = folder
        self._study = study
        self._spec = spec
        self._editable = editable
        self._executor = LocalExecutor(folder, [SLOT])

    def running(self, proposals: Collection[int]) -> frozenset[int]:
        """Return the numbers of those proposals whose check is under way."""
        statuses = self._executor.poll([self._name(number) for number in proposals])
        return frozenset(n for n in proposals if statuses.get(self._name(n)) is JobStatus.RUNNING)

    def start(self, proposal: int, files: Files) -> None:
        """Begin a check; nothing where it was begun before."""
        name = self._name(proposal)
        self._executor.submit(self._spec(name, f"p{proposal:04d}/a1", files), SLOT.worker.name)

    def result(self, proposal: int) -> tuple[bool, Failure | None]:
        """Return whether the check has ended, and what it found wrong with the code, if anything."""
        name = self._name(proposal)
        status = self._executor.poll([name]).get(name)
        if status is JobStatus.LOST:
            self._executor.cancel(name)
            return True, None
        if status is not JobStatus.DONE:
            return False, None
        ended = self._executor.fetch(name)
        if ended.cancelled:  # by a dispatcher that was ending: it says nothing of the code
            self.forget(proposal)
            return False, None
        log = read_tail(Path(ended.log), TAIL_BYTES)
        if ended.exit_code == 0:
            return True, None
        report = parse_report(
            log, metric="", exit_code=ended.exit_code, timed_out=ended.timed_out, editable=self._editable
        )
        failure = report.failure
        return True, None if failure is None or failure.kind in _INCONCLUSIVE else failure

    def forget(self, proposal: int) -> None:
        """Remove the files of a check that has been read."""
        shutil.rmtree(self._folder / f"p{proposal:04d}", ignore_errors=True)

    def close(self, proposals: Collection[int]) -> None:
        """End the checks that still run."""
        for number in proposals:
            self._executor.cancel(self._name(number))

    def _name(self, proposal: int) -> str:
        return f"{self._study}-p{proposal:04d}-a1"
