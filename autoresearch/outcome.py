"""What a finished job means for its run: a measurement, the experiment's failure, or the machine's."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from autoresearch.experiment import Failure, FailureKind, JobResult
from autoresearch.files import read_tail
from autoresearch.logparse import MARKER, TAIL_BYTES, Report, parse_report
from autoresearch.target import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A job's report, and the digest of the log it was read from."""

    report: Report
    log_sha256: str


def read_outcome(ended: JobResult, target: Target) -> Outcome:
    """Return what a job's log reports, however long the log is."""
    path = Path(ended.log)
    report = parse_report(
        read_tail(path, TAIL_BYTES),
        metric=target.metric.name,
        pattern=target.metric.pattern,
        exit_code=ended.exit_code,
        timed_out=ended.timed_out,
        editable=target.editable,
    )
    if target.score == "harness" and report.facts is None:
        report = _without_harness(report, ended)
    with path.open("rb") as log:
        return Outcome(report=report, log_sha256=hashlib.file_digest(log, "sha256").hexdigest())


def _without_harness(report: Report, ended: JobResult) -> Report:
    """Return what a job reports whose log has no machine line of the harness.

    The harness writes one whatever training does, so without it the harness itself was killed or
    could not start: the machine's fault. What training printed of itself is not believed.
    """
    if ended.timed_out:
        return report
    if ended.exit_code == 0:
        said = f"the log has no line `{MARKER.strip()} ...`"
        return Report(failure=Failure(kind=FailureKind.NO_RESULT, message=said))
    detail = f": {report.failure}" if report.failure and report.failure.exception else ""
    return Report(failure=Failure(kind=FailureKind.LOST, message=f"the harness ended early{detail}"))
