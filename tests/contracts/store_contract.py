"""What a store must keep. Subclass, provide `store`, and the tests run on it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoresearch.budget import Budget
from autoresearch.calls import Bill, Call, CallOutcome, Reservation, Tokens
from autoresearch.errors import BudgetError, NotFoundError
from autoresearch.experiment import (
    IN_FLIGHT,
    OVER,
    TRANSITIONS,
    Candidate,
    Edit,
    Experiment,
    Failure,
    FailureKind,
    Goal,
    Measurement,
    Proposal,
    Purpose,
    Refusal,
    Run,
    RunState,
    Verdict,
    Worker,
)
from autoresearch.store import PaidReply, Store, StudyRow

NOW = 1_700_000_000.0
CPU = Worker(name="cpu-01", kind="cpu", price_per_hour=3600.0)
ROW = StudyRow(
    tag="t",
    created_at=NOW,
    goal=Goal.MINIMIZE,
    target={"editable": ["train.py"]},
    kinds=("cpu",),
    base_commit="c" * 40,
    protected_sha256="p",
    seed=7,
    request="none",
    outcome=None,
)


def candidate(digest: str) -> Candidate:
    return Candidate(files={"train.py": digest}, digest=digest)


def proposal(number: int | None = None, hypothesis: str = "idea") -> Proposal:
    edits = (Edit(old="a", new="b"), Edit(old="c", new="d", file="train.py"))
    return Proposal(hypothesis=hypothesis, edits=edits, parent="e0001", author="me", number=number)


def begin(store: Store) -> Store:
    store.create_study(ROW, candidate("base"), {"X": 1.0}, 3, NOW)
    return store


def admitted(store: Store, digest: str = "d2") -> Experiment:
    (number,) = store.add_proposals([proposal()], NOW)
    found = store.admit(proposal(number), candidate(digest), {"X": 2.0}, 7, NOW)
    assert isinstance(found, Experiment)
    return found


def submitted(store: Store, id_: str = "e0001.1", worker: Worker = CPU) -> Run:
    assert store.claim(store.run(id_), "t", worker, NOW)
    return store.run(id_)


def began(store: Store, **changes: Any) -> Call:
    defaults: dict[str, Any] = {
        "batch": None,
        "model": "m",
        "effort": "low",
        "asked": 3,
        "digest": "d",
        "likely_usd": 0.1,
        "worst_usd": 0.5,
        "ceiling_usd": None,
        "now": NOW,
    }
    given = {**defaults, **changes}
    ceiling, now = given.pop("ceiling_usd"), given.pop("now")
    return store.begin_call(Reservation(**given), ceiling_usd=ceiling, now=now)


class StoreContract:
    """Facts survive, rows that are over never change, every change has its event."""

    @pytest.fixture
    def store(self) -> Store:
        raise NotImplementedError

    def test_a_study_begins_with_its_baseline_and_queued_runs(self, store: Store) -> None:
        begin(store)
        assert store.study() == ROW
        history = store.history()
        assert history.experiments["e0001"].commit == ROW.base_commit
        runs = history.runs_of("e0001")
        assert [r.id for r in runs] == ["e0001.1", "e0001.2", "e0001.3"]
        assert {r.state for r in runs} == {RunState.QUEUED}
        assert len({r.seed for r in runs}) == 3, "every run has a seed of its own"

    def test_before_its_creation_there_is_no_study(self, store: Store) -> None:
        assert not store.exists()
        with pytest.raises(NotFoundError):
            store.study()

    def test_a_proposal_becomes_an_experiment_with_one_screen(self, store: Store) -> None:
        begin(store)
        found = admitted(store)
        assert (found.id, found.parent, found.author, found.commit) == ("e0002", "e0001", "me", None)
        assert store.edits(found.id) == proposal().edits
        assert found.constants == {"X": 2.0}
        (screen,) = store.history().runs_of("e0002")
        assert screen.purpose is Purpose.SCREEN
        assert store.waiting_proposals() == []

    def test_the_same_code_is_admitted_once(self, store: Store) -> None:
        begin(store)
        admitted(store)
        numbers = store.add_proposals([proposal()], NOW)
        assert store.admit(proposal(numbers[0]), candidate("d2"), {}, 7, NOW) == "e0002"
        assert len(store.history().experiments) == 2

    def test_a_proposal_is_admitted_or_refused_once(self, store: Store) -> None:
        begin(store)
        (number,) = store.add_proposals([proposal()], NOW)
        assert store.refuse(number, Refusal(reason="syntax", detail="line 3"), NOW)
        assert not store.refuse(number, Refusal(reason="syntax", detail="again"), NOW)
        assert store.admit(proposal(number), candidate("d3"), {}, 7, NOW) is None
        assert [r.reason for r in store.refusals(5)] == ["syntax: line 3"]

    def test_refusals_since_the_last_admission_are_counted(self, store: Store) -> None:
        begin(store)
        for n in store.add_proposals([proposal()] * 3, NOW):
            store.refuse(n, Refusal(reason="no", detail="no"), NOW)
        assert store.barren() == 3
        admitted(store)
        assert store.barren() == 0

    def test_code_that_machines_never_measured_may_be_tried_again(self, store: Store) -> None:
        begin(store)
        admitted(store)
        assert store.tried_digests()["d2"] == "e0002"
        lost = Failure(kind=FailureKind.LOST, message="3 machines")
        store.close_run(submitted(store, "e0002.1"), failure=lost, now=NOW)
        assert "d2" not in store.tried_digests()
        assert store.run("e0002.1").state is RunState.LOST

    def test_a_claim_is_won_once(self, store: Store) -> None:
        begin(store)
        run = store.run("e0001.1")
        assert store.claim(run, "t", CPU, NOW)
        assert not store.claim(run, "t", CPU, NOW)
        found = store.run("e0001.1")
        assert (found.state, found.worker, found.worker_kind) == (RunState.SUBMITTING, "cpu-01", "cpu")

    def test_a_worker_holds_one_job_and_one_that_waits(self, store: Store) -> None:
        begin(store)
        submitted(store, "e0001.1")
        submitted(store, "e0001.2")
        with pytest.raises(Exception, match="no more"):
            store.claim(store.run("e0001.3"), "t", CPU, NOW)
        assert store.run("e0001.3").state is RunState.QUEUED, "the whole transaction was undone"

    def test_two_runs_never_run_on_one_worker(self, store: Store) -> None:
        begin(store)
        first = submitted(store, "e0001.1")
        second = submitted(store, "e0001.2")
        assert store.mark_running(first, NOW)
        assert not store.mark_running(second, NOW)
        store.close_run(first, measurement=Measurement(value=1.0), now=NOW)
        assert store.mark_running(second, NOW)

    def test_a_paid_worker_costs_from_its_first_second_to_its_last(self, store: Store) -> None:
        begin(store)
        worker = Worker(name="h100-01", kind="H100", price_per_hour=3.6, up_at=NOW, ready=True)
        store.note_workers([worker], lasting=1200, now=NOW + 10)
        assert store.usage(NOW + 100, 600.0).gpu_dollars == pytest.approx(0.1)
        store.claim(store.run("e0001.1"), "t", worker, NOW + 20)
        assert store.usage(NOW + 100, 600.0).gpu_dollars == pytest.approx(0.1), "its runs cost nothing more"
        assert store.usage(NOW + 100, 600.0).allocated_seconds == pytest.approx(100)
        store.note_workers([], lasting=1200, now=NOW + 200)
        assert store.usage(NOW + 9999, 600.0).gpu_dollars == pytest.approx(0.2)
        (row,) = store.workers()
        assert (row.name, row.down_at, row.ready) == ("h100-01", NOW + 200, False)

    def test_a_worker_that_went_with_its_dispatcher_costs_for_as_long_as_it_can_have_lasted(
        self, store: Store
    ) -> None:
        begin(store)
        worker = Worker(name="h100-01", kind="H100", price_per_hour=3.6, up_at=NOW)
        store.note_workers([worker], lasting=1200, now=NOW + 300)
        store.note_workers([], lasting=1200, now=NOW + 90_000)
        assert store.usage(NOW + 90_000, 600.0).allocated_seconds == pytest.approx(1500)

    def test_a_measurement_is_kept_to_the_last_digit(self, store: Store) -> None:
        begin(store)
        run = submitted(store)
        measured = Measurement(
            value=0.1 + 0.2,
            steps=3,
            tokens_per_second=1.5,
            memory_gb=2.5,
            device="x",
            hidden=0.4,
            unsandboxed="no Landlock",
            flags=("trained long",),
        )
        assert store.close_run(
            run,
            measurement=measured,
            facts={"a": [1]},
            log_sha256="s",
            started_at=NOW,
            ended_at=NOW + 5,
            now=NOW + 6,
        )
        found = store.run("e0001.1")
        assert found.measurement == measured
        assert (found.state, found.started_at, found.ended_at) == (RunState.FINISHED, NOW, NOW + 5)
        assert store.facts("e0001.1") == {"a": [1]}

    def test_a_failure_is_kept_as_typed_facts(self, store: Store) -> None:
        begin(store)
        failure = Failure(kind=FailureKind.SHAPE, message="m", exception="RuntimeError", line=7)
        store.close_run(submitted(store), failure=failure, now=NOW)
        found = store.run("e0001.1")
        assert (found.state, found.failure, found.value) == (RunState.FAILED, failure, None)

    def test_a_run_that_was_ended_early_is_pruned_and_over(self, store: Store) -> None:
        begin(store)
        failure = Failure(kind=FailureKind.PRUNED, message="loss 9.0 at 45% of the budget")
        run = submitted(store)
        assert store.close_run(run, failure=failure, facts={"outcome": "pruned"}, now=NOW)
        found = store.run("e0001.1")
        assert (found.state, found.failure, found.value) == (RunState.PRUNED, failure, None)
        assert not store.requeue(run, lost=True, reason="", now=NOW)

    def test_a_run_that_is_over_never_changes(self, store: Store) -> None:
        begin(store)
        run = submitted(store)
        store.close_run(run, measurement=Measurement(value=1.0), now=NOW)
        assert not store.close_run(run, measurement=Measurement(value=0.5), now=NOW)
        assert not store.requeue(run, lost=True, reason="", now=NOW)
        assert not store.mark_running(run, NOW)
        assert store.run("e0001.1").value == 1.0

    def test_a_verdict_is_given_once(self, store: Store) -> None:
        begin(store)
        assert store.decide("e0001", Verdict.KEEP, "first", NOW)
        assert not store.decide("e0001", Verdict.DISCARD, "second", NOW)
        assert store.experiment("e0001").reason == "first"

    def test_a_requeued_run_starts_its_next_attempt(self, store: Store) -> None:
        begin(store)
        run = submitted(store)
        seed = run.seed
        assert store.requeue(run, lost=True, reason="gone", now=NOW + 1)
        found = store.run("e0001.1")
        assert (found.state, found.attempt, found.losses, found.worker) == (RunState.QUEUED, 2, 1, None)
        assert found.seed == seed
        assert found.job_name("t") == "t-e0001.1-a2"
        assert store.requeue(submitted(store), lost=False, reason="interrupted", now=NOW + 2)
        assert (store.run("e0001.1").attempt, store.run("e0001.1").losses) == (3, 1)

    def test_an_unknown_id_is_not_found(self, store: Store) -> None:
        begin(store)
        for ask in (store.experiment, store.run):
            with pytest.raises(NotFoundError):
                ask("e0099")

    def test_money_is_counted_for_what_ran_and_reserved_for_what_runs(self, store: Store) -> None:
        begin(store)
        store.close_run(submitted(store), measurement=Measurement(value=1.0), ended_at=NOW + 10, now=NOW + 10)
        store.claim(store.run("e0001.2"), "t", CPU, NOW + 10)
        used = store.usage(NOW + 15, worst_seconds=60)
        assert used.gpu_dollars == pytest.approx(15.0), "one dollar a second: 10 s over, 5 s so far"
        assert used.reserved_dollars == pytest.approx(55.0)
        assert used.experiments == 0

    def test_lost_attempts_cost_money_too(self, store: Store) -> None:
        begin(store)
        store.requeue(submitted(store), lost=True, reason="", now=NOW + 4)
        assert store.usage(NOW + 100, 60).gpu_dollars == pytest.approx(4.0)

    def test_hours_are_the_sum_of_sessions_not_of_pauses(self, store: Store) -> None:
        begin(store)
        for start in (NOW, NOW + 100_000):
            session = store.begin_session(1, "sweep", Budget(), start)
            store.touch_session(session, start + 1800)
        assert store.usage(NOW + 200_000, 60).hours == pytest.approx(1.0)

    def test_every_change_has_an_event_and_events_only_grow(self, store: Store) -> None:
        begin(store)
        admitted(store)
        run = submitted(store)
        store.mark_running(run, NOW)
        store.close_run(run, measurement=Measurement(value=1.0), now=NOW)
        store.decide("e0001", Verdict.KEEP, "r", NOW)
        kinds = [e.kind for e in store.events()]
        assert kinds[:5] == ["study_created", "admitted", "queued", "queued", "queued"]
        assert kinds[5:] == ["proposed", "admitted", "queued", "submitting", "running", "finished", "keep"]
        assert all(a.seq < b.seq for a, b in pairwise(store.events()))
        assert [e.kind for e in store.last_events(1, ["keep", "crash"])] == ["keep"]

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
    @given(st.data())
    def test_runs_only_move_along_the_table(self, store: Store, data: st.DataObject) -> None:
        """Whatever is called in whatever order, each step is one that TRANSITIONS allows."""
        if not store.exists():
            begin(store)
        id_ = data.draw(st.sampled_from(["e0001.1", "e0001.2", "e0001.3"]))
        worker = Worker(name=f"w-{id_}", kind="cpu")
        failure = Failure(kind=FailureKind.ERROR, message="")
        for _ in range(4):
            before = store.run(id_)
            action = data.draw(st.sampled_from(["claim", "running", "finish", "fail", "requeue"]))
            match action:
                case "claim":
                    moved = store.claim(before, "t", worker, NOW)
                case "running":
                    moved = store.mark_running(before, NOW)
                case "finish":
                    moved = store.close_run(before, measurement=Measurement(value=1.0), now=NOW)
                case "fail":
                    moved = store.close_run(before, failure=failure, now=NOW)
                case _:
                    moved = store.requeue(before, lost=False, reason="", now=NOW)
            after = store.run(id_)
            if moved:
                assert after.state in TRANSITIONS[before.state]
            else:
                assert after == before
            if before.state in OVER:
                assert not moved
            assert (after.state in IN_FLIGHT) == (after.worker is not None and after.state not in OVER)
            assert store.history().runs_of("e0001")[int(id_[-1]) - 1] == after, "the cache follows"

    # -- API calls ---------------------------------------------------------------------------------

    def test_a_call_is_billed_once_and_its_reply_taken_once(self, store: Store) -> None:
        begin(store)
        call = began(store)
        assert (call.batch, call.outcome, call.reserved_usd) == (1, None, 0.5)
        tokens = Tokens(input=100, cache_write_1h=50, cache_read=20, output=30, thinking=10)
        assert store.bill_call(
            call.id, Bill(outcome=CallOutcome.ANSWERED, tokens=tokens, cost_usd=0.2), NOW + 5
        )
        assert not store.bill_call(
            call.id, Bill(outcome=CallOutcome.CUT, tokens=tokens, cost_usd=9.0), NOW + 6
        )
        anew = replace(proposal(), reworks=("e0001", "e0002"))
        paid = PaidReply(call=call.id, proposals=(anew,), notes="learned much")
        store.judge_call(call.id, CallOutcome.PROPOSED, paid)
        assert store.paid_replies() == [paid]
        (number,) = store.add_proposals(paid.proposals, NOW + 7, notes=paid.notes, call=call.id)
        assert store.add_proposals(paid.proposals, NOW + 8, notes=paid.notes, call=call.id) == []
        assert store.paid_replies() == []
        assert len(store.waiting_proposals()) == 1
        (noted,) = store.events(kinds=["noted"])
        assert noted.data == {"notes": "learned much", "proposals": [number]}
        assert store.api_usage(NOW + 4) == (0, 0, Tokens())
        assert store.api_usage(NOW + 5) == (0.2, 1, tokens)
        assert store.usage(NOW + 5, 60.0).api_dollars == 0.2

    def test_a_ceiling_counts_what_is_spent_and_what_is_under_way(self, store: Store) -> None:
        begin(store)
        first = began(store, ceiling_usd=1.0, likely_usd=0.3, worst_usd=0.8)
        second = began(store, ceiling_usd=1.0, likely_usd=0.1, worst_usd=0.8)
        assert (first.reserved_usd, second.batch) == (0.8, 2)
        assert second.reserved_usd == pytest.approx(0.2), "no more than the ceiling leaves"
        with pytest.raises(BudgetError, match="of 1 are spent"):
            began(store, ceiling_usd=1.0, likely_usd=0.1)
        store.bill_call(first.id, Bill(outcome=CallOutcome.ANSWERED, tokens=Tokens(), cost_usd=0.3), NOW)
        assert began(store, ceiling_usd=1.0, likely_usd=0.1).reserved_usd == pytest.approx(0.5)

    def test_a_call_whose_process_died_is_billed_at_its_likely_cost_once(self, store: Store) -> None:
        begin(store)
        lost = began(store, likely_usd=0.25)
        assert store.close_lost_calls(NOW + 9) == 1
        assert store.close_lost_calls(NOW + 10) == 0
        found = store.call(lost.id)
        assert (found.outcome, found.cost_usd, found.estimated) == (CallOutcome.LOST, 0.25, True)
        assert [c.id for c in store.calls()] == [lost.id]

    def test_a_waiting_proposal_follows_the_best_and_remembers_where_it_was_written(
        self, store: Store
    ) -> None:
        begin(store)
        anew = replace(proposal(), reworks=("e0001", "e0002"))
        following = replace(anew, base="e0001", follows=True, expected=-0.002)
        (number, fixed) = store.add_proposals([following, proposal()], NOW)
        assert store.rebase(number, "e0007", NOW)
        assert not store.rebase(number, "e0007", NOW), "it is there already"
        assert not store.rebase(fixed, "e0007", NOW), "its author chose the parent"
        moved, stayed = store.waiting_proposals()
        assert moved == replace(following, number=number, parent="e0007")
        assert stayed == replace(proposal(), number=fixed)

    def test_usage_as_of_a_moment_does_not_change_later(self, store: Store) -> None:
        begin(store)
        session = store.begin_session(1, "a", Budget(), NOW)
        submitted(store)
        store.touch_session(session, NOW + 1800)
        then = store.usage(NOW + 1000, 60.0)
        store.bill_call(
            began(store).id, Bill(outcome=CallOutcome.ANSWERED, tokens=Tokens(), cost_usd=1.0), NOW + 1500
        )
        store.touch_session(session, NOW + 3600)
        store.begin_session(2, "a", Budget(), NOW + 4000)
        assert store.usage(NOW + 1000, 60.0) == then
        assert then.hours == pytest.approx(1000 / 3600)
