"""The files a task brings along: copied to the cluster's home when it is launched."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

from autoresearch.executors.sky.client import SkyError, Task


def mounts_of(task: Task) -> Mapping[str, Path]:
    """Return a task's local files by where they go below HOME.

    Raises SkyError for what does not exist, and for what would lie outside the cluster's folder.
    """
    found = {}
    for target, source in (task.get("file_mounts") or {}).items():
        below = target.removeprefix("~/")
        if below == target or ".." in Path(below).parts or Path(below).is_absolute():
            raise SkyError(f"file_mounts: {target} is not below ~/, where the stand-in keeps its files")
        if not isinstance(source, str | Path) or not Path(source).expanduser().exists():
            raise SkyError(f"file_mounts: {target}: there is no local file or folder {source}")
        found[below] = Path(source).expanduser()
    return found


def copy_mounts(mounts: Mapping[str, Path], home: Path) -> None:
    """Copy files and folders below a home; what is there already is replaced or added to."""
    for below, source in mounts.items():
        target = home / below
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, copy_function=_copy, dirs_exist_ok=True)
        else:
            _copy(str(source), str(target))


def _copy(source: str, target: str) -> None:
    """Copy a file in one step: a job that reads it sees the old one or the new."""
    partial = Path(target).with_name(f".{uuid.uuid4().hex}")
    shutil.copy2(source, partial)
    partial.rename(target)
