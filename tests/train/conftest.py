"""The training side is tested where torch is installed, on prepared data shared by all tests."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from training import TRAIN

pytest.importorskip("torch", reason="the training side needs autoresearch[train]")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the cpu profile prepared, made once and shared by parallel workers."""
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"autoresearch-test-cache-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "AUTORESEARCH_CACHE": str(folder)}
    subprocess.run(
        [sys.executable, str(TRAIN / "prepare.py")], env=environment, check=True, capture_output=True
    )
    return folder


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Callable[..., ModuleType]]:
    """Import a training module anew, with a profile: its constants are fixed at import."""
    names = (
        *("corpus", "prepare", "spec", "sandbox", "seal", "processes", "prune", "supervise", "report"),
        *("serve", "evaluate", "harness", "train"),
    )
    monkeypatch.syspath_prepend(str(TRAIN))

    def load(name: str, profile: str = "cpu", cache_dir: Path | None = None, **env: str) -> ModuleType:
        monkeypatch.setenv("AUTORESEARCH_CACHE", str(cache_dir or cache))
        monkeypatch.setenv("AUTORESEARCH_PROFILE", profile)
        for key, value in env.items():
            monkeypatch.setenv(f"AUTORESEARCH_{key}", value)
        for other in names:
            sys.modules.pop(other, None)
        return importlib.import_module(name)

    yield load
    for other in names:
        sys.modules.pop(other, None)
