"""What every executor must keep. Subclass, provide `executor`, and the tests run on it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from autoresearch.experiment import JobSpec, JobStatus
from autoresearch.protocols import Executor

OVER = {JobStatus.DONE, JobStatus.LOST}


def job(name: str, script: str, timeout: float = 60.0, **env: str) -> JobSpec:
    """Return a job that runs a line of Python with a file beside it."""
    _, run, attempt = name.rsplit("-", 2)
    return JobSpec(
        name=name,
        command=(sys.executable, "-c", script),
        files={"train/train.py": "VALUE = 7\n"},
        env={"PATH": "/usr/bin:/bin", "AUTORESEARCH_RUN": name, **env},
        folder=f"{run}/{attempt}",
        timeout_seconds=timeout,
    )


def wait_until(holds: Callable[[], bool], seconds: float = 120.0) -> None:
    """Return once something holds; fail after some time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never held"
        time.sleep(0.02)


def wait_for(executor: Executor, name: str, wanted: set[JobStatus], seconds: float = 120.0) -> JobStatus:
    """Return the job's status once it is one of the wanted; fail after some time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        status = executor.poll([name]).get(name)
        if status in wanted:
            return status
        time.sleep(0.02)
    raise AssertionError(f"{name} is {executor.poll([name])}, not one of {wanted}")


class ExecutorContract:
    """Names are the identity of jobs, and every effect is idempotent by name."""

    @pytest.fixture
    def executor(self) -> Executor:
        raise NotImplementedError

    def worker(self, executor: Executor) -> str:
        return next(worker.name for worker in executor.workers() if worker.ready)

    def test_it_has_workers_with_names_and_kinds(self, executor: Executor) -> None:
        workers = executor.workers()
        assert workers
        assert len({w.name for w in workers}) == len(workers)
        assert all(w.kind for w in workers)

    def test_a_name_it_never_saw_is_absent(self, executor: Executor) -> None:
        assert executor.poll(["t-e0099.1-a1"])["t-e0099.1-a1"] is JobStatus.ABSENT

    def test_a_job_runs_with_its_files_and_reports(self, executor: Executor) -> None:
        name = "t-e0001.1-a1"
        script = "print(open('train/train.py').read()); print('val_bpb: 1.5')"
        executor.submit(job(name, script), self.worker(executor))
        assert wait_for(executor, name, OVER) is JobStatus.DONE
        ended = executor.fetch(name)
        assert ended.exit_code == 0
        log = Path(ended.log).read_text()
        assert "VALUE = 7" in log
        assert "val_bpb: 1.5" in log
        assert ended.started_at is not None
        assert ended.ended_at is not None
        assert ended.ended_at >= ended.started_at

    def test_a_failure_keeps_its_exit_code(self, executor: Executor) -> None:
        name = "t-e0001.2-a1"
        executor.submit(job(name, "import sys; sys.exit(7)"), self.worker(executor))
        assert wait_for(executor, name, OVER) is JobStatus.DONE
        assert executor.fetch(name).exit_code == 7

    def test_submitting_a_name_twice_runs_it_once(self, executor: Executor, tmp_path: Path) -> None:
        name, journal = "t-e0001.3-a1", tmp_path / "journal"
        script = f"open({str(journal)!r}, 'a').write('x'); import time; time.sleep(0.5)"
        for _ in range(3):
            executor.submit(job(name, script), self.worker(executor))
        wait_for(executor, name, OVER)
        executor.submit(job(name, script), self.worker(executor))
        time.sleep(0.3)
        assert journal.read_text() == "x"

    def test_a_cancelled_job_ends_with_all_its_processes(self, executor: Executor, tmp_path: Path) -> None:
        name, alive = "t-e0001.4-a1", tmp_path / "alive"
        child = (
            f"import time\nwhile True: open({str(alive)!r}, 'w').write(str(time.time())); time.sleep(0.05)"
        )
        script = (
            "import subprocess, sys, time\n"
            f"subprocess.Popen([sys.executable, '-c', {child!r}], start_new_session=True)\n"
            "time.sleep(600)"
        )
        executor.submit(job(name, script), self.worker(executor))
        deadline = time.monotonic() + 90
        while not alive.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        executor.cancel(name)
        assert wait_for(executor, name, OVER) in OVER
        time.sleep(0.3)
        last = alive.read_text()
        time.sleep(0.5)
        assert alive.read_text() == last, "a grandchild in a session of its own went on"

    def test_cancelling_an_unknown_job_is_nothing(self, executor: Executor) -> None:
        executor.cancel("t-e0098.1-a1")

    def test_a_job_past_its_time_is_ended_and_says_so(self, executor: Executor) -> None:
        name = "t-e0001.5-a1"
        executor.submit(job(name, "import time; time.sleep(600)", timeout=0.5), self.worker(executor))
        assert wait_for(executor, name, OVER) is JobStatus.DONE
        assert executor.fetch(name).timed_out

    def test_statuses_of_many_jobs_come_in_one_call(self, executor: Executor) -> None:
        first, second = "t-e0001.6-a1", "t-e0001.6-a2"
        executor.submit(job(first, "pass"), self.worker(executor))
        wait_for(executor, first, OVER)
        assert executor.poll([first, second]) == {first: JobStatus.DONE, second: JobStatus.ABSENT}

    def test_an_attempt_is_a_job_of_its_own(self, executor: Executor) -> None:
        for attempt in (1, 2):
            name = f"t-e0002.1-a{attempt}"
            executor.submit(job(name, f"print({attempt})"), self.worker(executor))
            wait_for(executor, name, OVER)
        logs = [Path(executor.fetch(f"t-e0002.1-a{n}").log).read_text().splitlines()[0] for n in (1, 2)]
        assert logs == ["1", "2"]
