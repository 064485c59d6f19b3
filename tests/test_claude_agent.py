"""The agent claude, with the real SDK against a fake API: every way a call can end, and its bill."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_contract import AgentContract
from autoresearch.accounts import StudyLedger
from autoresearch.agents.claude import ClaudeAgent, ClaudeSettings
from autoresearch.agents.claude.prices import price_of
from autoresearch.agents.claude.reply import NOTE_CHARS, read
from autoresearch.agents.claude.request import TOOL_NAME
from autoresearch.brief import Brief, build_brief
from autoresearch.budget import Budget, Usage
from autoresearch.calls import Call, CallOutcome, Tokens
from autoresearch.errors import AgentError, ConfigError
from autoresearch.experiment import Edit, Proposal, Verdict
from autoresearch.protocols import Agent, Reply
from autoresearch.store import CallTable
from builders import baseline, experiment, history, run
from fake_messages import FakeMessages, fault, refusal, reply, text, thinking, tool_use

MODEL = "claude-sonnet-5-5"
SECOND = "claude-opus-5-5"
KEY = "sk-ant-api03-" + "s" * 40
CODE = "".join(f"RATE_{i} = {i}  # of block {i}, which is one of many\n" for i in range(100))


def make_brief(files: dict[str, str] | None = None, **changes: Any) -> Brief:
    """Return the brief on a study with a baseline, a discarded idea and one that waits."""
    code = files or {"train.py": CODE}
    past = history(
        *baseline(1.80, 1.81, 1.79),
        *(experiment(2, Verdict.DISCARD), run("e0002.1", 1.85)),
        experiment(3),
    )
    known: dict[str, Any] = {
        "study": "t",
        "metric": "val_bpb",
        "profile": "cpu",
        "instructions": "Lower val_bpb. Simpler is better.",
        "files": code,
        "baseline_files": code,
        "anchor": "e0001",
        "anchor_files": code,
        "refused": (),
        "waiting": (),
        "notes": (),
        "budget": Budget(),
        "usage": Usage(),
        "serial": 0,
        "seed": 3,
    }
    return build_brief(past, **{**known, **changes})


def idea(i: int = 0, **changes: Any) -> dict[str, Any]:
    """Return an experiment as a model writes it."""
    edits = [{"old": f"RATE_{i} = {i} ", "new": f"RATE_{i} = {i}.5 "}]
    plain = {"hypothesis": f"raise rate {i}", "parent": None, "reworks": [], "edits": edits}
    return {**plain, "expected": -0.01, **changes}


def answer(*experiments: Any, notes: str = "Rates matter.", **options: Any) -> dict[str, Any]:
    """Return a step that answers as it should."""
    given = {"notes": notes, "experiments": list(experiments) or [idea()]}
    return reply(thinking(), tool_use(TOOL_NAME, given), **options)


@pytest.fixture
def server() -> Iterator[FakeMessages]:
    with FakeMessages(default=answer()) as server:
        yield server


class Lab:
    """An agent, the fake API it talks to, and its books in a real store."""

    def __init__(self, folder: Path, server: FakeMessages) -> None:
        self.folder = folder
        self.server = server
        self.naps: list[float] = []

    def ledger(self, ceiling_usd: float | None = None) -> StudyLedger:
        return StudyLedger(SimpleNamespace(state=self.folder), ceiling_usd)

    def agent(self, ceiling_usd: float | None = None, **changes: Any) -> ClaudeAgent:
        asked = {"model": MODEL, "effort": "medium", **changes.pop("settings", {})}
        options = {"base_url": self.server.url, "nap": self.naps.append, "read_seconds": 5.0, **changes}
        return ClaudeAgent(ClaudeSettings(**asked), self.ledger(ceiling_usd), KEY, **options)

    @property
    def calls(self) -> Sequence[Call]:
        return self.ledger().recent(1000)

    @property
    def outcomes(self) -> list[CallOutcome | None]:
        return [call.outcome for call in self.calls]

    @property
    def spent(self) -> float:
        return sum(call.cost_usd for call in self.calls)

    def transcript(self, call: int) -> Any:
        return json.loads((self.folder / "calls" / f"c{call:04d}.json").read_text())


@pytest.fixture
def lab(tmp_path: Path, server: FakeMessages) -> Lab:
    return Lab(tmp_path, server)


# -- answers --------------------------------------------------------------------------------------


def test_an_answer_becomes_proposals(lab: Lab) -> None:
    lab.server.script = [answer(idea(1), idea(2, expected=None), notes="It\nhelps.")]
    found = lab.agent().propose(make_brief(), 4)
    first = Proposal(
        hypothesis="raise rate 1",
        edits=(Edit(old="RATE_1 = 1 ", new="RATE_1 = 1.5 "),),
        parent="e0001",
        author=MODEL,
        base="e0001",
        follows=True,
        expected=-0.01,
    )
    assert found == Reply(
        proposals=(first, replace(found.proposals[1], hypothesis="raise rate 2")), notes="It helps.", call=1
    )
    assert found.proposals[1].expected is None


def test_the_request_is_what_the_api_takes(lab: Lab) -> None:
    """The fake refuses forced tools, sampling parameters, open schemas; what is left is said here."""
    lab.agent(settings={"effort": "high"}).propose(make_brief(), 4)
    (body,) = lab.server.calls
    assert body["output_config"] == {"effort": "high"}
    assert body["max_tokens"] == 16_000
    assert body["stream"] is True
    assert not {"tool_choice", "temperature", "thinking"} & body.keys()
    assert "Submit 4 experiments" in body["messages"][0]["content"][1]["text"]


def test_the_bill_is_right_to_the_cent_and_the_second_call_reads_the_cache(lab: Lab) -> None:
    agent = lab.agent()
    for serial in (0, 1):
        agent.propose(make_brief(serial=serial), 4)
    first, second = lab.calls
    assert first.tokens.cache_write_1h > 2000
    assert first.tokens.cache_read == second.tokens.cache_write_1h == 0
    assert second.tokens.cache_read == first.tokens.cache_write_1h
    assert [call.outcome for call in (first, second)] == [CallOutcome.PROPOSED] * 2
    assert [(call.cost_usd, call.estimated) for call in lab.calls] == [
        (pytest.approx(charge.cost_usd, abs=1e-12), False) for charge in lab.server.charges
    ]
    assert all(call.cost_usd < call.likely_usd < call.reserved_usd for call in lab.calls)


def test_thinking_is_counted(lab: Lab) -> None:
    used = {"output_tokens": 3000, "output_tokens_details": {"thinking_tokens": 2500}}
    lab.server.script = [answer(usage=used)]
    lab.agent().propose(make_brief(), 4)
    assert (lab.calls[0].tokens.output, lab.calls[0].tokens.thinking) == (3000, 2500)
    assert lab.spent == pytest.approx(lab.server.cost())


def test_an_answer_that_does_not_say_what_it_used_is_not_free(lab: Lab) -> None:
    """As behind a gateway that leaves the usage out."""
    kinds = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
    lab.server.script = [answer(usage={**dict.fromkeys(kinds, 0), "cache_creation": None})]
    assert lab.agent().propose(make_brief(), 4).proposals
    (call,) = lab.calls
    assert (call.outcome, call.estimated) == (CallOutcome.PROPOSED, True)
    assert call.cost_usd == call.likely_usd > 0


def test_the_answer_is_kept_before_it_is_returned(lab: Lab) -> None:
    """A crash right after the bill loses nothing that was paid for."""
    found = lab.agent().propose(make_brief(), 4)
    (paid,) = CallTable(lab.folder / "study.db").paid_replies()
    assert (paid.call, paid.notes) == (found.call, found.notes)
    assert [(p.hypothesis, p.follows) for p in paid.proposals] == [("raise rate 0", True)]


def test_several_calls_of_the_tool_are_one_answer(lab: Lab) -> None:
    both = [
        tool_use(TOOL_NAME, {"notes": n, "experiments": [idea(i)]}) for i, n in enumerate(("One.", "Two."))
    ]
    lab.server.script = [reply(text("Here they are."), *both)]
    found = lab.agent().propose(make_brief(), 4)
    assert [p.hypothesis for p in found.proposals] == ["raise rate 0", "raise rate 1"]
    assert found.notes == "One. Two."


def test_an_answer_that_breaks_off_after_its_last_word_is_an_answer(lab: Lab) -> None:
    """Once the API has said why it stopped, what it used is known and nothing is missing."""
    events = 1 + 3 + 3 + 1  # the start, thinking, the tool with one piece of input, why it stopped
    lab.server.script = [answer(cut_after=events)]
    assert lab.agent().propose(make_brief(), 4).call == 1
    assert lab.spent == pytest.approx(lab.server.cost())


class TestClaudeAgent(AgentContract):
    """The contract of all agents, with a researcher who reads the brief instead of the request."""

    @pytest.fixture
    def brief(self) -> Brief:
        return make_brief()

    @pytest.fixture
    def agent(self, server: FakeMessages, tmp_path_factory: pytest.TempPathFactory) -> Agent:
        class Played:
            def propose(self, brief: Brief, n: int) -> Reply:
                rates = [i for i in range(100) if f"RATE_{i} = {i} " in brief.files["train.py"]]
                chosen = [rates[(brief.serial + i) % 100] for i in range(n)] if rates else []
                given = {"notes": "", "experiments": [idea(i) for i in chosen]}
                server.default = reply(tool_use(TOOL_NAME, given))
                return Lab(tmp_path_factory.mktemp("study"), server).agent().propose(brief, n)

        return Played()


# -- what is mended at once -----------------------------------------------------------------------

BROKEN = {
    "a cut stream": ({"cut_after": 4}, CallOutcome.CUT),
    "a clean early end": ({"cut_after": 5, "cut_clean": True}, CallOutcome.CUT),
    "an end before the first event": ({"cut_after": 0, "cut_clean": True}, CallOutcome.CUT),
    "a stalled stream": ({"cut_after": 5, "stall": 60}, CallOutcome.CUT),
    "an overload in the stream": ({"sse_error": (4, "overloaded_error")}, CallOutcome.CUT),
    "an overload at its start": ({"sse_error": (0, "overloaded_error")}, CallOutcome.CUT),
    "an input that is no JSON": ({"bad_tool_json": '{"experiments": [nonsense'}, CallOutcome.CUT),
    "a body that is no stream": ({"raw_body": '{"id": "msg_'}, CallOutcome.CUT),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_breaks_off_is_asked_for_again(lab: Lab, case: str) -> None:
    """The broken answer is billed at what it was likely to cost: never less than what the API charges."""
    options, outcome = BROKEN[case]
    lab.server.script = [answer(*map(idea, range(9)), **options), answer(idea(1))]
    found = lab.agent(read_seconds=0.3).propose(make_brief(), 9)
    assert [p.hypothesis for p in found.proposals] == ["raise rate 1"]
    assert lab.outcomes == [outcome, CallOutcome.PROPOSED]
    broken, whole = lab.calls
    assert broken.batch == whole.batch == 1
    assert broken.estimated
    assert not whole.estimated
    assert broken.reserved_usd >= broken.cost_usd >= broken.likely_usd > lab.server.charges[0].cost_usd
    assert whole.cost_usd == pytest.approx(lab.server.charges[1].cost_usd)
    assert broken.detail
    assert len(lab.naps) == 1
    assert 0.5 < lab.naps[0] < 2


def test_of_a_broken_answer_the_part_that_came_is_counted(lab: Lab) -> None:
    lab.server.script = [answer(*map(idea, range(9)), cut_after=5), answer()]
    lab.agent().propose(make_brief(), 9)
    charged = lab.server.charges[0].usage
    assert lab.calls[0].tokens == Tokens(
        input=charged["input_tokens"],
        cache_write_1h=charged["cache_creation_input_tokens"],
        output=charged["output_tokens"],
    )


def test_a_long_broken_answer_costs_at_least_what_came(lab: Lab) -> None:
    """Nine tenths of all answers are cheaper than `likely`; this one is not."""
    long = answer(idea(hypothesis="h" * 30_000), cut_after=40)
    lab.server.script = [long, answer()]
    lab.agent(settings={"effort": "low"}).propose(make_brief(), 1)
    assert lab.calls[0].cost_usd > lab.calls[0].likely_usd
    assert lab.calls[0].cost_usd >= lab.server.charges[0].cost_usd


def test_an_answer_that_drips_is_given_up(lab: Lab) -> None:
    """Each event comes in time, and they never end."""
    lab.server.script = [answer(idea(hypothesis="h" * 30_000), chunk_delay=0.1), answer(idea(1))]
    lab.agent(total_seconds=0.35).propose(make_brief(), 1)
    assert lab.outcomes == [CallOutcome.CUT, CallOutcome.PROPOSED]
    assert "longer than 0.35 seconds" in lab.calls[0].detail


def test_a_truncated_answer_is_never_used_and_gets_more_room(lab: Lab) -> None:
    """The SDK closes the brackets of a cut input, so that it looks like a whole one."""
    whole = json.dumps({"notes": "", "experiments": [idea(1), idea(2)]})
    cut = answer(stop_reason="max_tokens", bad_tool_json=whole[:-20], usage={"output_tokens": 16_000})
    lab.server.script = [cut, cut, answer(idea(3))]
    found = lab.agent().propose(make_brief(), 4)
    assert [p.hypothesis for p in found.proposals] == ["raise rate 3"]
    assert lab.outcomes == [CallOutcome.TRUNCATED, CallOutcome.TRUNCATED, CallOutcome.PROPOSED]
    assert [body["max_tokens"] for body in lab.server.calls] == [16_000, 32_000, 64_000]
    assert lab.spent == pytest.approx(lab.server.cost())
    assert lab.calls[1].likely_usd > price_of(MODEL).cost(Tokens(output=16_000))
    assert lab.naps == []


def test_the_room_ends_where_the_model_does(lab: Lab) -> None:
    cut = answer(stop_reason="max_tokens")
    lab.server.script = [cut, answer()]
    lab.agent(settings={"max_tokens": 100_000}).propose(make_brief(), 4)
    assert [body["max_tokens"] for body in lab.server.calls] == [100_000, 128_000]


USELESS = {
    "no call": reply(text("I would raise the learning rate.")),
    "another tool": reply(tool_use("bash", {"command": "ls"})),
    "no experiments": answer({}),
    "an empty list": reply(tool_use(TOOL_NAME, {"notes": "Nothing is left.", "experiments": []})),
    "a list": reply(tool_use(TOOL_NAME, [1, 2])),
    "a pause": reply(text("..."), stop_reason="pause_turn"),
    "an input that was cut in silence": reply(
        tool_use(TOOL_NAME, {}),
        bad_tool_json='{"notes": "", "experiments": [{"hypothesis": "h", "edits": [{"old": "a", "new": "b"}]',
    ),
}


@pytest.mark.parametrize("case", USELESS)
def test_an_answer_without_experiments_is_asked_for_again_with_a_word(lab: Lab, case: str) -> None:
    lab.server.script = [USELESS[case], answer(idea(1))]
    assert lab.agent().propose(make_brief(), 4).call == 2
    assert lab.outcomes == [CallOutcome.UNUSABLE, CallOutcome.PROPOSED]
    assert lab.spent == pytest.approx(lab.server.cost())
    first, second = (body["messages"][0]["content"] for body in lab.server.calls)
    assert first[0] == second[0]
    assert second[1]["text"].startswith("Your last answer was of no use: ")
    assert second[1]["text"].endswith(first[1]["text"])


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (answer(cut_after=3), "broke off"),
        (answer(stop_reason="max_tokens"), "longer than the limit"),
        (reply(text("no")), "no usable experiment"),
    ],
    ids=["cut", "truncated", "unusable"],
)
def test_three_useless_answers_are_enough(lab: Lab, step: dict[str, Any], said: str) -> None:
    lab.server.default = step
    with pytest.raises(AgentError, match=said) as raised:
        lab.agent().propose(make_brief(), 4)
    assert raised.value.retryable
    assert len(lab.server.calls) == 3
    assert {call.batch for call in lab.calls} == {1}


# -- what is not mended at once -------------------------------------------------------------------

FAULTS: dict[str, tuple[int, dict[str, Any], bool, float | None, str]] = {
    "no key": (401, {}, False, None, "API key is not accepted"),
    "no credit": (402, {}, False, None, "no credit"),
    "no right": (403, {}, False, None, "API key is not accepted"),
    "no model": (404, {}, False, None, MODEL),
    "a bad request": (
        400,
        {"message": "effort: \x1b[31mnot \nsupported"},
        False,
        None,
        r"effort: \[31mnot supported",
    ),
    "too large": (413, {}, False, None, "too large"),
    "a limit": (429, {"headers": {"retry-after": "300"}}, True, 300.0, "limits"),
    "a limit in milliseconds": (429, {"headers": {"retry-after-ms": "1500"}}, True, 1.5, "limits"),
    "a limit without a time": (429, {}, True, None, "limits"),
    "a limit without sense": (429, {"headers": {"retry-after": "soon"}}, True, None, "limits"),
    "a limit until a date": (
        429,
        {"headers": {"retry-after": "Fri, 01 Jan 2016 00:00:00 GMT"}},
        True,
        0,
        "limits",
    ),
    "a timeout of theirs": (408, {}, True, None, "cannot answer now"),
    "a conflict": (409, {}, True, None, "cannot answer now"),
    "an error of theirs": (500, {}, True, None, "cannot answer now"),
    "an overload": (529, {"headers": {"retry-after": "7"}}, True, 7.0, "overloaded_error"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_an_http_error_costs_nothing_and_says_what_to_do(lab: Lab, case: str) -> None:
    status, options, retryable, retry_after, said = FAULTS[case]
    lab.server.script = [fault(status, **options)]
    with pytest.raises(AgentError, match=said) as raised:
        lab.agent().propose(make_brief(), 4)
    assert (raised.value.retryable, raised.value.retry_after) == (retryable, retry_after)
    assert retryable or raised.value.hint
    assert lab.outcomes == [CallOutcome.REJECTED]
    assert lab.calls[0].detail.startswith(str(status))
    assert lab.spent == lab.server.cost() == 0
    assert len(lab.server.calls) == 1


def test_a_dead_address_costs_nothing(lab: Lab) -> None:
    with pytest.raises(AgentError, match="cannot be reached") as raised:
        lab.agent(base_url="http://127.0.0.1:9").propose(make_brief(), 4)
    assert raised.value.retryable
    assert lab.outcomes == [CallOutcome.REJECTED]
    assert lab.spent == 0


@pytest.mark.parametrize(
    "options",
    [{"delay": 60}, {"cut_after": 0}, {"cut_after": 0, "stall": 60}],
    ids=["late", "hung up", "silent"],
)
def test_a_request_that_may_have_been_read_is_billed_as_likely(lab: Lab, options: dict[str, Any]) -> None:
    lab.server.script = [answer(**options)]
    with pytest.raises(AgentError, match="did not answer") as raised:
        lab.agent(read_seconds=0.3).propose(make_brief(), 4)
    assert raised.value.retryable
    assert lab.outcomes == [CallOutcome.UNANSWERED]
    assert lab.calls[0].estimated
    assert lab.spent == lab.calls[0].likely_usd > lab.server.cost() > 0


def test_a_context_that_is_full_is_not_asked_again(lab: Lab) -> None:
    lab.server.script = [answer(stop_reason="model_context_window_exceeded")]
    with pytest.raises(AgentError, match="too long") as raised:
        lab.agent().propose(make_brief(), 4)
    assert not raised.value.retryable
    assert lab.outcomes == [CallOutcome.TRUNCATED]


@pytest.mark.parametrize("key", ["", "sk-ant-ü", "sk-ant-a\nb", "sk ant"])
def test_what_cannot_be_a_key_is_not_sent(lab: Lab, key: str) -> None:
    agent = ClaudeAgent(ClaudeSettings(model=MODEL), lab.ledger(), key, base_url=lab.server.url)
    with pytest.raises(AgentError, match="API key") as raised:
        agent.propose(make_brief(), 4)
    assert not raised.value.retryable
    assert (lab.server.requests, lab.calls) == ([], [])


def test_an_unknown_model_is_an_error_before_anything_is_asked(lab: Lab) -> None:
    for changes in ({"model": "claude-nobody-1"}, {"second_model": "claude-nobody-1"}):
        with pytest.raises(ConfigError, match="claude-nobody-1"):
            lab.agent(settings=changes)


# -- refusals -------------------------------------------------------------------------------------


def test_a_refusal_costs_a_batch_and_nobody_else_is_asked(lab: Lab) -> None:
    lab.server.script = [refusal()]
    with pytest.raises(AgentError, match=r"declined \(frontier_llm\)") as raised:
        lab.agent(settings={"second_model": SECOND, "second_every": 3}).propose(make_brief(), 4)
    assert raised.value.retryable
    assert len(lab.server.calls) == 1
    assert lab.outcomes == [CallOutcome.REFUSAL]
    assert lab.spent == pytest.approx(lab.server.cost())


def test_after_two_refusals_in_a_row_a_person_must_look(lab: Lab) -> None:
    """What came between them and was no answer does not make them less."""
    agent = lab.agent()
    ends: list[bool] = []
    for step in (refusal(), answer(), refusal(), fault(529), refusal(), refusal()):
        lab.server.script = [step]
        try:
            agent.propose(make_brief(), 4)
        except AgentError as error:
            ends.append(error.retryable)
            assert error.retryable or "twice in a row" in error.message
    assert ends == [True, True, True, False, False]
    assert len(lab.server.calls) == 6


# -- who is asked ---------------------------------------------------------------------------------


def test_every_so_many_batches_are_the_second_models(lab: Lab) -> None:
    """By the number of the batch: neither attempts nor refusals nor a restart move the schedule."""
    scheduled = {"second_model": SECOND, "second_every": 3}
    lab.server.script = [answer(cut_after=3), answer(), refusal(), answer(), answer(), answer(), answer()]
    for batch in range(1, 7):
        agent = lab.agent(settings=scheduled)
        try:
            found = agent.propose(make_brief(), 4)
            assert {p.author for p in found.proposals} == {SECOND if batch % 3 == 0 else MODEL}
        except AgentError:
            assert batch == 2
    assert [call.batch for call in lab.calls] == [1, 1, 2, 3, 4, 5, 6]
    models = [MODEL, MODEL, MODEL, SECOND, MODEL, MODEL, SECOND]
    assert [call.model for call in lab.calls] == [body["model"] for body in lab.server.calls] == models
    assert lab.spent >= lab.server.cost()


def test_many_threads_may_ask_at_once(lab: Lab) -> None:
    """Each batch has a number of its own, and the model that its number is due."""
    agent = lab.agent(settings={"second_model": SECOND, "second_every": 2})
    meeting = threading.Barrier(4)

    def researcher(body: dict[str, Any]) -> dict[str, Any]:
        meeting.wait(5)
        return answer(idea(1))

    lab.server.default = researcher
    with ThreadPoolExecutor(4) as threads:
        replies = list(threads.map(lambda _: agent.propose(make_brief(), 4), range(8)))
    assert (
        sorted(r.call or 0 for r in replies) == sorted(call.batch for call in lab.calls) == list(range(1, 9))
    )
    assert all(call.model == (MODEL if call.batch % 2 else SECOND) for call in lab.calls)
    assert lab.spent == pytest.approx(lab.server.cost())


# -- the ceiling ----------------------------------------------------------------------------------


def spend_all(lab: Lab, agent: ClaudeAgent, most: int = 60) -> AgentError:
    """Ask until there is an error that no waiting mends."""
    for serial in range(most):
        try:
            agent.propose(make_brief(serial=serial), 4)
        except AgentError as error:
            if not error.retryable:
                return error
    raise AssertionError("the ceiling was never reached")


STORMS: dict[str, Callable[[int], dict[str, Any]]] = {
    "answers": lambda _: answer(*map(idea, range(4)), usage={"output_tokens": 1500}),
    "answers as long as they may be": lambda room: answer(
        stop_reason="max_tokens", usage={"output_tokens": room}
    ),
    "broken answers": lambda _: answer(*map(idea, range(4)), cut_after=4),
}


@pytest.mark.parametrize("storm", STORMS)
@pytest.mark.parametrize("ceiling", [0.2, 0.35])
def test_the_ceiling_holds_whatever_comes(lab: Lab, storm: str, ceiling: float) -> None:
    """No call begins whose likely cost is not left, and none can cost more than is left."""
    lab.server.default = lambda body: STORMS[storm](body["max_tokens"])
    error = spend_all(lab, lab.agent(ceiling))
    assert "budget.api_dollars" in error.hint
    assert lab.server.cost() <= lab.spent + 1e-9 <= ceiling + 1e-9
    assert lab.spent > ceiling / 3
    spent = 0.0
    for call, charge in zip(lab.calls, lab.server.charges, strict=True):
        assert charge.cost_usd <= call.cost_usd + 1e-9 <= call.reserved_usd + 2e-9
        assert spent + call.likely_usd <= ceiling
        spent += call.cost_usd


def test_near_the_ceiling_an_answer_has_less_room(lab: Lab) -> None:
    lab.agent(0.14).propose(make_brief(), 4)
    (body,), (call,) = lab.server.calls, lab.calls
    assert 3000 < body["max_tokens"] < 14_000
    assert call.reserved_usd == 0.14


def test_under_a_ceiling_many_threads_spend_no_more(lab: Lab) -> None:
    """A ceiling that is taken up by calls under way is not reached for good."""
    lab.server.default = answer(*map(idea, range(4)), delay=0.05)
    agent, errors = lab.agent(0.3), []

    def ask(serial: int) -> None:
        try:
            agent.propose(make_brief(serial=serial), 4)
        except AgentError as error:
            errors.append(error)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(ask, range(12)))
    assert lab.server.cost() == pytest.approx(lab.spent)
    assert lab.spent <= 0.3
    assert {(e.retryable, e.retry_after is not None) for e in errors} <= {(True, True), (False, False)}
    assert any(e.retryable for e in errors)


# -- what is written down -------------------------------------------------------------------------


def test_every_call_leaves_a_transcript(lab: Lab) -> None:
    usage = {"output_tokens": 900, "output_tokens_details": {"thinking_tokens": 700}}
    steps = [
        answer(cut_after=3),
        reply(thinking("secret thoughts"), text("no")),
        answer(idea(1), {}, usage=usage),
    ]
    lab.server.script = list(steps)
    lab.agent().propose(make_brief(), 4)
    cut, useless, whole = (lab.transcript(number) for number in (1, 2, 3))
    assert [t["outcome"] for t in (cut, useless, whole)] == ["cut", "unusable", "proposed"]
    body = lab.server.calls[2]
    assert whole["request"]["user"] == [block["text"] for block in body["messages"][0]["content"]]
    assert whole["request"]["max_tokens"] == 16_000
    assert whole["usage"]["thinking"] == 700
    assert whole["response"][0] == {"type": "thinking"}
    assert whole["response"][1]["input"] == {"notes": "Rates matter.", "experiments": [idea(1), {}]}
    assert whole["detail"] == "1 usable experiment; dropped 1 with a wrong form"
    assert whole["cost_usd"] == pytest.approx(lab.calls[2].cost_usd)
    assert (whole["call"], whole["batch"], whole["model"], whole["asked"]) == (3, 1, MODEL, 4)
    assert whole["digest"] == lab.calls[2].digest
    assert whole["request_id"].startswith("req_")
    assert whole["ended_at"] >= whole["started_at"]
    assert "secret thoughts" not in json.dumps(useless)


def test_what_requests_begin_with_is_kept_once(lab: Lab) -> None:
    agent = lab.agent()
    for serial in (0, 1):
        agent.propose(make_brief(serial=serial), 4)
    kept = {path.read_text() for path in (lab.folder / "calls").glob("prefix-*.txt")}
    assert len(kept) == 4
    assert {block["text"] for block in lab.server.calls[0]["system"]} < kept
    assert CODE not in (lab.folder / "calls" / "c0001.json").read_text()


def test_a_key_is_nowhere(lab: Lab) -> None:
    """Not even where a gateway says it back."""
    lab.server.script = [answer(), fault(401, message=f"invalid key {KEY}"), answer(cut_after=3)]
    agent = lab.agent()
    agent.propose(make_brief(), 4)
    with pytest.raises(AgentError) as raised:
        agent.propose(make_brief(), 4)
    agent.propose(make_brief(), 4)
    assert "[key]" in raised.value.message
    assert KEY not in raised.value.message
    files = [path for path in lab.folder.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_without_a_transcript_the_answer_still_counts(lab: Lab) -> None:
    (lab.folder / "calls").write_text("a file where the folder should be")
    assert lab.agent().propose(make_brief(), 4).proposals
    assert lab.outcomes == [CallOutcome.PROPOSED]


# -- what an answer holds -------------------------------------------------------------------------


def proposed(*experiments: Any, brief: Brief | None = None, n: int = 9) -> tuple[Proposal, ...]:
    return read(
        [{"notes": "", "experiments": list(experiments)}], brief or make_brief(), n, author="m"
    ).proposals


@pytest.mark.parametrize(
    "changes",
    [
        {"hypothesis": ""},
        {"hypothesis": " \n\x1b"},
        {"hypothesis": 7},
        {"edits": []},
        {"edits": "a"},
        {"edits": [{"old": "a"}]},
        {"edits": [{"old": "", "new": "a"}]},
        {"edits": [{"old": "a", "new": None}]},
        {"edits": [["a", "b"]]},
        {"edits": [{"old": "a", "new": "\ud800"}]},
        {"edits": [{"old": "a", "new": "b", "file": "prepare.py"}]},
        {"edits": [{"old": "a", "new": "b", "file": ["train.py"]}]},
        {"parent": "e0099"},
        {"parent": 3},
        {"parent": ["e0001"]},
    ],
    ids=str,
)
def test_a_malformed_experiment_is_dropped_and_the_others_stay(changes: dict[str, Any]) -> None:
    reading = read([{"experiments": [idea(**changes), idea(2)]}], make_brief(), 9, author="m")
    assert [p.hypothesis for p in reading.proposals] == ["raise rate 2"]
    assert sum(reading.dropped.values()) == 1


@pytest.mark.parametrize("given", [None, "", "e0001"])
def test_the_best_code_is_the_usual_parent(given: str | None) -> None:
    (found,) = proposed(idea(parent=given))
    assert (found.parent, found.base, found.follows) == ("e0001", "e0001", True)


def test_another_parent_is_kept_to() -> None:
    (found,) = proposed(idea(parent="e0002"))
    assert (found.parent, found.base, found.follows) == ("e0002", "e0001", False)


@pytest.mark.parametrize(
    ("given", "kept"),
    [(-0.5, -0.5), (2, 2.0), (True, None), ("0.1", None), (float("nan"), None), (10**400, None), ({}, None)],
)
def test_a_prediction_is_a_finite_number(given: Any, kept: float | None) -> None:
    assert proposed(idea(expected=given))[0].expected == kept


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["e0002"], ("e0002",)),
        (["e0002", "e0099", "e0001", "e0002"], ("e0002", "e0001")),
        ("e0002", ("e0002",)),
        ([2, None, {}], ()),
        (2, ()),
        (None, ()),
    ],
)
def test_only_known_experiments_are_reworked(given: Any, kept: tuple[str, ...]) -> None:
    assert proposed(idea(reworks=given))[0].reworks == kept


def test_text_is_made_harmless() -> None:
    (found,) = proposed(idea(hypothesis="a\x1b[2Jb\n" + "c" * 300))
    assert found.hypothesis.startswith("a[2Jb ccc")
    assert len(found.hypothesis) == 200
    notes = read([{"notes": "n" * 9000, "experiments": []}], make_brief(), 9, author="m").notes
    assert len(notes) == NOTE_CHARS


def test_no_more_are_taken_than_were_asked_for() -> None:
    assert [p.hypothesis for p in proposed(*map(idea, range(5)), n=3)] == [
        f"raise rate {i}" for i in range(3)
    ]


def test_with_several_files_an_edit_says_which() -> None:
    two = make_brief({"model.py": "A = 1\n", "train.py": "B = 1\n"})
    named = idea(edits=[{"file": "model.py", "old": "A = 1", "new": "A = 2"}])
    (found,) = proposed(idea(), named, brief=two)
    assert found.edits == (Edit(old="A = 1", new="A = 2", file="model.py"),)


NUMBERS = st.none() | st.booleans() | st.integers() | st.floats()
JSON = st.recursive(
    NUMBERS | st.text(max_size=8) | st.sampled_from(["e0001", "e0002", "train.py"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["old", "new", "file", "edits", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)
EXPERIMENTS = JSON | st.fixed_dictionaries(
    {"hypothesis": JSON | st.text(), "edits": JSON | st.lists(JSON, max_size=2)},
    optional={"parent": JSON, "expected": JSON, "reworks": JSON},
)
INPUTS = JSON | st.fixed_dictionaries(
    {"notes": JSON, "experiments": JSON | st.lists(EXPERIMENTS, max_size=4)}
)


@given(st.lists(INPUTS, max_size=3), st.integers(1, 3))
@settings(max_examples=200)
def test_whatever_an_answer_holds_only_sound_proposals_come_out(inputs: list[Any], n: int) -> None:
    brief = make_brief()
    reading = read(inputs, brief, n, author="m")
    assert len(reading.proposals) <= n
    assert "\n" not in reading.notes
    for proposal in reading.proposals:
        assert proposal.hypothesis
        assert brief.find(proposal.parent)
        assert proposal.follows == (proposal.parent == brief.parent)
        assert all(edit.old and edit.file is None for edit in proposal.edits)
        assert proposal.expected is None or abs(proposal.expected) < float("inf")
        json.dumps([edit.new for edit in proposal.edits], ensure_ascii=False).encode()


@given(given=INPUTS)
@settings(max_examples=12)
def test_no_input_of_the_tool_breaks_a_call(given: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Through the wire: the SDK hands on whatever JSON there is."""
    with FakeMessages(default=reply(tool_use(TOOL_NAME, given))) as server:
        lab = Lab(tmp_path_factory.mktemp("lab"), server)
        try:
            assert lab.agent().propose(make_brief(), 4).proposals
        except AgentError as error:
            assert error.retryable
        assert {call.outcome for call in lab.calls} <= {
            CallOutcome.PROPOSED,
            CallOutcome.UNUSABLE,
            CallOutcome.CUT,
        }
        assert lab.spent + 1e-9 >= server.cost()
