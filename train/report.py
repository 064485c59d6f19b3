"""What a run reports: the summary other tools parse, and one machine line. Protected."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import prepare
from sandbox import Offer
from spec import Spec
from supervise import MARKER, Outcome, write

MOST_FACTS = 1 << 16  # bytes
LARGEST_FIGURE = 1 << 53  # beyond that an integer is no longer exact as a float, and no figure of a run
STRETCHED_SHARE, STRETCHED_SECONDS = 0.02, 1.0  # of the budget; beyond both a run is flagged
# Dense bf16 peak FLOP/s by a part of the device's name, from the vendors' data sheets.
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "B200": 2250e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}


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
    """Return the figures train.py left, those that are numbers of a likely size. They are never the score."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            loaded = json.loads(file.read(MOST_FACTS))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(loaded, dict):
        return {}
    return {
        str(name): float(value)
        for name, value in loaded.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST_FIGURE
    }


def environment_digest(device: str) -> str:
    """Return one digest of what a result may hang on beside code, data and seed: versions and device."""
    versions = {}
    for package in ("torch", "numpy", "triton"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    facts = {"python": platform.python_version(), "machine": platform.machine(), "device": device}
    return prepare.digest_of(facts | versions)


@dataclass
class Report:
    """Everything one run reports."""

    spec: Spec
    outcome: Outcome | None = None
    facts: dict[str, float] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    sandbox: Offer | None = None  # what edited code was held by
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
            "pruned": end.ending.facts() if end and end.ending else None,
            "curve": [[round(share, 4), round(loss, 6)] for share, loss in end.curve] if end else [],
            "hidden_bpb": self.evaluation.get("hidden_bpb"),
            "audit": self.evaluation.get("audit"),
            "late_seconds": _figure(self.evaluation.get("late_seconds")),
            "sandbox": self.sandbox.facts if self.sandbox and not self.sandbox.reason else None,
            "unsandboxed": self.sandbox.reason if self.sandbox else "",
            "busy_seconds": end and _figure(end.busy_seconds),
            "flags": self.flags(),
            "digests": {**self.digests, "environment": environment_digest(name)},
            "python": platform.python_version(),
        }

    def flags(self) -> list[str]:
        """Return what of the run somebody should look at."""
        end, spec = self.outcome, self.spec
        allowed = spec.budget + max(STRETCHED_SECONDS, STRETCHED_SHARE * spec.budget)
        if self.problem or end is None or spec.device != "cpu":
            return []
        used = end.training_seconds + self.evaluation.get("late_seconds", 0.0)
        return [f"trained {used:.1f} s in a budget of {spec.budget:g} s"] if used > allowed else []

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
            write(f"FAILED {self.problem}: {' '.join(self.detail.split())}\n".encode(errors="replace"))
        write(MARKER + json.dumps(facts, allow_nan=False).encode() + b"\n")


def _figure(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 4)


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
