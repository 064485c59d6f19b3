"""Process trees: tie them to their parent, and end them whole."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator

import psutil

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
JOB_VARIABLE = "AUTORESEARCH_FOLDER"  # set in every process of a job; a name may occur in other studies too


def die_with_parent() -> None:
    """Have the kernel end this process when its parent ends (Linux; elsewhere nothing)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of whatever our descendants leave behind (Linux; elsewhere nothing)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_descendants(grace_seconds: float = 0.0) -> None:
    """End every process below this one: ask first if there is grace, then kill until none is left."""
    if grace_seconds > 0:
        asked = _alive()
        for process in asked:
            _signal(process, signal.SIGTERM)
        psutil.wait_procs(asked, timeout=grace_seconds)
    while alive := _alive():  # a fork may race a kill
        for process in alive:
            _signal(process, signal.SIGKILL)
        psutil.wait_procs(alive, timeout=0.2)


def end_job(folder: str, seconds: float = 5.0) -> int:
    """Kill every process of this user that carries a job's folder; return how many there were."""
    found = 0
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        strays = list(_carrying(folder))
        if not strays:
            break
        found += len(strays)
        for process in strays:
            _signal(process, signal.SIGKILL)
        psutil.wait_procs(strays, timeout=0.5)
    return found


def _carrying(folder: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(JOB_VARIABLE) == folder:
                yield process
        except (psutil.Error, OSError):  # gone, or another user's
            continue


def _alive() -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if _running(p)]


def _running(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
