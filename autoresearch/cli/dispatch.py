"""A dispatcher in this terminal: its signals, its screen, and what it leaves at the end."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import typer

from autoresearch.actions import Finish, Request, Snapshot
from autoresearch.cli.common import noise_of, plus_minus, read_instructions
from autoresearch.cli.look import print_results
from autoresearch.cli.output import say
from autoresearch.clock import WallClock
from autoresearch.config import Config
from autoresearch.console.look import Watcher
from autoresearch.console.text import clock_time
from autoresearch.dispatcher import Dispatcher
from autoresearch.errors import AutoresearchError, BudgetError, PoolError, StoppedError, UsageError
from autoresearch.executors.preflight import LocalPreflight
from autoresearch.experiment import Verdict
from autoresearch.files import write_whole
from autoresearch.history import BASELINE
from autoresearch.judging.policy import ConfirmPolicy
from autoresearch.judging.posterior import PosteriorPolicy
from autoresearch.keeper import RESTARTS
from autoresearch.plotting import plot_progress
from autoresearch.protocols import Agent, Executor, Policy
from autoresearch.report import results, results_tsv
from autoresearch.store import Event
from autoresearch.study import Study
from autoresearch.untrusted import clean, clean_block

SCREEN_SECONDS = 0.5
TOP_ROWS = 20
FOOTER = "Ctrl-C finishes what runs and stops; twice cancels it. The study resumes with `autoresearch run`."
TOLD = (
    *("admitted", "refused", "running", "finished", "pruned", "failed", "lost", "requeued"),
    *("keep", "discard", "crash", "agent_failed", "worker"),
)

OnTurn = Callable[[Snapshot], None]


def dispatch(
    opened: Study,
    config: Config,
    agent: tuple[Agent, float],
    executor: Executor,
    preflight: LocalPreflight | None,
    clock: WallClock,
) -> tuple[Finish, bool]:
    """Dispatch to the end; return why it ended, and whether there was nothing to do at all.

    With the agent comes how many seconds it usually takes to answer.
    """
    before = _work(opened)
    with _screen(opened) as on_turn:
        dispatcher = Dispatcher(
            opened,
            config,
            agent=agent[0],
            answer_seconds=agent[1],
            executor=executor,
            policy=make_policy(opened, config),
            preflight=preflight,
            clock=clock,
            instructions=lambda: read_instructions(opened.folder, config),
            on_turn=on_turn,
            goes_on=RESTARTS in os.environ,
        )
        with _signals(dispatcher):
            finish = dispatcher.run()
    _export(opened)
    return finish, before == _work(opened)


def make_policy(opened: Study, config: Config) -> Policy:
    """Return the policy that judges a study."""
    judging = config.judging
    if judging.policy == "confirm":
        return ConfirmPolicy(judging)
    noise = noise_of(opened, judging.noise)
    return PosteriorPolicy(
        judging, first_kind=opened.row.kinds[0], noise=noise, few_ideas=config.budget.limits_ideas_only
    )


def _work(opened: Study) -> tuple[int, int]:
    """Return how many proposals came in and how many runs were started, ever."""
    started = sum(1 for run in opened.store.history().all_runs() if run.submitted_at is not None)
    return opened.store.proposal_count(), started


@contextmanager
def _signals(dispatcher: Dispatcher) -> Iterator[None]:
    """Turn Ctrl-C into a request to finish what runs, a second into cancelling it, a third into leaving."""
    pressed = []

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        pressed.append(True)
        if len(pressed) > 2:  # what was cancelled does not end, where nobody answers
            dispatcher.leave()
        else:
            dispatcher.request(Request.DRAIN if len(pressed) == 1 else Request.CANCEL)

    def leave(_signal: int, _frame: FrameType | None) -> None:
        dispatcher.leave()

    handlers = {signal.SIGINT: interrupt, signal.SIGTERM: leave, signal.SIGHUP: leave}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ---------------------------------------------------------------------------
# What is seen meanwhile
# ---------------------------------------------------------------------------


@contextmanager
def _screen(opened: Study) -> Iterator[OnTurn]:
    """Yield what the dispatcher calls each turn: a live screen on a terminal, else lines to stderr."""
    exporter = _Exporter(opened)
    if not sys.stderr.isatty():
        lines = _Lines(opened)

        def tell(snapshot: Snapshot) -> None:
            exporter.update(snapshot)
            lines.update()

        yield tell
        lines.update()
        return
    from rich.console import Console
    from rich.live import Live

    from autoresearch.console.live import Screen

    watcher = Watcher(opened)
    with Live(console=Console(stderr=True), auto_refresh=False, screen=True) as live:
        shown_at = 0.0

        def draw(snapshot: Snapshot) -> None:
            nonlocal shown_at
            exporter.update(snapshot)
            if time.monotonic() - shown_at < SCREEN_SECONDS:
                return
            pool = Counter(worker.kind for worker in snapshot.workers)
            look = watcher.look(time.time(), pool=pool, alive=True)
            live.update(Screen(look, _footer(snapshot)), refresh=True)
            shown_at = time.monotonic()

        yield draw


def _footer(snapshot: Snapshot) -> str:
    running = len(snapshot.history.in_flight())
    match snapshot.request:
        case Request.DRAIN:
            return f"Stopping after {running} running; Ctrl-C again cancels them."
        case Request.CANCEL:
            return f"Cancelling {running} running."
    return FOOTER


class _Exporter:
    """Keeps results.tsv in the study's folder current."""

    def __init__(self, opened: Study) -> None:
        self._opened = opened
        self._judged = -1

    def update(self, snapshot: Snapshot) -> None:
        """Write the file when another experiment was judged."""
        judged = sum(1 for e in snapshot.history.experiments.values() if e.verdict is not None)
        if judged != self._judged:
            self._judged = judged
            _export(self._opened)


def _export(opened: Study) -> None:
    content = results_tsv(opened.store.history(), opened.store.priors(), opened.target.metric.name)
    write_whole(opened.folder / "results.tsv", content.encode())


class _Lines:
    """Says what happens in plain lines, where there is no terminal."""

    def __init__(self, opened: Study) -> None:
        self._opened = opened
        self._seq = max((event.seq for event in opened.store.last_events(1, TOLD)), default=0)

    def update(self) -> None:
        """Tell what happened since the last call."""
        for event in self._opened.store.events(self._seq, kinds=TOLD):
            self._seq = event.seq
            say(f"{clock_time(event.at)}  {event.kind:<8} {event.subject:<8} {_told(event)}".rstrip())


def _told(event: Event) -> str:
    """Return what an event says, in one clean line."""
    if event.kind == "finished":
        return f"{event.data['value']:.5f}"
    if event.kind == "worker":
        return clean(" ".join(str(event.data.get(key) or "") for key in ("state", "note")))
    said = (event.data.get(key) for key in ("reason", "hypothesis", "failure"))
    return clean(str(next((text for text in said if text), "")))


# ---------------------------------------------------------------------------
# What is left at the end
# ---------------------------------------------------------------------------


def conclude(opened: Study, finish: Finish, *, idle: bool) -> None:
    """Print the table, the best diff and the picture; raise what the end means for the exit code."""
    _print_outcome(opened)
    if finish.complete and not idle:
        say(f"{opened.tag} is complete: {finish.reason}")
        return
    if finish.complete:
        raise BudgetError(
            f"nothing to do: {finish.reason}",
            "raise the budget (--experiments N), or begin another with --study",
        )
    if opened.store.experiment(BASELINE).verdict is Verdict.CRASH:
        raise AutoresearchError(
            finish.reason, f"`autoresearch log {BASELINE}` shows it; correct it and start another study"
        )
    if finish.reason.startswith(("runs wait", "the pool")):
        raise PoolError(finish.reason, "add such workers to pool.workers")
    reason = finish.reason if opened.store.study().request == Request.NONE else "stopped, its state is saved"
    raise StoppedError(f"{opened.tag}: {reason}", "`autoresearch run` resumes the study")


def _print_outcome(opened: Study) -> None:
    history = opened.store.history()
    rows = results(history)
    if not any(row.value is not None for row in rows):
        return
    print_results(opened, rows[:TOP_ROWS], len(rows))
    incumbent = history.incumbent()
    if incumbent is None:
        return
    typer.echo("")
    if incumbent.parent is None:
        typer.echo("nothing beat the noise: the committed code is still the best")
    else:
        best = next(row for row in rows if row.experiment == incumbent.id)
        error = f" {plus_minus()}{best.standard_error:.5f}" if best.standard_error is not None else ""
        typer.echo(f"best: {incumbent.id}, {best.value:.5f}{error}, against the committed code:")
        typer.echo(clean_block(opened.diff(incumbent.id, BASELINE).rstrip()))
        branch = opened.workspace.branch.removeprefix("refs/heads/")
        typer.echo(f"take it over: git checkout {branch} -- {' '.join(opened.target.editable)}")
    typer.echo("")
    try:
        picture = _picture(opened)
        if plot_progress(history, picture, metric=opened.target.metric.name):
            say(f"wrote results.tsv and {os.path.relpath(picture, opened.folder)}")
    except UsageError as error:
        say(f"wrote results.tsv; {error.message}: {error.hint}")


def _picture(opened: Study) -> Path:
    """Return where the picture goes: beside results.tsv, but never over one that is committed there."""
    committed = not opened.workspace.missing(opened.row.base_commit, ["progress.png"])
    return (opened.state if committed else opened.folder) / "progress.png"
