"""`wait`: return when experiments have ended, and say which have since a cursor."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from autoresearch.cli.common import author_of, existing_study, say_if_idle
from autoresearch.cli.output import fail, fit, print_json, say
from autoresearch.console import text
from autoresearch.errors import AutoresearchError, PoolError, UsageError, WaitTimeoutError
from autoresearch.experiment import Experiment, Purpose
from autoresearch.findings import Findings
from autoresearch.history import BASELINE, History
from autoresearch.judging.pruning import pruned
from autoresearch.store import Event
from autoresearch.study import Study
from autoresearch.untrusted import clean

POLL_SECONDS = 0.5
LOOKS = 20  # at a study that changes while it is looked at
JUDGED_WITHIN = 5.0  # seconds, a dispatcher has said by then what it makes of a result
ENDS = ("keep", "discard", "crash", "finished", "failed", "pruned", "lost", "cancelled")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """Where a study stands, seen from a cursor."""

    history: History
    last: Mapping[str, int]  # the last event since the cursor of each experiment that had one, in order
    done: tuple[str, ...]  # those of them that are settled: judged, taken or handed back, and nothing open
    handed_back: frozenset[str]  # won on an old base, and left to their authors to do anew
    pending: int  # experiments that something will still be heard of


def wait(
    folder: Path,
    study: str | None,
    *,
    min_done: int,
    timeout: float,
    since: int | None,
    limit: int | None,
    author: str | None,
    as_json: bool,
) -> None:
    """Wait until `min_done` experiments have ended since a cursor; print what has.

    Fewer are enough where nothing more is pending. WaitTimeoutError, or PoolError where nothing is
    being dispatched, come with what there is.
    """
    opened = existing_study(folder, study)
    since = _since(opened, since, author)
    deadline = time.monotonic() + timeout
    while True:
        dispatched = opened.dispatched()  # first: one that ends meanwhile has left all there is to see
        found = _look(opened, since)
        trouble: AutoresearchError | None = None
        if len(found.done) >= min_done or (not found.pending and not _proposes(opened)):
            break
        if not dispatched:
            trouble = PoolError("nothing is being dispatched", "start the workers: `autoresearch up`")
            break
        if time.monotonic() >= deadline:
            said = f"{len(found.done)} of {min_done} ended within {timeout:g} s"
            trouble = WaitTimeoutError(said, "wait again: what runs goes on")
            break
        time.sleep(min(POLL_SECONDS, max(0.0, deadline - time.monotonic())))
    document = _document(opened, found, since, limit)
    if as_json and not trouble:
        print_json({**document, "dispatching": dispatched})
    elif as_json and trouble:
        raise typer.Exit(fail(trouble, as_json=True, document={**document, "dispatching": dispatched}))
    else:
        _print(document)
        if trouble:
            raise trouble
        say_if_idle(opened)


def _since(opened: Study, given: int | None, author: str | None) -> int:
    """Return the cursor to look from; UsageError for one that nobody was given yet."""
    last = opened.store.cursor()
    if given is not None and given > last:
        raise UsageError(
            f"--since {given} is no cursor of {opened.tag}: its last is {last}",
            "use the last answer's `cursor`, or leave --since out: that is since your last submission",
        )
    known = opened.store.last_cursor_of(author_of(author)) if given is None else given
    return last if known is None else known


def _proposes(opened: Study) -> bool:
    """Whether somebody inside the study may still propose something."""
    sessions = opened.store.sessions()
    return opened.dispatched() and bool(sessions) and sessions[-1].agent != "external"


def _look(opened: Study, since: int) -> Ended:
    """Return where the study stands, read again where something happened meanwhile."""
    for _ in range(LOOKS):
        before = opened.store.cursor()
        found = _look_once(opened, since)
        if opened.store.cursor() == before:
            break
    return found


def _look_once(opened: Study, since: int) -> Ended:
    store = opened.store
    history = store.history()
    controls = {run.id for run in history.all_runs() if run.purpose is Purpose.CALIBRATE}
    last: dict[str, Event] = {}
    after = since
    while events := store.events(after, kinds=ENDS):
        after = events[-1].seq
        for event in events:
            if event.subject in controls:
                continue  # the best is measured again and again; that is no news of it
            name = event.subject.split(".", maxsplit=1)[0]
            last.pop(name, None)
            last[name] = event
    waiting = store.waiting_proposals()
    promised = {proposal.experiment for proposal in waiting if proposal.experiment}
    # nothing is heard of a winner on an old base until its author has done it anew
    handed_back = {experiment.id for experiment in history.handed_back()}
    if opened.dispatched():
        handed_back -= {name for name, event in last.items() if _is_fresh(event)}
    open_ = {name for name in history.experiments.keys() - handed_back if _is_open(history, name)} | promised
    return Ended(
        history=history,
        last={name: event.seq for name, event in last.items() if name in history.experiments},
        done=tuple(
            name for name in last if name in history.experiments and name not in open_ and name != BASELINE
        ),
        handed_back=frozenset(handed_back),
        pending=len(open_) + len(waiting) - len(promised),
    )


def _is_fresh(event: Event) -> bool:
    """Whether something has only just ended: a dispatcher may not have judged it yet."""
    return time.time() - event.at < JUDGED_WITHIN


def _is_open(history: History, name: str) -> bool:
    """Whether more will be heard of an experiment: it runs, or it was measured and is not judged yet."""
    if any(run.purpose is not Purpose.CALIBRATE for run in history.open_runs(name)):
        return True
    undecided = history.experiments[name].verdict is None and not history.taken_back(name)
    return undecided and bool(history.runs_of(name))


def _document(opened: Study, found: Ended, since: int, limit: int | None) -> Mapping[str, Any]:
    findings = Findings(found.history)
    rows = [_row(found, findings, name) for name in found.last]
    best = found.history.incumbent()
    document = {
        "study": opened.tag,
        "metric": opened.target.metric.name,
        "done": len(found.done),
        "pending": found.pending,
        "best": best and {"experiment": best.id, "value": _round(findings, best.id)},
        "ended": rows,
        "dispatching": True,
        "cursor": since,
        "next": "autoresearch wait --since 999999999",
        "error": {"code": "timeout", "message": "x" * 60, "hint": "x" * 60, "retryable": True},
    }
    fitted = {**fit(document, "ended", limit=limit)}
    del fitted["error"], fitted["dispatching"]
    shown = fitted["ended"]
    fitted["cursor"] = shown[-1].pop("seq") if shown else since
    for row in shown[:-1]:
        del row["seq"]
    fitted["next"] = f"autoresearch wait --since {fitted['cursor']}"
    return fitted


def _row(found: Ended, findings: Findings, name: str) -> dict[str, Any]:
    """Return what is known of an experiment; `change` is against its parent, on one kind of worker."""
    experiment = found.history.experiments[name]
    effect = findings.effects.get(name)
    row = {
        "experiment": name,
        "state": _state(found, experiment),
        "value": _round(findings, name),
        "change": effect and round(effect.delta, 6),
        "error": effect and effect.error and round(effect.error, 6),
        "runs": len(found.history.finished(name)),
        "why": _why(found, experiment),
        "hypothesis": clean(experiment.hypothesis, 60),
    }
    return {key: value for key, value in row.items() if value is not None} | {"seq": found.last[name]}


def _state(found: Ended, experiment: Experiment) -> str:
    if experiment.verdict is not None:
        return str(experiment.verdict)
    if experiment.id in found.handed_back:
        return "rework"
    return "cancelled" if experiment.id in found.done else "open"


def _why(found: Ended, experiment: Experiment) -> str | None:
    """Return what a crash, an early end or a result that waits for its author is about."""
    if experiment.id in found.handed_back:
        return f"won on an older base: hand it in anew with --reworks {experiment.id}"
    ended_early = pruned(found.history.runs_of(experiment.id)) is not None
    return clean(experiment.reason, 90) if experiment.verdict == "crash" or ended_early else None


def _round(findings: Findings, name: str) -> float | None:
    value = findings.values.get(name)
    return round(value.mean, 6) if value else None


def _print(document: Mapping[str, Any]) -> None:
    for row in document["ended"]:
        said = f"{row['experiment']}  {row['state']:<9}  {text.value(row.get('value')):<8}"
        change = text.signed(row.get("change"))
        typer.echo(f"{said} {change:>7}  {row.get('why') or row['hypothesis']}".rstrip())
    best = document["best"]
    said = f", best {best['experiment']} {text.value(best['value'])}" if best else ""
    say(f"{document['done']} done, {document['pending']} pending{said}; next: {document['next']}")
