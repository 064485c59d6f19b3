"""What one run is, from the environment the harness was started in. Protected."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import prepare

HERE = Path(__file__).resolve().parent


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
