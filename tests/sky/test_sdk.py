"""The client of SkyPilot's SDK on a real Slurm cluster: what an executor relies on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from autoresearch.executors.sky.client import (
    ClusterState,
    GoneError,
    JobState,
    SkyClient,
    SkyJob,
    UnansweredError,
    UnavailableError,
)
from autoresearch.executors.sky.survey import Accelerator, Survey

pytestmark = [pytest.mark.slow, pytest.mark.sky]

CLUSTER = "ar"
PATIENCE = 120.0  # seconds that a job of a moment may take on a busy machine
STEPS = 1200
GIANT = rf"""python3 - <<'END'
import sys
out = sys.stdout.buffer
for step in range({STEPS}):
    out.write(b"\rstep %05d | %s" % (step, b"x" * 85))
    out.flush()
out.write(b"\n---\nval_bpb: 1.0\n\xe2\x82\xac\r\n\xff\xfe is not UTF-8\nno end of line")
END
exit 3"""


@pytest.fixture(scope="module")
def client(slurm: Any, process: Any) -> Iterator[SkyClient]:
    client = process.SdkClient()
    yield client
    client.down(CLUSTER)
    client.down(CLUSTER)  # there is none any more
    assert until(lambda: slurm.squeue() == [], 30)


@pytest.fixture
def up(client: SkyClient) -> str:
    """The one cluster, launched where a test before has ended it."""
    if not client.clusters([CLUSTER], refresh=True):
        client.launch(task("first", "echo hello", setup="true"), CLUSTER, idle_minutes=30)
    return CLUSTER


def task(name: str, run: str, **more: Any) -> dict[str, Any]:
    # `cpus`, as Slurm gives a job all of the node's otherwise
    resources = {"infra": "slurm", "accelerators": "H100:1", "cpus": 4}
    return {"name": name, "resources": resources, "run": run} | more


def until(holds: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    deadline = time.monotonic() + seconds
    while not (held := holds()) and time.monotonic() < deadline:
        time.sleep(3)
    return held


def ended(client: SkyClient, name: str) -> SkyJob:
    """Wait for the latest job of that name to end and return it."""
    found: list[SkyJob] = []

    def over() -> bool:
        found[:] = [job for job in client.queue(CLUSTER) if job.name == name]
        return bool(found) and found[-1].state.over

    assert until(over), f"{name} has not ended: {found}"
    return found[-1]


def test_a_launch_submits_its_job_and_has_the_cluster_go_down_when_idle(client, up):
    client.launch(task("launched", "echo hello"), up, idle_minutes=29)  # it is up, so nothing else
    (cluster,) = client.clusters([up, "unknown"])
    assert (cluster.name, cluster.state) == (up, ClusterState.UP)
    assert (cluster.idle_minutes, cluster.autodown) == (29, True)
    assert ended(client, "launched").state is JobState.SUCCEEDED
    assert not client.pending(up)


def test_output_comes_back_byte_for_byte_and_a_failure_as_such(client, up, tmp_path):
    number = client.exec(task("giant", GIANT), up)
    job = ended(client, "giant")
    assert (job.id, job.state) == (number, JobState.FAILED)
    assert job.submitted_at <= job.started_at <= job.ended_at
    client.logs(up, number, tmp_path / "log")
    progress = b"".join(b"\rstep %05d | %s" % (step, b"x" * 85) for step in range(STEPS))
    # the cluster writes the replacement character where bytes are not UTF-8
    wanted = progress + "\n---\nval_bpb: 1.0\n€\r\n\ufffd\ufffd is not UTF-8\nno end of line".encode()
    assert (tmp_path / "log").read_bytes() == wanted
    client.logs(up, 999, tmp_path / "log")
    assert (tmp_path / "log").read_bytes() == b""


def test_jobs_take_the_gpu_in_turn_and_can_be_cancelled_running_or_waiting(client, up, tmp_path):
    first, second = (client.exec(task(name, "echo begun; sleep 600"), up) for name in ("one", "two"))
    assert until(lambda: state(client, first) is JobState.RUNNING)
    assert state(client, second) is JobState.PENDING
    client.logs(up, second, tmp_path / "log")
    assert (tmp_path / "log").read_bytes() == b""
    client.cancel(up, [first, second, 999])
    assert state(client, first) is state(client, second) is JobState.CANCELLED
    client.cancel(up, [first])
    client.logs(up, first, tmp_path / "log")
    # where the child is killed before its shell, the shell says so
    assert (tmp_path / "log").read_bytes() in (b"begun\n", b"begun\nKilled\n")


def state(client: SkyClient, number: int) -> JobState:
    return next(job.state for job in client.queue(CLUSTER) if job.id == number)


def test_a_setup_that_fails_breaks_its_job_and_not_the_launch(client, up, tmp_path):
    broken = task("broken", "echo never", setup="echo oh; exit 7")
    with ThreadPoolExecutor(1) as threads:
        launch = threads.submit(client.launch, broken, up, idle_minutes=30)
        assert until(lambda: client.pending(up) or launch.done())
        assert not launch.done()
        launch.result()
    assert not client.pending(up)
    job = ended(client, "broken")
    assert (job.state, job.started_at) == (JobState.BROKEN, None)
    client.logs(up, job.id, tmp_path / "log")
    assert (tmp_path / "log").read_bytes() == b"oh\n"


def test_what_is_not_there_is_told_apart(client, up, tmp_path):
    job = task("job", "true")
    asks = [
        lambda: client.exec(job, "unknown"),
        lambda: client.queue("unknown"),
        lambda: client.cancel("unknown", [1]),
        lambda: client.logs("unknown", 1, tmp_path / "log"),
        lambda: client.set_autodown("unknown", 1),
    ]
    for ask in asks:
        with pytest.raises(GoneError, match="unknown"):
            ask()
    assert client.clusters([]) == client.clusters(["unknown"]) == []
    other = job | {"resources": {"infra": "slurm", "accelerators": "B200:1"}}
    with pytest.raises(UnavailableError, match="B200"):
        client.launch(other, "unknown", idle_minutes=30)
    with pytest.raises(UnavailableError, match="H100"):
        client.exec(other, up)


def test_no_call_takes_longer_than_it_may(process, up):
    hurried = process.SdkClient(query_seconds=0.5)
    begun = time.monotonic()
    with pytest.raises(UnansweredError, match=r"0\.5 seconds"):
        hurried.queue(up)
    assert time.monotonic() - begun < 30


def test_eight_threads_may_ask_at_once(client, up):
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: client.clusters([up]), range(8)))
    assert [len(answer) for answer in answers] == [1] * 8


def test_a_cluster_ended_by_others_is_gone_and_its_name_can_be_used_again(client, slurm, up):
    client.exec(task("lost", "sleep 600"), up)
    slurm.preempt(up)
    assert until(lambda: slurm.squeue() == [], 30)
    with pytest.raises(GoneError):
        client.queue(up)
    assert client.clusters([up]) == []
    client.launch(task("again", "echo hello"), up, idle_minutes=30)
    assert ended(client, "again").state is JobState.SUCCEEDED


def test_an_idle_cluster_goes_down_by_itself(client, slurm):
    """A cluster of its own: what other tests left in a queue would keep one busy."""
    resources = {"infra": "slurm", "accelerators": "H200:1", "cpus": 4}
    try:
        client.launch(task("first", "true", resources=resources), "idle", idle_minutes=30)
        client.set_autodown("idle", 0)
        assert client.clusters(["idle"])[0].idle_minutes == 0
        assert until(lambda: not any(name.startswith("idle-") for name, _ in slurm.squeue()), 600)
        assert client.clusters(["idle"], refresh=True) == []
    finally:
        client.down("idle")


def test_a_survey_counts_the_accelerators(process, up):
    found: Survey = process.survey()._getvalue()
    assert (found.healthy, found.infra, found.problems) == (True, ("slurm/localslurm",), ())
    assert found.accelerators == (
        Accelerator(infra="slurm/localslurm", kind="H100", total=1, free=0),
        Accelerator(infra="slurm/localslurm", kind="H200", total=1, free=1),
    )
