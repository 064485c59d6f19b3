"""Ideas reach the workers in time, and no earlier."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.actions import Admit, Ask, Rebase, Snapshot, Stack
from autoresearch.budget import Budget
from autoresearch.config import AgentConfig, Judging
from autoresearch.experiment import Edit, Proposal, Purpose, Run, RunState, Verdict, Worker
from autoresearch.history import History
from autoresearch.judging.policy import ConfirmPolicy, Together
from autoresearch.plan import plan
from builders import baseline, experiment, history, run, snapshot

POLICY = ConfirmPolicy(Judging())
NOW = 1_700_000_000.0
BASE = baseline(1.0, 1.001, 1.002)


def proposals(count: int, **changes: object) -> list[Proposal]:
    one = Proposal(hypothesis="h", edits=(Edit(old="a", new="b"),), parent="e0001", author="a", follows=True)
    return [replace(one, number=i, **changes) for i in range(1, count + 1)]


def pool(count: int) -> list[Worker]:
    return [Worker(name=f"cpu-{i:02d}", kind="cpu") for i in range(1, count + 1)]


def running(workers: list[Worker], age: float) -> list[Run]:
    """Return a run on every worker that began so many seconds ago."""
    return [
        run(f"e{n:04d}.1", state=RunState.RUNNING, worker=worker.name, started_at=NOW - age)
        for n, worker in enumerate(workers, 2)
    ]


def measured(count: int, seconds: float) -> list[Run]:
    """Return finished runs of the baseline that took so long."""
    return [
        run(
            f"e0001.{i}", 1.0, purpose=Purpose.CALIBRATE, started_at=NOW - 1000, ended_at=NOW - 1000 + seconds
        )
        for i in range(10, 10 + count)
    ]


def admitted(seen: Snapshot) -> list[int]:
    return [a.proposal for a in plan(seen, POLICY) if isinstance(a, Admit)]


def asked(seen: Snapshot) -> list[int]:
    return [a.n for a in plan(seen, POLICY) if isinstance(a, Ask)]


class TestAdmission:
    def test_what_passed_its_check_waits_until_a_worker_would_take_it(self) -> None:
        workers = pool(2)
        busy = history(*BASE, experiment(2), experiment(3), *running(workers, 5))
        passed = {1: True, 2: True, 3: True}
        seen = snapshot(busy, workers=workers, proposals=proposals(3), checked=passed, backlog=0)
        assert admitted(seen) == []
        idle = history(*BASE)
        assert admitted(replace(seen, history=idle)) == [1, 2]
        one_queued = history(*BASE, experiment(2), run("e0002.1"))
        assert admitted(replace(seen, history=one_queued)) == [1]

    def test_a_worker_whose_run_is_about_to_end_counts(self) -> None:
        (worker,) = pool(1)
        past = history(*BASE, experiment(2), *running([worker], 5))
        seen = snapshot(past, workers=[worker], proposals=proposals(2), checked={1: True, 2: True})
        assert admitted(seen) == []
        assert admitted(replace(seen, workers=[replace(worker, handover_at=NOW)])) == [1]

    def test_what_failed_its_check_is_refused_at_once(self) -> None:
        workers = pool(1)
        past = history(*BASE, experiment(2), *running(workers, 5))
        seen = snapshot(past, workers=workers, proposals=proposals(3), checked={1: True, 3: False})
        assert admitted(replace(seen, admissions=0)) == [3]

    def test_as_many_are_checked_as_can_be(self) -> None:
        workers = pool(1)
        past = history(*BASE, experiment(2), *running(workers, 5))
        seen = snapshot(past, workers=workers, proposals=proposals(6), admissions=3)
        assert admitted(seen) == [1, 2, 3]
        assert admitted(replace(seen, admitting=frozenset({1, 2}))) == [3]


class TestRebase:
    PAST = history(
        *BASE,
        experiment(2, Verdict.KEEP),
        run("e0002.1", 0.9),
        *(run(f"e0002.{n}", 0.9, purpose=Purpose.CONFIRM) for n in (2, 3)),
    )

    def test_what_follows_the_best_is_moved_to_the_new_one_before_it_is_admitted(self) -> None:
        seen = snapshot(self.PAST, proposals=proposals(1), checked={1: True})
        assert Rebase(proposal=1, parent="e0002") in plan(seen, POLICY)
        assert admitted(seen) == []
        moved = proposals(1, parent="e0002")
        assert admitted(replace(seen, proposals=moved)) == [1]

    def test_whoever_chose_the_parent_keeps_it(self) -> None:
        seen = snapshot(self.PAST, proposals=proposals(1, follows=False), checked={1: True})
        assert not [a for a in plan(seen, POLICY) if isinstance(a, Rebase)]
        assert admitted(seen) == [1]

    def test_a_check_under_way_is_let_end_first(self) -> None:
        seen = snapshot(self.PAST, proposals=proposals(1), admitting=frozenset({1}))
        assert not [a for a in plan(seen, POLICY) if isinstance(a, Rebase | Admit)]


class TestAsking:
    def seen(self, workers: int, age: float, **changes: object) -> Snapshot:
        """Return a pool whose runs of 300 s are all so old, and an agent that takes a minute."""
        there = pool(workers)
        past = history(
            *BASE, *measured(5, 300.0), *(experiment(n) for n in range(2, 2 + workers)), *running(there, age)
        )
        defaults = {"workers": there, "backlog": 0, "batch": 12, "calls": 4, "lead_seconds": 60.0}
        return snapshot(past, **{**defaults, **changes})

    def test_not_before_the_answer_is_needed(self) -> None:
        assert asked(self.seen(16, age=200.0)) == []
        assert asked(self.seen(16, age=250.0)) == [12, 12]

    def test_what_is_in_stock_or_on_its_way_is_enough(self) -> None:
        seen = self.seen(16, age=250.0)
        assert asked(replace(seen, asked=16, open_calls=2)) == []
        assert asked(replace(seen, proposals=proposals(8))) == [12]

    def test_an_agent_slower_than_a_run_is_asked_for_several_runs_a_worker(self) -> None:
        quick = self.seen(2, age=250.0, batch=4, calls=8)
        slow = replace(quick, lead_seconds=900.0)
        assert sum(asked(slow)) >= 2 * sum(asked(quick))

    def test_a_large_pool_has_several_calls_at_once_and_no_more_than_allowed(self) -> None:
        seen = self.seen(256, age=0.0, lead_seconds=301.0)
        assert asked(seen) == [12] * 4
        assert asked(replace(seen, open_calls=3, asked=36)) == [12]
        assert asked(replace(seen, open_calls=4, asked=48)) == []

    def test_for_machines_that_are_being_set_up_ideas_are_ready_in_time(self) -> None:
        coming = [replace(worker, ready=False, held=True, up_at=NOW - 60) for worker in pool(16)]
        unlaunched = [replace(worker, up_at=None) for worker in coming]
        past = history(*BASE)
        wanted = {"backlog": 0, "batch": 8, "calls": 4, "lead_seconds": 60.0, "usual_seconds": 300.0}
        seen = snapshot(past, workers=coming, **wanted)
        assert asked(seen) == [8, 8]
        assert asked(replace(seen, workers=unlaunched)) == []
        assert asked(replace(seen, batch=None, lead_seconds=0.0)) == [], "an optimiser answers at once"

    def test_the_ceiling_on_experiments_cuts_the_last_batch(self) -> None:
        assert asked(self.seen(16, age=250.0, budget=Budget(experiments=5))) == [5]

    @given(
        workers=st.integers(1, 40),
        age=st.floats(0, 400),
        lead=st.floats(0, 1000),
        stock=st.integers(0, 60),
        open_calls=st.integers(0, 4),
    )
    def test_a_longer_wait_asks_no_less_and_a_larger_stock_no_more(
        self, workers: int, age: float, lead: float, stock: int, open_calls: int
    ) -> None:
        seen = self.seen(workers, age, lead_seconds=lead, asked=stock, open_calls=open_calls)
        amount = sum(asked(seen))
        assert sum(asked(replace(seen, lead_seconds=lead + 100))) >= amount
        assert sum(asked(replace(seen, asked=stock + 5))) <= amount
        assert len(asked(seen)) <= 4 - open_calls


@pytest.mark.parametrize(("workers", "batch", "backlog"), [(1, 4, 1), (2, 4, 1), (16, 8, 2), (256, 16, 32)])
def test_the_size_of_a_batch_follows_the_pool(workers: int, batch: int, backlog: int) -> None:
    claude = AgentConfig(name="claude")
    assert (claude.batch_for(workers), claude.backlog_for(workers)) == (batch, backlog)
    sweep = AgentConfig()
    assert (sweep.batch_for(workers), sweep.backlog_for(workers)) == (None, workers)


class Wants(ConfirmPolicy):
    """Wants the same experiments done anew together, always."""

    def decide(self, *_: object) -> tuple[()]:  # type: ignore[override]
        return ()

    def __init__(self, *, stacked: bool = False) -> None:
        super().__init__(Judging())
        self._wanted = Together(experiments=("e0002", "e0003"), stacked=stacked)

    def together(self, *_: object) -> Together:  # type: ignore[override]
        return self._wanted


def test_what_is_to_be_done_anew_together_is_asked_for_once_on_each_base_and_before_all_else() -> None:
    def asked(past: History | None = None, **changes: object) -> list[Ask]:
        actions = plan(snapshot(past or history(*BASE), **changes), Wants())
        return [action for action in actions if isinstance(action, Ask)]

    combination = Ask(n=1, together=("e0002", "e0003"))
    known = frozenset({("e0001", "e0002", "e0003")})
    moved = history(*BASE, experiment(4, Verdict.KEEP))
    assert asked() == [combination]
    assert asked(backlog=0, lead_seconds=30.0) == [combination], "though no worker waits"
    assert asked(combined=known) == [Ask(n=4)]
    assert asked(moved, combined=known) == [combination], "there is a new best"
    assert asked(batch=8, calls=2, open_calls=1) == [combination]
    assert asked(batch=8, calls=1, open_calls=1, asked=8) == [], "no call is left"
    assert asked(calls=0) == asked(agent_gone="done") == asked(budget=Budget(experiments=0)) == []


def test_where_nobody_does_ideas_anew_their_edits_are_stacked_once_on_each_base() -> None:
    def stacked(**changes: object) -> list[Stack]:
        actions = plan(snapshot(history(*BASE), **changes), Wants(stacked=True))
        assert not [action for action in actions if isinstance(action, Ask) and action.together]
        return [action for action in actions if isinstance(action, Stack)]

    assert (
        stacked() == stacked(calls=0) == stacked(agent_gone="done") == [Stack(experiments=("e0002", "e0003"))]
    )
    assert stacked(combined=frozenset({("e0001", "e0002", "e0003")})) == []
    assert stacked(budget=Budget(experiments=0)) == []
