"""What one run is, from the environment the harness was started in. Protected."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import psutil

import prepare

HERE = Path(__file__).resolve().parent
SANDBOXES = ("auto", "required", "off")


@dataclass(frozen=True)
class Spec:
    """What to run, from the environment. Times are in seconds."""

    script: str  # the edited file that is run, as it was named
    code: tuple[str, ...]  # all edited files, it among them
    run: str
    kind: str
    seed: int
    budget: float
    timeout: float  # wall time of the training process, start-up included
    startup: float  # on cuda and mps: wall time allowed beside the budget, for compilation
    device: str
    profile: str
    preflight: bool
    prune: str  # limits below which training is ended early, as JSON; "": none
    sandbox: str  # "auto": where there is one; "required": nowhere else; "off"
    trusted: bool  # whether what torch compiles in it may serve other runs: it is a human's code
    memory_bytes: int  # that training may hold, all its processes together
    disk_bytes: int  # that it may write
    processes: int  # that it may have at once

    @classmethod
    def from_environment(cls, script: str | None) -> Spec:
        """Return the spec the AUTORESEARCH_* variables describe."""
        env = os.environ
        device = prepare.device_type()
        budget = prepare.budget_seconds()
        timeout = 60.0 + (12 if device == "cpu" else 2) * budget
        named = script or str(HERE / "train.py")
        code = [name for name in env.get("AUTORESEARCH_EDITABLE", "").split(os.pathsep) if name]
        memory = _memory_bytes() // 10 * (5 if device == "cpu" else 9)
        return cls(
            script=named,
            code=tuple(dict.fromkeys([*code, named])),
            run=env.get("AUTORESEARCH_RUN", "by-hand"),
            kind=env.get("AUTORESEARCH_KIND", device),
            seed=prepare.seed(),
            budget=budget,
            timeout=float(env.get("AUTORESEARCH_TIMEOUT_SECONDS", timeout)),
            startup=float(env.get("AUTORESEARCH_STARTUP_SECONDS", 240.0)),
            device=device,
            profile=prepare.PROFILE,
            preflight=prepare.PREFLIGHT,
            prune=env.get("AUTORESEARCH_PRUNE", ""),
            sandbox=_sandbox(env.get("AUTORESEARCH_SANDBOX", "auto")),
            trusted=env.get("AUTORESEARCH_TRUSTED") == "1",
            memory_bytes=int(env.get("AUTORESEARCH_MEMORY_BYTES", memory)),
            disk_bytes=int(env.get("AUTORESEARCH_DISK_BYTES", (2 if device == "cpu" else 32) << 30)),
            processes=int(env.get("AUTORESEARCH_PROCESSES", 512)),
        )


def _sandbox(wanted: str) -> str:
    if wanted not in SANDBOXES:
        raise SystemExit(f"AUTORESEARCH_SANDBOX is {wanted!r}; use one of {', '.join(SANDBOXES)}")
    return wanted


def _memory_bytes() -> int:
    """Return the memory of this machine, or of the container we are in."""
    total = psutil.virtual_memory().total
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            return min(total, int(Path(limit).read_text()))
        except (OSError, ValueError):
            continue
    return total
