"""Training, from outside: relayed, measured, held to its budget and its limits. Protected."""

from __future__ import annotations

import contextlib
import math
import os
import select
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from processes import Usage, branch_usage, start, stop, too_much, tree_usage
from prune import Ending, Watch, read_limits
from sandbox import Box
from spec import Spec

MARKER = b"autoresearch: "  # begins the harness's machine line
LOG_HEAD_BYTES = 4 << 20  # of what training prints, this much is kept from the start
LOG_TAIL_BYTES = 64 << 10  # and this much from the end
POLL_SECONDS = 0.5
ANSWERING_SECONDS = 30.0  # CPU time that all answers of a model may take, beside as much as its budget
LOADING_SECONDS = 0.5  # of a model's first answer, that cost nothing: it is loaded in a tenth of that
OVER_BUDGET_SHARE, OVER_BUDGET_SECONDS = 0.05, 2.0  # the larger one may be used beyond the budget on a CPU


@dataclass
class Outcome:
    """How a supervised process ended."""

    reason: str  # "exited", or the problem for which it was ended
    detail: str  # of that problem
    exit_code: int | None  # negative: the signal that ended it
    wall_seconds: float
    training_seconds: float  # on cpu CPU seconds of the process tree, else wall, since edited code began
    startup_seconds: float  # wall time until edited code began; NaN: it never did
    busy_seconds: float | None  # that its GPU worked; None: not measured
    peak_memory_bytes: int
    ending: Ending | None = None  # why it was ended early, where that was for its loss
    curve: list[tuple[float, float]] = field(default_factory=list)  # share of the budget, printed loss


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


class Busy:
    """How long this run's GPU has worked, as its driver tells it twice a second.

    Training without limits on a GPU is wall time less what compilation takes, and how much that was only
    the edited code knows. A GPU that is compiled for is idle; one that is trained on is not.
    """

    def __init__(self, device: str) -> None:
        """Begin to listen; there is nothing to hear without a GPU of that kind."""
        self.seconds: float | None = None
        self._held = b""
        self._child = None
        if device == "cuda":
            query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0]
            query += [*(["-i", visible] if visible else []), "-lms", str(int(1000 * POLL_SECONDS))]
            try:
                self._child = subprocess.Popen(
                    query, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
                )
            except OSError:
                return
            os.set_blocking(self._child.stdout.fileno(), False)  # type: ignore[union-attr]

    @property
    def pids(self) -> list[int]:
        """The process that listens for us."""
        return [self._child.pid] if self._child else []

    def read(self) -> float | None:
        """Return the seconds so far; None where nothing was heard."""
        if self._child is None:
            return None
        with contextlib.suppress(BlockingIOError):
            self._held += os.read(self._child.stdout.fileno(), 1 << 16)  # type: ignore[union-attr]
        *lines, self._held = self._held.split(b"\n")
        for line in lines:
            if line.strip().isdigit():
                self.seconds = (self.seconds or 0.0) + POLL_SECONDS * min(100, int(line)) / 100
        return self.seconds

    def close(self) -> None:
        """Stop listening."""
        if self._child:
            self._child.kill()
            self._child.wait()


def beyond(budget: float) -> float:
    """Return the seconds that may be used beyond a budget: to finish a step, and to save."""
    return max(OVER_BUDGET_SECONDS, OVER_BUDGET_SHARE * budget)


@dataclass
class Meter:
    """What the training child has used so far, measured from outside."""

    spec: Spec
    home: Path  # what it may write to
    busy: Busy
    started: float  # monotonic seconds
    cpu_before: float  # CPU seconds of our descendants before the child started
    spared: list[int]  # processes that are not part of it
    startup: float = math.nan  # wall seconds until edited code began; NaN: not yet
    startup_cpu: float = 0.0
    peak_memory: int = 0
    usage: Usage = field(default_factory=lambda: Usage(0.0, 0, 0, 0))

    def used(self) -> float:
        """Return the budget used: CPU seconds of the tree on cpu, else wall seconds."""
        usage = tree_usage(self.spared)
        self.peak_memory = max(self.peak_memory, usage.resident)
        self.usage = replace(usage, resident=self.peak_memory)
        if self.spec.device == "cpu":
            return usage.cpu - self.cpu_before - self.startup_cpu
        return time.monotonic() - self.started - self.startup

    def share(self, used: float) -> float:
        """Return the share of the budget that may be used by the next look; 0 before edited code began."""
        if math.isnan(self.startup):
            return 0.0
        return (used + POLL_SECONDS) / self.spec.budget if self.spec.budget > 0 else 1.0

    def verdict(self, used: float) -> tuple[str, str] | None:
        """Return why the run must stop now, as a problem and its detail, or None."""
        spec = self.spec
        if time.monotonic() - self.started > spec.timeout:
            return "timeout", f"ran longer than {spec.timeout:.0f} s"
        why = too_much(self.usage, self.home, spec)
        if why is not None:
            return why
        return None if spec.preflight or math.isnan(self.startup) else self._over_budget(used)

    def _over_budget(self, used: float) -> tuple[str, str] | None:
        spec, busy, allowed = self.spec, self.busy.read(), beyond(self.spec.budget)
        if used > spec.budget + (allowed if spec.device == "cpu" else spec.startup):
            return "over_budget", f"used {used:.1f} of {spec.budget:g} s of its budget"
        if busy is not None and busy > spec.budget + 2 * allowed:  # warming up, and choosing kernels
            return "over_budget", f"had the GPU work {busy:.1f} s in a budget of {spec.budget:g} s"
        return None


class Watched:
    """A process that answers for a model, watched while it is asked: edited code could train in it.

    Rebuilding a model costs seconds that its other answers do not; what it uses before its first one is
    charged to the budget of training. Answers that are all as dear are bounded together.
    """

    def __init__(self, pid: int, folder: Path, spec: Spec, busy: Busy) -> None:
        self._pid, self.folder, self._spec, self._busy = pid, folder, spec, busy
        self._costs: list[float] = []
        self._before: float | None = None
        self._next_look = 0.0

    @property
    def pids(self) -> list[int]:
        """The process, and what listens to its device."""
        return [self._pid, *self._busy.pids]

    def _used(self, usage: Usage) -> float:
        """Return seconds of the CPU, or of the GPU: only one model's process is asked at a time."""
        return usage.cpu if self._spec.device == "cpu" else self._busy.read() or 0.0

    def asked(self) -> None:
        """Take note that it is asked; what it used before its first request is ours."""
        if self._before is None:
            self._before = self._used(branch_usage(self._pid))

    def answered(self) -> None:
        """Take note of an answer and of what it cost."""
        used = self._used(branch_usage(self._pid))
        self._costs.append(used - (self._before or 0.0))
        self._before = used

    def verdict(self) -> tuple[str, str] | None:
        """Return why it must be ended now, as a problem and its detail, or None; looks twice a second."""
        if time.monotonic() < self._next_look:
            return None
        self._next_look = time.monotonic() + POLL_SECONDS
        spec, usage = self._spec, branch_usage(self._pid)
        spent = sum(self._costs) + self._used(usage) - (self._before or 0.0)
        if self._before is not None and spent > ANSWERING_SECONDS + spec.budget:
            return (
                "over_budget",
                f"its model took {spent:.0f} s to answer, in a budget of {spec.budget:g} s",
            )
        return too_much(usage, self.folder, spec)

    def late(self) -> float:
        """Return the seconds it used for its first answer beyond those of a usual one."""
        return max(0.0, self._costs[0] - median(self._costs[1:])) if len(self._costs) > 1 else 0.0


def late_problem(spec: Spec, outcome: Outcome, late: float) -> str | None:
    """Return what is wrong with what a run used of its budget, its model's first answer among it."""
    used, allowed = outcome.training_seconds, beyond(spec.budget)
    if spec.device != "cpu":
        used, allowed = outcome.busy_seconds or 0.0, 2 * allowed
    if used + late - LOADING_SECONDS <= spec.budget + allowed:
        return None
    return (
        f"used {used:.1f} of {spec.budget:g} s of its budget, and {late:.1f} s more when its model was asked:"
        " build_model() is not to train"
    )


@dataclass
class Training:
    """The training child: started, watched and ended."""

    spec: Spec
    env: dict[str, str]
    folder: Path
    box: Box | None


def train(training: Training, script: Path, when_ready: Callable[[], list[int]]) -> Outcome:
    """Run train.py in a child under its budget and its limits, relaying what it prints.

    `when_ready` is called once edited code begins, and returns the pids of processes it started beside.
    """
    spec = training.spec
    ready_read, ready_write = os.pipe()
    busy = Busy(spec.device)
    spared = list(busy.pids)
    meter = Meter(spec, training.folder, busy, time.monotonic(), tree_usage(spared).cpu, spared)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    words = [str(script), str(ready_write)]
    child = start("launch.py", words, training.env, training.folder, training.box, (ready_write,), **streams)
    os.close(ready_write)
    output = child.stdout.fileno()  # type: ignore[union-attr]
    relay, why, next_look = Relay(), None, 0.0
    watch, ending, most = Watch(read_limits(spec.prune)), None, 0.0
    waiting = [output, ready_read]
    while child.poll() is None and why is None:
        for fd in select.select(waiting, [], [], POLL_SECONDS)[0]:
            data = os.read(fd, 1 << 16)
            if fd == output:
                relay.feed(data)
                watch.feed(data, most)
            elif data:
                meter.startup, meter.startup_cpu = time.monotonic() - meter.started, float(data)
                spared += when_ready()
            if not data:
                waiting.remove(fd)
        if time.monotonic() >= next_look:
            next_look = time.monotonic() + POLL_SECONDS
            used = meter.used()
            why, most = meter.verdict(used), meter.share(used)
            if why is None and watch.ending is not None and not spec.preflight:
                ending = watch.ending
                why = ending.problem, ending.detail
    ended = time.monotonic()
    stop(child, spared)
    used = meter.used()
    _drain(output, relay)
    relay.close()
    watch.close()
    os.close(ready_read)
    reason, detail = why or meter.verdict(used) or ("exited", "")
    busy.close()
    return Outcome(
        reason=reason,
        detail=detail,
        exit_code=child.returncode,
        wall_seconds=ended - meter.started,
        training_seconds=used if spec.device == "cpu" else ended - meter.started - meter.startup,
        startup_seconds=meter.startup,
        busy_seconds=busy.seconds,
        peak_memory_bytes=meter.peak_memory,
        ending=ending,
        curve=watch.curve,
    )


def _drain(fd: int, relay: Relay) -> None:
    os.set_blocking(fd, False)
    try:
        while data := os.read(fd, 1 << 16):
            relay.feed(data)
    except BlockingIOError:
        return
