"""What steers a study beside ideas: confirm, cancel, note, budget."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from autoresearch.budget import Budget, Usage, room_for_experiments
from autoresearch.cli.common import author_of, ceilings, existing_study, experiment_of, say_if_idle
from autoresearch.cli.look import standing
from autoresearch.cli.output import DOCUMENT_BYTES, fit, print_json, say
from autoresearch.errors import BudgetError, NotFoundError, RefusedError, UsageError
from autoresearch.experiment import OVER, RunState
from autoresearch.history import BASELINE
from autoresearch.judging.policy import ASKED_FOR
from autoresearch.study import Study
from autoresearch.untrusted import as_text
from autoresearch.wave import MAX_NOTES


def confirm(
    folder: Path,
    study: str | None,
    experiment: str,
    *,
    runs: int,
    kind: str | None,
    author: str | None,
    as_json: bool,
) -> None:
    """Queue runs with fresh seeds until so many of an experiment are open."""
    opened = existing_study(folder, study)
    id_, name = experiment_of(experiment), author_of(author)
    found = opened.store.experiment(id_)
    if kind is not None and kind not in opened.row.kinds:
        raise UsageError(f"the pool has no {kind}", f"use one of {', '.join(opened.row.kinds)}")
    if all(run.state is RunState.CANCELLED for run in opened.store.history().runs_of(id_)):
        raise RefusedError(f"{id_} has no run yet", "its first comes by itself once its code is checked")
    _check_ceiling(opened)
    cursor = opened.store.cursor()
    queued = opened.store.confirm(
        id_, runs, kind=kind, study_seed=opened.row.seed, why=f"{ASKED_FOR} {name}", now=time.time()
    )
    open_ = [run.id for run in opened.store.history().runs_of(id_) if run.state not in OVER]
    verdict = found.verdict and str(found.verdict)
    stands = standing(opened)
    document = {
        "study": opened.tag,
        "experiment": id_,
        "queued": queued,
        "open": open_,
        "verdict": verdict,
        **stands,
        "cursor": cursor,
        "next": f"autoresearch wait --since {cursor}" if stands["dispatching"] else "autoresearch up",
    }
    if as_json:
        print_json(document)
        return
    judged = f"; judged already: {verdict}" if verdict else ""
    say(f"{id_}: {len(queued)} queued, {len(open_)} open{judged}")
    say_if_idle(opened)


def _check_ceiling(opened: Study) -> None:
    budget, usage = ceilings(opened), opened.store.usage(time.time(), opened.worst_seconds)
    for name, spent in (("hours", usage.hours), ("gpu_dollars", usage.gpu_dollars)):
        ceiling = getattr(budget, name)
        if ceiling is not None and spent >= ceiling:
            raise BudgetError(f"the ceiling is reached: {name}, {spent:.2f} of {ceiling:g}", _RAISE)


_RAISE = "raise it: `autoresearch up --help`"


def cancel(
    folder: Path, study: str | None, names: Sequence[str], *, author: str | None, as_json: bool
) -> None:
    """Take back experiments or single runs that wait or run."""
    opened = existing_study(folder, study)
    who = author_of(author)
    for name in names:  # all are looked at before anything is changed
        opened.store.experiment(experiment_of(name))
        if "." in name:
            opened.store.run(name)
    if any(experiment_of(name) == BASELINE for name in names):
        raise UsageError(
            f"{BASELINE} is the baseline, which all is compared with", "`autoresearch stop` stops it all"
        )
    cancelled = [done for name in names for done in _cancel(opened, name, who)]
    running = [run.id for run in opened.store.history().in_flight() if run.cancelled_by]
    if as_json:
        document = {"study": opened.tag, "cancelled": cancelled, "ending": running, **standing(opened)}
        print_json(fit(fit(document, "ending", room=DOCUMENT_BYTES // 2), "cancelled"))
    else:
        what = ", ".join(cancelled) or "nothing: it has ended, or was cancelled before"
        say(f"{opened.tag}: cancelled {what}")
        say_if_idle(opened)


def _cancel(opened: Study, name: str, who: str) -> Sequence[str]:
    """Take back one experiment or run; return what of it was still to come."""
    now, store = time.time(), opened.store
    if "." in name:
        return [name] if store.cancel(name, who, now) else []
    waiting = [name] if store.withdraw(name, who, now) else []
    runs = [run.id for run in store.history().runs_of(name) if run.state not in OVER]
    return [*waiting, *(run for run in runs if store.cancel(run, who, now))]


def note(folder: Path, study: str | None, text: str, *, author: str | None, as_json: bool) -> None:
    """Write a note into the notebook; the author's last one again changes nothing."""
    opened = existing_study(folder, study)
    if not text.strip() or len(text) > MAX_NOTES:
        raise UsageError(f"a note has 1 to {MAX_NOTES} characters; this has {len(text)}")
    written = opened.store.note(as_text(text), author_of(author), time.time())
    if as_json:
        print_json({"study": opened.tag, "written": written, **standing(opened)})
    else:
        say(f"{opened.tag}: noted" if written else f"{opened.tag}: that is your last note already")
        say_if_idle(opened)


def budget(folder: Path, study: str | None, *, as_json: bool) -> None:
    """Say what is spent, and what is left of each ceiling."""
    opened = existing_study(folder, study)
    if not opened.store.exists():
        raise NotFoundError(f"no study in {folder}")
    ceiling, usage = ceilings(opened), opened.store.usage(time.time(), opened.worst_seconds)
    promised = len(opened.store.waiting_proposals())
    rows = _rows(ceiling, usage, promised)
    if as_json:
        each = _per_run(opened)
        document = {"study": opened.tag, "spent": rows, "of_a_run": each, "ceilings": asdict(ceiling)}
        print_json(document | standing(opened))
        return
    for name, row in rows.items():
        left = (
            f", {row['left']:g} left of {row['ceiling']:g}" if row["ceiling"] is not None else ", no ceiling"
        )
        typer.echo(f"{name.replace('_', ' '):<12} {row['spent']:g}{left}")
    say_if_idle(opened)


def _rows(ceiling: Budget, usage: Usage, promised: int) -> dict[str, dict[str, Any]]:
    spent = {
        "experiments": float(usage.experiments),
        "hours": usage.hours,
        "gpu_dollars": usage.gpu_dollars,
        "api_dollars": usage.api_dollars,
    }
    rows = {}
    for name, amount in spent.items():
        limit = getattr(ceiling, name)
        left = None if limit is None else max(0.0, limit - amount)
        if name == "experiments" and limit is not None:
            left = max(0.0, room_for_experiments(ceiling, usage) - promised)
        rows[name] = {"spent": round(amount, 4), "ceiling": limit, "left": left and round(left, 4)}
    rows["experiments"]["promised"] = promised
    rows["gpu_dollars"]["reserved"] = round(usage.reserved_dollars, 4)
    return rows


def _per_run(opened: Study) -> Mapping[str, float | None]:
    """Return what a run usually takes: seconds, and USD."""
    runs = [run for run in opened.store.history().all_runs() if run.measurement and run.seconds]
    if not runs:
        return {"seconds": None, "dollars": None}
    seconds = sum(run.seconds or 0.0 for run in runs) / len(runs)
    dollars = sum((run.seconds or 0.0) * run.price_per_hour for run in runs) / 3600 / len(runs)
    return {"seconds": round(seconds, 1), "dollars": round(dollars, 4)}
