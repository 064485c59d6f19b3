"""Files: the end of a log of any size, writes that appear whole, locks, disks that cannot be trusted."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import IO

from autoresearch.errors import StorageError, UsageError

LOCK_TRIES, LOCK_SECONDS = 10, 0.05
NETWORK = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "afs", "9p", "ceph", "lustre"),
        *(
            "gpfs",
            "beegfs",
            "glusterfs",
            "fuse.sshfs",
            "fuse.glusterfs",
            "fuse.s3fs",
            "fuse.gcsfuse",
            "fuse.rclone",
        ),
        *("afpfs", "webdav", "panfs", "orangefs", "weka", "wekafs"),
    }
)


def read_tail(path: Path, limit: int) -> bytes:
    """Return at most the last `limit` bytes of a file; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - limit))
            return file.read()
    except FileNotFoundError:
        return b""


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that readers see the old content or the new, never a part.

    Raises StorageError where the disk refuses.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StorageError(
            f"cannot write {path}: {error.strerror}", "free some space or make it writable"
        ) from error


def lock_file(file: IO[str]) -> bool:
    """Lock an open file for as long as it is open; False where another process has it.

    Whoever only looks whether it is locked holds it for an instant, so it is tried again.
    """
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOCK_SECONDS)
        else:
            return True
    return False


def decode_source(name: str, data: bytes) -> str:
    """Return an editable file's text; raise ValueError with one line where it is none."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not text: byte {error.start} is not UTF-8") from None
    if "\0" in text:
        raise ValueError(f"{name} is not text: it holds null bytes")
    if not text.strip():
        raise ValueError(f"{name} is empty")
    return text


def read_mounts() -> list[tuple[str, str]]:
    """Return (mount point, type) of every file system mounted here."""
    import psutil

    return [(part.mountpoint, part.fstype) for part in psutil.disk_partitions(all=True)]


def filesystem_type(path: Path, mounts: list[tuple[str, str]]) -> str:
    """Return the type of the file system a path lies on; "" where that can't be told."""
    resolved = path.resolve()
    holding = [(point, kind) for point, kind in mounts if resolved.is_relative_to(point)]
    # of several mounted on one point the last is the one seen
    return max(reversed(holding), key=lambda entry: len(Path(entry[0]).parts), default=("", ""))[1]


def refuse_network_filesystem(path: Path, mounts: list[tuple[str, str]] | None = None) -> None:
    """Raise UsageError where a path lies on a network file system."""
    kind = filesystem_type(path, read_mounts() if mounts is None else mounts)
    if kind.lower() in NETWORK:
        raise UsageError(
            f"{path} lies on a network file system ({kind}), where the study's database would not be safe",
            "set state_dir in autoresearch.yaml to a folder on a local disk",
        )
