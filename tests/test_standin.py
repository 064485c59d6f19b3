"""The stand-in for SkyPilot: its clusters really run jobs, and it misbehaves exactly as told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from autoresearch.executors.sky.client import (
    ClusterState,
    GoneError,
    JobState,
    SkyCluster,
    SkyError,
    SkyJob,
    UnansweredError,
    UnavailableError,
)
from autoresearch.executors.sky.standin import StandIn
from lab import ROOT

C = "ar-t-h100-01"


def task(run: str = "true", *, name: str = "t", gpus: str | None = "H100:1", **more: Any) -> dict[str, Any]:
    return {"name": name, "run": run, "resources": {"accelerators": gpus}, **more}


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A root of which no process is left in the end."""
    yield tmp_path / "sky"
    sky = StandIn(tmp_path / "sky")
    sky.server_up()
    for folder in (tmp_path / "sky" / "clusters").iterdir():
        sky.lose(folder.name)


@pytest.fixture
def sky(root: Path) -> StandIn:
    return StandIn(root)


def until(true: Callable[[], Any], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def finished(sky: StandIn, cluster: str = C) -> list[SkyJob]:
    """Return the jobs of a cluster once all are over."""
    until(lambda: all(job.state.over for job in sky.queue(cluster)))
    return list(sky.queue(cluster))


def states(sky: StandIn, cluster: str = C) -> list[JobState]:
    return [job.state for job in sky.queue(cluster)]


def log(sky: StandIn, job: int, tmp_path: Path) -> str:
    sky.logs(C, job, tmp_path / "log")
    return (tmp_path / "log").read_text()


def processes(root: Path, cluster: str = C) -> list[psutil.Process]:
    """Return every process that lives on a cluster: skylet, shims, and what jobs started."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("HOME", "").startswith(f"{root.resolve()}/homes/{cluster}/"):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def skylet(root: Path) -> psutil.Process:
    (found,) = [
        p for p in processes(root) if p.cmdline()[1:3] == ["-m", "autoresearch.executors.sky.standin"]
    ]
    return found


class TestJobs:
    def test_a_launched_cluster_is_up_and_runs_the_job(self, sky: StandIn, tmp_path: Path) -> None:
        sky.launch(task("echo out; echo err >&2", name="first"), C, idle_minutes=10)
        assert sky.clusters([C, "other"]) == [
            SkyCluster(name=C, state=ClusterState.UP, idle_minutes=10, autodown=True)
        ]
        (job,) = finished(sky)
        assert (job.id, job.name, job.state) == (1, "first", JobState.SUCCEEDED)
        assert job.submitted_at <= job.started_at <= job.ended_at <= time.time()
        assert log(sky, 1, tmp_path) == "out\nerr\n"

    def test_a_job_fails_with_its_exit_code_and_ids_count_on(self, sky: StandIn) -> None:
        sky.launch(task(), C, idle_minutes=10)
        assert sky.exec(task("exit 3", name="bad"), C) == 2
        assert [(job.id, job.name, job.state) for job in finished(sky)] == [
            (1, "t", JobState.SUCCEEDED),
            (2, "bad", JobState.FAILED),
        ]

    def test_a_job_sees_its_own_environment_and_nothing_of_ours(
        self, sky: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SOME_TOKEN", "ours")
        (tmp_path / "code").mkdir()
        (tmp_path / "code" / "train.py").write_text("seven")
        mounts = {"~/code": str(tmp_path / "code"), "~/sky_workdir/one": str(tmp_path / "code" / "train.py")}
        both = task(
            "env; pwd; cat ~/code/train.py one",
            envs={"SEED": 5},
            secrets={"KEY": "hidden"},
            file_mounts=mounts,
        )
        sky.launch(both, C, idle_minutes=10)
        finished(sky)
        printed = log(sky, 1, tmp_path)
        seen = dict(line.split("=", 1) for line in printed.splitlines() if "=" in line)
        assert set(seen) - {"PWD", "OLDPWD", "SHLVL", "_"} == {
            *("PATH", "HOME", "SEED", "KEY", "CUDA_VISIBLE_DEVICES", "SKYPILOT_TASK_ID")
        }
        assert (seen["SEED"], seen["KEY"], seen["CUDA_VISIBLE_DEVICES"]) == ("5", "hidden", "0")
        assert printed.endswith(f"{seen['HOME']}/sky_workdir\nsevenseven")

    def test_as_many_run_at_once_as_there_are_gpus_and_the_oldest_first(
        self, sky: StandIn, tmp_path: Path
    ) -> None:
        hold = "echo gpu $CUDA_VISIBLE_DEVICES; while [ ! -e ~/go ]; do sleep 0.02; done"
        sky.launch(task(hold, gpus="H100:2"), C, idle_minutes=10)
        for gpus in ("H100:1", "H100:1", "H100:2"):
            sky.exec(task(hold, gpus=gpus), C)
        until(lambda: states(sky)[0] is JobState.RUNNING)
        assert states(sky)[1:] == [JobState.PENDING] * 3
        sky.cancel(C, [1])
        until(lambda: states(sky)[1:] == [JobState.RUNNING, JobState.RUNNING, JobState.PENDING])
        until(lambda: {log(sky, 2, tmp_path), log(sky, 3, tmp_path)} == {"gpu 0\n", "gpu 1\n"})
        (sky._root / "clusters" / C / "home" / "go").touch()
        jobs = finished(sky)
        assert jobs[3].started_at >= max(jobs[1].ended_at, jobs[2].ended_at)
        assert log(sky, 4, tmp_path) == "gpu 0,1\n"

    def test_jobs_without_a_gpu_do_not_wait_for_each_other(self, sky: StandIn) -> None:
        for _ in range(2):
            sky.launch(task("sleep 60", gpus=None), C, idle_minutes=10)
        until(lambda: states(sky) == [JobState.RUNNING] * 2)

    def test_a_task_the_cluster_can_never_run_is_refused(self, sky: StandIn) -> None:
        sky.launch(task(), C, idle_minutes=10)
        for gpus in ("H100:2", "H200:1"):
            with pytest.raises(SkyError, match="the task asks for"):
                sky.exec(task(gpus=gpus), C)

    def test_a_launch_on_a_cluster_that_is_up_sets_up_and_submits_again_and_exec_does_not_set_up(
        self, sky: StandIn, tmp_path: Path
    ) -> None:
        setup = {"setup": "echo x >> ~/count"}
        sky.launch(task("cat ~/count", **setup), C, idle_minutes=10)
        sky.launch(task("cat ~/count", **setup), C, idle_minutes=10)
        sky.exec(task("cat ~/count", **setup), C)
        assert [job.id for job in finished(sky)] == [1, 2, 3]
        assert log(sky, 3, tmp_path) == "x\nx\n"

    def test_a_failing_setup_breaks_its_job_and_no_other(self, sky: StandIn, tmp_path: Path) -> None:
        sky.launch(task("echo ran", setup="echo no disk; exit 1"), C, idle_minutes=10)
        sky.exec(task(), C)
        assert [job.state for job in finished(sky)] == [JobState.BROKEN, JobState.SUCCEEDED]
        assert log(sky, 1, tmp_path) == "no disk\n"

    def test_cancelling_ends_the_whole_tree_of_a_job_and_forgets_waiting_ones(
        self, sky: StandIn, root: Path
    ) -> None:
        sky.launch(task(), C, idle_minutes=10)
        finished(sky)
        sky.exec(task("setsid sleep 613 & touch ~/on; sleep 613"), C)
        sky.exec(task("touch ~/never"), C)
        home = root / "clusters" / C / "home"
        until((home / "on").exists)
        sky.cancel(C, [1, 2, 3, 99])
        assert states(sky) == [JobState.SUCCEEDED, JobState.CANCELLED, JobState.CANCELLED]
        assert not [p for p in processes(root) if "613" in p.cmdline()]
        assert not (home / "never").exists()

    def test_a_job_whose_supervisor_is_killed_is_broken_and_the_next_one_runs(
        self, sky: StandIn, root: Path
    ) -> None:
        sky.launch(task("touch ~/on; sleep 614"), C, idle_minutes=10)
        until((root / "clusters" / C / "home" / "on").exists)
        sky.exec(task(), C)
        (shim,) = [p for p in processes(root) if "autoresearch.executors.shim" in p.cmdline()]
        shim.kill()
        assert [job.state for job in finished(sky)] == [JobState.BROKEN, JobState.SUCCEEDED]
        until(lambda: not [p for p in processes(root) if "614" in p.cmdline()])


class TestClusters:
    def test_what_is_asked_of_a_missing_cluster_is_gone(self, sky: StandIn, tmp_path: Path) -> None:
        for ask in (
            lambda: sky.exec(task(), C),
            lambda: sky.queue(C),
            lambda: sky.cancel(C, [1]),
            lambda: sky.logs(C, 1, tmp_path / "log"),
            lambda: sky.set_autodown(C, 1),
        ):
            with pytest.raises(GoneError):
                ask()
        sky.down(C)
        assert not sky.pending(C)
        assert not sky.clusters([C])

    def test_down_leaves_no_process_even_of_a_skylet_that_was_killed(self, sky: StandIn, root: Path) -> None:
        sky.launch(task("setsid sleep 600 & touch ~/on; sleep 600"), C, idle_minutes=10)
        until((root / "clusters" / C / "home" / "on").exists)
        assert len(processes(root)) >= 4
        skylet(root).kill()
        sky.down(C)
        assert not processes(root)
        assert not sky.clusters([C])
        sky.launch(task(), C, idle_minutes=10)
        assert [job.id for job in finished(sky)] == [1]

    def test_a_job_that_writes_to_its_home_to_the_last_brings_no_cluster_back(
        self, sky: StandIn, root: Path
    ) -> None:
        sky.launch(task('while :; do mkdir -p "$HOME/x"; done'), C, idle_minutes=10)
        until((root / "clusters" / C / "home" / "x").exists)
        sky.down(C)
        assert not (root / "clusters" / C).exists()
        assert not list((root / "homes" / C).iterdir())

    def test_a_cluster_goes_down_when_idle_and_is_listed_until_refreshed(
        self, sky: StandIn, root: Path
    ) -> None:
        sky.launch(task("sleep 0.5"), C, idle_minutes=0.2 / 60)
        assert finished(sky)[0].state is JobState.SUCCEEDED
        until(lambda: not processes(root))
        assert sky.clusters([C]) == [SkyCluster(name=C, state=ClusterState.UP)]
        assert sky.clusters([C], refresh=True) == []
        assert sky.clusters([C]) == []

    def test_idle_time_can_be_changed(self, sky: StandIn, root: Path) -> None:
        sky.launch(task(), C, idle_minutes=10)
        finished(sky)
        sky.set_autodown(C, 0)
        until(lambda: not processes(root))

    def test_a_cluster_is_init_while_it_is_launched(self, root: Path) -> None:
        slow = StandIn(root, latency={"launch": 0.4}, timeout_seconds=0.1)
        with pytest.raises(UnansweredError):
            slow.launch(task(), C, idle_minutes=10)
        assert slow.pending(C)
        assert slow.clusters([C])[0].state is ClusterState.INIT
        with pytest.raises(GoneError, match="not up"):
            slow.exec(task(), C)
        until(lambda: slow.clusters([C])[0].state is ClusterState.UP)
        assert not slow.pending(C)
        assert [job.id for job in finished(slow)] == [1]

    def test_a_file_that_cannot_be_mounted_is_refused_before_anything_happens(self, sky: StandIn) -> None:
        for mounts in ({"~/a": "/no/such/file"}, {"/data": "/bin"}, {"~/../a": "/bin"}):
            with pytest.raises(SkyError, match="file_mounts"):
                sky.launch(task(file_mounts=mounts), C, idle_minutes=10)
        assert not sky.clusters([C])


class TestDeath:
    def test_jobs_running_and_waiting_outlive_the_client_and_run_once(self, sky: StandIn, root: Path) -> None:
        client = f"""
            import os, signal
            from pathlib import Path
            from autoresearch.executors.sky.standin import StandIn
            sky = StandIn(Path({str(root)!r}))
            run = "echo $SKYPILOT_TASK_ID >> ~/ran; sleep 0.4; echo end >> ~/ran"
            task = {{"run": run, "resources": {{"accelerators": {{"H100": 1}}}}}}
            sky.launch(task, {C!r}, idle_minutes=10)
            sky.exec(task, {C!r})
            os.kill(os.getpid(), signal.SIGKILL)
        """
        died = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(client)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=False,
        )
        assert died.returncode == -signal.SIGKILL
        ran = root / "clusters" / C / "home" / "ran"
        until(lambda: ran.exists() and ran.read_text().count("end") == 2)  # nobody asks meanwhile
        assert [job.state for job in finished(sky)] == [JobState.SUCCEEDED] * 2
        first, _, second, _ = ran.read_text().split()
        assert first.endswith("_1-0")
        assert second.endswith("_2-0")
        assert sky.calls["launch"] == sky.calls["exec"] == 1

    def test_a_killed_skylet_is_replaced_and_loses_no_job(self, sky: StandIn, root: Path) -> None:
        run = "echo x >> ~/ran; sleep 0.5"
        sky.launch(task(run), C, idle_minutes=10)
        sky.exec(task(run), C)
        until(lambda: states(sky) == [JobState.RUNNING, JobState.PENDING])
        skylet(root).kill()
        assert [job.state for job in finished(sky)] == [JobState.SUCCEEDED] * 2
        assert (root / "clusters" / C / "home" / "ran").read_text() == "x\nx\n"


class TestFaults:
    def test_a_request_can_time_out_before_anything_happened(self, sky: StandIn, root: Path) -> None:
        sky.launch(task(), C, idle_minutes=10)
        StandIn(root).fail("exec", times=2)  # another process may script it as well
        for _ in range(2):
            with pytest.raises(UnansweredError):
                sky.exec(task(), C)
        assert not sky.pending(C)
        assert sky.exec(task(), C) == 2
        assert sky.calls["exec"] == 3

    def test_a_request_can_time_out_after_it_was_carried_out(self, sky: StandIn) -> None:
        sky.fail("launch", after=True)
        sky.fail("exec", after=True)
        sky.fail("down", after=True)
        with pytest.raises(UnansweredError):
            sky.launch(task(), C, idle_minutes=10)
        with pytest.raises(UnansweredError):
            sky.exec(task(name="second"), C)
        assert [job.name for job in sky.queue(C)] == ["t", "second"]
        with pytest.raises(UnansweredError):
            sky.down(C)
        assert not sky.clusters([C])

    def test_a_late_exec_appears_after_the_caller_gave_up_and_is_pending_until_then(
        self, sky: StandIn
    ) -> None:
        sky.launch(task(), C, idle_minutes=10)
        sky.fail("exec", late=0.5)
        with pytest.raises(UnansweredError):
            sky.exec(task(name="late"), C)
        assert sky.pending(C)
        sky.exec(task(name="overtakes"), C)
        assert [job.name for job in sky.queue(C)] == ["t", "overtakes"]
        until(lambda: not sky.pending(C))
        assert [job.name for job in sky.queue(C)] == ["t", "overtakes", "late"]

    def test_only_a_submission_can_be_late_and_only_known_operations_fail(self, sky: StandIn) -> None:
        with pytest.raises(ValueError, match="cannot be late"):
            sky.fail("queue", late=1)
        with pytest.raises(ValueError, match="no operation"):
            sky.fail("lunch")

    def test_a_fault_of_one_cluster_spares_the_others_and_a_refusal_does_nothing(self, sky: StandIn) -> None:
        sky.refuse("queue", cluster="another")
        sky.refuse("exec", cluster=C)
        sky.launch(task(), C, idle_minutes=10)
        with pytest.raises(SkyError, match="refused"):
            sky.exec(task(), C)
        assert len(sky.queue(C)) == 1

    def test_nothing_is_answered_while_the_server_is_down_and_jobs_run_on(
        self, sky: StandIn, root: Path
    ) -> None:
        sky.launch(task("sleep 0.3; touch ~/done"), C, idle_minutes=10)
        sky.server_down()
        for ask in (lambda: sky.queue(C), lambda: sky.clusters([C]), lambda: sky.pending(C)):
            with pytest.raises(UnansweredError):
                ask()
        until((root / "clusters" / C / "home" / "done").exists)
        sky.server_up()
        assert finished(sky)[0].state is JobState.SUCCEEDED

    def test_a_lost_cluster_is_gone_at_once_and_listed_until_refreshed(
        self, sky: StandIn, root: Path
    ) -> None:
        sky.launch(task("sleep 600"), C, idle_minutes=10)
        until(lambda: states(sky) == [JobState.RUNNING])
        sky.lose(C)
        assert not processes(root)
        with pytest.raises(GoneError):
            sky.queue(C)
        assert sky.clusters([C])[0].state is ClusterState.UP
        assert sky.clusters([C], refresh=True) == []
        sky.launch(task(), C, idle_minutes=10)
        assert [job.id for job in finished(sky)] == [1]

    def test_a_stuck_cluster_stays_init_until_it_is_torn_down(self, root: Path) -> None:
        sky = StandIn(root, timeout_seconds=0.2)
        sky.stick(C)
        with pytest.raises(UnansweredError):
            sky.launch(task(), C, idle_minutes=10)
        assert sky.pending(C)
        assert sky.clusters([C], refresh=True)[0].state is ClusterState.INIT
        sky.down(C)
        assert not sky.pending(C)
        assert not processes(root)

    def test_a_kind_is_unavailable_so_many_times(self, sky: StandIn) -> None:
        sky.unavailable("H200", times=2)
        for _ in range(2):
            with pytest.raises(UnavailableError, match="H200"):
                sky.launch(task(gpus="H200:1"), "b", idle_minutes=10)
            assert not sky.clusters(["b"])
        sky.launch(task(), C, idle_minutes=10)
        sky.launch(task(gpus="H200:1"), "b", idle_minutes=10)
        assert len(sky.clusters([C, "b"])) == 2

    def test_a_late_launch_can_still_find_no_resources(self, sky: StandIn) -> None:
        sky.unavailable("H100")
        sky.fail("launch", late=0.3)
        with pytest.raises(UnansweredError):
            sky.launch(task(), C, idle_minutes=10)
        assert sky.pending(C)
        until(lambda: not sky.clusters([C]))
        assert not sky.pending(C)

    def test_a_queue_can_repeat_its_previous_answer(self, sky: StandIn) -> None:
        sky.launch(task(), C, idle_minutes=10)
        before = finished(sky)
        sky.exec(task(), C)
        sky.stale()
        assert sky.queue(C) == before
        assert len(sky.queue(C)) == 2

    def test_a_retried_exec_makes_two_jobs_of_one_name(self, sky: StandIn) -> None:
        sky.launch(task(), C, idle_minutes=10)
        sky.submit_twice()
        assert sky.exec(task(name="twin"), C) == 3
        assert [(job.id, job.name) for job in finished(sky)] == [(1, "t"), (2, "twin"), (3, "twin")]

    def test_requests_are_counted_over_processes_and_take_the_time_they_are_told_to(self, root: Path) -> None:
        slow = StandIn(root, latency={"clusters": 0.1, "queue": 9}, timeout_seconds=0.2)
        began = time.monotonic()
        slow.clusters([C])
        with pytest.raises(UnansweredError):
            slow.queue(C)
        assert time.monotonic() - began >= 0.3
        assert StandIn(root).calls == {"clusters": 1, "queue": 1}
