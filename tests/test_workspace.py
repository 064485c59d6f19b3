"""Git by plumbing: refs and the kept branch move, the user's tree, index and HEAD never do."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoresearch.errors import StorageError, UsageError
from autoresearch.workspace import Commit, Workspace
from lab import git


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    folder = tmp_path / "repo"
    (folder / "sub dir").mkdir(parents=True)
    (folder / "train.py").write_text("X = 1\n")
    (folder / "sub dir" / "train.py").write_text("Y = 1\n")
    (folder / "other.txt").write_text("o\n")
    git(folder, "init", "--quiet")
    git(folder, "add", "-A")
    git(folder, "commit", "--quiet", "-m", "start")
    return folder


def state_of(repo: Path) -> tuple[str, str, str, bytes]:
    """Return what must not move: HEAD, the branch it names, the status, and the index."""
    return (
        git(repo, "rev-parse", "HEAD"),
        (repo / ".git" / "HEAD").read_text(),
        git(repo, "status", "--porcelain"),
        (repo / ".git" / "index").read_bytes(),
    )


def publish(space: Workspace, name: str, text: str, parent: str, path: str = "train.py") -> str:
    message = f"{name}: idea\n\nExperiment: {name}\n"
    return space.publish(
        Commit(ref=space.ref(name), parent=parent, files={path: text}, message=message, when=1_700_000_000)
    )


def test_an_experiment_is_a_commit_under_its_own_ref(repo: Path) -> None:
    space = Workspace(repo, "t")
    (repo / "untracked").write_text("u")
    (repo / "other.txt").write_text("changed by the user\n")
    git(repo, "add", "other.txt")
    before = state_of(repo)
    base = space.head()
    commit = publish(space, "e0002", "X = 2\n", base)
    assert git(repo, "show", f"{commit}:train.py") == "X = 2\n"
    assert git(repo, "show", f"{commit}:other.txt") == "o\n", "the rest is the parent's"
    assert git(repo, "rev-parse", "refs/autoresearch/t/e0002").strip() == commit
    assert git(repo, "log", "-1", "--format=%s|%P", commit).strip() == f"e0002: idea|{base}"
    assert state_of(repo) == before


def test_publishing_again_changes_nothing(repo: Path) -> None:
    space = Workspace(repo, "t")
    first = publish(space, "e0002", "X = 2\n", space.head())
    assert publish(space, "e0002", "X = 3\n", space.head()) == first


def test_a_study_may_live_in_a_subfolder_with_a_space(repo: Path) -> None:
    space = Workspace(repo / "sub dir", "t")
    commit = publish(space, "e0002", "Y = 2\n", space.head())
    assert git(repo, "show", f"{commit}:sub dir/train.py") == "Y = 2\n"
    assert git(repo, "show", f"{commit}:train.py") == "X = 1\n"
    assert space.read(commit, "train.py") == b"Y = 2\n"
    assert space.list_files(commit, ["train.py"]) == ["train.py"]
    assert space.dirty(["train.py"]) == []
    (repo / "sub dir" / "train.py").write_text("Y = 3\n")
    assert space.dirty(["train.py"]) == ["train.py"]


def test_the_branch_holds_the_kept_lineage_and_only_grows(repo: Path) -> None:
    space = Workspace(repo, "t")
    base = space.head()
    second = publish(space, "e0002", "X = 2\n", base)
    third = publish(space, "e0003", "X = 3\n", base)  # from the baseline, not from e0002
    before = state_of(repo)
    assert space.advance({"e0001": base}, ["train.py"], 1.0) is None
    assert space.resolve(space.branch) == base
    space.advance({"e0001": base, "e0002": second}, ["train.py"], 2.0)
    tip = space.advance({"e0001": base, "e0002": second, "e0003": third}, ["train.py"], 3.0)
    assert space.advance({"e0001": base, "e0002": second, "e0003": third}, ["train.py"], 4.0) is None
    assert git(repo, "log", "--format=%s", f"{base}..{tip}").split("\n")[:2] == ["e0003: idea", "e0002: idea"]
    assert git(repo, "show", f"{tip}:train.py") == "X = 3\n"
    assert state_of(repo) == before


def test_a_branch_somebody_has_checked_out_is_left_alone(repo: Path) -> None:
    space = Workspace(repo, "t")
    base = space.head()
    second = publish(space, "e0002", "X = 2\n", base)
    git(repo, "checkout", "--quiet", "-b", "autoresearch/t")
    assert space.branch in space.checked_out()
    assert space.advance({"e0001": base, "e0002": second}, ["train.py"], 1.0) is None
    assert space.head() == base


def test_hooks_are_not_run(repo: Path) -> None:
    hook = repo / ".git" / "hooks" / "reference-transaction"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    space = Workspace(repo, "t")
    assert publish(space, "e0002", "X = 2\n", space.head())


def test_the_same_content_at_the_same_time_is_the_same_commit(repo: Path) -> None:
    one, two = Workspace(repo, "t"), Workspace(repo, "u")
    assert publish(one, "e0002", "X = 2\n", one.head()) == publish(two, "e0002", "X = 2\n", two.head())


def test_a_git_environment_that_points_elsewhere_is_ignored(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    assert len(Workspace(repo, "t").head()) == 40


def test_without_a_repository_the_way_out_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="in no git repository") as error:
        Workspace(tmp_path, "t")
    assert "git init" in error.value.hint


def test_without_git_the_way_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="git is not installed"):
        Workspace(tmp_path, "t")


def test_without_a_commit_the_way_out_is_said(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    with pytest.raises(UsageError) as error:
        Workspace(tmp_path, "t").head()
    assert "git commit" in error.value.hint


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "is empty"), (b"\xff\xfe", "not UTF-8"), (b"a\0b", "null bytes")]
)
def test_code_that_is_no_text_is_refused(repo: Path, content: bytes, message: str) -> None:
    (repo / "train.py").write_bytes(content)
    git(repo, "commit", "-am", "odd")
    space = Workspace(repo, "t")
    with pytest.raises(UsageError, match=message):
        space.read_text(space.head(), ["train.py"])


def test_a_missing_file_and_a_missing_commit_are_told(repo: Path) -> None:
    space = Workspace(repo, "t")
    assert space.missing(space.head(), ["train.py", "nope.py"]) == ["nope.py"]
    with pytest.raises(StorageError, match="is not in commit"):
        space.read(space.head(), "nope.py")


def test_a_diff_is_limited_to_the_paths(repo: Path) -> None:
    space = Workspace(repo, "t")
    commit = publish(space, "e0002", "X = 2\n", space.head())
    assert "+X = 2" in space.diff(space.head(), commit, ["train.py"])
    assert space.diff(space.head(), commit, ["other.txt"]) == ""


def test_a_killed_git_leaves_nothing_that_stops_the_next(repo: Path) -> None:
    """A ref lock left behind is git's own matter; a truncated stream writes nothing."""
    space = Workspace(repo, "t")
    broken = Commit(ref="refs/autoresearch/t/e0009", parent="0" * 39 + "1", files={}, message="m", when=0)
    with pytest.raises(StorageError):
        space.publish(broken)
    assert space.resolve("refs/autoresearch/t/e0009") is None
    assert publish(space, "e0009", "X = 9\n", space.head())
