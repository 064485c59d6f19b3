"""Tasks are what SkyPilot takes, carry a run's files whole, and nothing of ours that was not named."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoresearch.errors import ConfigError
from autoresearch.executors.sky import render
from autoresearch.experiment import JobSpec
from lab import ROOT
from sky_pool import TASKS, recipe

NAMES = st.lists(
    st.text("abcxyz0_-. é", min_size=1, max_size=60).filter(lambda part: part.strip(". ")),
    min_size=1,
    max_size=4,
).map("/".join)
FILES = st.dictionaries(NAMES, st.text(), max_size=5)


def spec(**changes: Any) -> JobSpec:
    values: dict[str, Any] = {
        "name": "t-e0001.1-a1",
        "command": ("{python}", "{protected}/train/harness.py", "train/train.py"),
        "files": {"train/train.py": "VALUE = 7\n"},
        "env": {"AUTORESEARCH_RUN": "t-e0001.1-a1", "AUTORESEARCH_SEED": "5"},
        "folder": "e0001.1/a1",
        "timeout_seconds": 870.0,
    }
    return JobSpec(**{**values, **changes})


def payload(script: str) -> bytes:
    found = re.search(r"<<'FILES'\n(.*?)^FILES$", script, re.MULTILINE | re.DOTALL)
    assert found
    return base64.b64decode(found[1])


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """The home of a machine that was set up."""
    home = tmp_path / "home"
    (home / "autoresearch").mkdir(parents=True)
    (home / "autoresearch/python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (home / "autoresearch/python").chmod(0o755)
    return home


def run(task: dict[str, Any], home: Path) -> subprocess.CompletedProcess[str]:
    """Run a task as SkyPilot does: its `run` in bash, with its `envs`."""
    env = {"HOME": str(home), "PATH": "/usr/bin:/bin", **task["envs"]}
    command = ["/bin/bash", "-c", task["run"]]
    return subprocess.run(command, env=env, cwd=home, capture_output=True, text=True, check=False)


class TestFiles:
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(FILES)
    def test_any_text_files_come_out_as_they_went_in(self, tmp_path: Path, files: dict[str, str]) -> None:
        task = render.experiment_task(recipe(tmp_path), spec(files=files), kind="H100")
        again = yaml.safe_load(render.to_yaml(task, "heading"))
        with tarfile.open(fileobj=io.BytesIO(payload(again["run"])), mode="r:gz") as archive:
            found = {
                entry.name: archive.extractfile(entry).read().decode()  # type: ignore[union-attr]
                for entry in archive.getmembers()
            }
        assert found == files

    def test_a_job_finds_its_files_in_a_folder_of_its_own(self, tmp_path: Path, machine: Path) -> None:
        files = {"train/train.py": "print('é')\n", "deep/er/" + "x" * 120 + ".py": "FILES\n", "a b": ""}
        show = "import os; print(sorted(os.path.join(d, f) for d, _, fs in os.walk('.') for f in fs))"
        job = spec(files=files, command=("{python}", "-c", show))
        done = run(render.experiment_task(recipe(tmp_path), job, kind="H100"), machine)
        assert done.returncode == 0, done.stderr
        assert all(repr(f"./{name}") in done.stdout for name in files)
        assert (machine / "autoresearch/jobs/t-e0001.1-a1/train/train.py").read_text() == "print('é')\n"
        assert done.stdout.splitlines()[-1].strip() == "autoresearch-exit: 0"

    @pytest.mark.parametrize("how", ["digest", "content", "truncated"])
    def test_files_that_are_not_what_was_sent_are_refused_before_training(
        self, tmp_path: Path, machine: Path, how: str
    ) -> None:
        mark = tmp_path / "trained"
        job = spec(command=("/usr/bin/touch", str(mark)))
        task = render.experiment_task(recipe(tmp_path), job, kind="H100")
        sent = re.search(r"<<'FILES'\n(.*?)^FILES$", task["run"], re.MULTILINE | re.DOTALL)
        assert sent
        damaged = {
            "digest": re.sub(r'files_sha256="\w+"', f'files_sha256="{"0" * 64}"', task["run"]),
            "content": task["run"].replace(sent[1], sent[1].swapcase()),
            "truncated": task["run"].replace(sent[1], sent[1][:40] + "\n"),
        }[how]
        done = run({**task, "run": damaged}, machine)
        assert done.returncode == 70
        assert "autoresearch-exit: 70" in done.stdout
        assert not mark.exists()

    def test_a_name_runs_once_on_a_machine(self, tmp_path: Path, machine: Path) -> None:
        task = render.experiment_task(
            recipe(tmp_path), spec(command=("{python}", "-c", "print('trained')")), kind="H100"
        )
        assert "trained" in run(task, machine).stdout
        again = run(task, machine)
        assert again.returncode == 75
        assert "trained" not in again.stdout

    def test_rendered_twice_a_task_is_the_same_to_the_byte(self, tmp_path: Path) -> None:
        files = {"b.py": "2", "a.py": "1"}
        texts = {
            render.to_yaml(
                render.experiment_task(recipe(tmp_path), spec(files=dict(order)), kind="H100"), "one"
            )
            for order in (files.items(), reversed(files.items()))
        }
        assert len(texts) == 1


class TestBeside:
    """Code that reports its own score imports what it may not edit."""

    @pytest.fixture
    def pinned(self, machine: Path) -> Path:
        protected = machine / "autoresearch/protected"
        (protected / "data").mkdir(parents=True)
        (protected / ".venv").mkdir()
        for name in (".venv/big", "protected.json", "prepare.py", "train.py"):
            (protected / name).write_text("BUDGET = 300\n")
            (protected / name).chmod(0o444)
        (protected / "data/binary").write_bytes(bytes(range(256)))
        return protected

    def test_a_run_finds_the_pinned_files_and_its_own_instead_of_theirs(
        self, tmp_path: Path, machine: Path, pinned: Path
    ) -> None:
        script = "import os, prepare; print(prepare.BUDGET, open('train.py').read(), sorted(os.listdir('.')))"
        command = ("{python}", "-c", script)
        job = spec(command=command, files={"train.py": "OWN = 1\n"}, env={"AUTORESEARCH_BESIDE": "1"})
        done = run(render.experiment_task(recipe(tmp_path), job, kind="H100"), machine)
        assert "300 OWN = 1" in done.stdout, done.stdout + done.stderr
        assert "protected.json" not in done.stdout
        folder = machine / "autoresearch/jobs/t-e0001.1-a1"
        assert (folder / "data/binary").read_bytes() == bytes(range(256))
        assert not (folder / ".venv").exists()
        assert (pinned / "train.py").read_text() == "BUDGET = 300\n"

    def test_a_run_whose_harness_measures_finds_its_own_files_alone(
        self, tmp_path: Path, machine: Path, pinned: Path
    ) -> None:
        task = render.experiment_task(recipe(tmp_path), spec(command=("/bin/ls",)), kind="H100")
        assert "prepare.py" not in run(task, machine).stdout

    @pytest.mark.parametrize(
        ("script", "code"),
        [("import prepare, time; time.sleep(9)", 0), ("import prepare", 0), ("import nothing", 1)],
    )
    def test_a_machine_warms_up_on_it_and_does_not_wait_for_its_end(
        self, tmp_path: Path, machine: Path, pinned: Path, script: str, code: int
    ) -> None:
        env = {"AUTORESEARCH_PROFILE": "gpu", "AUTORESEARCH_BESIDE": "1"}
        filled = recipe(tmp_path, env=env, command=("{python}", "-c", script))
        task = render.worker_task(filled, name="n", kind="H100", gpus=1)
        sooner = task["run"].replace("seconds=120;", "seconds=1;").replace("124/120", "124/1")
        done = run(task | {"run": sooner}, machine)
        assert done.returncode == code, done.stderr


class TestCommands:
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
    @given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=4))
    def test_any_words_reach_the_command_as_they_are(self, tmp_path: Path, words: list[str]) -> None:
        words = [word.replace("{python}", "").replace("{protected}", "") for word in words]
        line = render._shell("run", words)
        script = f"run() {{ printf '%s\\0' \"$@\"; }}\n{line}"
        printed = subprocess.run(["/bin/bash", "-c", script], capture_output=True, check=True).stdout
        assert printed.decode() == "".join(f"{word}\0" for word in words) or (not words and printed == b"\0")

    def test_odd_words_survive_the_whole_way(self, tmp_path: Path, machine: Path) -> None:
        words = ("it's", "$HOME", "`id`", "a\nb", '"', "*", "", "\\", "run x", "é")
        command = ("{python}", "-c", "import sys; print(sys.argv[1:])", *words, "x{protected}y")
        task = render.experiment_task(recipe(tmp_path), spec(command=command), kind="H100")
        done = run(yaml.safe_load(render.to_yaml(task, "")), machine)
        seen = [*words, f"x{machine}/autoresearch/protectedy"]
        assert str(seen) in done.stdout


class TestTemplates:
    @pytest.mark.parametrize(
        ("name", "cut", "says"),
        [
            ("worker", 'files_sha256=""', "tasks/worker.yaml: `run` needs the line files_sha256"),
            ("worker", "<<'FILES'\n  FILES", "tasks/worker.yaml: `run` needs the line <<'FILES'"),
            ("worker", 'run "$python"', "tasks/worker.yaml: needs one line that begins with `run `"),
            ("worker", 'prepare "$python"', "tasks/worker.yaml: needs one line that begins with `prepare `"),
            ("worker", "setup: |", "tasks/worker.yaml"),
            ("experiment", 'files_sha256=""', "tasks/experiment.yaml: `run` needs the line files_sha256"),
            ("experiment", 'run "$python"', "tasks/experiment.yaml: needs one line that begins with `run `"),
            ("experiment", "run: |", "tasks/experiment.yaml"),
        ],
    )
    def test_one_without_what_is_filled_in_is_refused_by_its_name(
        self, tmp_path: Path, name: str, cut: str, says: str
    ) -> None:
        text = (TASKS / f"{name}.yaml").read_text()
        assert text.count(cut) == 1
        broken = recipe(tmp_path, **{name: text.replace(cut, "# " if cut.endswith("|") else "")})
        with pytest.raises(ConfigError) as refused:
            render.experiment_task(broken, spec(), kind="H100")
        assert says in refused.value.message

    @pytest.mark.parametrize("text", ["", "- a list", "name: x\n", "run: [1]\n", "a: b: c"])
    def test_one_that_is_no_task_is_refused_by_its_name(self, tmp_path: Path, text: str) -> None:
        with pytest.raises(ConfigError, match=r"tasks/worker\.yaml"):
            render.worker_task(recipe(tmp_path, worker=text), name="n", kind="H100", gpus=1)

    def test_one_with_empty_sections_is_filled_like_any_other(self, tmp_path: Path) -> None:
        text = re.sub(
            r"^(envs|file_mounts):\n(  .*\n)+",
            r"\1:\n",
            (TASKS / "worker.yaml").read_text(),
            flags=re.MULTILINE,
        )
        assert yaml.safe_load(text)["envs"] is None
        task = render.worker_task(recipe(tmp_path, worker=text), name="n", kind="H100", gpus=1)
        assert task["envs"]["AUTORESEARCH_KIND"] == "H100"

    def test_the_templates_run_by_hand_as_they_stand(self, tmp_path: Path, machine: Path) -> None:
        (machine / "autoresearch/protected/train").mkdir(parents=True)
        (machine / "autoresearch/protected/train/train.py").write_text("")
        (machine / "autoresearch/protected/train/harness.py").write_text("print('trained')")
        task = yaml.safe_load((TASKS / "experiment.yaml").read_text())
        done = run(task, machine)
        assert (done.returncode, "trained" in done.stdout) == (0, True), done.stderr
        task = yaml.safe_load((TASKS / "worker.yaml").read_text())
        done = run(task, machine)
        assert (done.returncode, "trained" in done.stdout) == (0, True), done.stderr


class TestWhatTravels:
    def test_nothing_of_our_environment_does_unless_it_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SOME_TOKEN", "planted")
        monkeypatch.setenv("HF_TOKEN", "planted")
        filled = recipe(tmp_path, secrets={"HF_TOKEN": "secret-value"})
        tasks = [
            render.worker_task(filled, name="n", kind="H100", gpus=1),
            render.experiment_task(filled, spec(), kind="H100"),
        ]
        for task in tasks:
            assert not re.search("planted|secret-value", render.to_yaml(task, ""))
            assert task["secrets"] == {"HF_TOKEN": None}
            assert render.with_secrets(task, filled.secrets)["secrets"] == {"HF_TOKEN": "secret-value"}
            assert "AUTORESEARCH_RUN" not in task["envs"], "a machine's own processes are no run's"

    def test_a_job_on_a_worker_leaves_out_what_its_machine_has(self, tmp_path: Path) -> None:
        filled = recipe(tmp_path, infra="aws/us-east-1", image="docker:x", spot=True, cpus="4+", memory="16")
        task = render.experiment_task(filled, spec(), kind="H100")
        sent = render.on_a_worker(task)
        assert set(task) - set(sent) == {"setup", "file_mounts"}
        assert sent["resources"] == {"accelerators": "H100:1", "cpus": "4+", "memory": "16"}
        assert sent["envs"] == task["envs"]

    def test_a_whole_node_asks_for_its_slots_and_a_job_for_one(self, tmp_path: Path) -> None:
        filled = recipe(tmp_path, cpus="4+", memory="16", resources={"disk_size": 200})
        task = render.worker_task(filled, name="n", kind="H100", gpus=8)
        assert task["resources"] == {
            "accelerators": "H100:8",
            "cpus": "32+",
            "memory": "128",
            "disk_size": 200,
        }
        assert render.experiment_task(filled, spec(), kind="H100")["resources"]["accelerators"] == "H100:1"

    def test_a_cpu_asks_for_no_accelerator_and_must_not_use_one(self, tmp_path: Path) -> None:
        task = render.worker_task(recipe(tmp_path), name="n", kind="cpu", gpus=1)
        assert "accelerators" not in task["resources"]
        assert task["envs"]["AUTORESEARCH_DEVICE"] == "cpu"
        task = render.worker_task(recipe(tmp_path), name="n", kind="H100", gpus=1)
        assert task["envs"]["AUTORESEARCH_DEVICE"] == "cuda"


ASK_SKYPILOT = """
import json, sys, yaml, sky
told = {}
for name, text in json.load(sys.stdin).items():
    task = sky.Task.from_yaml_config(yaml.safe_load(text))
    task.expand_and_validate_file_mounts()
    (r,) = task.resources
    told[name] = {
        "name": task.name, "envs": task.envs, "secrets": sorted(task.secrets), "mounts": task.file_mounts,
        "infra": r.infra.to_str(), "accelerators": r.accelerators, "spot": r.use_spot, "cpus": r.cpus,
        "memory": r.memory, "image": r.image_id, "disk": r.disk_size, "run": task.run, "setup": task.setup,
    }
print("TOLD" + json.dumps(told))
"""


@pytest.mark.slow
def test_skypilot_takes_our_tasks_and_reads_them_as_we_do(tmp_path: Path) -> None:
    """The templates as they stand, and all that is filled, in one process: SkyPilot takes seconds to load."""
    filled = recipe(
        tmp_path,
        infra="aws/us-east-1",
        image="docker:pytorch/pytorch:latest",
        spot=True,
        cpus="4+",
        memory="16",
        resources={"disk_size": 200},
        secrets={"HF_TOKEN": "hf-1"},
        prepare=("{python}", "-c", "pass"),
    )
    job = render.experiment_task(filled, spec(), kind="H100")
    tasks = {
        "machine": render.worker_task(filled, name="ar-t-h100-01", kind="H100", gpus=8),
        "job": job,
        "sent": render.with_secrets(render.on_a_worker(job), filled.secrets),
        "kubernetes": render.worker_task(recipe(tmp_path, infra="kubernetes"), name="n", kind="H200", gpus=1),
        "slurm": render.worker_task(recipe(tmp_path, infra="slurm/mine"), name="n", kind="H100", gpus=1),
        "cpu": render.worker_task(recipe(tmp_path), name="n", kind="cpu", gpus=1),
    }
    texts = {name: render.to_yaml(task, "one of ours") for name, task in tasks.items()}
    texts |= {path.name: path.read_text() for path in TASKS.glob("*.yaml")}
    done = subprocess.run(
        [sys.executable, "-c", ASK_SKYPILOT],
        input=json.dumps(texts),
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.rpartition("TOLD")[2])
    assert set(told) == {*texts}
    assert all(told[name]["run"] == task["run"] for name, task in tasks.items())
    machine = told["machine"]
    assert machine["infra"].lower().startswith("aws/us-east-1")
    assert (machine["accelerators"], machine["spot"], machine["disk"]) == ({"H100": 8}, True, 200)
    assert (machine["cpus"], machine["memory"]) == ("32+", "128")
    assert "docker:pytorch/pytorch:latest" in machine["image"].values()
    assert machine["mounts"] == {"~/autoresearch/protected": str(tmp_path / "protected")}
    assert machine["setup"] == tasks["machine"]["setup"]
    assert told["sent"]["secrets"] == ["HF_TOKEN"]
    assert (told["sent"]["setup"], told["sent"]["mounts"]) == (None, None)
    assert told["sent"]["accelerators"] == {"H100": 1}
    assert told["sent"]["envs"] == tasks["job"]["envs"]
    assert told["kubernetes"]["infra"].lower() == "kubernetes"
    assert told["slurm"]["infra"].lower() == "slurm/mine"
    assert told["cpu"]["accelerators"] is None
