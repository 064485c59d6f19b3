"""`run` and `stop`: dispatch a study from this terminal, and end it."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoresearch.cli.common import HERE, Folder, Tag, configuration, existing_study, states
from autoresearch.cli.output import say
from autoresearch.config import Config
from autoresearch.errors import AutoresearchError, BudgetError, PoolError, StoppedError, UsageError

if TYPE_CHECKING:
    from autoresearch.dispatcher import Dispatcher
    from autoresearch.executors.preflight import LocalPreflight
    from autoresearch.plan import Finish, Snapshot
    from autoresearch.protocols import Agent
    from autoresearch.store import Event
    from autoresearch.study import Study

LOG_BYTES = 5 << 20
SCREEN_SECONDS = 0.5
FOOTER = "Ctrl-C finishes what runs and stops; twice cancels it. The study resumes with `autoresearch run`."


def run(
    *,
    study: Tag = None,
    agent: Annotated[str | None, typer.Option(help="Who proposes: sweep.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="CPU workers of this machine.")] = None,
    experiments: Annotated[int | None, typer.Option(min=0, help="Ceiling on experiments.")] = None,
    hours: Annotated[float | None, typer.Option(min=0, help="Ceiling on hours.")] = None,
    folder: Folder = HERE,
) -> None:
    """Run a study, or resume it. Prints what happens, then the results table."""
    folder = folder.absolute()
    _scaffold_if_empty(folder)
    config = _overridden(configuration(folder), agent, workers, experiments, hours)
    from autoresearch.executors.local import LocalExecutor, slots

    pool = slots(config.pool)
    chosen_agent = make_agent(config)
    opened = _open_or_create(folder, config, study, [slot.worker for slot in pool])
    try:
        with opened.dispatching():
            _refuse_checked_out_branch(opened)
            _prepare(opened)
            preflight = _preflight(opened)
            with _log_file(opened.state / "dispatcher.log"):
                finish, idle = _dispatch(
                    opened, config, chosen_agent, LocalExecutor(opened.runs_folder, pool), preflight
                )
        _conclude(opened, finish, idle=idle)
    finally:
        opened.close()


def stop(
    *,
    now: Annotated[bool, typer.Option("--now", help="Cancel what runs instead of waiting for it.")] = False,
    study: Tag = None,
    folder: Folder = HERE,
) -> None:
    """Ask the study's dispatcher to stop: running experiments finish first."""
    from autoresearch.plan import Request

    opened, _ = existing_study(folder, study)
    if not opened.dispatcher_alive():
        say(f"{opened.tag}: nothing is being dispatched; continue with `autoresearch run`")
        return
    opened.store.set_request(Request.CANCEL if now else Request.DRAIN, time.time())
    running = len(opened.store.history().in_flight())
    what = "cancels" if now else "stops after"
    say(f"{opened.tag} {what} {running} running; continue with `autoresearch run`")


def make_agent(config: Config) -> Agent:
    """Return the agent the configuration names; UsageError where a package it needs is missing."""
    import importlib.util

    from autoresearch.agents.sweep import SweepAgent

    if importlib.util.find_spec("optuna") is None:
        raise UsageError("the sweep agent needs optuna", "pip install 'autoresearch[sweep]'")
    return SweepAgent(config.agent.seed)


# ---------------------------------------------------------------------------
# Before
# ---------------------------------------------------------------------------


def _scaffold_if_empty(folder: Path) -> None:
    if folder.is_dir() and not [entry for entry in folder.iterdir() if entry.name != ".git"]:
        from autoresearch.cli.scaffold import scaffold

        scaffold(folder)
        say(f"{folder} was empty: scaffolded a study there")


def _overridden(
    config: Config, agent: str | None, workers: int | None, experiments: int | None, hours: float | None
) -> Config:
    """Return the configuration with the command line's wishes in it."""
    if agent is not None and agent != "sweep":
        raise UsageError(f"no agent {agent!r}", "use --agent sweep")
    if workers is not None:
        config = replace(config, pool=replace(config.pool, workers={"cpu": workers}))
    if experiments is not None:
        config = replace(config, budget=replace(config.budget, experiments=experiments))
    if hours is not None:
        config = replace(config, budget=replace(config.budget, hours=hours))
    return config


def _open_or_create(folder: Path, config: Config, tag: str | None, workers: Sequence[Any]) -> Study:
    from autoresearch.config import FILE_NAME, check_tag
    from autoresearch.errors import NotFoundError
    from autoresearch.study import create_study, default_tag, existing_tags, open_study, same_target

    where = states(folder, config)
    tags = existing_tags(where)
    tag = tag or config.study or (tags[-1] if tags else default_tag(time.time()))
    problem = check_tag(tag)
    if problem:
        raise UsageError(f"--study {problem}")
    if tag in tags:
        try:
            opened = open_study(folder, where, tag)
        except NotFoundError:  # its creation was cut short
            return create_study(folder, config, tag, workers, config.agent.seed, time.time())
        changed = same_target(opened, config)
        if changed:
            opened.close()
            raise UsageError(
                f"{changed} in {FILE_NAME} has changed since study {tag} began, and results would differ",
                "change it back, or start another study with --study",
            )
        return opened
    return create_study(folder, config, tag, workers, config.agent.seed, time.time())


def _refuse_checked_out_branch(opened: Study) -> None:
    if opened.workspace.branch in opened.workspace.checked_out():
        name = opened.workspace.branch.removeprefix("refs/heads/")
        raise UsageError(f"{name} is checked out, and keeps would move it", "run `git switch main` first")


def _prepare(opened: Study) -> None:
    """Prepare this machine's data, showing what the target's command prints."""
    prepared = opened.prepare_command()
    if prepared is None:
        return
    command, variables = prepared
    done = subprocess.run(command, env={**os.environ, **variables}, stdout=sys.stderr, check=False)
    if done.returncode != 0:
        raise AutoresearchError(
            f"preparing the data failed with exit code {done.returncode}", "its last lines say why"
        )


def _preflight(opened: Study) -> LocalPreflight | None:
    """Return the preflight, after the baseline itself has passed it. None where the target has none."""
    from autoresearch.executors.preflight import LocalPreflight
    from autoresearch.history import BASELINE

    if opened.target.preflight is None:
        return None
    preflight = LocalPreflight(
        opened.state / "preflight", opened.tag, opened.preflight_spec, opened.target.editable
    )
    runs = opened.store.history().runs_of(BASELINE)
    if any(run.submitted_at is not None for run in runs):
        return preflight
    preflight.forget(0)
    preflight.start(0, opened.files(BASELINE))
    while not (found := preflight.result(0))[0]:
        time.sleep(0.1)
    preflight.forget(0)
    failure = found[1]
    if failure:
        opened.close()
        shutil.rmtree(opened.state)  # nothing was measured: the next run starts from the corrected code
        missing = failure.kind == "import"
        raise UsageError(
            f"the baseline fails its preflight: {failure}",
            "pip install 'autoresearch[train]'" if missing else "correct it, commit, and run again",
        )
    return preflight


@contextmanager
def _log_file(path: Path) -> Iterator[None]:
    handler = RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=1, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root = logging.getLogger("autoresearch")
    root.setLevel(logging.INFO)
    root.propagate = False
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


# ---------------------------------------------------------------------------
# During
# ---------------------------------------------------------------------------


def _dispatch(
    opened: Study, config: Config, agent: Agent, executor: Any, preflight: LocalPreflight | None
) -> tuple[Finish, bool]:
    """Dispatch to the end; return why it ended, and whether there was nothing to do at all."""
    from autoresearch.clock import WallClock
    from autoresearch.dispatcher import Dispatcher
    from autoresearch.judging.policy import ConfirmPolicy

    instructions = opened.folder / config.instructions
    with _screen(opened, config) as on_turn:
        dispatcher = Dispatcher(
            opened,
            config,
            agent=agent,
            executor=executor,
            policy=ConfirmPolicy(config.judging),
            preflight=preflight,
            clock=WallClock(),
            instructions=lambda: instructions.read_text() if instructions.exists() else "",
            on_turn=on_turn,
        )
        before = opened.store.proposal_count(), _started(opened)
        with _signals(dispatcher):
            finish = dispatcher.run()
    _export(opened)
    return finish, before == (opened.store.proposal_count(), _started(opened))


def _started(opened: Study) -> int:
    return sum(1 for run in opened.store.history().all_runs() if run.submitted_at is not None)


@contextmanager
def _signals(dispatcher: Dispatcher) -> Iterator[None]:
    """Turn Ctrl-C into a request to finish what runs, a second one into cancelling it."""
    from autoresearch.plan import Request

    pressed = []

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        pressed.append(True)
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


@contextmanager
def _screen(opened: Study, config: Config) -> Iterator[Any]:
    """Yield what the dispatcher calls each turn: a live screen on a terminal, else lines to stderr."""
    from autoresearch.console.look import Watcher

    exporter = _Exporter(opened)
    if not sys.stderr.isatty():
        lines = _Lines(opened)

        def plain(snapshot: Snapshot) -> None:
            exporter.update(snapshot)
            lines.update()

        yield plain
        lines.update()
        return
    from rich.console import Console
    from rich.live import Live

    from autoresearch.console.live import Screen

    watcher = Watcher(opened, config)
    with Live(console=Console(stderr=True), auto_refresh=False, screen=True) as live:
        shown_at = 0.0

        def draw(snapshot: Snapshot) -> None:
            nonlocal shown_at
            exporter.update(snapshot)
            if time.monotonic() - shown_at < SCREEN_SECONDS:
                return
            pool = Counter(worker.kind for worker in snapshot.workers)
            footer = FOOTER if snapshot.request == "none" else _stopping(snapshot)
            live.update(Screen(watcher.look(time.time(), pool=pool, alive=True), footer), refresh=True)
            shown_at = time.monotonic()

        yield draw


def _stopping(snapshot: Snapshot) -> str:
    running = len(snapshot.history.in_flight())
    if snapshot.request == "drain":
        return f"Stopping after {running} running; Ctrl-C again cancels them."
    return f"Cancelling {running} running."


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
    from autoresearch.files import write_whole
    from autoresearch.report import results_tsv

    write_whole(opened.folder / "results.tsv", results_tsv(opened.store.history()).encode())


class _Lines:
    """Says what happens in plain lines, where there is no terminal."""

    def __init__(self, opened: Study) -> None:
        self._opened = opened
        self._seq = max((e.seq for e in opened.store.last_events(1, _TOLD)), default=0)

    def update(self) -> None:
        """Tell what happened since the last call."""
        from autoresearch.console.text import clock_time

        for event in self._opened.store.events(self._seq, kinds=_TOLD):
            self._seq = event.seq
            say(f"{clock_time(event.at)}  {event.kind:<8} {event.subject:<8} {_told(event)}".rstrip())


def _told(event: Event) -> str:
    """Return what an event says, in one clean line."""
    from autoresearch.logparse import clean

    if event.kind == "finished":
        return f"{event.data['value']:.5f}"
    said = (event.data.get(key) for key in ("reason", "hypothesis", "failure"))
    return clean(str(next((text for text in said if text), "")))


_TOLD = (
    "admitted",
    "refused",
    "running",
    "finished",
    "failed",
    "lost",
    "requeued",
    "keep",
    "discard",
    "crash",
    "agent_failed",
)


# ---------------------------------------------------------------------------
# After
# ---------------------------------------------------------------------------


def _conclude(opened: Study, finish: Finish, *, idle: bool) -> None:
    """Print the table, the best diff and the picture; exit with what the end means."""
    from autoresearch.cli.look import print_outcome
    from autoresearch.experiment import Verdict
    from autoresearch.history import BASELINE

    print_outcome(opened)
    if finish.complete and not idle:
        say(f"{opened.tag} is complete: {finish.reason}")
        return
    resume = "`autoresearch run` resumes the study"
    if finish.complete:
        raise BudgetError(
            f"nothing to do: {finish.reason}",
            "raise the budget (--experiments N), or start another study with --study",
        )
    baseline = opened.store.experiment(BASELINE)
    if baseline.verdict is Verdict.CRASH:
        raise AutoresearchError(
            finish.reason, f"`autoresearch log {BASELINE}` shows it; correct it and start another study"
        )
    if finish.reason.startswith(("runs wait", "the pool")):
        raise PoolError(finish.reason, "add such workers to pool.workers")
    if opened.store.study().request == "none" or finish.reason.startswith("left"):
        raise StoppedError(f"{opened.tag}: {finish.reason}", resume)
    raise StoppedError(f"{opened.tag} was stopped, its state is saved", resume)
