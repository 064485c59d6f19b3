"""Processes from outside: started in a box, measured with all they start, ended whole. Protected."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

import sandbox
from sandbox import Box
from spec import HERE, Spec

MOST_FILES = 20_000  # that training may leave in its folder
MOST_DEPTH = 100  # of folders in one another
THREADS_EACH = 16  # as many threads as this times the processes that may be


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


def descendants(spared: Collection[int] = ()) -> list[psutil.Process]:
    """Return every live process below this one, but for those of some pids and what is below them."""
    found: list[psutil.Process] = psutil.Process().children(recursive=True)  # parents before children
    if not spared:
        return found
    left, hidden = [], set(spared)
    for process in found:
        try:
            if process.pid in hidden or process.ppid() in hidden:
                hidden.add(process.pid)
            else:
                left.append(process)
        except psutil.NoSuchProcess:
            continue
    return left


def end_descendants(spared: Collection[int] = ()) -> None:
    """Kill every process below this one, again until none is left: a fork may race a kill."""
    for _ in range(200):
        alive = [p for p in descendants(spared) if _is_alive(p)]
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


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@dataclass(frozen=True)
class Usage:
    """What processes have used."""

    cpu: float  # seconds, with what their dead children used
    resident: int  # bytes
    processes: int
    threads: int


def usage_of(processes: Iterable[psutil.Process]) -> Usage:
    """Return what live processes have used."""
    cpu, resident, count, threads = 0.0, 0, 0, 0
    for process in processes:
        try:
            with process.oneshot():
                times, memory, running = process.cpu_times(), process.memory_info().rss, process.num_threads()
        except psutil.NoSuchProcess:
            continue
        cpu += times.user + times.system + times.children_user + times.children_system
        resident += memory
        count += 1
        threads += running
    return Usage(cpu, resident, count, threads)


def tree_usage(spared: Collection[int] = ()) -> Usage:
    """Return what our descendants have used, dead or alive, but for those of some pids."""
    reaped = resource.getrusage(resource.RUSAGE_CHILDREN)
    usage = usage_of(descendants(spared))
    return replace(usage, cpu=usage.cpu + reaped.ru_utime + reaped.ru_stime)


def branch_usage(pid: int) -> Usage:
    """Return what a process and those below it have used; nothing where it is gone."""
    try:
        process = psutil.Process(pid)
        return usage_of([process, *process.children(recursive=True)])
    except psutil.NoSuchProcess:
        return Usage(0.0, 0, 0, 0)


def too_much(usage: Usage, folder: Path, spec: Spec) -> tuple[str, str] | None:
    """Return what exceeds the limits of a run, as a problem and its detail; None where nothing does."""
    if usage.resident > spec.memory_bytes:
        return "memory", f"took more than {spec.memory_bytes / 1e9:.1f} GB of memory"
    if usage.processes > spec.processes:
        return "processes", f"had more than {spec.processes} processes"
    if usage.threads > THREADS_EACH * spec.processes:
        return "processes", f"had more than {THREADS_EACH * spec.processes} threads"
    wrote = written(folder, spec.disk_bytes)
    return ("disk", wrote) if wrote else None


def written(folder: Path, bytes_allowed: int) -> str | None:
    """Return what is too much of what lies in a folder; None where nothing is.

    What cannot be looked into is too much: folders without rights, or below one another without end.
    """
    size = files = 0
    folders = [(folder, 0)]
    while folders:
        here, depth = folders.pop()
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    files += 1
                    if entry.is_dir(follow_symlinks=False):
                        folders.append((here / entry.name, depth + 1))
                    else:
                        size += _blocks(entry) * 512
                    if files > MOST_FILES:
                        return f"wrote more than {MOST_FILES} files"
        except (FileNotFoundError, NotADirectoryError):  # gone since
            continue
        except OSError as error:
            return f"made a folder that cannot be looked into ({error.strerror})"
        if depth > MOST_DEPTH:
            return f"made more than {MOST_DEPTH} folders in one another"
    return f"wrote more than {bytes_allowed / 1e9:.1f} GB" if size > bytes_allowed else None


def _blocks(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_blocks
    except FileNotFoundError:  # gone since
        return 0


def remove(folder: Path) -> None:
    """Remove a folder with all that edited code made in it, however deep and whatever its rights."""
    inner, number = [folder], 0
    while inner:
        here, found = inner.pop(), []
        with contextlib.suppress(OSError), os.scandir(here) as entries:
            found = list(entries)
        for entry in found:
            with contextlib.suppress(OSError):
                path = here / entry.name
                if entry.is_dir(follow_symlinks=False):
                    path.chmod(0o700)
                    number += 1  # no path grows long, since each folder is moved up before it is entered
                    inner.append(path.rename(folder / f".removed-{number}"))
                else:
                    path.unlink()
        if here != folder:
            with contextlib.suppress(OSError):
                here.rmdir()
    with contextlib.suppress(OSError):
        folder.rmdir()


def start(
    script: str,
    words: list[str],
    env: dict[str, str],
    folder: Path,
    box: Box | None,
    pipes: tuple[int, ...],
    **streams: Any,
) -> subprocess.Popen[bytes]:
    """Start a script of ours in a box and a session of its own. It keeps `pipes`, and ends when we end."""
    command = [sys.executable, "-E", "-s", "-B", "-u", str(HERE / script), *words]
    return subprocess.Popen(
        command if box is None else sandbox.command(box, command),
        stdin=subprocess.DEVNULL,
        cwd=folder,
        env=env,
        pass_fds=pipes,
        start_new_session=True,
        preexec_fn=die_with_parent,  # noqa: PLW1509  the harness has one thread
        **streams,
    )


def stop(child: subprocess.Popen[bytes], spared: Collection[int] = ()) -> None:
    """End the child and everything it left behind; collect its exit code."""
    if child.poll() is None:
        child.kill()
        child.wait()
    end_descendants(spared)
