"""The SkyPilot executor on a SkyPilot that misbehaves: jobs run once, machines are replaced, none is left."""

from __future__ import annotations

import dataclasses
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from autoresearch.config import Pool
from autoresearch.errors import PoolError
from autoresearch.executors.sky.client import ClusterState, JobState, SkyCluster, SkyJob, Task
from autoresearch.executors.sky.executor import SkyPilotExecutor
from autoresearch.executors.sky.pace import Pace
from autoresearch.executors.sky.standin import StandIn
from autoresearch.executors.sky.standin.cluster import Cluster
from autoresearch.experiment import JobResult, JobSpec, JobStatus, Worker
from executor_contract import OVER, job, wait_for, wait_until
from sky_pool import PACE, recipe, sky_executor

A, B, C = (f"t-e0001.{i}-a1" for i in (1, 2, 3))
H100, H200 = "ar-t-h100-01", "ar-t-h200-01"


class Site:
    """A stand-in with executors over one study's folder, and a journal in which jobs leave their names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "sky"
        self.sky = StandIn(self.root)
        self.journal = folder / "journal"

    def executor(
        self, *, client: StandIn | None = None, pool: Any = None, **changes: Any
    ) -> SkyPilotExecutor:
        """Return an executor over the folder; `pool` holds changes to a pool of one H100."""
        return sky_executor(
            self.folder,
            client or self.sky,
            pool=Pool(**{"executor": "skypilot", "workers": {"H100": 1}, **(pool or {})}),
            **{"pace": PACE, "usual_seconds": 0.1, **changes},
        )

    def job(self, name: str, seconds: float = 0.0, then: str = "", **more: Any) -> JobSpec:
        """Return a job that writes its name into the journal, twice, and takes a while between."""
        note = f"open({str(self.journal)!r}, 'a').write({name!r} + '\\n')"
        return job(name, f"import sys, time; {note}; time.sleep({seconds}); {note}; {then or 'pass'}", **more)

    def began(self) -> Counter[str]:
        """Return how often each job ran to its end, the one that runs included."""
        lines = self.journal.read_text().split() if self.journal.exists() else []
        return Counter({name: (count + 1) // 2 for name, count in Counter(lines).items()})

    def clusters(self) -> set[str]:
        """Return the clusters there are."""
        return {path.name for path in (self.root / "clusters").iterdir() if not path.name.startswith(".")}

    def empty(self) -> bool:
        """Lose every cluster, and return whether nothing lives on one: a late launch may make another."""
        for cluster in self.clusters():
            self.sky.lose(cluster)
        return not self.processes()

    def processes(self) -> list[psutil.Process]:
        """Return every process that lives on a cluster."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("HOME", "").startswith(str(self.root)):
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A site of which nothing is left in the end."""
    site = Site(tmp_path)
    yield site
    site.sky.server_up()
    wait_until(site.empty)


def worker(executor: SkyPilotExecutor, name: str) -> Worker | None:
    return next((w for w in executor.workers() if w.name == name), None)


def until_ready(executor: SkyPilotExecutor, *names: str) -> SkyPilotExecutor:
    wait_until(lambda: {*names} <= {w.name for w in executor.workers() if w.ready})
    return executor


def ready(site: Site, **changes: Any) -> SkyPilotExecutor:
    """Return an executor whose machine h100-01 is ready."""
    return until_ready(site.executor(**changes), "h100-01")


def status(executor: SkyPilotExecutor, name: str) -> JobStatus | None:
    return executor.poll([name]).get(name)


def until_runs(site: Site, executor: SkyPilotExecutor, name: str) -> None:
    """Return once a job is seen to run, and does."""
    assert wait_for(executor, name, {JobStatus.RUNNING})
    wait_until(lambda: site.began()[name] > 0)


def carry_out(executor: SkyPilotExecutor, spec: JobSpec, on: str = "h100-01") -> JobResult:
    """Hand a job over until it is over, as the dispatcher does: again where it is absent."""
    deadline = time.monotonic() + 120
    while (seen := status(executor, spec.name)) is not JobStatus.DONE:
        assert seen is not JobStatus.LOST
        assert time.monotonic() < deadline, seen
        if seen is JobStatus.ABSENT:
            executor.submit(spec, on)
        time.sleep(0.01)
    return executor.fetch(spec.name)


def refusal(executor: SkyPilotExecutor) -> PoolError:
    """Return the error with which a pool gives up."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            executor.workers()
        except PoolError as error:
            return error
        time.sleep(0.01)
    raise AssertionError("the pool never gave up")


class TestHandingOver:
    def test_an_exec_that_never_arrived_is_found_absent_and_handed_over_again(self, site: Site) -> None:
        executor = ready(site)
        site.sky.fail("exec")
        assert carry_out(executor, site.job(A)).exit_code == 0
        assert site.sky.calls["exec"] == 2
        assert site.began() == {A: 1}

    def test_an_exec_that_arrived_without_an_answer_is_found_by_its_name(self, site: Site) -> None:
        executor = ready(site)
        site.sky.fail("exec", after=True)
        assert carry_out(executor, site.job(A)).exit_code == 0
        assert site.sky.calls["exec"] == 1
        assert site.began() == {A: 1}

    def test_an_exec_that_is_still_under_way_is_waited_for(self, site: Site) -> None:
        executor = ready(site)
        site.sky.fail("exec", late=0.7)
        executor.submit(site.job(A), "h100-01")
        seen = set()
        wait_until(lambda: seen.add(status(executor, A)) or JobStatus.DONE in seen)
        assert JobStatus.ABSENT not in seen, "it was not handed over a second time"
        assert None in seen, "nothing was made up meanwhile"
        assert site.sky.calls["exec"] == 1
        assert site.began() == {A: 1}

    def test_a_job_submitted_twice_trains_once_and_reports_the_first(self, site: Site) -> None:
        executor = ready(site)
        site.sky.submit_twice()
        result = carry_out(executor, site.job(A, 0.3, "print('trained'); sys.exit(3)"))
        assert result.exit_code == 3
        assert "trained" in Path(result.log).read_text()
        wait_until(lambda: all(j.state.over for j in site.sky.queue(H100)))
        assert [j.name for j in site.sky.queue(H100)].count(A) == 2
        assert site.began() == {A: 1}

    def test_a_job_submitted_twice_and_withdrawn_does_not_run_after_all(self, site: Site) -> None:
        executor = ready(site)
        executor.submit(site.job(A, 0.8), "h100-01")
        until_runs(site, executor, A)
        site.sky.submit_twice()
        executor.submit(site.job(B), "h100-01")
        wait_until(lambda: [j.name for j in site.sky.queue(H100)].count(B) == 2)
        executor.cancel(B)
        assert wait_for(executor, B, OVER) is JobStatus.DONE
        assert wait_for(executor, A, OVER) is JobStatus.DONE
        wait_until(lambda: all(j.state.over for j in site.sky.queue(H100)))
        assert site.began() == {A: 1}

    def test_a_job_no_machine_takes_is_lost_after_a_few_tries(self, site: Site) -> None:
        executor = ready(site)
        site.sky.refuse("exec", times=50)
        deadline = time.monotonic() + 120
        while (seen := status(executor, A)) is not JobStatus.LOST:
            assert time.monotonic() < deadline, seen
            if seen is JobStatus.ABSENT:
                executor.submit(site.job(A), "h100-01")
            time.sleep(0.01)
        assert 1 < site.sky.calls["exec"] <= 10

    def test_at_most_four_launches_and_execs_are_under_way(self, site: Site) -> None:
        client = Counting(site.root, latency={"launch": 0.2, "exec": 0.2})
        executor = site.executor(client=client, pool={"workers": {"H100": 8}})
        wait_until(lambda: sum(w.ready for w in executor.workers()) == 8)
        for i in range(8):
            executor.submit(site.job(f"t-e0001.{i}-a1"), f"h100-{i + 1:02d}")
        for i in range(8):
            assert wait_for(executor, f"t-e0001.{i}-a1", OVER) is JobStatus.DONE
        assert client.most == 4

    def test_launches_that_take_for_ever_do_not_hold_jobs_up(self, site: Site) -> None:
        executor = ready(site)
        for i in range(1, 6):
            site.sky.stick(f"ar-t-h200-{i:02d}")
        executor = ready(site, pool={"workers": {"H100": 1, "H200": 5}})
        wait_until(lambda: len(site.clusters()) >= 4)
        assert carry_out(executor, site.job(A)).exit_code == 0
        executor.close(release=True)
        assert not site.clusters()


class Counting(StandIn):
    """Counts how many launches and execs are under way at once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lock = threading.Lock()
        self._now = self.most = 0

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        yield
        with self._lock:
            self._now -= 1

    def launch(self, *args: Any, **kwargs: Any) -> None:
        with self._counted():
            super().launch(*args, **kwargs)

    def exec(self, *args: Any) -> int | None:
        with self._counted():
            return super().exec(*args)


class TestMachines:
    @pytest.mark.parametrize(
        ("fault", "launches"),
        [({}, 2), ({"after": True}, 1), ({"late": 0.5}, 1)],
        ids=["never arrived", "arrived", "under way"],
    )
    def test_a_launch_without_an_answer_is_cleared_up(
        self, site: Site, fault: dict[str, Any], launches: int
    ) -> None:
        site.sky.fail("launch", **fault)
        ready(site)
        assert site.sky.calls["launch"] == launches
        assert site.clusters() == {H100}

    def test_a_launch_that_never_ends_is_given_up_for_another(self, site: Site) -> None:
        site.sky.stick(H100)
        client = StandIn(site.root, timeout_seconds=0.4)
        executor = site.executor(client=client, pool={"launch_minutes": 0.1})
        wait_until(lambda: any(w.ready for w in executor.workers()))
        wait_until(lambda: worker(executor, "h100-01") is None)
        assert site.sky.clusters([H100]) == []
        (heir,) = [w.name for w in executor.workers() if w.ready]
        assert heir.startswith("h100-01-")

    def test_a_machine_whose_setup_never_ends_is_given_up(self, site: Site) -> None:
        slow = recipe(site.folder, prepare=("sleep", "600"))
        executor = site.executor(recipe=slow, pool={"launch_minutes": 0.003})
        assert "not set up after" in refusal(executor).message
        executor.close(release=True)
        assert not site.clusters()

    def test_an_outage_longer_than_a_launch_may_take_costs_no_machine(self, site: Site) -> None:
        executor = site.executor(
            recipe=recipe(site.folder, prepare=("sleep", "0.5")), pool={"launch_minutes": 0.1}
        )
        wait_until(lambda: any(w.note == "setting up" for w in executor.workers()))
        site.sky.server_down()
        deadline = time.monotonic() + 6.5
        while time.monotonic() < deadline:
            executor.workers()
            time.sleep(0.05)
        site.sky.server_up()
        until_ready(executor, "h100-01")
        assert site.sky.calls["launch"] == 1

    def test_a_kind_that_cannot_be_had_holds_no_other_up(self, site: Site) -> None:
        site.sky.unavailable("H200", times=3)
        executor = ready(site, pool={"workers": {"H100": 1, "H200": 1}})
        wait_until(lambda: "none to be had: there is no H200" in worker(executor, "h200-01").note)
        assert carry_out(executor, site.job(A)).exit_code == 0
        until_ready(executor, "h200-01")
        assert carry_out(executor, site.job(B), "h200-01").exit_code == 0

    def test_a_lost_machine_takes_its_jobs_along_and_is_replaced(self, site: Site) -> None:
        executor = ready(site, pool={"workers": {"H100": 1, "H200": 1}})
        until_ready(executor, "h200-01")
        executor.submit(site.job(A, 600), "h100-01")
        executor.submit(site.job(C, 0.6), "h200-01")
        until_runs(site, executor, A)
        executor.submit(site.job(B), "h100-01")
        wait_until(lambda: B in [j.name for j in site.sky.queue(H100)])
        site.sky.lose(H100)
        assert wait_for(executor, A, OVER) is JobStatus.LOST
        assert wait_for(executor, B, OVER) is JobStatus.LOST
        assert wait_for(executor, C, OVER) is JobStatus.DONE
        until_ready(executor, "h100-01-2")
        assert site.sky.clusters([H100]) == [], "SkyPilot was told that it is gone"
        assert carry_out(executor, site.job("t-e0001.2-a2"), "h100-01-2").exit_code == 0
        assert site.began() == {A: 1, C: 1, "t-e0001.2-a2": 1}

    def test_a_machine_that_cannot_be_set_up_is_given_up_after_three_tries(self, site: Site) -> None:
        executor = site.executor(recipe=recipe(site.folder, python="/no/such/python"))
        error = refusal(executor)
        assert "setup failed" in error.message
        assert "/no/such/python" in error.message
        log = Path(error.message.rpartition("(see ")[2].rstrip(")"))
        assert "/no/such/python" in log.read_text()
        assert site.sky.calls["launch"] == 3
        executor.close(release=True)
        assert not site.clusters()

    def test_one_bad_machine_of_many_is_no_reason_to_give_up(self, site: Site) -> None:
        """Three fail, and fail again, while the fourth is still being set up, which then serves."""
        script = 'case "$HOME" in */ar-t-h100-04/*) sleep 1 ;; *) exit 1 ;; esac'
        executor = site.executor(
            recipe=recipe(site.folder, prepare=("sh", "-c", script)), pool={"workers": {"H100": 4}}
        )
        until_ready(executor, "h100-04")

    def test_autodown_is_set_where_a_launch_did_not(self, site: Site) -> None:
        class Forgetful(StandIn):
            def launch(self, task: Any, cluster: str, *, idle_minutes: float) -> None:
                super().launch(task, cluster, idle_minutes=idle_minutes)
                Cluster(self._root / "clusters" / cluster).set_idle(None)  # type: ignore[arg-type]

        executor = ready(site, client=Forgetful(site.root))

        def listed() -> Sequence[SkyCluster]:
            executor.workers()
            return site.sky.clusters([H100])

        wait_until(lambda: listed()[0].autodown)
        assert listed()[0].idle_minutes == 10

    def test_autodown_is_verified_later_where_nobody_answered(self, site: Site) -> None:
        site.sky.fail("set_autodown")
        self.test_autodown_is_set_where_a_launch_did_not(site)


class TestOthersClusters:
    @pytest.fixture
    def theirs(self, site: Site) -> StandIn:
        task = {"name": "theirs", "run": "sleep 600", "resources": {"accelerators": "H100:1"}}
        site.sky.launch(task, H100, idle_minutes=10)
        return site.sky

    def untouched(self, site: Site, cluster: str = H100) -> bool:
        return [(j.name, j.state) for j in site.sky.queue(cluster)] == [("theirs", JobState.RUNNING)]

    def test_a_cluster_of_our_name_is_neither_used_nor_taken_down(self, site: Site, theirs: StandIn) -> None:
        wait_until(lambda: self.untouched(site))
        executor = site.executor(pool={"workers": {"H100": 2}})
        assert f"cluster {H100} exists and is not of this study" in refusal(executor).message
        executor.poll([A])
        executor.close(release=True)
        assert site.clusters() == {H100}
        assert self.untouched(site)
        assert site.sky.calls["launch"] == 1, "nothing else was started either"

    def test_nor_is_one_with_the_name_of_a_replacement(self, site: Site) -> None:
        executor = ready(site)
        task = {"name": "theirs", "run": "sleep 600", "resources": {"accelerators": "H100:1"}}
        site.sky.launch(task, f"{H100}-2", idle_minutes=10)
        site.sky.lose(H100)
        executor.submit(site.job(A), "h100-01")
        assert f"{H100}-2 exists" in refusal(executor).message
        executor.close(release=True)
        assert site.clusters() == {f"{H100}-2"}
        assert self.untouched(site, f"{H100}-2")


class TestOutages:
    def test_while_the_server_is_down_nothing_is_made_up_and_after_it_nothing_is_lost(
        self, site: Site
    ) -> None:
        executor = ready(site)
        executor.submit(site.job(A, 0.4, "sys.exit(4)"), "h100-01")
        until_runs(site, executor, A)
        site.sky.server_down()
        executor.submit(site.job(B), "h100-01")
        deadline = time.monotonic() + 0.8
        while time.monotonic() < deadline:
            assert status(executor, A) in {JobStatus.RUNNING, JobStatus.PENDING}
            assert status(executor, B) in {JobStatus.PENDING, None}
            assert [w.name for w in executor.workers() if w.ready] == ["h100-01"]
            time.sleep(0.02)
        site.sky.server_up()
        assert carry_out(executor, site.job(A)).exit_code == 4
        assert carry_out(executor, site.job(B)).exit_code == 0
        assert site.began() == {A: 1, B: 1}

    def test_a_server_that_is_down_at_the_start_is_said_and_waited_for(self, site: Site) -> None:
        site.sky.server_down()
        executor = site.executor()
        wait_until(lambda: any("does not answer" in w.note for w in executor.workers()))
        site.sky.server_up()
        until_ready(executor, "h100-01")

    def test_a_log_that_cannot_be_had_at_first_is_asked_for_again(self, site: Site) -> None:
        executor = ready(site)
        site.sky.fail("logs", times=2)
        site.sky.refuse("logs", times=2)
        assert carry_out(executor, site.job(A, then="sys.exit(5)")).exit_code == 5

    def test_a_log_that_can_never_be_had_costs_the_machine(self, site: Site) -> None:
        executor = ready(site)
        site.sky.refuse("logs", cluster=H100, times=50)
        executor.submit(site.job(A), "h100-01")
        assert wait_for(executor, A, OVER) is JobStatus.LOST
        until_ready(executor, "h100-01-2")

    def test_old_answers_of_a_queue_do_no_harm(self, site: Site) -> None:
        executor = ready(site)
        for name in (A, B):
            site.sky.stale(times=2)
            assert carry_out(executor, site.job(name, 0.1)).exit_code == 0
        site.sky.fail("exec", after=True)
        site.sky.stale()
        assert carry_out(executor, site.job(C, 0.1)).exit_code == 0
        assert site.began() == {A: 1, B: 1, C: 1}
        assert site.sky.calls["exec"] == 3

    def test_a_job_that_starts_later_than_thought_holds_up_nothing_behind_it(self, site: Site) -> None:
        executor = ready(site)
        other = {"name": "x", "run": "sleep 0.6", "resources": {"accelerators": "H100:1"}}
        site.sky.exec(other, H100)
        executor.submit(site.job(A), "h100-01")
        wait_until(lambda: (w := worker(executor, "h100-01")) is not None and bool(w.handover_at))
        executor.submit(site.job(B), "h100-01")
        assert wait_for(executor, B, OVER, 10) is JobStatus.DONE
        assert wait_for(executor, A, OVER, 10) is JobStatus.DONE


class TestEnds:
    def test_a_training_that_fails_is_done_with_its_exit_code(self, site: Site) -> None:
        """So is one with the code of `timeout`, with our own last words, and with a signal."""
        executor = ready(site)
        for then, code in (
            ("sys.exit(7)", 7),
            ("sys.exit(124)", 124),
            ("print('autoresearch-exit: 0'); sys.exit(3)", 3),
            ("import os; os.kill(os.getpid(), 11)", -11),
        ):
            result = carry_out(executor, site.job(f"t-e0001.{abs(code)}-a1", then=then))
            assert (result.exit_code, result.timed_out, result.cancelled) == (code, False, False)

    def test_a_training_past_its_time_is_ended_and_the_next_one_runs(self, site: Site) -> None:
        executor = ready(site)
        executor.submit(site.job(A, 600, timeout=0.5), "h100-01")
        executor.submit(site.job(B), "h100-01")
        assert wait_for(executor, A, OVER) is JobStatus.DONE
        assert executor.fetch(A).timed_out
        assert wait_for(executor, B, OVER) is JobStatus.DONE
        assert executor.fetch(B).exit_code == 0

    def test_a_job_that_does_not_end_itself_costs_the_machine(self, site: Site) -> None:
        pace = dataclasses.replace(PACE, stuck=0.3)
        executor = ready(site, pace=pace)
        deaf = "import signal; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
        executor.submit(site.job(A, then=deaf, timeout=0.5), "h100-01")  # 10 s of grace
        until_runs(site, executor, A)
        executor = site.executor(pace=pace)  # the next dispatcher knows its limit, too
        assert wait_for(executor, A, OVER) is JobStatus.LOST

    def test_a_withdrawn_job_never_runs_and_the_one_before_it_goes_on(self, site: Site) -> None:
        executor = ready(site)
        executor.submit(site.job(A, 4.0), "h100-01")
        until_runs(site, executor, A)
        executor.submit(site.job(B), "h100-01")
        wait_for(executor, B, {JobStatus.PENDING})
        executor.cancel(B)
        assert wait_for(executor, B, OVER) is JobStatus.DONE
        assert executor.fetch(B).cancelled
        assert status(executor, A) is JobStatus.RUNNING
        assert wait_for(executor, A, OVER) is JobStatus.DONE
        assert executor.fetch(A).exit_code == 0
        assert site.began() == {A: 1}

    def test_a_job_withdrawn_before_its_exec_began_is_absent(self, site: Site) -> None:
        client = StandIn(site.root, latency={"exec": 0.5})
        executor = site.executor(client=client, pool={"workers": {"H100": 5}, "gpus_per_cluster": 5})
        until_ready(executor, "h100-01.5")
        names = [f"t-e0001.{i}-a1" for i in range(1, 6)]
        for i, name in enumerate(names, 1):
            executor.submit(site.job(name), f"h100-01.{i}")
        executor.cancel(names[-1])
        assert status(executor, names[-1]) is JobStatus.ABSENT
        for name in names[:-1]:
            assert wait_for(executor, name, OVER) is JobStatus.DONE
        assert site.began() == dict.fromkeys(names[:-1], 1)


class TestSuccession:
    def test_the_next_dispatcher_takes_machines_and_jobs_over_by_name(self, site: Site) -> None:
        executor = ready(site, pool={"workers": {"H100": 1, "H200": 1}})
        until_ready(executor, "h200-01")
        executor.submit(site.job(A, 4.0), "h100-01")
        until_runs(site, executor, A)
        executor.submit(site.job(B), "h100-01")
        wait_for(executor, B, {JobStatus.PENDING})
        wait_until(lambda: B in [j.name for j in site.sky.queue(H100)])
        before = site.sky.calls
        executor.close(release=False)
        heir = site.executor(pool={"workers": {"H100": 1, "H200": 1}})
        seen = {A: set(), B: set()}
        while not all(JobStatus.DONE in seen[name] for name in seen):
            for name, statuses in seen.items():
                statuses.add(status(heir, name))
        assert not {JobStatus.ABSENT, JobStatus.LOST} & (seen[A] | seen[B])
        until_ready(heir, "h100-01", "h200-01")
        assert site.sky.calls["launch"] == before["launch"]
        assert site.sky.calls["exec"] == before["exec"]
        assert site.began() == {A: 1, B: 1}
        assert worker(heir, "h100-01").up_at == worker(executor, "h100-01").up_at, "it is paid for since then"

    def test_a_machine_that_went_meanwhile_is_replaced_and_its_job_lost(self, site: Site) -> None:
        executor = ready(site)
        executor.submit(site.job(A, 600), "h100-01")
        until_runs(site, executor, A)
        site.sky.lose(H100)
        heir = site.executor()
        assert wait_for(heir, A, OVER) is JobStatus.LOST
        until_ready(heir, "h100-01-2")

    def test_a_launch_of_a_dead_dispatcher_is_waited_for(self, site: Site) -> None:
        executor = site.executor(client=StandIn(site.root, latency={"launch": 0.6}))
        wait_until(lambda: bool(executor.workers()) and bool(site.clusters()))
        ready(site)
        assert site.sky.calls["launch"] == 1

    def test_machines_the_pool_no_longer_asks_for_go_with_their_jobs(self, site: Site) -> None:
        executor = ready(site, pool={"workers": {"H100": 1, "H200": 1}})
        until_ready(executor, "h200-01")
        executor.submit(site.job(A, 600), "h200-01")
        until_runs(site, executor, A)
        heir = site.executor()
        assert wait_for(heir, A, OVER) is JobStatus.LOST
        until_ready(heir, "h100-01")
        wait_until(lambda: heir.workers() is not None and site.clusters() == {H100})


class TestGivingBack:
    def test_in_the_end_no_cluster_and_no_process_is_left(self, site: Site) -> None:
        executor = ready(site, pool={"workers": {"H100": 2, "H200": 1}})
        executor.submit(site.job(A, 600), "h100-01")
        until_runs(site, executor, A)
        executor.close(release=True)
        assert not site.clusters()
        wait_until(lambda: not site.processes(), 20)

    @pytest.mark.parametrize("keep", [True, False])
    def test_what_is_to_be_kept_is_left_as_it_is(self, site: Site, keep: bool) -> None:
        executor = ready(site, keep_workers=keep)
        executor.submit(site.job(A, 0.5), "h100-01")
        until_runs(site, executor, A)
        executor.close(release=keep)
        wait_until(lambda: all(j.state is JobState.SUCCEEDED for j in site.sky.queue(H100)))
        assert site.clusters() == {H100}
        assert worker(executor, "h100-01").held is not keep

    def test_launches_that_wait_or_are_under_way_leave_nothing_behind(self, site: Site) -> None:
        client = StandIn(site.root, latency={"launch": 0.5})
        executor = site.executor(client=client, pool={"workers": {"H100": 6}})
        wait_until(lambda: bool(executor.workers()) and bool(site.clusters()))
        executor.close(release=True)
        assert not site.clusters()
        time.sleep(0.6)
        assert not site.clusters(), "a launch that waited its turn was made after the end"

    def test_a_machine_whose_launch_is_to_be_repeated_is_taken_down_too(self, site: Site) -> None:
        site.sky.unavailable("H100")
        site.sky.launch(
            {"name": "x", "run": "true", "resources": {"accelerators": "H200:1"}}, H200, idle_minutes=10
        )
        site.sky.down(H200)
        executor = site.executor(pace=dataclasses.replace(PACE, first_pause=60.0, longest_pause=60.0))
        wait_until(lambda: any("none to be had" in w.note for w in executor.workers()))
        site.sky.launch(  # what SkyPilot may leave of a launch that failed half-way
            {"name": "x", "run": "true", "resources": {"accelerators": "H100:1"}}, H100, idle_minutes=10
        )
        executor.close(release=True)
        assert not site.clusters()

    def test_a_cluster_that_does_not_go_is_named(self, site: Site) -> None:
        executor = ready(site, pace=dataclasses.replace(PACE, closing=0.3))
        site.sky.refuse("down", times=100)
        with pytest.raises(PoolError, match=f"could not take down {H100}"):
            executor.close(release=True)

    def test_an_idle_worker_that_is_released_is_not_replaced(self, site: Site) -> None:
        executor = ready(site, pool={"workers": {"H100": 1, "H200": 1}})
        until_ready(executor, "h200-01")
        executor.release("h200-01", replace=False)
        wait_until(lambda: [w.name for w in executor.workers()] == ["h100-01"])
        assert site.clusters() == {H100}
        assert carry_out(executor, site.job(A)).exit_code == 0
        assert site.sky.calls["launch"] == 2

    def test_a_machine_at_fault_is_replaced(self, site: Site) -> None:
        executor = ready(site)
        executor.release("h100-01", replace=True)
        until_ready(executor, "h100-01-2")
        wait_until(lambda: [w.name for w in executor.workers()] == ["h100-01-2"])
        assert site.clusters() == {f"{H100}-2"}

    def test_a_cluster_of_two_slots_runs_two_jobs_and_goes_with_both(self, site: Site) -> None:
        executor = site.executor(pool={"workers": {"H100": 2}, "gpus_per_cluster": 2})
        until_ready(executor, "h100-01.1", "h100-01.2")
        for name, slot in ((A, "h100-01.1"), (B, "h100-01.2")):
            executor.submit(site.job(name, 600), slot)
        wait_until(lambda: set(executor.poll([A, B]).values()) == {JobStatus.RUNNING})
        executor.cancel(B)
        assert wait_for(executor, B, OVER) is JobStatus.DONE
        executor.release("h100-01.2", replace=False)
        assert {w.name: w.ready for w in executor.workers()} == {"h100-01.1": True, "h100-01.2": False}
        assert status(executor, A) is JobStatus.RUNNING
        executor.cancel(A)
        assert wait_for(executor, A, OVER) is JobStatus.DONE
        executor.release("h100-01.1", replace=False)
        wait_until(lambda: not executor.workers())
        assert not site.clusters()


class TestPace:
    def test_the_next_job_is_asked_for_before_the_end_and_starts_with_it(self, site: Site) -> None:
        executor = ready(site, usual_seconds=1.0)
        executor.submit(site.job(A, 1.0), "h100-01")
        until_runs(site, executor, A)
        began = next(j.started_at for j in site.sky.queue(H100) if j.name == A)
        at = worker(executor, "h100-01").handover_at
        assert at is not None
        latency, margin = 0.1, executor._pace.margin  # an exec takes less here than at first assumed
        assert at <= began + 1.0 - latency - margin + 0.01
        wait_until(lambda: time.time() >= at)
        executor.submit(site.job(B), "h100-01")
        assert worker(executor, "h100-01").handover_at is None, "two are enough"
        assert wait_for(executor, B, OVER) is JobStatus.DONE
        ended, next_began = executor.fetch(A).ended_at, executor.fetch(B).started_at
        assert ended is not None
        assert next_began is not None
        assert 0 <= next_began - ended < 1.0

    def test_a_run_of_five_minutes_costs_five_questions_and_no_time(self, site: Site) -> None:
        """By simulation, at the real pace: twenty runs on one machine, one behind the other."""
        clock = Clockwork(seconds=lambda n: 300 + 7 * (n % 3))
        executor = site.executor(client=clock, pace=Pace(), usual_seconds=420.0, now=lambda: clock.now)
        names = [f"t-e0001.{i}-a1" for i in range(20)]
        todo, on_it, seen = list(names), [], {}
        before: Counter[str] = Counter()
        while len(seen) < len(names):
            found = executor.poll(on_it)
            seen |= {name: clock.now for name in on_it if found.get(name) is JobStatus.DONE}
            on_it = [name for name in on_it if name not in seen]
            slot = worker(executor, "h100-01")
            at = slot.handover_at
            if (
                todo
                and slot.ready
                and (not on_it or (len(on_it) == 1 and at is not None and clock.now >= at))
            ):
                before = before or Counter(clock.calls)
                executor.submit(site.job(todo[0], timeout=900.0), "h100-01")
                on_it.append(todo.pop(0))
            wait_until(lambda: len(executor._requests._answered) == len(executor._requests._keys))
            clock.now += 1
        asked = clock.calls - before
        assert sum(asked.values()) / len(names) <= 5, asked
        late = [seen[job.name] - job.ended_at for job in clock.queue(H100)[1:]]
        assert max(late[1:]) < 30, "an end is seen soon; before the first nobody knew how long a run takes"
        jobs = clock.queue(H100)[2:]
        assert all(b.started_at == a.ended_at for a, b in itertools.pairwise(jobs)), "it never stood idle"


class Clockwork:
    """A SkyClient with one machine, on which jobs take as long as told, by a clock that is set."""

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self.now = 1_700_000_000.0
        self.calls: Counter[str] = Counter()
        self._seconds = seconds
        self._jobs: list[tuple[str, float, float]] = []  # name, start, end

    def _add(self, name: str, seconds: float) -> int:
        start = max([self.now + 1, *(end for _, _, end in self._jobs)])
        self._jobs.append((name, start, start + seconds))
        return len(self._jobs)

    def launch(self, task: Task, cluster: str, *, idle_minutes: int) -> None:
        self.calls["launch"] += 1
        self._add(cluster, 60.0)

    def exec(self, task: Task, cluster: str) -> int:
        self.calls["exec"] += 1
        return self._add(task["name"], self._seconds(len(self._jobs)))

    def queue(self, cluster: str) -> list[SkyJob]:
        self.calls["queue"] += 1
        return [
            SkyJob(
                id=i,
                name=name,
                state=JobState.SUCCEEDED
                if end <= self.now
                else JobState.RUNNING
                if start <= self.now
                else JobState.PENDING,
                started_at=start if start <= self.now else None,
                ended_at=end if end <= self.now else None,
            )
            for i, (name, start, end) in enumerate(self._jobs, 1)
        ]

    def logs(self, cluster: str, job: int, path: Path) -> None:
        self.calls["logs"] += 1
        path.write_text("autoresearch-exit: 0\n")

    def clusters(self, names: Collection[str], *, refresh: bool = False) -> list[SkyCluster]:
        self.calls["clusters"] += 1
        up = SkyCluster(name=H100, state=ClusterState.UP, idle_minutes=10, autodown=True)
        return [up] if self._jobs else []

    def pending(self, cluster: str) -> bool:
        self.calls["pending"] += 1
        return False


class TestSecrets:
    def test_a_secret_reaches_the_job_and_no_file_and_nothing_of_ours_reaches_it(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-planted")
        monkeypatch.setenv("SOME_TOKEN", "token-planted")
        told = site.folder / "told"
        secret = recipe(site.folder, secrets={"HF_TOKEN": "hf-planted"})
        executor = ready(site, recipe=secret, pool={"env": ("HF_TOKEN",)})
        script = f"import os, json; json.dump(dict(os.environ), open({str(told)!r}, 'w'))"
        assert carry_out(executor, job(A, script)).exit_code == 0
        seen = json.loads(told.read_text())
        assert seen["HF_TOKEN"] == "hf-planted"
        assert not [value for value in seen.values() if value in {"sk-ant-planted", "token-planted"}]
        files = [path for path in (site.folder / "state").rglob("*") if path.is_file()]
        assert len(files) > 5
        assert not [path for path in files if b"planted" in path.read_bytes()]
        assert "HF_TOKEN: null" in (site.folder / "state/runs/e0001.1/a1/task.yaml").read_text()
