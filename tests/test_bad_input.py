"""What goes wrong on real machines: one clear line, the way out, the documented exit code, nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autoresearch.cli import app
from lab import Lab, git
from test_cli import CONFIG

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def ready(lab: Lab) -> Lab:
    (lab.folder / "autoresearch.yaml").write_text(CONFIG)
    lab.commit("configured")
    return lab


def refused(done: subprocess.CompletedProcess[str], code: int, *said: str) -> None:
    """Assert an exit code and one clear line, with a hint of at most one more."""
    assert done.returncode == code, done.stderr
    for text in said:
        assert text in done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("autoresearch: ")]
    assert len(lines) == 1, done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "pool: {workers: {H10: 1}}",
            "autoresearch.yaml:1: pool.workers.H10: unknown accelerator; did you mean H100?",
        ),
        ("budget: {hours: many}", "autoresearch.yaml:1: budget.hours: is 'many'; use a number"),
        ("target: [", "autoresearch.yaml:1: not YAML"),
    ],
)
def test_a_broken_configuration(ready: Lab, cli: Cli, text: str, said: str) -> None:
    (ready.folder / "autoresearch.yaml").write_text(text)
    refused(cli("run", cwd=ready.folder), 2, said)


def test_a_missing_configuration(ready: Lab, cli: Cli) -> None:
    (ready.folder / "autoresearch.yaml").unlink()
    refused(cli("run", cwd=ready.folder), 2, "no autoresearch.yaml", "autoresearch init")


def test_no_git_repository(ready: Lab, cli: Cli) -> None:
    shutil.rmtree(ready.folder / ".git")
    refused(cli("run", cwd=ready.folder), 2, "in no git repository", "git init")


def test_no_git_at_all(ready: Lab, cli: Cli, tmp_path: Path) -> None:
    refused(cli("run", cwd=ready.folder, env={"PATH": str(tmp_path)}), 2, "git is not installed")


def test_a_dirty_tree(ready: Lab, cli: Cli) -> None:
    (ready.folder / "train.py").write_text("X = 2.0\n")
    refused(cli("run", cwd=ready.folder), 2, "uncommitted changes in train.py", "commit or stash")
    assert (ready.folder / "train.py").read_text() == "X = 2.0\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "train.py is empty"),
        (b"\x7fELF\x00\xff", "train.py is not text"),
        (b"def f(:\n", "does not parse: train.py line 1"),
    ],
)
def test_train_py_is_no_code(ready: Lab, cli: Cli, content: bytes, said: str) -> None:
    (ready.folder / "train.py").write_bytes(content)
    ready.commit()
    refused(cli("run", cwd=ready.folder), 2, said)
    assert not (ready.folder / ".autoresearch").exists(), "nothing was begun"


@pytest.mark.slow
def test_a_baseline_that_crashes(ready: Lab, cli: Cli) -> None:
    (ready.folder / "train.py").write_text("X = 1.0\nCRASH = True\n")
    ready.commit()
    done = cli("run", cwd=ready.folder)
    refused(done, 1, "the baseline itself failed: shape: mat1 and mat2", "autoresearch log e0001")


@pytest.mark.slow
def test_a_baseline_that_fails_its_preflight_begins_nothing(ready: Lab, cli: Cli) -> None:
    preflight = '  preflight: "{python} {protected}/fake_training.py"\n'
    (ready.folder / "autoresearch.yaml").write_text(
        CONFIG.replace("  score: log\n", "  score: log\n" + preflight)
    )
    (ready.folder / "train.py").write_text("X = 1.0\nBROKEN = True\n")
    ready.commit()
    refused(cli("run", cwd=ready.folder), 2, "fails its preflight: import", "autoresearch[train]")
    (ready.folder / "train.py").write_text("X = 1.0\n")
    ready.commit("mended")
    assert cli("run", "--experiments", "0", cwd=ready.folder).returncode == 0


@pytest.mark.slow
def test_a_target_that_changed_under_a_study(ready: Lab, cli: Cli) -> None:
    assert cli("run", "--experiments", "0", cwd=ready.folder).returncode == 0
    (ready.folder / "autoresearch.yaml").write_text(CONFIG.replace("budget_seconds: 5", "budget_seconds: 6"))
    refused(cli("run", cwd=ready.folder), 2, "target.budget_seconds in autoresearch.yaml has changed")


@pytest.mark.slow
def test_the_studys_branch_is_checked_out(ready: Lab, cli: Cli) -> None:
    assert cli("run", "--study", "b", "--experiments", "0", cwd=ready.folder).returncode == 0
    git(ready.folder, "checkout", "--quiet", "autoresearch/b")
    refused(cli("run", cwd=ready.folder), 2, "autoresearch/b is checked out", "git switch main")


@pytest.mark.slow
def test_a_damaged_database(ready: Lab, cli: Cli) -> None:
    assert cli("run", "--study", "d", "--experiments", "0", cwd=ready.folder).returncode == 0
    database = ready.folder / ".autoresearch" / "d" / "study.db"
    database.write_bytes(b"scribble" * 4096)
    for wal in database.parent.glob("study.db-*"):
        wal.unlink()
    refused(cli("status", "--no-json", cwd=ready.folder), 1, "is damaged")


def test_a_gpu_this_machine_does_not_have(ready: Lab, cli: Cli, tmp_path: Path) -> None:
    (ready.folder / "autoresearch.yaml").write_text(CONFIG.replace("{cpu: 2}", "{H100: 2}"))
    without = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if "nvidia" not in p)
    refused(cli("run", cwd=ready.folder, env={"PATH": without}), 6, "asks for 2 H100, this machine has 0")


def test_a_network_file_system_under_the_database(ready: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mount table is the one thing said here that is not so on this machine."""
    monkeypatch.setattr(
        "autoresearch.files.read_mounts", lambda: [("/", "ext4"), (str(ready.folder), "nfs4")]
    )
    result = CliRunner().invoke(app, ["run", "--folder", str(ready.folder)])
    assert result.exit_code == 2
    assert "network file system (nfs4)" in result.stderr
    assert "state_dir" in result.stderr


@pytest.mark.slow
def test_a_pipe_that_closes_early_is_no_error(ready: Lab, cli: Cli) -> None:
    assert cli("run", "--experiments", "1", cwd=ready.folder).returncode == 0
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1])])}
    shell = "python -m autoresearch export --format json | head -c 1"
    done = subprocess.run(
        ["/bin/bash", "-c", f"set -o pipefail; PATH={Path(sys.executable).parent}:$PATH; {shell}"],
        cwd=ready.folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "{", "")


# ---------------------------------------------------------------------------
# Real small disks
# ---------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 6 MB of its own."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root; CI has it")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("this sandbox does not allow mounts")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.slow
def test_a_disk_that_fills_up_during_a_study(small_disk: Path, cli: Cli) -> None:
    """Training fills the disk; after space is made, the study resumes and loses nothing."""
    lab = Lab(small_disk / "study")
    (lab.folder / "train.py").write_text(
        "import os\nX = 1.0\n"
        "if os.environ['AUTORESEARCH_RUN'].endswith('e0001.2-a1'):\n"
        f"    open({str(small_disk / 'hog')!r}, 'wb').write(b'x' * 20_000_000)\n"
    )
    (lab.folder / "autoresearch.yaml").write_text(CONFIG)
    lab.commit("configured")
    done = cli("run", cwd=lab.folder)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "space" in done.stderr.lower() or "full" in done.stderr.lower()
    assert "free some space" in done.stderr
    (small_disk / "hog").unlink()
    again = cli("run", cwd=lab.folder)
    assert again.returncode == 0, again.stderr
    status = json.loads(cli("status", "--json", cwd=lab.folder).stdout)
    assert (status["experiments"], status["in_flight"], status["queued"]) == (3, 0, 0)


def test_a_read_only_folder(small_disk: Path, cli: Cli) -> None:
    lab = Lab(small_disk / "study")
    (lab.folder / "autoresearch.yaml").write_text(CONFIG)
    lab.commit("configured")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    refused(cli("run", cwd=lab.folder), 2, "cannot write", "Read-only file system", "state_dir")
