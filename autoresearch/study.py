"""The front door of the library: a study's folder, opened and asked.

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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from autoresearch.errors import BusyError, NotFoundError, StorageError
from autoresearch.experiment import Files, JobSpec, Place, Refusal, Run
from autoresearch.files import lock_file
from autoresearch.history import BASELINE
from autoresearch.judging.pruning import VARIABLE, Thresholds
from autoresearch.store import Store
from autoresearch.target import Metric, Target
from autoresearch.untrusted import clean

if TYPE_CHECKING:
    from autoresearch.workspace import Workspace

CODES = 64  # commits whose files are kept in memory: those that were kept, and what runs
EVALUATION_SECONDS = 270.0  # what a run may take on a worker beside its timeout: data checks, evaluation


class Study:
    """One study, open: its store, its git refs, its folder."""

    def __init__(
        self, folder: Path, tag: str, state: Path, store: Store, workspace: Workspace | None = None
    ) -> None:
        """Use `open_study`, or `create_study` of the module `founding`."""
        self.folder = folder
        self.tag = tag
        self.state = state
        self.store = store
        self.row = store.study()
        self.target = _target(self.row.target)
        self._workspace = workspace
        self._code = lru_cache(maxsize=CODES)(self._read_code)

    @property
    def workspace(self) -> Workspace:
        """The study's git refs; looked for on first use, since many readers need none."""
        if self._workspace is None:
            from autoresearch.workspace import Workspace

            self._workspace = Workspace(self.folder, self.tag)
        return self._workspace

    @property
    def runs_folder(self) -> Path:
        """Where the jobs' folders are."""
        return self.state / "runs"

    @property
    def worst_seconds(self) -> float:
        """The longest one run may occupy a worker; who reports its own score is not evaluated after it."""
        return self.target.timeout + (0.0 if self.target.self_reported else EVALUATION_SECONDS)

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    # -- code ------------------------------------------------------------------------------------

    def files(self, experiment: str) -> Files:
        """Return the editable files of an experiment."""
        return self._code(self._commit(experiment))

    def _read_code(self, commit: str) -> Files:
        return self.workspace.read_text(commit, self.target.editable)

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

    def publish(self, experiment: str, now: float) -> None:
        """Write an experiment's code to git, rebuilt from its parent and its edits; once, whoever does.

        Its ancestors come first, should one of them have no ref yet.
        """
        from autoresearch.patch import apply_edits
        from autoresearch.workspace import Commit

        found = self.store.experiment(experiment)
        if found.commit is not None or found.parent is None:
            return
        self.publish(found.parent, now)
        files = apply_edits(self.store.edits(experiment), self.files(found.parent))
        if isinstance(files, Refusal):
            raise TypeError(f"the edits of {found.id} were admitted and no longer apply: {files}")
        message = (
            f"{found.id}: {clean(found.hypothesis, 1000)}\n\n"
            f"Experiment: {found.id}\nParent: {found.parent}\n"
            f"Study: {self.tag}\nAuthor: {clean(found.author)}\n"
        )
        commit = Commit(
            ref=self.workspace.ref(found.id),
            parent=self._commit(found.parent),
            files=files,
            message=message,
            when=found.created_at,
        )
        self.store.set_commit(found.id, self.workspace.publish(commit), now)

    # -- jobs ------------------------------------------------------------------------------------

    def job_spec(self, run: Run, place: Place | None = None, thresholds: Thresholds | None = None) -> JobSpec:
        """Return what an executor needs to run a run's current attempt; without a place, here.

        With thresholds the harness ends a run early that cannot win.
        """
        place = place or self.here()
        name = run.job_name(self.tag)
        env = {**place.env, **self.facts(), "AUTORESEARCH_RUN": name, "AUTORESEARCH_SEED": str(run.seed)}
        if thresholds is not None:
            env[VARIABLE] = thresholds.document
        if run.experiment == BASELINE:
            env["AUTORESEARCH_TRUSTED"] = "1"  # a human's code: what torch compiles of it serves every run
        return JobSpec(
            name=name,
            command=command_at(place, self.target.command),
            files=self.files(run.experiment),
            env=env,
            folder=f"{run.id}/a{run.attempt}",
            timeout_seconds=self.worst_seconds,
        )

    def preflight_spec(self, name: str, folder: str, files: Files) -> JobSpec:
        """Return the job that exercises code for a few seconds on this machine's CPU."""
        here = self.here()
        preflight = {"AUTORESEARCH_PREFLIGHT": "1", "AUTORESEARCH_DEVICE": "cpu"}
        return JobSpec(
            name=name,
            command=command_at(here, self.target.preflight or self.target.command),
            files=files,
            env={**here.env, **self.facts(), "AUTORESEARCH_RUN": name, **preflight},
            folder=folder,
            timeout_seconds=self.target.preflight_seconds,
        )

    def prepare_command(self) -> tuple[tuple[str, ...], dict[str, str]] | None:
        """Return the command that prepares this machine, and its variables; None where there is none."""
        if self.target.prepare is None:
            return None
        here = self.here()
        return command_at(here, self.target.prepare), {**here.env, **self.facts()}

    def job_folder(self, run: Run) -> Path:
        """Return the folder of a run's current attempt, whether or not it exists."""
        return self.runs_folder / run.id / f"a{run.attempt}"

    def here(self) -> Place:
        """Return this machine as a place of jobs; nothing else of our environment reaches them."""
        names = ("PATH", "LANG", "LC_ALL", "TZ", *(("HOME",) if self.target.self_reported else ()))
        passed = {name: os.environ[name] for name in names if name in os.environ}
        cache = os.environ.get("AUTORESEARCH_CACHE") or str(Path.home() / ".cache" / "autoresearch")
        protected = str(self.state / "protected")
        env = {
            **passed,
            "AUTORESEARCH_CACHE": cache,
            "AUTORESEARCH_SCRATCH": ".",
            "AUTORESEARCH_PROTECTED": protected,
        }
        return Place(python=sys.executable, protected=protected, env=env)

    def facts(self) -> dict[str, str]:
        """Return the variables every job of the study has, wherever it runs."""
        return {
            **self.target.facts,
            "AUTORESEARCH_BUDGET_SECONDS": f"{self.target.seconds:g}",
            "AUTORESEARCH_TIMEOUT_SECONDS": f"{self.target.timeout:g}",
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
                name for name, digest in pinned.items() if sha256((root / name).read_bytes()) != digest
            ]
        except (OSError, ValueError) as error:
            raise StorageError(f"the study's protected files cannot be read: {error}", _NEW_STUDY) from error
        if sha256(text) != self.row.protected_sha256:
            changed = ["protected.json"]
        if changed:
            raise StorageError(f"{root / changed[0]} was changed since the study began", _NEW_STUDY)

    @contextmanager
    def dispatching(self) -> Iterator[None]:
        """Hold the study's dispatcher lock. Raises BusyError where another dispatcher does."""
        with (self.state / "dispatcher.lock").open("a") as lock:
            if not lock_file(lock):
                last = self.store.sessions()[-1:]
                since = "".join(f" (pid {s.pid}, since {_clock_time(s.started_at)})" for s in last)
                raise BusyError(
                    f"another dispatcher runs this study{since}",
                    "watch it with `autoresearch status --watch`",
                )
            yield

    def dispatched(self) -> bool:
        """Whether this study is being dispatched, or is about to be: a keeper lives."""
        return self._is_held("dispatcher.lock") or self._is_held("keeper.lock")

    def dispatcher_alive(self) -> bool:
        """Whether some process dispatches this study now."""
        return self._is_held("dispatcher.lock")

    def _is_held(self, name: str) -> bool:
        try:
            with (self.state / name).open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False


def command_at(place: Place, template: str) -> tuple[str, ...]:
    """Return a configured command as words, with what `{python}` and `{protected}` mean at a place."""
    words = shlex.split(template)
    return tuple(w.replace("{python}", place.python).replace("{protected}", place.protected) for w in words)


_NEW_STUDY = "restore it, or start another study with --study"


# ---------------------------------------------------------------------------
# Finding and opening
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


def open_study(folder: Path, states: Path, tag: str | None = None) -> Study:
    """Open a study, the one created last where no tag is given; NotFoundError where there is none."""
    tags = existing_tags(states)
    if tag is None and tags:
        tag = tags[-1]
    if tag is None:
        raise NotFoundError(f"no study in {folder}", _BEGIN)
    if tag not in tags:
        known = f"there are {', '.join(tags)}" if tags else _BEGIN
        raise NotFoundError(f"no study {tag} in {folder}", known)
    state = states / tag
    return Study(folder, tag, state, Store(state / "study.db"))


_BEGIN = "begin one in the background with `autoresearch up`, or here with `autoresearch run`"


def _target(data: Mapping[str, object]) -> Target:
    """Return the pinned target from its JSON."""
    values_ = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
    metric = values_.pop("metric")
    if not isinstance(metric, dict):
        raise StorageError("the study's target cannot be read")
    return Target(**values_, metric=Metric(**metric))  # type: ignore[arg-type]


def parse_run_id(text: str) -> str | None:
    """Return the experiment of an id such as e0042 or e0042.1, or None."""
    match = re.fullmatch(r"(e\d{4,})(?:\.\d+)?", text)
    return match[1] if match else None


def sha256(content: bytes) -> str:
    """Return the digest of some bytes, as hex."""
    return hashlib.sha256(content).hexdigest()


def _clock_time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%H:%M")
