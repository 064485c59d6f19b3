"""Whether what a study's books say still holds: checked against git, the logs and the pinned files.

Each check compares one fact in the database with its witness outside of it. Nothing is written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from autoresearch.errors import AutoresearchError, StorageError
from autoresearch.experiment import Experiment, Files, Refusal, Run
from autoresearch.files import read_tail
from autoresearch.history import History
from autoresearch.logparse import TAIL_BYTES, parse_report
from autoresearch.patch import apply_edits, normal_digest
from autoresearch.study import Study, sha256

SAME_EVERYWHERE = ("data", "evaluator")  # digests that all runs of a study share


@dataclass(frozen=True, slots=True)
class Check:
    """One fact and whether it holds; `wrong` says how it does not."""

    subject: str  # an experiment, a run, or the study's tag
    fact: str
    wrong: str = ""


def verify(study: Study, experiments: frozenset[str] | None = None) -> Iterator[Check]:
    """Yield every check of a study, or of some of its experiments and of what all of them stand on."""
    history = study.store.history()
    refs = study.workspace.published()
    yield from _study(study, history)
    shared: dict[str, tuple[str, str]] = {}
    for experiment in history.experiments.values():
        if experiments is not None and experiment.id not in experiments:
            continue
        files: Files | None = None
        if experiment.commit is not None:
            checks, files = _code(study, experiment, refs.get(experiment.id))
            yield from checks
        for run in history.runs_of(experiment.id):
            yield from _run(study, run, files, shared)


def _study(study: Study, history: History) -> Iterator[Check]:
    yield Check(study.tag, "database", study.store.damage())
    try:
        study.check_protected()
        yield Check(study.tag, "protected files")
    except StorageError as error:
        yield Check(study.tag, "protected files", error.message)
    best = history.incumbent()
    if best is not None and best.commit is not None:
        yield Check(study.tag, "branch", _branch_wrong(study, best))


def _branch_wrong(study: Study, best: Experiment) -> str:
    """Return what is wrong with the branch of what was kept: it ends in the best's code."""
    tip = study.workspace.resolve(study.workspace.branch)
    if tip is None:
        return f"{study.workspace.branch} is gone"
    try:
        same = study.workspace.read_text(tip, study.target.editable) == study.files(best.id)
    except AutoresearchError as error:
        return error.message
    return "" if same else f"{study.workspace.branch} does not end in the code of {best.id}, the best"


def _code(study: Study, experiment: Experiment, found: str | None) -> tuple[list[Check], Files | None]:
    """Return the checks of an experiment's code, and the code; None where git no longer has it."""
    if found != experiment.commit:
        at = f"is at {_short(found)}" if found else "is gone"
        wrong = f"{study.workspace.ref(experiment.id)} {at}, not at {_short(experiment.commit)}"
        return [Check(experiment.id, "ref", wrong)], None
    checks = [Check(experiment.id, "ref")]
    try:
        files = study.files(experiment.id)
    except AutoresearchError as error:
        return [*checks, Check(experiment.id, "code", error.message)], None
    wrong = "" if normal_digest(files) == experiment.digest else "its digest is not the one that was admitted"
    if not wrong and experiment.parent is not None:
        made = apply_edits(study.store.edits(experiment.id), study.files(experiment.parent))
        if isinstance(made, Refusal) or dict(made) != dict(files):
            wrong = f"its edits to {experiment.parent} do not give it"
    return [*checks, Check(experiment.id, "code", wrong)], files


def _run(study: Study, run: Run, files: Files | None, shared: dict[str, tuple[str, str]]) -> Iterator[Check]:
    """Yield the checks of a run that has ended with a log."""
    pinned = study.store.log_digest(run.id)
    if pinned is None:
        return
    path = study.job_folder(run) / "log"
    try:
        with path.open("rb") as log:
            same = hashlib.file_digest(log, "sha256").hexdigest() == pinned
    except OSError as error:
        yield Check(run.id, "log", f"{path}: {(error.strerror or str(error)).lower()}")
        return
    yield Check(run.id, "log", "" if same else f"{path} was changed since it was read")
    facts = study.store.facts(run.id)
    if same:
        yield Check(run.id, "value", _value_wrong(study, run, facts))
    if facts:
        yield Check(run.id, "digests", _digests_wrong(study, run, facts, files, shared))


def _value_wrong(study: Study, run: Run, facts: Mapping[str, Any]) -> str:
    """Return what in the row is not what the log says; "" where nothing is."""
    target = study.target
    report = parse_report(
        read_tail(study.job_folder(run) / "log", TAIL_BYTES),
        metric=target.metric.name,
        pattern=target.metric.pattern,
        exit_code=0 if run.measurement else 1,
    )
    said = report.measurement.value if report.measurement else None
    if said != run.value:
        return f"the log says {said}, the row {run.value}"
    if facts and report.facts != facts:
        return "the log's machine line is not the one in the row"
    return "" if facts.get("seed", run.seed) == run.seed else f"ran with seed {facts['seed']}, not {run.seed}"


def _digests_wrong(
    study: Study,
    run: Run,
    facts: Mapping[str, Any],
    files: Files | None,
    shared: dict[str, tuple[str, str]],
) -> str:
    digests = facts.get("digests") or {}
    if digests.get("protected", "") not in {"", study.row.protected_sha256}:
        return "it was measured by protected files that are not the study's"
    if files is not None and "code" in digests and digests["code"] != code_digest(files):
        return "it measured other code than its experiment's"
    for name in SAME_EVERYWHERE:
        found = digests.get(name)
        if found and shared.setdefault(name, (found, run.id))[0] != found:
            return f"its {name} is not that of {shared[name][1]}"
    return ""


def code_digest(files: Files) -> str:
    """Return the digest that the harness gives edited code: of one file its sha256, of several one of all."""
    digests = {name: sha256(text.encode()) for name, text in files.items()}
    if len(digests) == 1:
        return next(iter(digests.values()))
    return sha256("\n".join(f"{name} {digest}" for name, digest in sorted(digests.items())).encode())


def _short(commit: str | None) -> str:
    return commit[:10] if commit else "nothing"
