"""The front door of the library: a study's folder, made, opened, and asked.

    .autoresearch/<tag>/
        study.db          the store
        protected/        the protected files of the study, pinned, with protected.json
        runs/e0042.1/a1/  the files, log and record of each attempt of each run
        preflight/        the same for proposals being checked
        dispatcher.lock   held by the one dispatcher
        dispatcher.log

What a run is told stands in `job_spec`; who may dispatch is decided by `dispatching`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from autoresearch.config import FILE_NAME, Config, Metric, Target
from autoresearch.constants import values
from autoresearch.errors import BusyError, NotFoundError, StorageError, UsageError
from autoresearch.experiment import JobSpec, Run, Worker
from autoresearch.files import refuse_network_filesystem
from autoresearch.history import BASELINE
from autoresearch.patch import Candidate, Files, check_syntax, normal_digest
from autoresearch.store import Store, StudyRow
from autoresearch.workspace import Workspace

EVALUATION_SECONDS = 270.0  # what a run may take on a worker beside its timeout: data checks, evaluation


class Study:
    """One study, open: its store, its git refs, its folder."""

    def __init__(self, folder: Path, tag: str, state: Path, store: Store) -> None:
        """Use `open_study` or `create_study`."""
        self.folder = folder
        self.tag = tag
        self.state = state
        self.store = store
        self.row = store.study()
        self.target = _target(self.row.target)
        self.workspace = Workspace(folder, tag)

    @property
    def runs_folder(self) -> Path:
        """Where the jobs' folders are."""
        return self.state / "runs"

    @property
    def worst_seconds(self) -> float:
        """The longest one run may occupy a worker."""
        return self.target.timeout + EVALUATION_SECONDS

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    # -- code ------------------------------------------------------------------------------------

    def files(self, experiment: str) -> Files:
        """Return the editable files of an experiment."""
        return self.workspace.read_text(self._commit(experiment), self.target.editable)

    def constants(self, files: Files) -> dict[str, float]:
        """Return the numeric constants of a version of the code, by name."""
        found: dict[str, float] = {}
        for name, text in files.items():
            if name.endswith(".py"):
                found |= values(text, self.target.profile)
        return found

    def diff(self, experiment: str, against: str) -> str:
        """Return the unified diff from one experiment's code to another's."""
        return self.workspace.diff(self._commit(against), self._commit(experiment), self.target.editable)

    def _commit(self, experiment: str) -> str:
        commit = self.store.experiment(experiment).commit
        if commit is None:
            raise NotFoundError(
                f"{experiment} has no git ref yet", "its dispatcher writes it: `autoresearch run`"
            )
        return commit

    # -- jobs ------------------------------------------------------------------------------------

    def job_spec(self, run: Run) -> JobSpec:
        """Return what an executor needs to run a run's current attempt."""
        return JobSpec(
            name=run.job_name(self.tag),
            command=self._command(self.target.command),
            files=self.files(run.experiment),
            env=self._environment(run.job_name(self.tag)) | {"AUTORESEARCH_SEED": str(run.seed)},
            folder=f"{run.id}/a{run.attempt}",
            timeout_seconds=self.worst_seconds,
        )

    def preflight_spec(self, name: str, folder: str, files: Files) -> JobSpec:
        """Return the job that exercises code for a few seconds on this machine's CPU."""
        return JobSpec(
            name=name,
            command=self._command(self.target.preflight or self.target.command),
            files=files,
            env=self._environment(name) | {"AUTORESEARCH_PREFLIGHT": "1", "AUTORESEARCH_DEVICE": "cpu"},
            folder=folder,
            timeout_seconds=self.target.preflight_seconds,
        )

    def prepare_command(self) -> tuple[tuple[str, ...], dict[str, str]] | None:
        """Return the command that prepares this machine, and its variables; None where there is none."""
        if self.target.prepare is None:
            return None
        return self._command(self.target.prepare), self._environment("prepare")

    def job_folder(self, run: Run) -> Path:
        """Return the folder of a run's current attempt, whether or not it exists."""
        return self.runs_folder / run.id / f"a{run.attempt}"

    def _command(self, template: str) -> tuple[str, ...]:
        known = {"python": sys.executable, "protected": str(self.state / "protected")}
        return tuple(part.format(**known) for part in shlex.split(template))

    def _environment(self, job: str) -> dict[str, str]:
        """Return a job's environment: what the target names, and nothing else of ours."""
        passed = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TZ") if name in os.environ}
        cache = os.environ.get("AUTORESEARCH_CACHE") or str(Path.home() / ".cache" / "autoresearch")
        return {
            **passed,
            **self.target.env,
            "AUTORESEARCH_RUN": job,
            "AUTORESEARCH_CACHE": cache,
            "AUTORESEARCH_SCRATCH": ".",
            "AUTORESEARCH_PROFILE": self.target.profile,
            "AUTORESEARCH_BUDGET_SECONDS": f"{self.target.seconds:g}",
            "AUTORESEARCH_TIMEOUT_SECONDS": f"{self.target.timeout:g}",
            "AUTORESEARCH_PROTECTED": str(self.state / "protected"),
            "AUTORESEARCH_PROTECTED_SHA256": self.row.protected_sha256,
        }

    # -- integrity and exclusion -----------------------------------------------------------------

    def check_protected(self) -> None:
        """Raise StorageError unless the pinned copy of the protected files is what was pinned."""
        root = self.state / "protected"
        listing = root / "protected.json"
        try:
            text = listing.read_bytes()
            pinned: Mapping[str, str] = json.loads(text)
            changed = [
                name for name, digest in pinned.items() if _sha256((root / name).read_bytes()) != digest
            ]
        except (OSError, ValueError) as error:
            raise StorageError(f"the study's protected files cannot be read: {error}", _NEW_STUDY) from error
        if _sha256(text) != self.row.protected_sha256:
            changed = ["protected.json"]
        if changed:
            raise StorageError(f"{root / changed[0]} was changed since the study began", _NEW_STUDY)

    @contextmanager
    def dispatching(self) -> Iterator[None]:
        """Hold the study's dispatcher lock. Raises BusyError where another dispatcher does."""
        with (self.state / "dispatcher.lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                last = self.store.sessions()[-1:]
                since = "".join(f" (pid {s.pid}, since {_clock_time(s.started_at)})" for s in last)
                raise BusyError(
                    f"another dispatcher runs this study{since}",
                    "watch it with `autoresearch status --watch`",
                ) from None
            yield

    def dispatcher_alive(self) -> bool:
        """Whether some process dispatches this study now."""
        try:
            with (self.state / "dispatcher.lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False


_NEW_STUDY = "restore it, or start another study with --study"


# ---------------------------------------------------------------------------
# Finding, opening, creating
# ---------------------------------------------------------------------------


def state_folder(folder: Path, config_state_dir: str = ".autoresearch") -> Path:
    """Return where a study folder keeps its studies."""
    return folder / config_state_dir


def existing_tags(states: Path) -> list[str]:
    """Return the tags of the studies below a state folder, the one created last at the end."""
    found = [path.parent for path in states.glob("*/study.db")]
    return [path.name for path in sorted(found, key=_created)]


def _created(state: Path) -> tuple[float, str]:
    """Return when a study was pinned; its list of protected files is never written again."""
    try:
        return (state / "protected" / "protected.json").stat().st_mtime, state.name
    except OSError:
        return 0.0, state.name


def default_tag(now: float) -> str:
    """Return the tag of a study begun now: nov22."""
    return datetime.fromtimestamp(now, UTC).astimezone().strftime("%b%d").lower()


def open_study(folder: Path, states: Path, tag: str | None = None) -> Study:
    """Open a study, the one created last where no tag is given; NotFoundError where there is none."""
    tags = existing_tags(states)
    if tag is None and tags:
        tag = tags[-1]
    if tag is None:
        raise NotFoundError(f"no study in {folder}", "start one with `autoresearch run`")
    if tag not in tags:
        known = f"there are {', '.join(tags)}" if tags else "start one with `autoresearch run`"
        raise NotFoundError(f"no study {tag} in {folder}", known)
    state = states / tag
    return Study(folder, tag, state, Store(state / "study.db"))


def create_study(
    folder: Path, config: Config, tag: str, workers: Sequence[Worker], seed: int, now: float
) -> Study:
    """Begin a study from the committed code of a folder, and return it.

    Pins target, protected files and base commit. Raises UsageError where the code is dirty, missing
    or no text. Killed in the middle, it can be called again.
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
    state = state_folder(folder, config.state_dir) / tag
    _make_state_folder(state)
    refuse_network_filesystem(state)
    protected = _pin_protected(workspace, base, target, state / "protected")
    workspace.point(workspace.ref(BASELINE), base)
    store = Store(state / "study.db")
    if not store.exists():
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
        constants: dict[str, float] = {}
        for name, text in files.items():
            constants |= values(text, target.profile) if name.endswith(".py") else {}
        baseline = Candidate(files=files, digest=normal_digest(files))
        store.create_study(row, baseline, constants, config.judging.baseline_runs, now)
    return Study(folder, tag, state, store)


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
    for name in workspace.list_files(base, target.protected) if target.protected else []:
        content = workspace.read(base, name)
        pinned[name] = _sha256(content)
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.chmod(0o644)
        path.write_bytes(content)
        path.chmod(0o444)
    root.mkdir(exist_ok=True)
    listing = json.dumps(pinned, indent=1, sort_keys=True).encode()
    (root / "protected.json").write_bytes(listing)
    return _sha256(listing)


def _target(data: Mapping[str, object]) -> Target:
    """Return the pinned target from its JSON."""
    values_ = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
    metric = values_.pop("metric")
    if not isinstance(metric, dict):
        raise StorageError("the study's target cannot be read")
    return Target(**values_, metric=Metric(**metric))  # type: ignore[arg-type]


def same_target(study: Study, config: Config) -> str | None:
    """Return None where the configuration still describes the study's target, else what differs."""
    wanted = asdict(config.target.resolve(study.row.kinds))
    for key, pinned in asdict(study.target).items():
        if wanted[key] != pinned:
            return f"target.{key}"
    return None


def parse_run_id(text: str) -> str | None:
    """Return the experiment of an id such as e0042 or e0042.1, or None."""
    match = re.fullmatch(r"(e\d{4,})(?:\.\d+)?", text)
    return match[1] if match else None


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _clock_time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%H:%M")
