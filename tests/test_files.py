"""The end of any file, writes that appear whole, and disks that cannot be trusted."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from autoresearch.errors import StorageError, UsageError
from autoresearch.files import filesystem_type, read_mounts, read_tail, refuse_network_filesystem, write_whole

MOUNTS = [
    ("/", "ext4"),
    ("/home", "nfs4"),
    ("/home/me/local", "xfs"),
    ("/mnt/s", "fuse.sshfs"),
    ("/home", "nfs4"),
]


def test_a_tail_of_a_sparse_gigabyte_takes_no_time(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        file.truncate(1 << 30)
        file.seek(0, os.SEEK_END)
        file.write(b"the end")
    assert read_tail(path, 16).endswith(b"the end")
    assert len(read_tail(path, 16)) == 16


def test_a_short_or_missing_file_has_a_short_tail(tmp_path: Path) -> None:
    assert read_tail(tmp_path / "none", 10) == b""
    (tmp_path / "one").write_bytes(b"abc")
    assert read_tail(tmp_path / "one", 10) == b"abc"


def test_a_write_replaces_the_whole_file_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "results.tsv"
    write_whole(path, b"one")
    write_whole(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_says_so_and_leaves_the_old_content(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot write"):
        write_whole(tmp_path / "no" / "folder" / "x", b"x")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_really_full_disk_is_said_and_the_old_content_stays(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=False)
    if mounted.returncode != 0:
        pytest.skip("this sandbox does not allow mounts")
    try:
        write_whole(disk / "x", b"old")
        with pytest.raises(StorageError, match="No space left"):
            write_whole(disk / "x", b"n" * 200_000)
        assert (disk / "x").read_bytes() == b"old"
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/tmp/x", "ext4"),
        ("/home/me", "nfs4"),
        ("/home/me/local/x", "xfs"),
        ("/homer", "ext4"),
        ("/mnt/s/a", "fuse.sshfs"),
    ],
)
def test_the_deepest_mount_tells_the_type(path: str, kind: str) -> None:
    assert filesystem_type(Path(path), MOUNTS) == kind


@pytest.mark.parametrize("path", ["/home/me/study", "/mnt/s/study"])
def test_a_network_file_system_is_refused_with_the_way_out(path: str) -> None:
    with pytest.raises(UsageError, match="network file system") as error:
        refuse_network_filesystem(Path(path), MOUNTS)
    assert "state_dir" in error.value.hint
    assert error.value.exit_code == 2


def test_a_local_disk_is_fine(tmp_path: Path) -> None:
    refuse_network_filesystem(Path("/home/me/local/study"), MOUNTS)
    refuse_network_filesystem(tmp_path, [("/", "ext4")])
    assert read_mounts()
