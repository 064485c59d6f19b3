"""A SkyPilot pool on the stand-in: real jobs in folders of this machine, for the executor's tests."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from autoresearch.config import Pool
from autoresearch.executors.sky import render
from autoresearch.executors.sky.executor import SkyPilotExecutor
from autoresearch.executors.sky.pace import Pace
from autoresearch.executors.sky.standin import StandIn

# Waits of a twentieth of a second, in the proportions of real ones.
PACE = Pace(
    setup_look=0.04,
    unclear_look=0.06,
    early_look=0.3,
    late_look=0.02,
    repeats=(0.05, 0.1),
    margin=0.1,
    first_latency=0.1,
    first_pause=0.1,
    longest_pause=0.3,
    stuck=30.0,
    closing=60.0,
)
TASKS = Path(__file__).resolve().parents[1] / "tasks"


def recipe(folder: Path, **changes: Any) -> render.Recipe:
    """Return a recipe whose machines need nothing but this machine's Python."""
    protected = folder / "protected"
    protected.mkdir(parents=True, exist_ok=True)
    values: dict[str, Any] = {
        "worker": (TASKS / "worker.yaml").read_text(),
        "experiment": (TASKS / "experiment.yaml").read_text(),
        "protected": str(protected),
        "protected_sha256": "",
        "baseline": {"train/train.py": "VALUE = 0\n"},
        "command": ("{python}", "-c", "pass"),
        "prepare": None,
        "env": {"AUTORESEARCH_PROFILE": "cpu"},
        "python": sys.executable,
    }
    return render.Recipe(**{**values, **changes})


def sky_executor(folder: Path, client: StandIn | None = None, **changes: Any) -> SkyPilotExecutor:
    """Return an executor over a stand-in, whose clocks tick fast enough for a test."""
    pool = changes.pop("pool", Pool(executor="skypilot", workers={"H100": 1, "H200": 1}))
    values: dict[str, Any] = {
        "study": "t",
        "state": folder / "state",
        "usual_seconds": 0.3,
        "pace": PACE,
    }
    return SkyPilotExecutor(
        client or StandIn(folder / "sky"),
        changes.pop("recipe", recipe(folder)),
        pool,
        **{**values, **changes},
    )
