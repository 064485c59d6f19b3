"""Fixtures that every test may use."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from lab import ROOT, Lab

# A busy machine draws slowly and misses deadlines; neither says anything about the code.
settings.register_profile(
    "patient", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("patient")


@pytest.fixture(autouse=True)
def _quiet_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tests see no key, no cache and no git identity of the person who runs them."""
    for name in list(os.environ):
        if name.startswith(("AUTORESEARCH_", "ANTHROPIC_", "GIT_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "no-git-config"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "study")


@pytest.fixture
def cli(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the real command as a process, in a folder."""

    def call(*arguments: str, cwd: Path = tmp_path, **options: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "autoresearch", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
        settings = {"capture_output": True, "text": True, "timeout": 120, **options}
        return subprocess.run(command, cwd=cwd, env=environment, check=False, **settings)

    return call
