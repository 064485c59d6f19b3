"""Every executor keeps the contract; the local one also survives what kills it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from autoresearch.config import Pool
from autoresearch.errors import PoolError, StorageError
from autoresearch.executors.local import LocalExecutor, find_gpus, kind_of, slots
from autoresearch.executors.sky.executor import SkyPilotExecutor
from autoresearch.experiment import JobStatus
from executor_contract import OVER, ExecutorContract, job, wait_for, wait_until
from sky_pool import sky_executor


class TestLocalExecutor(ExecutorContract):
    @pytest.fixture
    def executor(self, tmp_path: Path) -> LocalExecutor:
        return LocalExecutor(tmp_path / "runs", slots(Pool(workers={"cpu": 2})))

    def test_another_executor_picks_a_running_job_up_by_name(
        self, executor: LocalExecutor, tmp_path: Path
    ) -> None:
        name = "t-e0003.1-a1"
        executor.submit(job(name, "import time; time.sleep(1); print('done')"), "cpu-01")
        executor.close(release=False)
        other = LocalExecutor(tmp_path / "runs", slots(Pool(workers={"cpu": 1})))
        assert other.poll([name])[name] is JobStatus.RUNNING
        assert wait_for(other, name, OVER) is JobStatus.DONE
        assert "done" in Path(other.fetch(name).log).read_text()

    def test_a_job_outlives_the_process_that_started_it(
        self, executor: LocalExecutor, tmp_path: Path
    ) -> None:
        name = "t-e0003.2-a1"
        starter = (
            "import os, signal, sys\n"
            f"sys.path[:0] = {[str(Path(__file__).parent)]!r}\n"
            "from pathlib import Path\n"
            "from executor_contract import job\n"
            "from autoresearch.config import Pool\n"
            "from autoresearch.executors.local import LocalExecutor, slots\n"
            f"e = LocalExecutor(Path({str(tmp_path / 'runs')!r}), slots(Pool(workers={{'cpu': 1}})))\n"
            f"e.submit(job({name!r}, 'import time; time.sleep(1)'), 'cpu-01')\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        done = subprocess.run([sys.executable, "-c", starter], check=False)
        assert done.returncode == -signal.SIGKILL
        assert executor.poll([name])[name] is JobStatus.RUNNING
        assert wait_for(executor, name, OVER) is JobStatus.DONE

    def test_a_killed_worker_is_lost_and_leaves_no_process(self, executor: LocalExecutor) -> None:
        name = "t-e0003.3-a1"
        executor.submit(job(name, "import time; time.sleep(600)"), "cpu-01")
        shim = _process_of(name, "shim")
        shim.kill()
        assert wait_for(executor, name, OVER) is JobStatus.LOST
        executor.cancel(name)
        time.sleep(0.2)
        assert not _carrying(name)

    def test_killed_between_claim_and_start_it_is_lost_not_forgotten(
        self, executor: LocalExecutor, tmp_path: Path
    ) -> None:
        name = "t-e0003.4-a1"
        executor.submit(job(name, "pass"), "cpu-01")
        wait_for(executor, name, OVER)
        (tmp_path / "runs" / "e0003.4" / "a1" / "exit.json").unlink()
        assert executor.poll([name])[name] is JobStatus.LOST

    def test_killed_before_the_claim_it_can_be_submitted_again(
        self, executor: LocalExecutor, tmp_path: Path
    ) -> None:
        folder = tmp_path / "runs" / "e0003.5" / "a1"
        name = "t-e0003.5-a1"
        executor.submit(job(name, "pass"), "cpu-01")
        wait_for(executor, name, OVER)
        for leftover in ("exit.json", "claim"):
            (folder / leftover).unlink()
        assert executor.poll([name])[name] is JobStatus.ABSENT
        executor.submit(job(name, "pass"), "cpu-01")
        assert wait_for(executor, name, OVER) is JobStatus.DONE

    def test_a_half_written_folder_of_a_dead_dispatcher_is_replaced(
        self, executor: LocalExecutor, tmp_path: Path
    ) -> None:
        scratch = tmp_path / "runs" / "e0003.6" / ".a1.tmp"
        scratch.mkdir(parents=True)
        (scratch / "junk").write_text("half")
        name = "t-e0003.6-a1"
        executor.submit(job(name, "import os; print(os.listdir())"), "cpu-01")
        wait_for(executor, name, OVER)
        assert "junk" not in Path(executor.fetch(name).log).read_text()

    def test_the_job_sees_its_own_environment_and_nothing_of_ours(
        self, executor: LocalExecutor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-secret")
        monkeypatch.setenv("SOME_TOKEN", "secret")
        name = "t-e0003.7-a1"
        executor.submit(job(name, "import json, os; print(json.dumps(dict(os.environ)))", SEED="5"), "cpu-02")
        wait_for(executor, name, OVER)
        seen = json.loads(Path(executor.fetch(name).log).read_text())
        assert "secret" not in json.dumps(seen)
        assert seen["SEED"] == "5"
        assert seen["AUTORESEARCH_KIND"] == "cpu"

    def test_protected_files_lie_beside_its_own_where_they_are_asked_for(
        self, executor: LocalExecutor, tmp_path: Path
    ) -> None:
        pinned = tmp_path / "pinned"
        (pinned / "data").mkdir(parents=True)
        (pinned / "data" / "binary").write_bytes(bytes(range(256)))
        (pinned / ".venv").mkdir()
        (pinned / "protected.json").write_text('{"data/binary": "its digest"}')
        script = "import os; print(sum(open('data/binary', 'rb').read()), sorted(os.listdir('.')))"
        place = {"AUTORESEARCH_PROTECTED": str(pinned)}
        executor.submit(job("t-e0001.1-a1", script, **place, AUTORESEARCH_BESIDE="1"), "cpu-01")
        wait_for(executor, "t-e0001.1-a1", OVER)
        said = Path(executor.fetch("t-e0001.1-a1").log).read_text()
        assert said.startswith("32640 ['claim', 'data', 'lock', 'log', 'spec.json', 'train']")
        executor.submit(job("t-e0001.2-a1", script, **place), "cpu-01")
        wait_for(executor, "t-e0001.2-a1", OVER)
        assert "No such file" in Path(executor.fetch("t-e0001.2-a1").log).read_text()

    def test_a_command_that_does_not_exist_is_a_failure_not_a_hang(self, executor: LocalExecutor) -> None:
        name = "t-e0003.8-a1"
        spec = job(name, "pass")
        executor.submit(type(spec)(**{**_fields(spec), "command": ("/no/such/python",)}), "cpu-01")
        assert wait_for(executor, name, OVER) is JobStatus.DONE
        ended = executor.fetch(name)
        assert ended.exit_code == 127
        assert "cannot start /no/such/python" in Path(ended.log).read_text()

    def test_a_folder_that_cannot_be_written_is_a_storage_error(self, tmp_path: Path) -> None:
        (tmp_path / "runs").write_text("a file where the folder should be")
        executor = LocalExecutor(tmp_path / "runs", slots(Pool(workers={"cpu": 1})))
        with pytest.raises(StorageError, match="cannot write"):
            executor.submit(job("t-e0003.9-a1", "pass"), "cpu-01")


def _fields(spec: object) -> dict[str, object]:
    return {name: getattr(spec, name) for name in spec.__slots__}  # type: ignore[attr-defined]


def _carrying(name: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("AUTORESEARCH_RUN") == name:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def _process_of(name: str, word: str) -> psutil.Process:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        for process in _carrying(name):
            if any(word in part for part in process.cmdline()) and process.children():
                return process
        time.sleep(0.05)
    raise AssertionError(f"no process of {name}")


def test_slots_are_numbered_by_kind_and_priced() -> None:
    found = [slot.worker for slot in slots(Pool(workers=3, prices={"cpu": 0.1}))]
    assert [w.name for w in found] == ["cpu-01", "cpu-02", "cpu-03"]
    assert {(w.kind, w.price_per_hour) for w in found} == {("cpu", 0.1)}


@pytest.mark.skipif(bool(find_gpus()), reason="this machine has GPUs")
def test_a_gpu_this_machine_lacks_is_said_with_the_way_out() -> None:
    with pytest.raises(PoolError, match="asks for 2 H100, this machine has 0"):
        slots(Pool(workers={"H100": 2}))
    assert {slot.worker.kind for slot in slots(Pool(workers="auto"))} == {"cpu"}


@pytest.mark.parametrize(
    ("device", "kind"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA A100-SXM4-40GB", "A100"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA GeForce RTX 4090", "RTX4090"),
        ("Tesla V100-SXM2-32GB", "V100-32GB"),
        ("Something New 9000", "GPU"),
    ],
)
def test_devices_are_named_as_skypilot_names_them(device: str, kind: str) -> None:
    assert kind_of(device) == kind


def test_gpus_are_found_through_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\necho '0, NVIDIA H100 80GB HBM3'\necho '1, NVIDIA H200'\necho '2, NVIDIA H100 80GB HBM3'\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = slots(Pool(workers="auto"))
    assert [(s.worker.name, s.env["CUDA_VISIBLE_DEVICES"]) for s in found] == [
        ("h100-01", "0"),
        ("h100-02", "2"),
        ("h200-01", "1"),
    ]
    assert {s.env["AUTORESEARCH_DEVICE"] for s in found} == {"cuda"}


class TestSkyPilotExecutor(ExecutorContract):
    @pytest.fixture
    def executor(self, tmp_path: Path) -> Iterator[SkyPilotExecutor]:
        executor = sky_executor(tmp_path)
        wait_until(lambda: any(worker.ready for worker in executor.workers()))
        yield executor
        executor.close(release=True)
