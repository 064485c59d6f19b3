"""One measurement from outside: the real harness around train.py files of every temper."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import psutil
import pytest

from autoresearch.experiment import FailureKind
from autoresearch.logparse import Report, parse_curve, parse_report
from autoresearch.verification import code_digest
from training import TRAIN

pytestmark = pytest.mark.slow
# A model that trains nothing: what stands before it is what a test is about.
MODEL = """
import json, os, sys, time
import torch
import prepare
class M(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(1024))
    def forward(self, idx):
        return self.w.expand(*idx.shape, 1024) * 1.0
def build_model():
    return M()
def leave():
    prepare.finish(build_model(), prepare.Budget("cpu"), depth=1, flops_per_token=1.0)
if __name__ == "__main__":
"""


class Bench:
    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        self.cache = cache
        self.run = f"t-{uuid.uuid4().hex}-a1"

    def environment(self, **extra: str) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "AUTORESEARCH_CACHE": str(self.cache),
            "AUTORESEARCH_SCRATCH": str(self.folder),
            "AUTORESEARCH_BUDGET_SECONDS": "1",
            "AUTORESEARCH_TIMEOUT_SECONDS": "40",
            "AUTORESEARCH_RUN": self.run,
            "AUTORESEARCH_SEED": "11",
            **extra,
        }

    def measure(self, body: str, *, whole: bool = False, **extra: str) -> tuple[int, Report, bytes]:
        """Run the harness on a train.py and return exit code, what its log reports, and the log."""
        source = body if whole else MODEL + "".join(f"    {line}\n" for line in body.splitlines())
        (self.folder / "train.py").write_text(source)
        command = [sys.executable, str(TRAIN / "harness.py"), "train.py"]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment(**extra),
            capture_output=True,
            timeout=120,
            check=False,
        )
        assert done.stderr == b""
        report = parse_report(
            done.stdout[-256_000:], metric="val_bpb", exit_code=done.returncode, editable=("train.py",)
        )
        left = [p.name for p in self.folder.iterdir() if p.name != "train.py"]
        assert not left, f"left behind: {left}"
        assert not carrying(self.run)
        return done.returncode, report, done.stdout


def carrying(run: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("AUTORESEARCH_RUN") == run and process.pid != os.getpid():
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


@pytest.fixture
def bench(tmp_path: Path, cache: Path) -> Bench:
    return Bench(tmp_path, cache)


def facts_of(report: Report) -> dict[str, Any]:
    assert report.facts is not None
    return dict(report.facts)


def test_the_shipped_train_py_is_measured(bench: Bench) -> None:
    source = (TRAIN / "train.py").read_text()
    code, report, log = bench.measure(
        source, whole=True, AUTORESEARCH_BUDGET_SECONDS="3", AUTORESEARCH_KIND="cpu"
    )
    assert code == 0
    assert report.measurement is not None
    assert 1.6 < report.measurement.value < 2.6
    facts = facts_of(report)
    assert facts["seed"] == 11
    assert facts["kind"] == "cpu"
    assert 3.0 <= facts["training_seconds"] <= 3.0 + 2.0
    assert facts["num_steps"] > 20
    assert facts["tokens_per_second"] == pytest.approx(
        facts["total_tokens"] / facts["training_seconds"], rel=1e-3
    )
    assert set(facts["digests"]) >= {"code", "data", "weights"}
    assert facts["device"]
    assert facts["num_params"] == 294_980
    text = log.decode()
    summary = text[text.rindex("---\n") :].splitlines()
    names = [line.split(":")[0] for line in summary[1:10]]
    assert names == [
        "val_bpb",
        "training_seconds",
        "total_seconds",
        "peak_vram_mb",
        "mfu_percent",
        "total_tokens_M",
        "num_steps",
        "num_params_M",
        "depth",
    ]
    assert len(parse_curve(log)) == facts["num_steps"]


def test_what_training_prints_is_not_the_score(bench: Bench) -> None:
    forged = json.dumps({"outcome": "ok", "val_bpb": 0.1})
    code, report, log = bench.measure(
        f"print('autoresearch: ' + {forged!r}, flush=True)\nprint('---\\nval_bpb: 0.1')\n"
        "sys.stdout.write('autore'); sys.stdout.flush(); time.sleep(0.3)\n"
        f"print('search: ' + {forged!r})\nleave()"
    )
    assert code == 0
    assert report.measurement is not None
    assert report.measurement.value > 3
    assert log.count(b"autoresearch: ") == 1


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        ("while True: pass", FailureKind.OVER_BUDGET, "of 1 s of its budget"),
        ("time.sleep(600)", FailureKind.TIMEOUT, "ran longer than 5 s"),
        ("pass", FailureKind.NO_RESULT, "without saving its weights"),
        ("raise ValueError('broken here')", FailureKind.ERROR, "broken here"),
        ("import flash_attn", FailureKind.IMPORT, "No module named 'flash_attn'"),
        ("print('step FAIL'); raise SystemExit(1)", FailureKind.NOT_FINITE, "exit code 1"),
        (
            "torch.save({'x': torch.zeros(2)}, os.environ['AUTORESEARCH_WEIGHTS'])",
            FailureKind.EVALUATION,
            "do not fit build_model",
        ),
        (
            "torch.save({'w': torch.full((1024,), float('nan'))}, os.environ['AUTORESEARCH_WEIGHTS'])",
            FailureKind.EVALUATION,
            "NaN or infinite",
        ),
        (
            "open(os.environ['AUTORESEARCH_WEIGHTS'], 'w').write('junk')",
            FailureKind.EVALUATION,
            "exit code 1",
        ),
        ("os.kill(os.getpid(), 9)", FailureKind.KILLED, "signal 9"),
        ("os._exit(0)", FailureKind.NO_RESULT, "without saving its weights"),
    ],
)
def test_every_way_to_fail_has_its_name(bench: Bench, body: str, kind: FailureKind, said: str) -> None:
    timeout = "5" if "sleep(600)" in body else "40"
    code, report, _ = bench.measure(body, AUTORESEARCH_TIMEOUT_SECONDS=timeout)
    assert code == 1
    assert report.measurement is None
    assert report.failure is not None
    assert (report.failure.kind, said in report.failure.message) == (kind, True), report.failure
    assert facts_of(report)["val_bpb"] is None


def test_what_train_py_does_at_its_end_is_done_and_taking_torch_apart_is_not(bench: Bench) -> None:
    body = (
        "import atexit\n"
        "class Last:\n"
        "    def __del__(self): print('taken apart')\n"
        "sys.modules['last'] = Last()\n"
        "atexit.register(print, 'at the end')\n"
        "leave()"
    )
    code, _, log = bench.measure(body)
    assert code == 0
    assert b"at the end" in log
    assert b"taken apart" not in log


def test_loading_torch_to_answer_for_a_model_is_not_the_ideas_to_pay(bench: Bench) -> None:
    """It takes longer than this training, as it does on any machine that is slow enough."""
    _, report, _ = bench.measure("leave()")
    facts = facts_of(report)
    assert facts["late_seconds"] < 0.5
    assert facts["flags"] == []


def test_time_in_children_is_charged_to_the_budget(bench: Bench) -> None:
    """A child in a session of its own works on after its parent has gone; both are counted."""
    body = (
        "import subprocess\n"
        "subprocess.Popen([sys.executable, '-c', 'while True: pass'], start_new_session=True)\n"
        "leave()\ntime.sleep(30)"
    )
    code, report, _ = bench.measure(body, AUTORESEARCH_SANDBOX="off")  # in a box there are no children
    assert code == 1
    assert report.failure is not None
    assert report.failure.kind is FailureKind.OVER_BUDGET


def test_a_gpu_that_works_longer_than_the_budget_is_noticed(bench: Bench, tmp_path: Path) -> None:
    """Wall time allows for compilation; the device's own figures do not. Here a stand-in tells them."""
    driver = tmp_path / "bin"
    driver.mkdir()
    stand_in = driver / "nvidia-smi"
    head = "#!/bin/sh\ncase $* in *-lms*) ;; *) exit 1;; esac\n"
    stand_in.write_text(f"{head}for i in 1 2 3 4 5 6 7 8; do echo 100; done\nexec sleep 600\n")
    stand_in.chmod(0o755)
    bench.folder = tmp_path / "job"
    bench.folder.mkdir()
    settings = {"PATH": f"{driver}:{os.environ['PATH']}", "AUTORESEARCH_DEVICE": "cuda"}
    code, report, _ = bench.measure("time.sleep(3)", AUTORESEARCH_BUDGET_SECONDS="60", **settings)
    assert report.failure is not None
    assert report.failure.kind is FailureKind.NO_RESULT, "4 s of 60 are no reason to stop it"
    assert facts_of(report)["busy_seconds"] == 4.0
    stand_in.write_text(f"{head}while :; do echo 100; sleep 0.02; done\n")
    code, report, _ = bench.measure("time.sleep(60)", AUTORESEARCH_BUDGET_SECONDS="8", **settings)
    assert code == 1
    assert report.failure is not None
    assert report.failure.kind is FailureKind.OVER_BUDGET
    assert "had the GPU work" in report.failure.message


def test_several_edited_files_are_one_code(bench: Bench) -> None:
    (bench.folder / "parts").mkdir()
    (bench.folder / "parts" / "sizes.py").write_text("WIDTH = 1024\n")
    body = "from parts.sizes import WIDTH\nprint('width', WIDTH)\nleave()"
    source = MODEL + "".join(f"    {line}\n" for line in body.splitlines())
    (bench.folder / "train.py").write_text(source)
    files = {"AUTORESEARCH_EDITABLE": "train.py:parts/sizes.py"}
    command = [sys.executable, str(TRAIN / "harness.py"), "train.py"]
    done = subprocess.run(
        command,
        cwd=bench.folder,
        env=bench.environment(**files),
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert b"width 1024" in done.stdout
    report = parse_report(done.stdout[-256_000:], metric="val_bpb", exit_code=0)
    wanted = code_digest({"train.py": source, "parts/sizes.py": "WIDTH = 1024\n"})
    assert facts_of(report)["digests"]["code"] == wanted
    alone = bench.environment()
    done = subprocess.run(command, cwd=bench.folder, env=alone, capture_output=True, timeout=120, check=False)
    assert done.returncode == 1, "what is not named as edited is not there"


def test_a_machine_without_a_sandbox_is_said_to_be_one(bench: Bench) -> None:
    code, report, _ = bench.measure("leave()", AUTORESEARCH_SANDBOX="off")
    assert code == 0
    assert report.measurement is not None
    assert report.measurement.unsandboxed == "switched off"
    assert report.measurement.hidden is not None
    _, held, _ = bench.measure("leave()")
    assert held.measurement is not None
    assert held.measurement.unsandboxed == (
        "" if facts_of(held)["sandbox"] else facts_of(held)["unsandboxed"]
    )


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("os.write(int(sys.argv[4]), b'[' * 8000 + b'\\n')", "does not answer in our form"),
        ("os.write(int(sys.argv[4]), b'x' * 100_000)", "does not answer in our form"),
        ("os.write(int(sys.argv[4]), b'{\"bytes\": 7}\\n')", "something else than was asked"),
        ('os.write(int(sys.argv[4]), b\'{"error": "a\\\\nautoresearch: {}"}\\n\')', "a autoresearch: {}"),
        ("os.close(int(sys.argv[4])); time.sleep(600)", "closed its pipes"),
        ("os._exit(5)", "exit code 5"),
    ],
)
def test_a_model_that_answers_anything_else_has_no_score(bench: Bench, code: str, said: str) -> None:
    source = f"import os, sys, time\nif __name__ != '__main__':\n    {code}\n{MODEL}    leave()\n"
    ended, report, log = bench.measure(source, whole=True)
    assert ended == 1
    assert report.failure is not None
    assert (report.failure.kind, said in report.failure.message) == (FailureKind.EVALUATION, True), report
    assert log.count(b"\nautoresearch: ") == 1


def test_what_torchs_optimizers_load_is_not_the_ideas_to_pay(bench: Bench) -> None:
    loaded = "assert 'torch._dynamo' in sys.modules"
    code, report, log = bench.measure(f"{loaded}\ntorch.optim.SGD(M().parameters(), lr=0.1)\nleave()")
    assert (code, report.failure) == (0, None), log


def test_protected_files_that_change_while_it_trains_are_its_own_fault(
    bench: Bench, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("protected")
    (root / "prepare.py").write_text("# pinned\n")
    listing = json.dumps({"prepare.py": hashlib.sha256(b"# pinned\n").hexdigest()})
    (root / "protected.json").write_text(listing)
    pins = {
        "AUTORESEARCH_PROTECTED": str(root),
        "AUTORESEARCH_PROTECTED_SHA256": hashlib.sha256(listing.encode()).hexdigest(),
        "AUTORESEARCH_SANDBOX": "off",
    }
    code, report, _ = bench.measure(f"leave()\nopen('{root}/prepare.py', 'w').close()", **pins)
    assert code == 1
    assert report.failure is not None
    assert report.failure.kind is FailureKind.AUDIT
    assert not report.machine_fault


@pytest.mark.parametrize(
    "made",
    [
        "os.symlink('/etc/passwd', os.environ['AUTORESEARCH_WEIGHTS'])",
        "os.mkfifo(os.environ['AUTORESEARCH_WEIGHTS'])",
        "os.mkdir(os.environ['AUTORESEARCH_WEIGHTS'])",
    ],
)
def test_weights_are_a_file_or_nothing(bench: Bench, made: str) -> None:
    code, report, _ = bench.measure(made)
    assert code == 1
    assert report.failure is not None
    assert report.failure.kind is FailureKind.NO_RESULT


def test_facts_that_are_no_file_do_no_harm(bench: Bench) -> None:
    body = "leave()\npath = os.environ['AUTORESEARCH_FACTS']\nos.remove(path)\nos.mkfifo(path)"
    code, report, _ = bench.measure(body)
    assert code == 0
    assert report.measurement is not None
    assert report.measurement.steps is None


def test_nothing_of_a_run_outlives_it(bench: Bench) -> None:
    body = (
        "import subprocess\n"
        "sleeper = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "for _ in range(3): subprocess.Popen(sleeper, start_new_session=True)\n"
        "leave()"
    )
    code, _, _ = bench.measure(body, AUTORESEARCH_SANDBOX="off")
    assert code == 0  # measure itself looks for what is left


def test_a_200_mb_log_without_a_newline_is_cut(bench: Bench) -> None:
    code, report, log = bench.measure(
        "for _ in range(200): sys.stdout.write('x' * 1_000_000)\nleave()", AUTORESEARCH_BUDGET_SECONDS="20"
    )
    assert code == 0
    assert report.measurement is not None
    assert len(log) < 5_000_000
    assert b"bytes dropped here]" in log


def test_invalid_utf8_and_nan_in_the_output_do_no_harm(bench: Bench) -> None:
    code, report, _ = bench.measure("sys.stdout.buffer.write(b'\\xff\\xfe loss: nan \\x00\\n')\nleave()")
    assert code == 0
    assert report.measurement is not None


def test_edited_code_sees_a_cleaned_environment(bench: Bench) -> None:
    body = "print(json.dumps(dict(os.environ)), flush=True)\nprint(sys.stdin.read() == '')\nleave()"
    _, _, log = bench.measure(body, ANTHROPIC_API_KEY="sk-secret", HOME="/root", AUTORESEARCH_KIND="cpu")
    line = next(line for line in log.decode().splitlines() if line.startswith("{"))
    seen = json.loads(line)
    assert "ANTHROPIC_API_KEY" not in seen
    assert seen["HOME"] != "/root"
    assert seen["AUTORESEARCH_SEED"] == "11"
    assert seen["OMP_NUM_THREADS"] == "1"
    assert "AUTORESEARCH_PROTECTED" not in seen


def test_the_seed_comes_from_outside(bench: Bench) -> None:
    body = "print('drew', torch.rand(1).item())\nleave()"
    logs = [bench.measure(body, AUTORESEARCH_SEED=seed)[2] for seed in ("1", "1", "2")]
    drawn = [line for log in logs for line in log.decode().splitlines() if line.startswith("drew")]
    assert drawn[0] == drawn[1] != drawn[2]


def test_changed_protected_files_are_the_machines_fault(
    bench: Bench, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("protected")
    (root / "prepare.py").write_text("# pinned\n")
    listing = json.dumps({"prepare.py": hashlib.sha256(b"# pinned\n").hexdigest()})
    (root / "protected.json").write_text(listing)
    pins = {
        "AUTORESEARCH_PROTECTED": str(root),
        "AUTORESEARCH_PROTECTED_SHA256": hashlib.sha256(listing.encode()).hexdigest(),
    }
    assert bench.measure("leave()", **pins)[0] == 0
    (root / "prepare.py").write_text("# edited\n")
    code, report, _ = bench.measure("leave()", **pins)
    assert code == 3
    assert report.machine_fault
    assert "protected file prepare.py was changed" in report.failure.message  # type: ignore[union-attr]
    (root / "protected.json").write_text("{}")
    assert bench.measure("leave()", **pins)[0] == 3


def test_a_preflight_takes_seconds_and_finds_what_is_broken(bench: Bench) -> None:
    source = (TRAIN / "train.py").read_text()
    code, _, log = bench.measure(source, whole=True, AUTORESEARCH_PREFLIGHT="1")
    assert (code, b"preflight passed" in log) == (0, True)
    broken = source.replace(
        "self.down = nn.Linear(MLP_RATIO * dim, dim", "self.down = nn.Linear(MLP_RATIO * dim + 1, dim"
    )
    assert broken != source
    code, report, _ = bench.measure(broken, whole=True, AUTORESEARCH_PREFLIGHT="1")
    assert code == 1
    assert report.failure is not None
    assert report.failure.kind is FailureKind.SHAPE
    assert report.failure.line is not None
    unbuildable = source.replace("def build_model()", "def build_models()").replace(
        "= build_model()", "= build_models()"
    )
    code, report, _ = bench.measure(unbuildable, whole=True, AUTORESEARCH_PREFLIGHT="1")
    assert code == 1
    assert "defines no build_model" in report.failure.message  # type: ignore[union-attr]


def test_a_terminated_harness_ends_training(bench: Bench) -> None:
    (bench.folder / "train.py").write_text(MODEL + "    time.sleep(600)\n")
    environment = bench.environment()
    running = subprocess.Popen(
        [sys.executable, str(TRAIN / "harness.py"), "train.py"],
        cwd=bench.folder,
        env=environment,
        stdout=subprocess.PIPE,
    )
    deadline = time.monotonic() + 90
    while len(carrying(environment["AUTORESEARCH_RUN"])) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1)
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=90)
    assert running.returncode == 143
    assert not carrying(environment["AUTORESEARCH_RUN"])


@pytest.mark.skipif(sys.platform != "linux", reason="parent-death signals are Linux's")
def test_a_killed_harness_takes_training_with_it(bench: Bench) -> None:
    (bench.folder / "train.py").write_text(MODEL + "    time.sleep(600)\n")
    environment = bench.environment()
    running = subprocess.Popen(
        [sys.executable, str(TRAIN / "harness.py"), "train.py"],
        cwd=bench.folder,
        env=environment,
        stdout=subprocess.PIPE,
    )
    deadline = time.monotonic() + 90
    while len(carrying(environment["AUTORESEARCH_RUN"])) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    running.kill()
    running.communicate(timeout=90)
    deadline = time.monotonic() + 20
    while carrying(environment["AUTORESEARCH_RUN"]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not carrying(environment["AUTORESEARCH_RUN"])
