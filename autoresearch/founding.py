"""How a study begins: what it optimises is pinned, from committed code, once and for all."""

from __future__ import annotations

import fcntl
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from autoresearch.config import Config
from autoresearch.constants import constants_of
from autoresearch.errors import UsageError
from autoresearch.experiment import Candidate, Prior, Worker
from autoresearch.files import refuse_network_filesystem
from autoresearch.history import BASELINE
from autoresearch.patch import check_syntax, normal_digest
from autoresearch.prior import read_results
from autoresearch.store import Store, StudyRow
from autoresearch.study import Study, sha256, state_folder
from autoresearch.target import FILE_NAME, Target
from autoresearch.workspace import Workspace


def default_tag(now: float) -> str:
    """Return the tag of a study begun now: nov22."""
    return datetime.fromtimestamp(now, UTC).astimezone().strftime("%b%d").lower()


def create_study(
    folder: Path, config: Config, tag: str, workers: Sequence[Worker], seed: int, now: float
) -> Study:
    """Begin a study from the committed code of a folder, and return it.

    Pins target, protected files and base commit. Raises UsageError where the code is dirty, missing
    or no text. Killed in the middle, it can be called again; by several at once, it begins one study.
    """
    kinds = [kind for kind, _ in Counter(worker.kind for worker in workers).most_common()]
    target = config.target.resolve(kinds)
    workspace = Workspace(folder, tag)
    base = workspace.head()
    _check_committed(workspace, base, target)
    files = workspace.read_text(base, target.editable)
    problem = check_syntax(files)
    if problem:
        raise UsageError(f"the baseline does not parse: {problem.detail}", "commit a working version first")
    priors = earlier_results(folder, config.history)
    state = state_folder(folder, config.state_dir) / tag
    _make_state_folder(state)
    refuse_network_filesystem(state)
    with (state / "founding.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # whoever comes second finds the study whole
        store = Store(state / "study.db")
        if not store.exists():
            _check_unused(workspace, tag)
            protected = _pin_protected(workspace, base, target, state / "protected")
            workspace.point(workspace.ref(BASELINE), base)
            row = StudyRow(
                tag=tag,
                created_at=now,
                goal=target.goal,
                target=asdict(target),
                kinds=tuple(kinds),
                base_commit=base,
                protected_sha256=protected,
                seed=seed,
                request="none",
                outcome=None,
            )
            constants = constants_of(files, target.profile)
            baseline = Candidate(files=files, digest=normal_digest(files))
            store.create_study(row, baseline, constants, config.judging.baseline_runs, now, priors)
    return Study(folder, tag, state, store)


def earlier_results(folder: Path, name: str | None) -> tuple[Prior, ...]:
    """Return the rows of a results.tsv from before; UsageError where it cannot be read."""
    if name is None:
        return ()
    try:
        return read_results((folder / name).read_bytes().decode("utf-8", "replace"))
    except OSError as error:
        said = (error.strerror or str(error)).lower()
        raise UsageError(
            f"{name}, the history in {FILE_NAME}: {said}", "correct the key `history`, or take it out"
        ) from error
    except ValueError as error:
        raise UsageError(
            f"{name} is no results.tsv: {error}",
            "make that line `commit val_bpb memory_gb status description`, with tabs, or move the file away",
        ) from error


def _check_unused(workspace: Workspace, tag: str) -> None:
    """Refuse a tag under which git holds experiments of another study: their code would pass for ours."""
    if [name for name in workspace.published() if name != BASELINE]:
        raise UsageError(
            f"git holds experiments of an earlier study {tag} whose folder is gone",
            f"use another tag, as `--study {tag[:27]}-2`, or remove refs/autoresearch/{tag} with git",
        )


def _check_committed(workspace: Workspace, base: str, target: Target) -> None:
    paths = [*target.editable, *target.protected]
    missing = workspace.missing(base, paths)
    if missing:
        there = (workspace.folder / missing[0]).exists()
        what = "is not committed" if there else "does not exist"
        way = f"run `git add {missing[0]} && git commit`" if there else f"correct target in {FILE_NAME}"
        raise UsageError(f"{missing[0]} {what}, and a study starts from committed code", way)
    dirty = workspace.dirty(paths)
    if dirty:
        names = ", ".join(dirty[:3]) + (" ..." if len(dirty) > 3 else "")
        raise UsageError(
            f"uncommitted changes in {names}; a study starts from committed code",
            "commit or stash them first",
        )


def _make_state_folder(state: Path) -> None:
    try:
        state.mkdir(parents=True, exist_ok=True)
        (state.parent / ".gitignore").write_text("*\n")
        (state / "runs").mkdir(exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot write {state}: {error.strerror}",
            f"make the folder writable, or set state_dir in {FILE_NAME} to one that is",
        ) from error


def _pin_protected(workspace: Workspace, base: str, target: Target, root: Path) -> str:
    """Copy the protected files of a commit, list their digests, and return the list's digest."""
    pinned = {}
    listed = workspace.list_files(base, target.protected) if target.protected else []
    for name in (name for name in listed if name not in target.editable):
        content = workspace.read(base, name)
        pinned[name] = sha256(content)
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.chmod(0o644)
        path.write_bytes(content)
        path.chmod(0o444)
    root.mkdir(exist_ok=True)
    listing = json.dumps(pinned, indent=1, sort_keys=True).encode()
    (root / "protected.json").write_bytes(listing)
    return sha256(listing)


def same_target(study: Study, config: Config) -> str | None:
    """Return None where the configuration still describes the study's target, else what differs."""
    wanted = asdict(config.target.resolve(study.row.kinds))
    for key, pinned in asdict(study.target).items():
        if wanted[key] != pinned:
            return f"target.{key}"
    return None
