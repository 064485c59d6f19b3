"""Properties of the plan: never two runs on a worker, never past a budget, nothing forgotten."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch.actions import (
    Admit,
    Ask,
    Cancel,
    Collect,
    Finish,
    GiveUp,
    Publish,
    Release,
    Request,
    Requeue,
    Snapshot,
    Started,
    Submit,
)
from autoresearch.budget import Budget, Usage, may_start
from autoresearch.config import Judging
from autoresearch.experiment import (
    IN_FLIGHT,
    Edit,
    JobStatus,
    Proposal,
    Purpose,
    Run,
    RunState,
    Verdict,
    Worker,
)
from autoresearch.history import History
from autoresearch.judging.policy import ConfirmPolicy, Decide, Order
from autoresearch.plan import plan
from autoresearch.supply import MAX_BARREN
from builders import CPUS, baseline, experiment, history, run, snapshot

POLICY = ConfirmPolicy(Judging())
NOW = 1_700_000_000.0  # of every snapshot
POOL = (
    *CPUS,
    Worker(name="H100-01", kind="H100", price_per_hour=2.0),
    Worker(name="H100-02", kind="H100", price_per_hour=2.0, ready=False),
)
PLACES = [(worker.name, worker.kind) for worker in POOL]


@st.composite
def histories(draw: st.DrawFn) -> History:
    """A history that machines could have left: a worker holds one run, one GPU also one that waits."""
    free = [*PLACES, PLACES[-2]]
    base = draw(st.sampled_from([None, Verdict.KEEP, Verdict.CRASH]))
    experiments = [experiment(1, base)]
    runs: list[Run] = [run(f"e0001.{i}", 1.0 + i / 10, purpose=Purpose.BASELINE) for i in (1, 2)]
    for n in range(2, draw(st.integers(2, 9))):
        commit = draw(st.sampled_from([f"{n:040x}", None]))
        verdict = draw(st.sampled_from([None, None, Verdict.DISCARD, Verdict.KEEP]))
        experiments.append(experiment(n, verdict, commit=commit))
        for number in range(1, draw(st.integers(1, 3))):
            state = draw(st.sampled_from(list(RunState)))
            value = draw(st.floats(0.5, 1.5)) if state is RunState.FINISHED else None
            place = free.pop(draw(st.integers(0, len(free) - 1))) if state in IN_FLIGHT and free else None
            if state in IN_FLIGHT and place is None:
                state = RunState.QUEUED
            made = run(f"e{n:04d}.{number}", value, state=state, losses=draw(st.integers(0, 2)))
            if place:
                made = replace(made, worker=place[0], worker_kind=place[1])
            elif state is RunState.QUEUED:
                made = replace(made, kind=draw(st.sampled_from([None, "cpu", "H100"])))
            runs.append(made)
    return history(*experiments, *runs)


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    past = draw(histories())
    jobs = {}
    for each in past.in_flight():
        status = draw(st.sampled_from([None, *JobStatus]))
        if status:
            jobs[each.job_name("t")] = status
    waiting = [
        Proposal(hypothesis="h", edits=(Edit(old="a", new="b"),), parent="e0001", author="a", number=i)
        for i in range(draw(st.integers(0, 4)))
    ]
    ceiling = st.none() | st.integers(0, 12)
    handover = st.sampled_from([None, -10.0, 0.0, 10.0])
    moments = [draw(handover) for _ in POOL]
    return snapshot(
        past,
        workers=tuple(
            replace(worker, handover_at=None if moment is None else NOW + moment)
            for worker, moment in zip(POOL, moments, strict=True)
        ),
        jobs=jobs,
        proposals=waiting,
        admitting=frozenset(p.number for p in waiting[: draw(st.integers(0, 2))] if p.number is not None),
        admissions=draw(st.integers(1, 3)),
        asked=draw(st.integers(0, 3)),
        barren=draw(st.sampled_from([0, MAX_BARREN])),
        agent_resting=draw(st.booleans()),
        agent_gone=draw(st.sampled_from(["", "it is out of money"])),
        backlog=draw(st.integers(0, 4)),
        budget=Budget(
            experiments=draw(ceiling), hours=draw(ceiling), gpu_dollars=draw(st.none() | st.floats(0, 2))
        ),
        usage=Usage(
            experiments=past.proposed(),
            hours=draw(st.floats(0, 12)),
            gpu_dollars=draw(st.floats(0, 1)),
            reserved_dollars=draw(st.floats(0, 1)),
        ),
        request=draw(st.sampled_from([Request.NONE, Request.NONE, *Request])),
    )


@settings(max_examples=250)
@given(snapshots())
def test_a_worker_gets_a_second_run_only_when_its_own_is_about_to_end_and_never_a_third(
    seen: Snapshot,
) -> None:
    before = Counter(r.worker for r in seen.history.in_flight())
    held = {r.id: r.worker for r in seen.history.in_flight()}
    for action in plan(seen, POLICY):
        if isinstance(action, Submit):
            assert held.get(action.run, action.worker) == action.worker, "a claimed run stays where it is"
            held[action.run] = action.worker
    counts = Counter(held.values())
    for worker in seen.workers:
        due = worker.handover_at is not None and worker.handover_at <= seen.now
        assert counts[worker.name] <= max(before[worker.name], 2 if due and before[worker.name] else 1)


@settings(max_examples=250)
@given(snapshots())
def test_submissions_fit_their_worker_and_their_code_is_in_git(seen: Snapshot) -> None:
    ready = {w.name: w for w in seen.workers if w.ready}
    published = set()
    for action in plan(seen, POLICY):
        if isinstance(action, Publish):
            published.add(action.experiment)
        if not isinstance(action, Submit):
            continue
        chosen = next(r for r in seen.history.all_runs() if r.id == action.run)
        if chosen.state is RunState.SUBMITTING:
            continue  # said before, said again
        assert chosen.state is RunState.QUEUED
        assert ready[action.worker].kind == action.kind
        assert chosen.kind in {None, action.kind}
        committed = seen.history.experiments[chosen.experiment].commit is not None
        assert committed or chosen.experiment in published, "before it, in the same turn"


@settings(max_examples=250)
@given(snapshots())
def test_new_work_never_passes_a_ceiling(seen: Snapshot) -> None:
    usage, budget = seen.usage, seen.budget
    kinds = {w.name: w for w in seen.workers}
    admitted = 0
    for action in plan(seen, POLICY):
        if isinstance(action, Submit):
            chosen = next(r for r in seen.history.all_runs() if r.id == action.run)
            if chosen.state is RunState.SUBMITTING:
                continue
            dollars = kinds[action.worker].price_per_hour * seen.worst_seconds / 3600
            allowed = may_start(budget, usage, worst_hours=seen.worst_seconds / 3600, worst_dollars=dollars)
            assert allowed is None
            usage = replace(usage, reserved_dollars=usage.reserved_dollars + dollars)
        if isinstance(action, Admit):
            admitted += 1
    if budget.experiments is not None and admitted:
        assert usage.experiments + len(seen.admitting) + admitted <= budget.experiments
    asked = sum(a.n for a in plan(seen, POLICY) if isinstance(a, Ask))
    if budget.experiments is not None and asked:
        assert usage.experiments + len(seen.proposals) + seen.asked + asked <= budget.experiments


@settings(max_examples=250)
@given(snapshots())
def test_every_unfinished_run_has_an_action_or_waits_for_a_worker(seen: Snapshot) -> None:
    actions = plan(seen, POLICY)
    acted = {a.run for a in actions if hasattr(a, "run")}
    judged = any(isinstance(a, Decide | Order) for a in actions)  # what it starts comes next turn
    taken = {r.worker for r in seen.history.in_flight()} | {
        a.worker for a in actions if isinstance(a, Submit)
    }
    for each in seen.history.all_runs():
        if each.state in IN_FLIGHT:
            status = seen.jobs.get(each.job_name("t"))
            under_way = status in {None, JobStatus.PENDING} or (
                status is JobStatus.RUNNING and each.state is RunState.RUNNING
            )
            assert under_way or each.id in acted, (each, status)
        starts = seen.request is Request.NONE and not judged
        if each.state is RunState.QUEUED and each.id not in acted and starts:
            could = [
                w
                for w in seen.workers
                if w.ready and w.name not in taken and each.kind in {None, w.kind} and _affordable(seen, w)
            ]
            assert not could, (each, could)


def _affordable(seen: Snapshot, worker: Worker) -> bool:
    return (
        may_start(
            seen.budget,
            seen.usage,
            worst_hours=seen.worst_seconds / 3600,
            worst_dollars=len(POOL) * worker.price_per_hour * seen.worst_seconds / 3600,
        )
        is None
    )


@settings(max_examples=200)
@given(snapshots())
def test_the_plan_is_a_pure_function(seen: Snapshot) -> None:
    assert plan(seen, POLICY) == plan(seen, POLICY)


@settings(max_examples=200)
@given(snapshots())
def test_a_finish_comes_alone_and_never_while_something_runs(seen: Snapshot) -> None:
    actions = plan(seen, POLICY)
    if any(isinstance(a, Finish) for a in actions):
        assert len(actions) == 1
        assert not seen.history.in_flight()


@settings(max_examples=200)
@given(snapshots())
def test_after_a_request_to_stop_nothing_new_begins(seen: Snapshot) -> None:
    if seen.request is Request.NONE:
        return
    for action in plan(seen, POLICY):
        assert not isinstance(action, Submit | Admit | Ask)


# ---------------------------------------------------------------------------
# Single steps
# ---------------------------------------------------------------------------

BASE = baseline(0.9, 1.0, 1.1)


def actions_for(state: RunState, status: JobStatus | None, **changes: object) -> list[object]:
    one = run("e0002.1", state=state, **{k: v for k, v in changes.items() if k == "losses"})
    jobs = {one.job_name("t"): status} if status else {}
    rest = {k: v for k, v in changes.items() if k != "losses"}
    made = snapshot(history(*BASE, experiment(2), one), jobs=jobs, agent_gone="done", **rest)
    return [a for a in plan(made, POLICY) if getattr(a, "run", None) == "e0002.1"]


@pytest.mark.parametrize(
    ("state", "status", "changes", "expected"),
    [
        (RunState.SUBMITTING, JobStatus.RUNNING, {}, [Started(run="e0002.1")]),
        (RunState.RUNNING, JobStatus.RUNNING, {}, []),
        (RunState.RUNNING, None, {}, []),
        (RunState.SUBMITTING, None, {}, []),
        (RunState.RUNNING, JobStatus.DONE, {}, [Collect(run="e0002.1")]),
        (RunState.SUBMITTING, JobStatus.DONE, {}, [Collect(run="e0002.1")]),
        (RunState.RUNNING, JobStatus.LOST, {}, [Requeue(run="e0002.1", lost=True)]),
        (RunState.RUNNING, JobStatus.ABSENT, {}, [Requeue(run="e0002.1", lost=True)]),
        (RunState.RUNNING, JobStatus.LOST, {"losses": 2}, [GiveUp(run="e0002.1")]),
        (RunState.SUBMITTING, JobStatus.ABSENT, {}, [Submit(run="e0002.1", worker="cpu-01", kind="cpu")]),
        (
            RunState.SUBMITTING,
            JobStatus.ABSENT,
            {"request": Request.DRAIN},
            [Requeue(run="e0002.1", lost=False)],
        ),
        (RunState.RUNNING, JobStatus.RUNNING, {"request": Request.DRAIN}, []),
        (RunState.RUNNING, JobStatus.RUNNING, {"request": Request.CANCEL}, [Cancel(run="e0002.1")]),
    ],
)
def test_each_status_of_a_job_calls_for_one_thing(
    state: RunState, status: JobStatus | None, changes: dict[str, object], expected: list[object]
) -> None:
    assert actions_for(state, status, **changes) == expected


def test_ideas_are_asked_for_while_the_pool_is_busy_and_no_more_than_needed() -> None:
    busy = [run(f"e000{n}.1", state=RunState.RUNNING, worker=f"cpu-0{n - 1}") for n in (2, 3)]
    past = history(*BASE, experiment(2), experiment(3), *busy)
    assert Ask(n=2) in plan(snapshot(past, backlog=2), POLICY)
    assert Ask(n=1) in plan(snapshot(past, backlog=2, asked=1), POLICY)
    assert not [a for a in plan(snapshot(past, backlog=2, asked=2), POLICY) if isinstance(a, Ask)]


@pytest.mark.parametrize(
    ("changes", "reason", "complete"),
    [
        ({"budget": Budget(experiments=0)}, "budget reached: experiments, 0 of 0", True),
        ({"budget": Budget(hours=0.1)}, "budget reached: hours", True),
        ({"agent_gone": "done"}, "the agent has stopped proposing", True),
        ({"barren": MAX_BARREN}, "out of ideas", True),
        ({"request": Request.DRAIN}, "stopped by request", False),
        ({"workers": (), "agent_gone": "", "asked": 0, "backlog": 0}, "the pool has no workers", False),
    ],
)
def test_the_end_says_why(changes: dict[str, object], reason: str, complete: bool) -> None:
    (finish,) = plan(snapshot(history(*BASE), **changes), POLICY)
    assert isinstance(finish, Finish)
    assert reason in finish.reason
    assert finish.complete is complete


class Waiting(ConfirmPolicy):
    """Leaves to its author whatever was measured."""

    def decide(self, *_: object) -> tuple[()]:
        return ()


def test_what_was_left_undecided_is_told_at_the_end() -> None:
    kept = [experiment(2, Verdict.KEEP), run("e0002.1", 0.5)]
    old, new = experiment(3), experiment(4, parent="e0002")
    past = history(*BASE, *kept, old, new, run("e0003.1", 0.4), run("e0004.1", 0.4))
    told = plan(snapshot(past, agent_gone="done"), Waiting(Judging()))
    assert [(a.experiment, a.verdict, a.reason) for a in told if isinstance(a, Decide)] == [
        ("e0003", Verdict.DISCARD, "promising on e0001; the study ended before it was done anew on the best"),
        ("e0004", Verdict.DISCARD, "promising on e0002; the study ended before it was confirmed"),
    ]


class Thorough(ConfirmPolicy):
    """Wants one more run of the best before a study ends."""

    def closing(self, past: History) -> list[Order]:
        missing = 4 - len(past.runs_of("e0001"))
        return [Order(experiment="e0001", purpose=Purpose.CALIBRATE, kind=None, why="at last")] * missing


def test_what_a_claim_lacks_is_measured_before_a_study_ends_and_only_then() -> None:
    (order,) = plan(snapshot(history(*BASE), agent_gone="done"), Thorough(Judging()))
    assert isinstance(order, Order)
    assert not [a for a in plan(snapshot(history(*BASE)), Thorough(Judging())) if isinstance(a, Order)]
    queued = run("e0001.4", purpose=Purpose.CALIBRATE)
    (submit,) = plan(snapshot(history(*BASE, queued), agent_gone="done"), Thorough(Judging()))
    assert isinstance(submit, Submit)
    measured = run("e0001.4", 1.0, purpose=Purpose.CALIBRATE)
    (finish,) = plan(snapshot(history(*BASE, measured), agent_gone="done"), Thorough(Judging()))
    assert isinstance(finish, Finish)
    over = snapshot(
        history(*BASE), budget=Budget(hours=1.0), usage=replace(snapshot(history(*BASE)).usage, hours=1.0)
    )
    (finish,) = plan(over, Thorough(Judging()))
    assert isinstance(finish, Finish), "what is past its ceiling measures nothing more"


def test_runs_for_a_kind_the_pool_lacks_end_the_study_instead_of_waiting_for_ever() -> None:
    stranded = replace(run("e0001.4", purpose=Purpose.CALIBRATE), kind="H200")
    (finish,) = plan(snapshot(history(*BASE, stranded), agent_gone="done"), POLICY)
    assert isinstance(finish, Finish)
    assert "H200" in finish.reason


def test_a_failing_baseline_ends_the_study() -> None:
    (finish,) = plan(snapshot(history(experiment(1, Verdict.CRASH, reason="import: no torch"))), POLICY)
    assert finish == Finish(reason="the baseline itself failed: import: no torch", complete=False)


def test_a_study_cancelled_in_mid_flight_still_judges_nothing_new() -> None:
    past = history(
        *BASE, experiment(2), run("e0002.1", 0.1), experiment(3), run("e0003.1", state=RunState.RUNNING)
    )
    actions = plan(snapshot(past, request=Request.CANCEL), POLICY)
    assert not [a for a in actions if isinstance(a, Decide | Order)]


def test_a_run_is_queued_behind_one_that_is_about_to_end_when_no_worker_is_idle() -> None:
    busy = run("e0002.1", state=RunState.RUNNING, worker="h100-01", worker_kind="H100")
    waiting = run("e0003.1")
    past = history(*BASE, experiment(2), busy, experiment(3), waiting)
    for moment, submitted in ((NOW + 1, False), (NOW, True), (None, False)):
        worker = Worker(name="h100-01", kind="H100", handover_at=moment)
        actions = plan(snapshot(past, workers=(worker,), backlog=0), POLICY)
        assert (Submit(run="e0003.1", worker="h100-01", kind="H100") in actions) == submitted


def test_idle_workers_that_cost_are_released_when_only_waiting_is_left() -> None:
    last = run("e0002.1", state=RunState.RUNNING, worker="h100-01", worker_kind="H100")
    past = history(*BASE, experiment(2), last)
    pool = tuple(Worker(name=f"h100-0{n}", kind="H100", up_at=NOW, held=True) for n in (1, 2))
    seen = {"workers": pool, "agent_gone": "done"}
    assert plan(snapshot(past, **seen), POLICY) == [Release(worker="h100-02")]
    draining = snapshot(past, workers=pool, request=Request.DRAIN)
    assert plan(draining, POLICY) == [Release(worker="h100-02")]
    kept = tuple(replace(worker, held=False) for worker in pool)
    assert plan(snapshot(past, workers=kept, agent_gone="done"), POLICY) == []


def test_one_worker_is_kept_of_each_kind_on_which_what_runs_may_yet_be_judged() -> None:
    """The best is being measured on H200; then it may have to be on H100, where e0002 ran."""
    waits = (experiment(2), run("e0002.1", 0.1, kind="H100"))
    last = run("e0001.4", state=RunState.RUNNING, worker="h200-01", worker_kind="H200")
    past = history(*baseline(1.0, 1.1, kind="H200"), last, *waits)
    names = ("h100-01", "h100-02", "h200-01", "h200-02", "a100-01")
    pool = tuple(
        Worker(name=n, kind=n[:4].upper(), up_at=NOW, held=True, ready=n != "h100-02") for n in names
    )
    seen = {"workers": pool, "agent_gone": "done"}
    released = {action.worker for action in plan(snapshot(past, **seen), POLICY)}
    assert released == {"h100-02", "h200-02", "a100-01"}, "of two idle ones, that which is not ready goes"
    draining = plan(snapshot(past, workers=pool, request=Request.DRAIN), POLICY)
    assert {action.worker for action in draining} == set(names) - {"h200-01"}


def test_nothing_is_released_while_work_may_come() -> None:
    last = run("e0002.1", state=RunState.RUNNING, worker="h100-01", worker_kind="H100")
    pool = tuple(Worker(name=f"h100-0{n}", kind="H100", up_at=NOW, held=True) for n in (1, 2))
    asked = snapshot(history(*BASE, experiment(2), last), workers=pool, asked=4)
    assert plan(asked, POLICY) == []


def test_an_end_is_recorded_before_the_start_it_made_room_for() -> None:
    old = run("e0003.1", state=RunState.RUNNING, worker="h100-01", worker_kind="H100")
    new = run("e0002.1", state=RunState.SUBMITTING, worker="h100-01", worker_kind="H100")
    past = history(*BASE, experiment(2), new, experiment(3), old)
    jobs = {new.job_name("t"): JobStatus.RUNNING, old.job_name("t"): JobStatus.DONE}
    actions = plan(snapshot(past, jobs=jobs, workers=(), backlog=0), POLICY)
    assert actions[:2] == [Collect(run="e0003.1"), Started(run="e0002.1")]


def test_nothing_is_admitted_for_a_worker_whose_run_no_longer_fits_the_budget() -> None:
    past = history(*BASE, experiment(2), run("e0002.1"))
    workers = [replace(worker, price_per_hour=6.0) for worker in CPUS]  # a run costs at most a dollar
    waiting = [
        Proposal(hypothesis="h", edits=(Edit(old="a", new="b"),), parent="e0001", author="a", number=1)
    ]
    seen = snapshot(past, workers=workers, proposals=waiting, checked={1: True}, backlog=0)
    for dollars, admitted in ((1.5, 0), (2.5, 1)):
        actions = plan(replace(seen, budget=Budget(gpu_dollars=dollars)), POLICY)
        assert len([a for a in actions if isinstance(a, Submit)]) == 1
        assert len([a for a in actions if isinstance(a, Admit)]) == admitted
