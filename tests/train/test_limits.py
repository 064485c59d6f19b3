"""What edited code leaves behind is hostile: figures, folders; none of it may stop or blind the harness."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

Fresh = Callable[..., ModuleType]


@pytest.mark.parametrize("figure", ["1" + 400 * "0", "1e300", "-1e300", "1e999", "NaN", '"7"', "true", "[1]"])
def test_a_figure_that_is_none_is_passed_over(fresh: Fresh, tmp_path: Path, figure: str) -> None:
    facts = tmp_path / "facts.json"
    facts.write_text(f'{{"num_steps": {figure}, "depth": 2}}')
    assert fresh("report").read_facts(str(facts)) == {"depth": 2.0}


def nested(folder: Path, depth: int, name: str = "d") -> None:
    """Make folders in one another, deeper than any path can say."""
    before = Path.cwd()
    os.chdir(folder)
    for _ in range(depth):
        os.mkdir(name)  # noqa: PTH102  relative, as edited code would
        os.chdir(name)
    Path("bottom").write_bytes(bytes(1 << 20))
    os.chdir(before)


@pytest.mark.parametrize(("depth", "name"), [(1500, "d"), (30, "d" * 200)])
def test_what_lies_deep_is_seen_and_removed(fresh: Fresh, tmp_path: Path, depth: int, name: str) -> None:
    processes = fresh("processes")
    folder = tmp_path / "home"
    folder.mkdir()
    nested(folder, depth, name)
    assert processes.written(folder, 1 << 30)
    processes.remove(folder)
    assert not folder.exists()


def test_a_folder_without_rights_is_removed(fresh: Fresh, tmp_path: Path) -> None:
    (tmp_path / "home" / "closed" / "inner").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "home" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "home" / "closed" / "inner").chmod(0)
    (tmp_path / "home" / "closed").chmod(0)
    fresh("processes").remove(tmp_path / "home")
    assert not (tmp_path / "home").exists()
    assert (tmp_path / "elsewhere").exists()


def test_a_folder_that_cannot_be_read_is_too_much(
    fresh: Fresh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes = fresh("processes")

    def closed(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(processes.os, "scandir", closed)  # root may read whatever has no rights
    assert "cannot be looked into" in processes.written(tmp_path, 1 << 30)


def test_what_is_gone_while_it_is_counted_does_not_hide_the_rest(
    fresh: Fresh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes = fresh("processes")
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(bytes(1 << 20))

    class Gone:
        def is_dir(self, *, follow_symlinks: bool) -> bool:
            return False

        def stat(self, *, follow_symlinks: bool) -> None:
            raise FileNotFoundError(follow_symlinks)

    listed = list(os.scandir(tmp_path))
    monkeypatch.setattr(processes.os, "scandir", lambda _: contextlib.nullcontext([Gone(), *listed]))
    assert processes.written(tmp_path, 1 << 20)
