"""Runs one job on this machine and outlives whoever started it.

    python -m autoresearch.executors.shim FOLDER LOCK_FD

The job is its folder: `spec.json` says what to run, `log` takes the output, `exit.json` is renamed
into place when all of the job's processes are gone. LOCK_FD is a lock the starter took and we hold
until then, so: lock held, running; free with a record, done; free without, lost. Nobody stores a
process id. A file `cancel` in the folder ends the job.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from autoresearch.executors.processes import adopt_orphans, die_with_parent, end_descendants

POLL_SECONDS = 0.1
GRACE_SECONDS = 3.0  # between asking a job to end and killing it


def run(folder: Path) -> dict[str, Any]:
    """Run the job of a folder to its end and return its exit record."""
    spec = json.loads((folder / "spec.json").read_text())
    record: dict[str, Any] = {"exit_code": None, "timed_out": False, "cancelled": False}
    record["started_at"] = time.time()
    deadline = time.monotonic() + spec["timeout_seconds"]
    with (folder / "log").open("wb") as log:
        try:
            child = subprocess.Popen(
                spec["command"],
                cwd=folder,
                env=spec["env"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509  this process has one thread
            )
        except OSError as error:
            log.write(f"cannot start {spec['command'][0]}: {error.strerror}\n".encode())
            return record | {"exit_code": 127, "ended_at": time.time()}
        while child.poll() is None:
            record["cancelled"] = (folder / "cancel").exists()
            record["timed_out"] = time.monotonic() > deadline
            if record["cancelled"] or record["timed_out"]:
                end_descendants(GRACE_SECONDS)
                break
            try:
                child.wait(POLL_SECONDS)
            except subprocess.TimeoutExpired:
                continue
        record["exit_code"] = child.wait()
        end_descendants()
    return record | {"ended_at": time.time()}


def main() -> None:
    """Run the job named on the command line and leave its record."""
    folder, _lock = Path(sys.argv[1]), int(sys.argv[2])
    adopt_orphans()
    record = run(folder)
    partial = folder / "exit.json.tmp"
    with partial.open("w") as file:
        json.dump(record, file)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(folder / "exit.json")


if __name__ == "__main__":
    main()
