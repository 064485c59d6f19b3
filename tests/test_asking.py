"""Agents are asked beside the loop, rest when they fail, and lose nothing that was paid for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autoresearch.asking import PATIENCE_SECONDS, REST_SECONDS, Asking
from autoresearch.brief import Brief
from autoresearch.budget import Budget, Usage
from autoresearch.calls import Bill, CallOutcome, Tokens
from autoresearch.errors import AgentError
from autoresearch.experiment import Goal
from autoresearch.protocols import Reply
from autoresearch.store import PaidReply, Store
from store_contract import began, begin, proposal


class Watch:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.at = 1000.0

    def now(self) -> float:
        return self.at

    def wait(self, seconds: float) -> None:
        self.at += seconds

    def wake(self) -> None:
        pass


class Site:
    """An Asking whose agent answers, or fails, when the test says so."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.clock = Watch()
        self.pending: list[Callable[[], None]] = []
        self.answers: list[Reply | AgentError] = []
        self.asking = Asking(self, store, self.clock, self.pending.append, 60.0)

    def propose(self, _: Brief, n: int) -> Reply:
        answer = self.answers.pop(0)
        if isinstance(answer, AgentError):
            raise answer
        return answer

    def ask(self, n: int = 4) -> None:
        self.asking.ask(brief(focus=self.asking.focus(), elsewhere=self.asking.elsewhere()), n)

    def answer(self, answer: Reply | AgentError, after: float = 0.0) -> None:
        self.clock.at += after
        self.answers.append(answer)
        self.pending.pop(0)()
        self.asking.receive()

    def fail(self, error: AgentError) -> float:
        """Have one request fail; return for how long the agent rests then."""
        self.ask()
        self.answer(error)
        rest = 0.0
        while self.asking.resting(self.clock.at + rest):
            rest += 1.0
        return rest


def brief(**changes: Any) -> Brief:
    defaults: dict[str, Any] = {
        "study": "t",
        "metric": "val_bpb",
        "goal": Goal.MINIMIZE,
        "profile": "cpu",
        "instructions": "",
        "parent": "e0001",
        "files": {},
        "baseline_files": {},
        "tried": (),
        "refused": (),
        "noise": {},
        "experiments_left": 10,
        "budget": Budget(),
        "usage": Usage(),
        "serial": 0,
        "seed": 0,
    }
    return Brief(**{**defaults, **changes})


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    store = begin(Store(tmp_path / "study.db", durable=False))
    yield Site(store)
    store.close()


def test_several_requests_at_once_are_each_told_of_the_others(site: Site) -> None:
    assert (site.asking.focus(), site.asking.elsewhere()) == ("", ())
    site.ask(12)
    second = site.asking.focus()
    assert second
    assert site.asking.elsewhere() == ("12 experiments",)
    site.ask(8)
    assert site.asking.elsewhere() == ("12 experiments", f"8 experiments on {second}")
    assert site.asking.focus() not in {"", second}
    assert (site.asking.asked, site.asking.calls) == (20, 2)


def test_how_long_an_answer_takes_is_learned(site: Site) -> None:
    assert site.asking.answer_seconds == 60.0
    for seconds in (10.0, 20.0, 30.0, 40.0, 50.0):
        site.ask()
        site.answer(Reply(proposals=(proposal(),)), after=seconds)
    assert site.asking.answer_seconds == 40.0


def test_a_failure_and_its_rest_are_part_of_the_wait_for_an_answer(site: Site) -> None:
    site.ask()
    site.answer(AgentError("overloaded"), after=7.0)
    site.clock.at += 5.0
    site.ask()
    site.answer(Reply(proposals=(proposal(),)), after=10.0)
    assert site.asking.answer_seconds == 22.0


def test_it_rests_the_longer_the_more_often_it_fails_and_anew_after_a_success(site: Site) -> None:
    assert [site.fail(AgentError("overloaded")) for _ in range(3)] == list(REST_SECONDS[:3])
    site.ask()
    site.answer(Reply(proposals=(proposal(),)))
    site.clock.at += 1000
    assert site.fail(AgentError("overloaded")) == REST_SECONDS[0]


def test_it_waits_as_long_as_the_server_says(site: Site) -> None:
    assert site.fail(AgentError("slow down", retry_after=300.0)) == 300.0
    assert not site.asking.gone


def test_an_outage_is_outlasted_but_not_for_ever(site: Site) -> None:
    began_at = site.clock.at
    while not site.asking.gone:
        site.clock.at += site.fail(AgentError("overloaded"))
        assert site.clock.at - began_at < 2 * PATIENCE_SECONDS
    assert site.clock.at - began_at > PATIENCE_SECONDS / 2
    assert "overloaded" in site.asking.gone


def test_what_cannot_get_better_is_not_asked_again_and_the_reason_is_kept(site: Site) -> None:
    site.fail(AgentError("the key is not accepted", "check it", retryable=False))
    assert site.asking.gone == "the key is not accepted"
    (event,) = site.store.events(kinds=["agent_failed"])
    assert event.data == {"reason": "the key is not accepted", "hint": "check it", "gone": True}


def test_a_reply_that_was_paid_for_survives_a_crash_before_it_was_taken_in(site: Site) -> None:
    store = site.store
    paid, lost = began(store), began(store, likely_usd=0.3)
    store.bill_call(paid.id, Bill(outcome=CallOutcome.ANSWERED, tokens=Tokens(output=9), cost_usd=0.2), 1.0)
    store.judge_call(
        paid.id, CallOutcome.PROPOSED, PaidReply(call=paid.id, proposals=(proposal(),), notes="n")
    )
    for _ in range(2):  # a second restart changes nothing
        site.asking.recover()
        assert [p.hypothesis for p in store.waiting_proposals()] == ["idea"]
        assert store.call(lost.id).outcome is CallOutcome.LOST
        assert store.api_usage(site.clock.at)[0] == pytest.approx(0.5)


def test_what_is_under_way_at_the_end_is_billed_and_its_answer_still_counts(site: Site) -> None:
    store = site.store
    call = began(store, likely_usd=0.3)
    site.asking.close()
    assert store.api_usage(site.clock.at)[0] == 0.3
    assert not store.bill_call(
        call.id, Bill(outcome=CallOutcome.ANSWERED, tokens=Tokens(), cost_usd=0.1), 1.0
    )
    store.judge_call(
        call.id, CallOutcome.PROPOSED, PaidReply(call=call.id, proposals=(proposal(),), notes="late")
    )
    site.asking.recover()
    assert [p.hypothesis for p in store.waiting_proposals()] == ["idea"]


def test_a_reply_is_taken_in_with_its_call(site: Site) -> None:
    call = began(site.store)
    site.store.bill_call(call.id, Bill(outcome=CallOutcome.ANSWERED, tokens=Tokens(), cost_usd=0.1), 1.0)
    reply = PaidReply(call=call.id, proposals=(proposal(),), notes="seen")
    site.store.judge_call(call.id, CallOutcome.PROPOSED, reply)
    site.ask()
    site.answer(Reply(proposals=reply.proposals, notes=reply.notes, call=call.id))
    assert site.store.paid_replies() == []
    assert len(site.store.waiting_proposals()) == 1
