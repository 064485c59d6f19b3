"""A death before or after every single effect: each is tried in turn, none may matter.

Where random kills seldom hit (between a claim and the start of its job, between the store and git),
this one goes on purpose: every dispatcher dies around its first effects, and the next goes on, until the
study is complete one effect at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoresearch.actions import Request, Snapshot
from autoresearch.agents.scripted import ScriptedAgent
from autoresearch.brief import Brief
from autoresearch.budget import Budget
from autoresearch.calls import Bill, CallOutcome, Tokens
from autoresearch.config import AgentConfig, Config
from autoresearch.dispatcher import Dispatcher
from autoresearch.errors import AgentError
from autoresearch.executors.local import LocalExecutor, slots
from autoresearch.experiment import OVER, Edit, Proposal, RunState, Verdict
from autoresearch.protocols import Agent, Reply
from autoresearch.store import CallTable, PaidReply
from autoresearch.study import Study, open_study, state_folder
from autoresearch.submission import submit
from autoresearch.wave import Idea, Wave
from lab import Lab, set_x, target
from store_contract import NOW, began

pytestmark = pytest.mark.slow
SLOWER = Proposal(
    hypothesis="slower", edits=(Edit(old="SLEEP = 0.0", new="SLEEP = 0.01"),), parent="e0001", author="test"
)
SCRIPT = [  # one that is kept, one that follows it, one that stays where it is
    replace(set_x(1.5), base="e0001", follows=True),
    replace(SLOWER, base="e0001", follows=True),
    set_x(3.0),
]


OnLife = Callable[[Dispatcher, Study], None]


class Killed(BaseException):
    """The dispatcher is gone: nothing may catch this."""


class Fuse:
    """Dies at the n-th effect, counted over everything that carries it."""

    def __init__(self, n: int) -> None:
        self.left = n

    def burn(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed


class Tripwire:
    """Stands before an object and burns the fuse around each of the named methods."""

    def __init__(self, inner: Any, fuse: Fuse, methods: set[str], *, after: bool) -> None:
        self._inner, self._fuse, self._methods, self._after = inner, fuse, methods, after

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in self._methods:
            return found

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if not self._after:
                self._fuse.burn()
            result = found(*args, **kwargs)
            if self._after:
                self._fuse.burn()
            return result

        return wrapped


class Paid:
    """Proposes what the script says, one a call, and is billed for it."""

    def __init__(self, study: Study) -> None:
        self._path = study.state / "study.db"

    def propose(self, brief: Brief, _: int) -> Reply:
        if brief.serial >= len(SCRIPT):
            raise AgentError("the script is at its end", retryable=False)
        proposals = (SCRIPT[brief.serial],)
        with closing(CallTable(self._path)) as table:
            call = began(table)
            table.bill_call(
                call.id, Bill(outcome=CallOutcome.ANSWERED, tokens=Tokens(output=1), cost_usd=0.1), NOW
            )
            paid = PaidReply(call=call.id, proposals=proposals, notes="n")
            table.judge_call(call.id, CallOutcome.PROPOSED, paid)
        return Reply(proposals=proposals, notes="n", call=call.id)


EFFECTS = {
    "store": {
        "add_proposals",
        "enlist",
        "reject",
        "drop",
        "close_lost_calls",
        "rebase",
        "admit",
        "refuse",
        "set_commit",
        "decide",
        "queue_run",
        "claim",
        "mark_running",
        "close_run",
    },
    "workspace": {"publish", "advance"},
    "executor": {"submit", "fetch"},
    "preflight": {"start", "forget"},
}


def live_and_die(
    lab: Lab, config: Config, agent: Callable[[Study], Agent], *, after: bool, on_life: OnLife | None = None
) -> tuple[Study, int]:
    """Dispatch, one life after another, until the study is over; return it and how many deaths it took.

    `on_life` is called with every dispatcher before it runs.
    """
    deaths = 0
    for life in range(400):
        fuse = Fuse(1 + life % 6)  # some lives get no effect done, some five
        study = open_study(lab.folder, state_folder(lab.folder))
        # asked in its own thread: one that outlived this death would still write to the store
        dispatcher = lab.dispatcher([], config, study, agent=agent(study), spawn=lambda answer: answer())
        executor = LocalExecutor(study.runs_folder, slots(config.pool))
        executor.poll_seconds = 0.02
        dispatcher._executor = Tripwire(executor, fuse, EFFECTS["executor"], after=after)
        intake = dispatcher._intake
        intake._preflight = Tripwire(intake._preflight, fuse, EFFECTS["preflight"], after=after)
        store = Tripwire(study.store, fuse, EFFECTS["store"], after=after)
        dispatcher._store = dispatcher._asking._store = intake._store = store
        study._workspace = Tripwire(study.workspace, fuse, EFFECTS["workspace"], after=after)
        if on_life:
            on_life(dispatcher, study)
        try:
            with study.dispatching():
                dispatcher.run()
        except Killed:
            deaths += 1
            study.close()
            continue
        return study, deaths
    raise AssertionError("it never came to its end")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_death_at_every_effect_is_survived(lab: Lab, tmp_path: Path, after: bool) -> None:
    journal = tmp_path / "journal"
    checked = target(env={"JOURNAL": str(journal)}, preflight="{python} {protected}/fake_training.py")
    config = lab.config(target=checked, budget=Budget(experiments=len(SCRIPT)))
    study: Study = lab.study(config)
    study, deaths = live_and_die(lab, config, Paid, after=after)
    assert deaths > 20
    runs = list(study.store.history().all_runs())
    assert all(run.state in OVER for run in runs)
    assert Counter(run.state for run in runs) == {RunState.FINISHED: len(runs)}
    started = Counter(
        line.split()[1] for line in journal.read_text().splitlines() if line.startswith("start")
    )
    assert set(started.values()) == {1}
    assert {name.rsplit("-a", 1)[0] for name in started} == {f"t-{run.id}" for run in runs}
    assert len(started) == len(runs), "every run was executed exactly once"
    experiments = study.store.history().experiments
    assert sorted(e.hypothesis for e in experiments.values()) == ["X 1.5", "X 3", "baseline", "slower"]
    assert study.store.proposal_count() == len(SCRIPT), "no answer was taken in twice"
    calls = study.store.calls()
    assert all(call.ended_at for call in calls)
    assert study.store.paid_replies() == []
    for experiment in experiments.values():
        assert study.workspace.resolve(study.workspace.ref(experiment.id)) == experiment.commit
    print(
        f"\n{deaths} deaths {'after' if after else 'before'} an effect, {len(runs)} runs, each executed once"
    )


def edited(more: str) -> Idea:
    edit = Edit(old="SLEEP = 0.0", new=more)
    return Idea(hypothesis=more, edits=(edit,))


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_what_was_submitted_survives_a_death_at_every_effect(lab: Lab, tmp_path: Path, after: bool) -> None:
    """Two that run, one that fails its check, one taken back while it waits, one while it runs."""
    journal = tmp_path / "journal"
    checked = target(env={"JOURNAL": str(journal)}, preflight="{python} {protected}/fake_training.py")
    config = lab.config(target=checked, agent=AgentConfig(name="external"))
    study = lab.study(config)
    wave = Wave(
        experiments=(
            Idea(set={"X": 1.5}),
            Idea(set={"X": 3.0}),
            edited("SLEEP = 0.0\nBROKEN = True"),
            edited("SLEEP = 0.0\nX = 2.5"),
            edited("SLEEP = 30.0"),
        )
    )
    submit(study, wave, author="ann", request_id=None, budget=Budget(), now=NOW)
    study.store.withdraw("e0005", "ann", NOW)
    study.close()

    def steer(dispatcher: Dispatcher, opened: Study) -> None:
        def on_turn(seen: Snapshot) -> None:
            history = seen.history
            for run in history.runs_of("e0006"):
                if run.state is RunState.RUNNING:
                    opened.store.cancel(run.id, "ann", NOW)
            open_ = [e for e in history.experiments.values() if e.verdict is None]
            if all(history.taken_back(e.id) for e in open_) and not history.in_flight():
                dispatcher.request(Request.DRAIN)

        dispatcher._on_turn = on_turn

    study, deaths = live_and_die(lab, config, lambda _: ScriptedAgent([]), after=after, on_life=steer)
    assert deaths > 10
    history = study.store.history()
    verdicts = {name: e.verdict for name, e in history.experiments.items()}
    assert verdicts.pop("e0002") is Verdict.KEEP
    assert verdicts == {
        "e0001": Verdict.KEEP,
        "e0003": Verdict.DISCARD,
        "e0004": Verdict.CRASH,
        "e0005": None,
        "e0006": None,
    }
    assert history.runs_of("e0004") == history.runs_of("e0005") == ()
    assert [run.state for run in history.runs_of("e0006")] == [RunState.CANCELLED]
    started = Counter(
        line.split()[1] for line in journal.read_text().splitlines() if line.startswith("start")
    )
    assert set(started.values()) == {1}, "no attempt was executed twice"
    assert study.store.waiting_proposals() == []
    for experiment in history.experiments.values():
        assert study.workspace.resolve(study.workspace.ref(experiment.id)) == experiment.commit
