"""A process and all it starts, from outside: started, measured, bounded, ended. Protected."""

from __future__ import annotations

import ctypes
import math
import os
import resource
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from spec import HERE, Spec

MARKER = b"autoresearch: "  # begins the harness's machine line
LOG_HEAD_BYTES = 4 << 20  # of what training prints, this much is kept from the start
LOG_TAIL_BYTES = 64 << 10  # and this much from the end
POLL_SECONDS = 0.5


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
