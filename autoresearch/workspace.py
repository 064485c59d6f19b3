"""Git: one ref per experiment and the branch of what was kept, by plumbing alone.

    refs/autoresearch/<study>/e0042   the code of an experiment, kept or not, for ever
    refs/heads/autoresearch/<study>   the kept lineage, one commit a keep

The user's working tree, index and HEAD are never touched; hooks are not run.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoresearch.errors import AutoresearchError, StorageError, UsageError
from autoresearch.experiment import Files
from autoresearch.files import decode_source

LOCK_MILLISECONDS = 10_000  # that another process may take to write a ref; git's own 100 are few
_IDENTITY = "autoresearch <autoresearch@localhost>"
_TRAILER = "%(trailers:key=Experiment,valueonly)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What is written for an experiment."""

    ref: str  # full name
    parent: str  # commit id
    files: Files  # relative to the study's folder
    message: str
    when: float  # epoch seconds


class Workspace:
    """The git repository a study's folder lies in."""

    def __init__(self, folder: Path, study: str) -> None:
        """Find the repository. Raises UsageError without git, a repository, or a first commit."""
        self.folder = folder
        self.study = study
        self._top = Path(_git(folder, "rev-parse", "--show-toplevel", hint=_NO_REPOSITORY).strip())
        self._prefix = _git(folder, "rev-parse", "--show-prefix").strip()
        self._contents: dict[tuple[str, str], bytes] = {}

    @property
    def branch(self) -> str:
        """The full name of the branch of kept experiments."""
        return f"refs/heads/autoresearch/{self.study}"

    def ref(self, experiment: str) -> str:
        """Return the full name of an experiment's ref."""
        return f"refs/autoresearch/{self.study}/{experiment}"

    def head(self) -> str:
        """Return the commit of HEAD; UsageError where there is none yet."""
        return _git(self._top, "rev-parse", "--verify", "HEAD^{commit}", hint=_NO_COMMIT).strip()

    def dirty(self, paths: Sequence[str]) -> list[str]:
        """Return those of the paths, or of the files below them, that differ from HEAD."""
        listed = _git(
            self._top, "status", "--porcelain", "-z", "--untracked-files=no", "--", *self._full(paths)
        )
        return [entry[3:].removeprefix(self._prefix) for entry in listed.split("\0") if len(entry) > 3]

    def missing(self, commit: str, paths: Sequence[str]) -> list[str]:
        """Return those of the paths that a commit does not hold."""
        return [
            path
            for path in paths
            if _run(self._top, "cat-file", "-e", f"{commit}:{self._full([path])[0]}").returncode != 0
        ]

    def read(self, commit: str, path: str) -> bytes:
        """Return a file's content at a commit."""
        key = (commit, path)
        if key not in self._contents:
            done = _run(self._top, "cat-file", "blob", f"{commit}:{self._full([path])[0]}")
            if done.returncode != 0:
                raise StorageError(f"{path} is not in commit {commit[:12]}", _REFS_GONE)
            self._contents[key] = done.stdout
        return self._contents[key]

    def read_text(self, commit: str, paths: Sequence[str]) -> Files:
        """Return editable files at a commit; UsageError where one is empty or no text."""
        try:
            return {path: decode_source(path, self.read(commit, path)) for path in paths}
        except ValueError as error:
            raise UsageError(str(error), "commit a working version first") from None

    def list_files(self, commit: str, paths: Sequence[str]) -> list[str]:
        """Return the files below paths (files or folders) at a commit, sorted."""
        listed = _git(self._top, "ls-tree", "-r", "-z", "--name-only", commit, "--", *self._full(paths))
        return sorted(name.removeprefix(self._prefix) for name in listed.split("\0") if name)

    def published(self) -> dict[str, str]:
        """Return the commits of the study's experiments that have a ref, whichever folder they came from."""
        prefix = self.ref("")
        listed = _git(self._top, "for-each-ref", "--format=%(objectname) %(refname)", prefix)
        pairs = (line.split(" ", 1) for line in listed.splitlines())
        return {name.removeprefix(prefix): commit for commit, name in pairs}

    def point(self, ref: str, commit: str) -> None:
        """Make a ref name an existing commit; nothing where it does."""
        _git(self._top, "update-ref", ref, commit)

    def resolve(self, ref: str) -> str | None:
        """Return the commit a ref names, or None."""
        done = _run(self._top, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
        return done.stdout.decode().strip() or None if done.returncode == 0 else None

    def publish(self, commit: Commit) -> str:
        """Write a commit and its ref in one step; return its id. A ref that exists is left alone."""
        existing = self.resolve(commit.ref)
        if existing:
            return existing
        try:
            return self._write(commit)
        except StorageError:
            written = self.resolve(commit.ref)  # by another process, at the same moment
            if written is None:
                raise
            return written

    def advance(self, lineage: Mapping[str, str], paths: Sequence[str], when: float) -> str | None:
        """Append to the branch those kept experiments it does not hold yet.

        `lineage` maps experiment ids to their commits, oldest first; the first is where the branch
        starts. `paths` are the editable files. Returns the branch's new commit, or None where
        nothing was to be done, or where the branch is checked out somewhere and so is left alone.
        """
        if self.branch in self.checked_out():
            return None
        names = list(lineage)
        start = lineage[names[0]]
        tip = self.resolve(self.branch)
        if tip is None:
            self.point(self.branch, start)
            tip = start
        held = set(_git(self._top, "log", f"--format={_TRAILER}", f"{start}..{tip}").split())
        moved = None
        for name in names[1:]:
            if name in held:
                continue
            message = _git(self._top, "log", "-1", "--format=%B", lineage[name]).strip()
            files = {path: self.read(lineage[name], path).decode() for path in paths}
            moved = tip = self._write(
                Commit(ref=self.branch, parent=tip, files=files, message=message, when=when)
            )
        return moved

    def diff(self, before: str, after: str, paths: Sequence[str]) -> str:
        """Return the unified diff between two commits, limited to paths."""
        return _git(self._top, "diff", "--no-color", "--no-ext-diff", before, after, "--", *self._full(paths))

    def checked_out(self) -> set[str]:
        """Return the full names of the branches that some working tree has checked out."""
        listed = _git(self._top, "worktree", "list", "--porcelain")
        return {line.removeprefix("branch ") for line in listed.splitlines() if line.startswith("branch ")}

    def _full(self, paths: Sequence[str]) -> list[str]:
        return [self._prefix + path for path in paths]

    def _write(self, commit: Commit) -> str:
        """Write one commit through fast-import: blobs, tree, commit and ref in one process."""
        stamp = f"{_IDENTITY} {int(commit.when)} +0000"
        message = commit.message.encode()
        stream = [
            b"feature done\n",
            f"commit {commit.ref}\nauthor {stamp}\ncommitter {stamp}\n".encode(),
            b"data %d\n%s\n" % (len(message), message),
            f"from {commit.parent}\n".encode(),
        ]
        for path in sorted(commit.files):
            content = commit.files[path].encode()
            stream.append(f"M 100644 inline {_quoted(self._prefix + path)}\n".encode())
            stream.append(b"data %d\n%s\n" % (len(content), content))
        stream.append(b"done\n")
        done = _run(self._top, "fast-import", "--quiet", "--done", stdin=b"".join(stream))
        if done.returncode != 0:
            raise _failed(["fast-import"], done.stderr)
        written = self.resolve(commit.ref)
        if written is None:
            raise StorageError(f"git wrote no {commit.ref}")
        return written


_NO_REPOSITORY = "run `git init && git add -A && git commit -m start` here, or `autoresearch init`"
_NO_COMMIT = "run `git add -A && git commit -m start` first"
_REFS_GONE = "the study's git refs were removed; restore them, or start another study with --study"


def _quoted(path: str) -> str:
    """Return a path as fast-import reads it, quoted where it must be."""
    if path.startswith('"') or "\n" in path or " " in path:
        return '"' + path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    return path


def _environment() -> dict[str, str]:
    """Return our environment without what would point git at another repository."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return kept | {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}


def _run(folder: Path, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [
        "git",
        "-C",
        str(folder),
        "-c",
        "core.hooksPath=/dev/null",
        "-c",
        "core.quotePath=false",
        "-c",
        f"core.filesRefLockTimeout={LOCK_MILLISECONDS}",
        *arguments,
    ]
    try:
        return subprocess.run(
            command, input=stdin, capture_output=True, env=_environment(), start_new_session=True, check=False
        )
    except FileNotFoundError:
        raise UsageError("git is not installed", "install git 2.25 or newer") from None


def _git(folder: Path, *arguments: str, hint: str = "") -> str:
    done = _run(folder, *arguments)
    if done.returncode != 0:
        raise _failed(arguments, done.stderr, hint)
    return done.stdout.decode("utf-8", "surrogateescape")


def _failed(arguments: Sequence[str], stderr: bytes, hint: str = "") -> AutoresearchError:
    lines = stderr.decode("utf-8", "replace").strip().splitlines()
    text = next(
        (line for line in lines if line.startswith(("fatal:", "error:"))), lines[-1] if lines else "no output"
    )
    text = text.split(":", 1)[-1].strip()
    if "No space left" in text or "Disk quota" in text:
        return StorageError(f"git: {text}", "free some space; `autoresearch run` then resumes")
    if "dubious ownership" in text:
        return UsageError(f"git: {text}", "run `git config --global --add safe.directory FOLDER`")
    if "Read-only file system" in text or "Permission denied" in text or "insufficient permission" in text:
        return StorageError(f"git: {text}", "make the repository writable for this user")
    if hint and "not a git repository" in text:
        return UsageError("this folder is in no git repository", hint)
    if hint:
        return UsageError(f"git: {text}", hint)
    return StorageError(f"git {arguments[0]}: {text}")
