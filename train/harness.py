"""The harness: one measurement of one train.py, from outside it. Protected.

    python harness.py [TRAIN_PY]        # AUTORESEARCH_PROFILE=gpu on a GPU machine

In this order: check the protected files' and the data's digests; start training in a child with a
cleaned environment; measure and enforce its budget; stop it, children and all, when its time is
over; let a separate evaluator compute val_bpb from the weights; print the summary that other tools
parse and one machine line, `autoresearch: {...}`, with the same facts and more.

The run is described by AUTORESEARCH_* variables, read in `Spec`; without any it trains train.py
beside this file with the cpu profile. Exit code 0: measured. 1: training or evaluation failed.
3: this machine or its files are not fit to run it, which is not the experiment's fault.

It never imports edited code, and needs no package but psutil and what prepare.py needs.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import platform
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

import prepare

HERE = Path(__file__).resolve().parent
MARKER = b"autoresearch: "
LOG_HEAD_BYTES = 4 << 20  # of what training prints, this much is kept from the start
LOG_TAIL_BYTES = 64 << 10  # and this much from the end
POLL_SECONDS = 0.5
EVALUATION_TIMEOUT_SECONDS = 240.0
EXIT_FAILED, EXIT_UNFIT = 1, 3

# Dense bf16 peak FLOP/s by a part of the device's name, from the vendors' data sheets.
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "B200": 2250e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}


class UnfitError(Exception):
    """This machine or its files cannot run the experiment; the message says why."""


@dataclass(frozen=True)
class Spec:
    """What to run, from the environment. Times are in seconds."""

    script: Path
    run: str
    kind: str
    seed: int
    budget: float
    timeout: float  # wall time of the training process, start-up included
    startup: float  # on cuda and mps: wall time allowed beside the budget, for compilation
    device: str
    profile: str
    preflight: bool

    @classmethod
    def from_environment(cls, script: str | None) -> Spec:
        """Return the spec the AUTORESEARCH_* variables describe."""
        env = os.environ
        device = prepare.device_type()
        budget = prepare.budget_seconds()
        timeout = 60.0 + (12 if device == "cpu" else 2) * budget
        return cls(
            script=Path(script or HERE / "train.py").resolve(),
            run=env.get("AUTORESEARCH_RUN", "by-hand"),
            kind=env.get("AUTORESEARCH_KIND", device),
            seed=prepare.seed(),
            budget=budget,
            timeout=float(env.get("AUTORESEARCH_TIMEOUT_SECONDS", timeout)),
            startup=float(env.get("AUTORESEARCH_STARTUP_SECONDS", 240.0)),
            device=device,
            profile=prepare.PROFILE,
            preflight=prepare.PREFLIGHT,
        )


@dataclass
class Outcome:
    """How a supervised process ended."""

    reason: str  # "exited", "timeout" or "over_budget"
    exit_code: int | None  # negative: the signal that ended it
    wall_seconds: float
    training_seconds: float  # on cpu CPU seconds of the process tree, else wall, since edited code began
    startup_seconds: float  # wall time until edited code began
    peak_memory_bytes: int


# ---------------------------------------------------------------------------
# Processes
# ---------------------------------------------------------------------------


def adopt_orphans() -> None:
    """Make this process the parent of whatever its descendants leave behind (Linux)."""
    if sys.platform == "linux":
        PR_SET_CHILD_SUBREAPER = 36
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent() -> None:
    """Have the kernel end this process when its parent ends (Linux); runs in the child."""
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def descendants() -> list[psutil.Process]:
    """Return every live process below this one."""
    return psutil.Process().children(recursive=True)


def end_descendants() -> None:
    """Kill every process below this one, again until none is left: a fork may race a kill."""
    for _ in range(200):
        alive = [p for p in descendants() if p.status() != psutil.STATUS_ZOMBIE]
        if not alive:
            break
        for process in alive:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(alive, timeout=0.2)
    while True:  # reap adopted orphans, so that their CPU time is counted
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                return
        except ChildProcessError:
            return


def tree_usage() -> tuple[float, int]:
    """Return CPU seconds used by all descendants, dead or alive, and bytes resident in live ones."""
    reaped = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu, resident = reaped.ru_utime + reaped.ru_stime, 0
    for process in descendants():
        try:
            with process.oneshot():
                times, memory = process.cpu_times(), process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
        cpu += times.user + times.system + times.children_user + times.children_system
        resident += memory
    return cpu, resident


class Relay:
    """Copies what a process prints to our own output: bounded, and unable to pose as the harness.

    Keeps the first LOG_HEAD_BYTES and the last LOG_TAIL_BYTES, and breaks every occurrence of the
    machine line's marker.
    """

    def __init__(self) -> None:
        self._held = b""
        self._tail = b""
        self._written = 0
        self._dropped = 0

    def feed(self, data: bytes) -> None:
        """Take what was read."""
        data = (self._held + data).replace(MARKER, MARKER.replace(b":", b";"))
        keep = next((n for n in range(len(MARKER) - 1, 0, -1) if data.endswith(MARKER[:n])), 0)
        self._held = data[len(data) - keep :]
        self._emit(data[: len(data) - keep])

    def close(self) -> None:
        """Write what was held back."""
        self._emit(self._held)
        self._held = b""
        if self._dropped > len(self._tail):
            write(b"\n[%d bytes dropped here]\n" % (self._dropped - len(self._tail)))
        write(self._tail)
        if self._written:
            write(b"\n")

    def _emit(self, data: bytes) -> None:
        head = data[: max(0, LOG_HEAD_BYTES - self._written)]
        write(head)
        self._written += len(head)
        rest = data[len(head) :]
        self._dropped += len(rest)
        self._tail = (self._tail + rest)[-LOG_TAIL_BYTES:]


def write(data: bytes) -> None:
    """Write all of `data` to standard output, unbuffered."""
    while data:
        data = data[os.write(1, data) :]


def child_environment(spec: Spec, scratch: Path) -> dict[str, str]:
    """Return the environment edited code sees: what training needs and nothing of ours."""
    passed = (
        "PATH",
        "LANG",
        "LC_ALL",
        "LD_LIBRARY_PATH",
        "CUDA_VISIBLE_DEVICES",
        "CUDA_HOME",
        "TZ",
        "SYSTEMROOT",
    )
    env = {name: os.environ[name] for name in passed if name in os.environ}
    compiled = prepare.cache_dir().with_name("compiled")
    env |= {
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "TORCHINDUCTOR_CACHE_DIR": str(compiled / "inductor"),
        "TRITON_CACHE_DIR": str(compiled / "triton"),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "AUTORESEARCH_CACHE": str(prepare.cache_dir().parent),
        "AUTORESEARCH_RUN": spec.run,
        "AUTORESEARCH_PROFILE": spec.profile,
        "AUTORESEARCH_DEVICE": spec.device,
        "AUTORESEARCH_SEED": str(spec.seed),
        "AUTORESEARCH_BUDGET_SECONDS": str(spec.budget),
        "AUTORESEARCH_WEIGHTS": str(scratch / "weights.pt"),
        "AUTORESEARCH_FACTS": str(scratch / "facts.json"),
    }
    if spec.preflight:
        env["AUTORESEARCH_PREFLIGHT"] = "1"
    if spec.device == "cpu":
        env |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return env


def start(
    command: list[str], env: dict[str, str], scratch: Path, pipe: int, **streams: Any
) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own that keeps `pipe` open and ends when we end."""
    return subprocess.Popen(
        [sys.executable, "-s", *command],
        stdin=subprocess.DEVNULL,
        cwd=scratch,
        env=env,
        pass_fds=(pipe,),
        start_new_session=True,
        preexec_fn=die_with_parent,  # noqa: PLW1509  the harness has one thread
        **streams,
    )


def stop(child: subprocess.Popen[bytes]) -> None:
    """End the child and everything it left behind; collect its exit code."""
    if child.poll() is None:
        child.kill()
        child.wait()
    end_descendants()


@dataclass
class Meter:
    """What the training child has used so far, measured from outside."""

    spec: Spec
    started: float  # monotonic seconds
    cpu_before: float  # CPU seconds of our descendants before the child started
    startup: float = math.nan  # wall seconds until edited code began; NaN: not yet
    startup_cpu: float = 0.0
    peak_memory: int = 0

    def used(self) -> float:
        """Return the budget used: CPU seconds of the tree on cpu, else wall seconds."""
        cpu, resident = tree_usage()
        self.peak_memory = max(self.peak_memory, resident)
        if self.spec.device == "cpu":
            return cpu - self.cpu_before - self.startup_cpu
        return time.monotonic() - self.started - self.startup

    def verdict(self, used: float) -> str | None:
        """Return why the run must stop now, or None."""
        spec = self.spec
        if time.monotonic() - self.started > spec.timeout:
            return "timeout"
        allowed = max(2.0, 0.1 * spec.budget) if spec.device == "cpu" else spec.startup
        timed = not spec.preflight and not math.isnan(self.startup)
        return "over_budget" if timed and used > spec.budget + allowed else None


def train(spec: Spec, env: dict[str, str], scratch: Path) -> Outcome:
    """Run train.py in a child under its budget and its timeout, relaying what it prints."""
    ready_read, ready_write = os.pipe()
    meter = Meter(spec, time.monotonic(), tree_usage()[0])
    command = [str(HERE / "launch.py"), str(spec.script), str(ready_write)]
    child = start(command, env, scratch, ready_write, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    os.close(ready_write)
    output = child.stdout.fileno()  # type: ignore[union-attr]
    relay, reason, next_look = Relay(), None, 0.0
    waiting = [output, ready_read]
    while child.poll() is None and reason is None:
        for fd in select.select(waiting, [], [], POLL_SECONDS)[0]:
            data = os.read(fd, 1 << 16)
            if fd == output:
                relay.feed(data)
            elif data:
                meter.startup, meter.startup_cpu = time.monotonic() - meter.started, float(data)
            if not data:
                waiting.remove(fd)
        if time.monotonic() >= next_look:
            next_look = time.monotonic() + POLL_SECONDS
            reason = meter.verdict(meter.used())
    ended = time.monotonic()
    stop(child)
    used = meter.used()
    _drain(output, relay)
    relay.close()
    os.close(ready_read)
    return Outcome(
        reason=reason or meter.verdict(used) or "exited",
        exit_code=child.returncode,
        wall_seconds=ended - meter.started,
        training_seconds=used if spec.device == "cpu" else ended - meter.started - meter.startup,
        startup_seconds=meter.startup,
        peak_memory_bytes=meter.peak_memory,
    )


def _drain(fd: int, relay: Relay) -> None:
    os.set_blocking(fd, False)
    try:
        while data := os.read(fd, 1 << 16):
            relay.feed(data)
    except BlockingIOError:
        return


# ---------------------------------------------------------------------------
# Evaluation
# ---------------------------------------------------------------------------


def evaluate(spec: Spec, env: dict[str, str], scratch: Path) -> dict[str, Any]:
    """Return what the evaluator process found: `val_bpb` and more, or `error`."""
    result_read, result_write = os.pipe()
    command = [str(HERE / "evaluate.py"), str(spec.script), env["AUTORESEARCH_WEIGHTS"], str(result_write)]
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    child = start(command, env, scratch, result_write, **streams)
    os.close(result_write)
    try:
        _, errors = child.communicate(timeout=EVALUATION_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        return {"error": f"evaluation took longer than {EVALUATION_TIMEOUT_SECONDS:.0f} s"}
    finally:
        stop(child)
    with os.fdopen(result_read, "rb") as pipe:
        answer = pipe.read(1 << 16)
    if child.returncode != 0:
        relay = Relay()
        relay.feed(errors)
        relay.close()
        return {"error": f"the evaluator ended with exit code {child.returncode}"}
    found: dict[str, Any] = json.loads(answer)
    if "error" not in found and not math.isfinite(found["val_bpb"]):
        return {"error": "val_bpb is not finite"}
    return found


# ---------------------------------------------------------------------------
# Facts and report
# ---------------------------------------------------------------------------


def check_protected() -> str:
    """Return the digest of the protected files; raise UnfitError where they are not the pinned ones.

    The study pins a list of files with their sha256 (`protected.json`) and passes its digest.
    """
    root, pinned = os.environ.get("AUTORESEARCH_PROTECTED"), os.environ.get("AUTORESEARCH_PROTECTED_SHA256")
    if not root or not pinned:
        return ""
    listing = Path(root) / "protected.json"
    try:
        if prepare.sha256_file(listing) != pinned:
            raise UnfitError(f"{listing} is not the list this study pinned")
        for name, digest in json.loads(listing.read_text()).items():
            if prepare.sha256_file(Path(root) / name) != digest:
                raise UnfitError(f"protected file {name} was changed")
    except OSError as error:
        raise UnfitError(f"protected files: {error}") from error
    return pinned


def device_name(device: str) -> str:
    """Return the name of the device, as its driver or the kernel gives it."""
    if device == "cuda":
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0]
        if visible:
            query += ["-i", visible]
        try:
            names = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout
            return names.splitlines()[0].strip()
        except (OSError, subprocess.SubprocessError, IndexError):
            return "cuda"
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def read_facts(path: str) -> dict[str, float]:
    """Return the figures train.py left, those that are finite numbers. They are never the score."""
    try:
        loaded = json.loads(Path(path).read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(loaded, dict):
        return {}
    return {
        str(name): float(value)
        for name, value in loaded.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


@dataclass
class Report:
    """Everything one run reports."""

    spec: Spec
    outcome: Outcome | None = None
    facts: dict[str, float] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    problem: str | None = None  # None: measured
    detail: str = ""
    total_seconds: float = 0.0

    def machine(self) -> dict[str, Any]:
        """Return the machine line's object; unknown figures are null."""
        spec, end, facts = self.spec, self.outcome, self.facts
        tokens = facts.get("total_tokens")
        # The budget's clock in train.py leaves compilation out; it is a figure, not a limit.
        busy = facts.get("used_seconds") if spec.device != "cpu" else end and end.training_seconds
        rate = tokens / busy if tokens and busy else None
        name = device_name(spec.device)
        peak_flops = next((value for part, value in PEAK_FLOPS.items() if part in name), None)
        flops = facts.get("flops_per_token")
        memory = facts.get("peak_memory_bytes") or (end and end.peak_memory_bytes)
        return {
            "schema": 1,
            "run": spec.run,
            "outcome": self.problem or "ok",
            "detail": self.detail,
            "val_bpb": self.evaluation.get("val_bpb"),
            "kind": spec.kind,
            "device": name,
            "device_type": spec.device,
            "profile": spec.profile,
            "seed": spec.seed,
            "budget_seconds": spec.budget,
            "training_seconds": end and _figure(end.training_seconds),
            "startup_seconds": end and _figure(end.startup_seconds),
            "eval_seconds": self.evaluation.get("eval_seconds"),
            "total_seconds": round(self.total_seconds, 3),
            "num_steps": _whole(facts.get("num_steps")),
            "total_tokens": _whole(tokens),
            "tokens_per_second": _figure(rate),
            "mfu_percent": _figure(100 * flops * rate / peak_flops)
            if flops and rate and peak_flops
            else None,
            "peak_memory_mb": _figure(memory / 1e6) if memory else None,
            "num_params": self.evaluation.get("num_params"),
            "depth": _whole(facts.get("depth")),
            "exit_code": end and end.exit_code,
            "digests": self.digests,
            "python": platform.python_version(),
        }

    def print(self) -> None:
        """Print the summary in the upstream form and the machine line, last."""
        facts = self.machine()
        if self.problem is None:
            lines = [
                ("val_bpb", f"{facts['val_bpb']:.6f}"),
                ("training_seconds", f"{facts['training_seconds'] or 0:.1f}"),
                ("total_seconds", f"{facts['total_seconds']:.1f}"),
                ("peak_vram_mb", f"{facts['peak_memory_mb'] or 0:.1f}"),
                ("mfu_percent", f"{facts['mfu_percent'] or 0:.2f}"),
                ("total_tokens_M", f"{(facts['total_tokens'] or 0) / 1e6:.1f}"),
                ("num_steps", f"{facts['num_steps'] or 0}"),
                ("num_params_M", f"{facts['num_params'] / 1e6:.1f}"),
                ("depth", f"{facts['depth'] or 0}"),
            ]
            write(("---\n" + "".join(f"{name + ':':<17} {value}\n" for name, value in lines)).encode())
        else:
            write(f"FAILED {self.problem}: {self.detail}\n".encode(errors="replace"))
        write(MARKER + json.dumps(facts, allow_nan=False).encode() + b"\n")


def _figure(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 4)


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


# ---------------------------------------------------------------------------
# Main
# ---------------------------------------------------------------------------


def measure(spec: Spec, scratch: Path) -> Report:
    """Return the report of one run; UnfitError where this machine cannot run it."""
    report = Report(spec)
    started = time.monotonic()
    report.digests["protected"] = check_protected()
    try:
        report.digests["code"] = prepare.sha256_file(spec.script)
    except OSError as error:
        raise UnfitError(f"no training script: {error}") from error
    if not spec.preflight:
        try:
            prepare.prepare()
        except SystemExit as refusal:
            raise UnfitError(str(refusal)) from refusal
        report.digests["data"] = prepare.data_digest()
    env = child_environment(spec, scratch)
    outcome = report.outcome = train(spec, env, scratch)
    report.facts = read_facts(env["AUTORESEARCH_FACTS"])
    weights = Path(env["AUTORESEARCH_WEIGHTS"])
    if outcome.reason == "timeout":
        report.problem, report.detail = "timeout", f"ran longer than {spec.timeout:.0f} s"
    elif outcome.reason == "over_budget":
        seconds = f"{outcome.training_seconds:.1f} of {spec.budget:g}"
        report.problem, report.detail = "over_budget", f"used {seconds} s of its budget"
    elif outcome.exit_code:
        report.problem, report.detail = "exit", f"training ended with exit code {outcome.exit_code}"
    elif not weights.is_file():
        report.problem, report.detail = "no_weights", "training ended without saving its weights"
    elif not spec.preflight:
        report.digests["weights"] = prepare.sha256_file(weights)
        report.evaluation = evaluate(spec, env, scratch)
        if "error" in report.evaluation:
            report.problem, report.detail = "evaluation", report.evaluation.pop("error")
    report.total_seconds = time.monotonic() - started
    return report


def main() -> int:
    """Run and report; return the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    adopt_orphans()
    spec = Spec.from_environment(sys.argv[1] if len(sys.argv) > 1 else None)
    scratch = Path(tempfile.mkdtemp(prefix="scratch-", dir=os.environ.get("AUTORESEARCH_SCRATCH"))).resolve()
    try:
        report = measure(spec, scratch)
    except UnfitError as error:
        report = Report(spec, problem="unfit", detail=str(error))
        report.print()
        return EXIT_UNFIT
    finally:
        end_descendants()
        shutil.rmtree(scratch, ignore_errors=True)
    if spec.preflight:
        print("preflight passed" if report.problem is None else f"preflight: {report.detail}", flush=True)
        return EXIT_FAILED if report.problem else 0
    report.print()
    return EXIT_FAILED if report.problem else 0


if __name__ == "__main__":
    sys.exit(main())
