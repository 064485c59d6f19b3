"""`up`, `down`, `stop`: a dispatcher that outlives the shell it was started from.

`up` starts a keeper in a session of its own; the keeper starts this module, which dispatches as `run`
does, and again after a crash. What it says stands in `dispatcher.out` in the study's folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import typer

from autoresearch.actions import Request
from autoresearch.budget import Budget
from autoresearch.cli.common import configuration, existing_study
from autoresearch.cli.machines import take_down
from autoresearch.cli.output import fail, fit, from_os, print_json, say
from autoresearch.cli.pool import check_affordable, confirm, counted
from autoresearch.cli.run import (
    POOL,
    Wishes,
    found_study,
    overridden,
    rehearse,
    run,
    scaffold_if_empty,
    with_ceilings,
)
from autoresearch.config import Config
from autoresearch.errors import (
    AutoresearchError,
    BudgetError,
    BusyError,
    NotFoundError,
    PoolError,
    UsageError,
    WaitTimeoutError,
)
from autoresearch.files import read_tail
from autoresearch.keeper import CRASHED, OUTPUT
from autoresearch.study import Study

POLL_SECONDS = 0.1
_ERRORS: Mapping[int, type[AutoresearchError]] = {
    2: UsageError,
    3: NotFoundError,
    5: BudgetError,
    6: PoolError,
}


def up(folder: Path, tag: str | None, wishes: Wishes, *, timeout: float, as_json: bool) -> None:
    """Start a dispatcher in the background, and wait until it dispatches; nothing where one does."""
    folder, asked = folder.absolute(), wishes
    wishes = replace(wishes, agent=wishes.agent or "external")
    scaffold_if_empty(folder)
    config = overridden(configuration(folder), wishes)
    if wishes.dry_run:
        _rehearse(folder, config, tag, as_json=as_json)
        return
    opened = found_study(folder, config, tag)
    if opened.dispatched():
        _refuse_another(opened, config, asked)
        _go_on(opened, wishes)
    else:
        config = with_ceilings(opened, config, wishes)
    started, before = not opened.dispatched(), len(opened.store.sessions())
    if started and config.pool.executor == "skypilot":
        check_affordable(opened, config)
        confirm(config, yes=wishes.yes)
    said_before = _start(opened, replace(wishes, yes=True)) if started else 0
    dispatching = _await_start(opened, before if started else max(0, before - 1), said_before, timeout)
    if not started:
        _refuse_another(opened, config, asked)
    document = _described(opened, config, started=started, dispatching=dispatching)
    if as_json:
        print_json(document)
        return
    state = "is dispatched" if dispatching else "is being prepared"
    typer.echo(f"{opened.tag} {state}: {document['workers']}, agent {document['agent']}")
    typer.echo(f"log: {document['log']}")
    typer.echo(f"next: {document['next']}")


def _rehearse(folder: Path, config: Config, tag: str | None, *, as_json: bool) -> None:
    name, lines = rehearse(folder, config, tag)
    if as_json:
        would = [line.strip() for line in lines if line]
        print_json(fit({"study": name, "dry_run": True, "would": would}, "would"))
        return
    for line in lines:
        typer.echo(line)


def _go_on(opened: Study, wishes: Wishes) -> None:
    """Take back a request to stop; BusyError where other ceilings are asked for than those it has."""
    sessions = opened.store.sessions()
    for name in ("experiments", "hours"):
        asked = getattr(wishes, name)
        has = getattr(sessions[-1].budget, name) if sessions else asked
        if asked is not None and asked != has:
            raise BusyError(
                f"{opened.tag} is being dispatched with a ceiling of {has} {name}",
                f"end it first: `autoresearch stop`, then `autoresearch up --{name} {asked:g}`",
            )
    if sessions and wishes.until_ceiling not in {None, sessions[-1].budget.until_ceiling}:
        raise BusyError(
            f"{opened.tag} is being dispatched, and {_how_long(sessions[-1].budget)}",
            f"end it first: `autoresearch stop`, then `autoresearch up {_flag(wishes)}`",
        )
    if opened.store.study().request != Request.NONE:
        opened.store.set_request(Request.NONE, time.time())


def _how_long(budget: Budget) -> str:
    return "stops when the next hour is not worth it" if budget.until_ceiling else "goes on to its ceilings"


def _flag(wishes: Wishes) -> str:
    return "--until-ceiling" if wishes.until_ceiling else "--no-until-ceiling"


def _has(opened: Study) -> dict[str, str]:
    """Return what a dispatcher that has begun was started with: agent, executor, workers; else nothing."""
    sessions = opened.store.sessions()
    if not (opened.dispatcher_alive() and _has_begun(opened, len(sessions) - 1)):
        return {}
    try:
        told: dict[str, str] = json.loads((opened.state / POOL).read_text())
    except FileNotFoundError:
        return {}
    return {"agent": sessions[-1].agent, **told}


def _refuse_another(opened: Study, config: Config, asked: Wishes) -> None:
    """Raise BusyError where another agent, executor or number of workers is asked for than there is."""
    wanted = {
        "agent": (asked.agent, config.agent.label),
        "executor": (asked.executor, config.pool.executor),
        "workers": (asked.workers, counted(config.pool)),
    }
    for name, is_ in _has(opened).items():
        said, would_be = wanted[name]
        if said is not None and would_be != is_:
            raise BusyError(
                f"{opened.tag} is being dispatched with {name} {is_}",
                f"end it first: `autoresearch stop`, then `autoresearch up --{name} {said}`",
            )


def _described(opened: Study, config: Config, *, started: bool, dispatching: bool) -> dict[str, Any]:
    has = {"executor": config.pool.executor, "workers": counted(config.pool), **_has(opened)}
    sessions = opened.store.sessions()
    last = sessions[-1] if sessions and dispatching else None
    budget = asdict(last.budget if last else config.budget)
    return {
        "study": opened.tag,
        "dispatching": dispatching,
        "started": started,
        "pid": last and last.pid,
        "agent": last.agent if last else config.agent.label,
        "workers": has["workers"],
        "executor": has["executor"],
        "budget": {name: ceiling for name, ceiling in budget.items() if ceiling is not None},
        "log": str(opened.state / OUTPUT),
        "next": "autoresearch brief" if dispatching else "autoresearch status",
    }


def _start(opened: Study, wishes: Wishes) -> int:
    """Start the keeper as nobody's child, in a session of its own; return how long its log was before."""
    (opened.state / "keeper.json").unlink(missing_ok=True)
    opened.store.set_request(Request.NONE, time.time())  # what is asked from now on is heeded
    work = [sys.executable, "-m", "autoresearch.cli.background", str(opened.folder), opened.tag]
    keeper = [
        sys.executable,
        "-m",
        "autoresearch.keeper",
        str(opened.state),
        *work,
        json.dumps(asdict(wishes)),
    ]
    output = opened.state / OUTPUT
    package = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    with output.open("ab") as log:
        said_before = log.tell()
        subprocess.run(
            ["/bin/sh", "-c", '"$@" &', "sh", *keeper],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ | {"PYTHONPATH": paths},
            start_new_session=True,
            check=True,
        )
    return said_before


def _await_start(opened: Study, before: int, said_before: int, timeout: float) -> bool:
    """Return whether a session beside those `before` dispatches by then; raise what ended it."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if opened.dispatcher_alive() and _has_begun(opened, before):
            return True
        ended = _ended(opened)
        if ended is not None:
            _raise(opened, ended, said_before)
        time.sleep(POLL_SECONDS)
    return False


def _has_begun(opened: Study, before: int) -> bool:
    """Whether such a session is past its first turn, and so found something to do, or to wait for."""
    sessions = opened.store.sessions()
    past_one_turn = len(sessions) > before and sessions[-1].seen_at > sessions[-1].started_at
    return past_one_turn and opened.store.study().outcome is None


def _ended(opened: Study) -> int | None:
    """Return the exit code a keeper has left; None while it lives."""
    try:
        code: int = json.loads((opened.state / "keeper.json").read_text())["code"]
    except FileNotFoundError:
        return None
    return code


def _raise(opened: Study, code: int, said_before: int) -> None:
    """Raise what the end of a dispatcher that has just been started means, in its own last words."""
    output = opened.state / OUTPUT
    told = min(4000, output.stat().st_size - said_before)
    said = read_tail(output, told).decode("utf-8", "replace").splitlines()
    ours = [i for i, line in enumerate(said) if line.startswith("autoresearch: ")]
    message, hint = (
        f"the dispatcher ended with code {code}",
        f"its last words stand in {output}",
    )
    if ours:
        message = said[ours[-1]].removeprefix("autoresearch: ")
        hint = "".join(said[ours[-1] + 1 : ours[-1] + 2]).strip() or hint
    if code == 0:
        raise BudgetError(
            opened.store.study().outcome or message,
            "raise the budget, or give --no-until-ceiling: `autoresearch up --help`",
        )
    raise _ERRORS.get(code, AutoresearchError)(message, hint)


# ---------------------------------------------------------------------------
# The end
# ---------------------------------------------------------------------------


def down(folder: Path, study: str | None, *, timeout: float, as_json: bool) -> None:
    """End the study's dispatcher, wait until it has ended, and take down what machines it left."""
    opened = existing_study(folder, study)
    was_dispatched = opened.dispatched()
    if was_dispatched:
        opened.store.set_request(Request.CANCEL, time.time())
        deadline = time.monotonic() + timeout
        while opened.dispatched():
            if time.monotonic() >= deadline:
                raise WaitTimeoutError(
                    f"{opened.tag} is still being dispatched after {timeout:g} s",
                    "run `autoresearch down` again",
                )
            time.sleep(POLL_SECONDS)
    ended = take_down([opened])
    _report_down(opened, ended, was_dispatched=was_dispatched, as_json=as_json)


def _report_down(opened: Study, ended: Mapping[str, str], *, was_dispatched: bool, as_json: bool) -> None:
    waiting = len(opened.store.history().queued()) + len(opened.store.waiting_proposals())
    failed = any(how.startswith("failed") for how in ended.values())
    if as_json and not failed:
        document = {"study": opened.tag, "ended": was_dispatched, "clusters": ended, "waiting": waiting}
        print_json(document | {"next": "autoresearch up"})
        return
    for cluster, how in ended.items():
        say(f"{cluster} {how}")
    if failed:
        raise AutoresearchError("some machines could not be taken down", "see `sky status`, then try again")
    what = "its dispatcher has ended" if was_dispatched else "nothing was being dispatched"
    left = "" if ended else ", no machines are left"
    say(f"{opened.tag}: {what}, {waiting} wait for `autoresearch up`{left}")


def stop(folder: Path, study: str | None, *, now: bool, as_json: bool) -> None:
    """Ask the study's dispatcher to stop."""
    opened = existing_study(folder, study)
    alive = opened.dispatched()
    running = len(opened.store.history().in_flight())
    if alive:
        opened.store.set_request(Request.CANCEL if now else Request.DRAIN, time.time())
    if as_json:
        print_json(
            {"study": opened.tag, "stopping": alive, "running": running, "next": "autoresearch status"}
        )
    else:
        what = f"{'cancels' if now else 'stops after'} {running} running" if alive else _NOTHING
        say(f"{opened.tag}: {what}; continue with `autoresearch run`, or `autoresearch up`")


_NOTHING = "nothing is being dispatched"


# ---------------------------------------------------------------------------
# What the keeper starts
# ---------------------------------------------------------------------------


def main() -> None:
    """Dispatch a study without a terminal; leave with one of our exit codes, or CRASHED for a bug."""
    folder, tag, wishes = Path(sys.argv[1]), sys.argv[2], Wishes(**json.loads(sys.argv[3]))
    try:
        run(folder, tag, wishes)
    except AutoresearchError as error:
        sys.exit(fail(error, as_json=False))
    except OSError as error:
        sys.exit(fail(from_os(error), as_json=False))
    except Exception:  # noqa: BLE001  the keeper has to know a bug from an end
        traceback.print_exc()
        sys.exit(CRASHED)


if __name__ == "__main__":
    main()
