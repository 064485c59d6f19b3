"""The fake Messages API: the real SDK meets in it what it meets at the real one, and the bill is right."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_messages import FakeMessages, fault, refusal, reply, text, thinking, tool_use
from prompt_cache import PRICES, PromptCache, prompt_tokens

MODEL = "claude-sonnet-5-5"
EMPTY = {"type": "object", "properties": {}, "additionalProperties": False}
TOOL = {"name": "submit", "description": "d", "input_schema": EMPTY}
WAVE = {"experiments": [{"hypothesis": "h" * 400, "edits": [{"old": "a", "new": "b" * 1000}]}]}
HOUR = {"type": "ephemeral", "ttl": "1h"}
RULES = "word " * 3000  # 15,000 characters: above every model's shortest prefix
CACHED = 5014  # tokens: its own, and those of what is around it


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="session")
def anthropic() -> Any:
    """The SDK, which takes seconds to import."""
    import anthropic

    return anthropic


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server(clock: Clock) -> Iterator[FakeMessages]:
    with FakeMessages(clock=clock) as server:
        yield server


@pytest.fixture(scope="session")
def connections(anthropic: Any) -> Iterator[Any]:
    """A client of no server, whose connections all others share: to set up TLS takes a while."""
    with anthropic.Anthropic(api_key="sk-ant-test", base_url="http://127.0.0.1:9", max_retries=0) as client:
        yield client


@pytest.fixture
def client(connections: Any, server: FakeMessages) -> Any:
    return connections.with_options(base_url=server.url)


def request(**changes: Any) -> dict[str, Any]:
    body = {"model": MODEL, "max_tokens": 1000, "messages": [{"role": "user", "content": "go"}]}
    return {**body, **changes}


def streamed(client: Any, **changes: Any) -> Any:
    with client.messages.stream(**request(**changes)) as stream:
        return stream.get_final_message()


def cached(content: str = RULES, control: dict[str, str] | None = None) -> list[dict[str, Any]]:
    return [{**text(content), "cache_control": control or HOUR}]


def test_a_streamed_tool_call_arrives_whole(server: FakeMessages, client: Any, clock: Clock) -> None:
    """The input comes in pieces, and the SDK puts them together."""
    server.script = [reply(thinking(), tool_use("submit", WAVE, id="toolu_1"))]
    message = streamed(client, tools=[TOOL])
    thought, call = message.content
    assert (thought.type, thought.thinking) == ("thinking", "")
    assert (call.id, call.name, call.input) == ("toolu_1", "submit", WAVE)
    assert message.stop_reason == "tool_use"
    assert server.calls[0]["tools"] == [TOOL]
    assert server.requests[0]["t"] == clock.now
    assert [charge.complete for charge in server.charges] == [True]


def test_a_reply_is_the_same_streamed_or_not(server: FakeMessages, client: Any) -> None:
    server.script = [reply(thinking("hm"), text("é" * 90), tool_use("submit", WAVE, id="toolu_1"))] * 2
    whole, pieces = client.messages.create(**request()), streamed(client)
    assert [block.to_dict() for block in pieces.content] == [block.to_dict() for block in whole.content]
    assert pieces.usage.output_tokens == whole.usage.output_tokens > 400
    assert server.charges[0] == server.charges[1]


@pytest.mark.parametrize("stream", [True, False])
def test_a_usage_is_what_the_step_says(server: FakeMessages, client: Any, stream: bool) -> None:
    """Thinking that leaves no text shows in the usage only, and is paid for as output."""
    details = {"thinking_tokens": 1234}
    server.script = [reply(thinking(), usage={"output_tokens": 2000, "output_tokens_details": details})]
    usage = (streamed(client) if stream else client.messages.create(**request())).usage
    assert (usage.output_tokens, usage.output_tokens_details.thinking_tokens) == (2000, 1234)
    assert server.cost() == pytest.approx((usage.input_tokens * 2 + 2000 * 10) / 1e6)


def test_an_hour_of_caching_writes_reads_and_expires(server: FakeMessages, client: Any, clock: Clock) -> None:
    """The first call writes, the next ones read and so keep it for another hour; then it is gone."""
    writes = []
    for seconds in (0, 3599, 3599, 3600):
        clock.now += seconds
        usage = streamed(
            client, system=cached(), messages=[{"role": "user", "content": f"{clock.now}"}]
        ).usage
        written, read = usage.cache_creation.ephemeral_1h_input_tokens, usage.cache_read_input_tokens
        writes.append(written > 0)
        assert written + read == CACHED > 5000
        assert min(written, read) == usage.cache_creation.ephemeral_5m_input_tokens == 0
        assert usage.cache_creation_input_tokens == written
        dollars = usage.input_tokens * 2 + written * 4 + read * 0.10 + usage.output_tokens * 10
        assert server.charges[-1].cost_usd == pytest.approx(dollars / 1e6)
    assert writes == [True, False, False, True]


def test_five_minutes_are_the_default_and_are_cheaper(
    server: FakeMessages, client: Any, clock: Clock
) -> None:
    for seconds, read in [(0, 0), (299, CACHED), (300, 0)]:
        clock.now += seconds
        usage = streamed(client, system=cached(control={"type": "ephemeral"})).usage
        assert usage.cache_read_input_tokens == read
        assert usage.cache_creation.ephemeral_5m_input_tokens == CACHED - read
    dollars = usage.input_tokens * 2 + CACHED * 2.5 + usage.output_tokens * 10
    assert server.charges[-1].cost_usd == pytest.approx(dollars / 1e6)


@pytest.mark.parametrize(
    "second",
    [
        {"system": cached(RULES[:-1])},
        {"system": cached(), "tools": [TOOL]},
        {"system": cached(), "model": "claude-opus-5-5"},
        {"system": RULES},
    ],
    ids=["another text", "a tool before it", "another model", "no breakpoint"],
)
def test_only_the_same_prefix_is_read(client: Any, second: dict[str, Any]) -> None:
    streamed(client, system=cached())
    assert streamed(client, **second).usage.cache_read_input_tokens == 0


def test_a_short_prefix_is_not_cached(client: Any) -> None:
    """2,000 characters are above the 512 tokens of opus and below the 1,024 of sonnet."""
    for model, least in [(MODEL, 0), ("claude-opus-5-5", 600)]:
        usage = streamed(client, model=model, system=cached("x" * 2000)).usage
        assert usage.cache_creation_input_tokens >= least
        assert (usage.cache_creation_input_tokens > 0) == (least > 0)


def test_a_conversation_is_cached_as_it_grows(client: Any) -> None:
    """A breakpoint at the end of the request finds what the one before it wrote."""
    messages = [{"role": "user", "content": RULES}]
    first = streamed(client, messages=messages, cache_control={"type": "ephemeral"}).usage
    messages += [{"role": "assistant", "content": "ok"}, {"role": "user", "content": "more"}]
    second = streamed(client, messages=messages, cache_control={"type": "ephemeral"}).usage
    assert second.cache_read_input_tokens == first.cache_creation_input_tokens > 5000
    assert 0 < second.cache_creation_input_tokens < 100


USAGE = {
    "input_tokens": 10_000,
    "cache_creation_input_tokens": 50_000,
    "cache_creation": {"ephemeral_5m_input_tokens": 30_000, "ephemeral_1h_input_tokens": 20_000},
    "cache_read_input_tokens": 40_000,
    "output_tokens": 5_000,
}


@pytest.mark.parametrize(
    ("model", "fresh", "cost_usd"),
    [
        ("claude-haiku-5-5", 10_000, 0.001 + 0.00375 + 0.004 + 0.0004 + 0.0025),
        ("claude-haiku-5-5", 10_001, 5 * (0.0010001 + 0.00375 + 0.004 + 0.0004 + 0.0025)),
        ("claude-sonnet-5-5", 10_000, 0.02 + 0.075 + 0.08 + 0.004 + 0.05),
        ("claude-opus-5-5", 10_000, 0.04 + 0.15 + 0.16 + 0.008 + 0.1),
        ("claude-fable-5-2", 1_000_000, 8 + 0.3 + 0.32 + 0.008 + 0.2),
    ],
)
def test_prices(server: FakeMessages, client: Any, model: str, fresh: int, cost_usd: float) -> None:
    """Haiku costs five times as much as soon as all input together exceeds 100,000 tokens."""
    server.script = [reply(text("ok"), usage={**USAGE, "input_tokens": fresh})]
    streamed(client, model=model)
    assert server.charges[0].model == model
    assert server.cost() == pytest.approx(cost_usd, rel=1e-12)


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (400, "BadRequestError", "invalid_request_error"),
        (401, "AuthenticationError", "authentication_error"),
        (402, "PaymentRequiredError", "billing_error"),
        (403, "PermissionDeniedError", "permission_error"),
        (404, "NotFoundError", "not_found_error"),
        (408, "RequestTimeoutError", "timeout_error"),
        (409, "ConflictError", "conflict_error"),
        (413, "ContentTooLargeError", "request_too_large"),
        (429, "RateLimitError", "rate_limit_error"),
        (500, "InternalServerError", "api_error"),
        (503, "ServiceUnavailableError", "api_error"),
        (504, "GatewayTimeoutError", "timeout_error"),
        (529, "OverloadedError", "overloaded_error"),
    ],
)
def test_faults(
    anthropic: Any, server: FakeMessages, client: Any, status: int, error: str, kind: str
) -> None:
    """Each status is the SDK's own error, with the API's type and message, and costs nothing."""
    server.script = [fault(status, message="so it is", headers={"retry-after": "7"})]
    with pytest.raises(anthropic.APIStatusError) as raised:
        streamed(client)
    assert type(raised.value).__name__ == error
    assert (raised.value.status_code, raised.value.type) == (status, kind)
    assert raised.value.api_message == "so it is"
    assert raised.value.response.headers["retry-after"] == "7"
    assert server.charges == []


@pytest.mark.parametrize(
    ("status", "requests"), [(408, 2), (409, 2), (429, 2), (500, 2), (529, 2), (400, 1), (402, 1)]
)
def test_the_sdk_retries_some_faults(
    anthropic: Any, server: FakeMessages, client: Any, status: int, requests: int
) -> None:
    server.script = [fault(status, headers={"retry-after-ms": "1"})] * 2
    with pytest.raises(anthropic.APIStatusError):
        streamed(client.with_options(max_retries=1))
    assert len(server.calls) == requests


def test_the_sdk_does_not_retry_a_broken_stream(server: FakeMessages, client: Any) -> None:
    """What arrived was paid for: the input, and the output that was sent."""
    import httpx2

    server.script = [reply(tool_use("submit", WAVE), cut_after=3)]
    with pytest.raises(httpx2.RemoteProtocolError):
        streamed(client.with_options(max_retries=2))
    (charge,) = server.charges
    assert len(server.calls) == 1
    assert not charge.complete
    assert charge.usage["output_tokens"] == 200  # of about 500: one piece of 600 characters
    assert charge.cost_usd == pytest.approx((charge.usage["input_tokens"] * 2 + 200 * 10) / 1e6)


def test_a_clean_early_end_is_no_error(server: FakeMessages, client: Any) -> None:
    """The SDK returns a message without a stop reason, with the part of the input that it got."""
    server.script = [reply(tool_use("submit", WAVE), cut_after=3, cut_clean=True)]
    message = streamed(client)
    assert message.stop_reason is None
    assert message.content[0].input == {"experiments": [{"hypothesis": "h" * 400, "edits": [{"old": "a"}]}]}
    assert message.usage.output_tokens == 1  # the SDK was told no better: 200 are charged
    assert [charge.complete for charge in server.charges] == [False]


def test_an_end_before_the_first_event_is_an_assertion_of_the_sdk(server: FakeMessages, client: Any) -> None:
    server.script = [reply(text("ok"), cut_after=0, cut_clean=True)]
    with pytest.raises(AssertionError):
        streamed(client)
    assert [charge.usage["output_tokens"] for charge in server.charges] == [1]


def test_a_stalled_stream_is_a_read_timeout(anthropic: Any, clock: Clock) -> None:
    """The socket stays open in silence; to leave the server is not to wait for it."""
    import httpx2

    started = time.monotonic()
    with FakeMessages([reply(text("x" * 400), cut_after=4, stall=60)], clock=clock) as server:
        impatient = httpx2.Timeout(5, read=0.3)
        with (
            anthropic.Anthropic(api_key="k", base_url=server.url, max_retries=0, timeout=impatient) as client,
            pytest.raises(httpx2.ReadTimeout),
        ):
            streamed(client)
        assert [charge.usage["output_tokens"] for charge in server.charges] == [27]  # 80 characters
        assert server.cost(complete=False) == server.cost() > server.cost(complete=True) == 0
    assert 0.3 < time.monotonic() - started < 10


def test_a_stall_ends_by_itself(server: FakeMessages, client: Any) -> None:
    import httpx2

    server.script = [reply(text("ok"), cut_after=2, stall=0.2)]
    started = time.monotonic()
    with pytest.raises(httpx2.RemoteProtocolError):
        streamed(client)
    assert time.monotonic() - started >= 0.2


@pytest.mark.parametrize("events", [0, 3])
def test_an_error_in_a_stream_has_status_200(
    anthropic: Any, server: FakeMessages, client: Any, events: int
) -> None:
    server.script = [reply(text("x" * 400), sse_error=(events, "overloaded_error"))]
    with pytest.raises(anthropic.APIStatusError) as raised:
        streamed(client.with_options(max_retries=2))
    assert (raised.value.status_code, raised.value.type) == (200, "overloaded_error")
    assert len(server.calls) == 1
    assert [charge.complete for charge in server.charges] == [False]


def test_a_refusal_is_an_empty_message_that_is_paid_for(server: FakeMessages, client: Any) -> None:
    server.script = [refusal()]
    message = streamed(client)
    assert (message.stop_reason, message.content) == ("refusal", [])
    assert message.stop_details.category == "frontier_llm"
    assert server.cost(complete=True) == server.cost() > 0


def test_a_tool_input_may_be_cut_off_in_silence(server: FakeMessages, client: Any) -> None:
    """At max_tokens the SDK closes the brackets itself, and what it hands on looks like an input."""
    part = '{"experiments": [{"hypothesis": "h", "edits": [{"old": "a", "ne'
    server.script = [reply(tool_use("submit", WAVE), stop_reason="max_tokens", bad_tool_json=part)]
    message = streamed(client)
    assert message.stop_reason == "max_tokens"
    assert message.content[0].input == {"experiments": [{"hypothesis": "h", "edits": [{"old": "a"}]}]}


def test_a_tool_input_that_is_no_json_is_a_value_error(server: FakeMessages, client: Any) -> None:
    server.script = [reply(tool_use("submit", WAVE), bad_tool_json='{"experiments": [nonsense')]
    with pytest.raises(ValueError, match="Unable to parse tool parameter JSON"):
        streamed(client)


def test_a_body_that_is_no_json_is_a_value_error(server: FakeMessages, client: Any) -> None:
    server.script = [{"raw_body": '{"id": "msg_'}]
    with pytest.raises(ValueError, match="Unterminated string"):
        client.messages.create(**request())
    assert [charge.complete for charge in server.charges] == [False]


def test_a_late_answer_is_a_timeout_that_is_paid_for(
    anthropic: Any, server: FakeMessages, client: Any
) -> None:
    """The API has read the prompt, whether or not anyone waits for the reply."""
    import httpx2

    server.script = [reply(text("ok"), delay=60)]
    with pytest.raises(anthropic.APITimeoutError):
        streamed(client.with_options(timeout=httpx2.Timeout(5, read=0.3)))
    assert [(charge.usage["output_tokens"], charge.complete) for charge in server.charges] == [(1, False)]


def test_a_slow_stream_is_no_timeout(server: FakeMessages, client: Any) -> None:
    """The limit is on the time between events, and a stream may take longer than that."""
    server.script = [reply(text("x" * 200), chunk_delay=0.1)]
    assert streamed(client.with_options(timeout=0.6)).content[0].text == "x" * 200


def test_an_unknown_model_is_not_found(anthropic: Any, server: FakeMessages, client: Any) -> None:
    with pytest.raises(anthropic.NotFoundError) as raised:
        streamed(client, model="claude-nobody-1")
    assert raised.value.type == "not_found_error"
    assert raised.value.api_message == "model: claude-nobody-1"
    assert server.charges == []


def test_a_request_needs_a_key(anthropic: Any, server: FakeMessages, client: Any) -> None:
    with pytest.raises(anthropic.AuthenticationError) as raised:
        streamed(client, extra_headers={"Authorization": anthropic.Omit()})
    assert raised.value.type == "authentication_error"
    assert len(server.calls) == 1


def test_a_key_is_not_kept(server: FakeMessages, client: Any) -> None:
    """The SDK sends its key as a bearer token, Claude Code in a header of its own."""
    secret = "sk-ant-" + "s" * 30
    streamed(client.with_options(api_key=secret), extra_headers={"x-api-key": secret})
    headers = server.requests[0]["headers"]
    assert headers["x-api-key"].startswith("sk-ant-")
    assert headers["authorization"].startswith("Bearer ")
    assert secret not in str(server.requests)


OPEN = {"type": "object", "properties": {"a": {"type": "string"}}}
NESTED = {**EMPTY, "properties": {"list": {"type": "array", "items": OPEN}}}
CALL = {"role": "assistant", "content": [tool_use("submit", {}, id="toolu_1")]}
RESULT = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "ok"}]}
USER = {"role": "user", "content": "go"}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "forced tool": ({"tools": [TOOL], "tool_choice": {"type": "any"}}, "forced tool use"),
    "temperature": ({"extra_body": {"temperature": 0.5}}, "temperature"),
    "thinking enabled": ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking.type.enabled"),
    "thinking disabled": ({"thinking": {"type": "disabled"}}, "thinking.type.disabled"),
    "prefill": ({"messages": [USER, {"role": "assistant", "content": "{"}]}, "prefill"),
    "breakpoints": ({"system": cached() * 5}, "maximum of 4 blocks"),
    "time to live": ({"system": cached(control={"type": "ephemeral", "ttl": "2h"})}, "cache_control.ttl"),
    "no result": ({"messages": [USER, CALL, USER]}, "without `tool_result`.*toolu_1"),
    "open schema": (
        {"tools": [{**TOOL, "strict": True, "input_schema": OPEN}]},
        "tools.0.custom: For 'object'",
    ),
    "open schema within": (
        {"tools": [{**TOOL, "strict": True, "input_schema": NESTED}]},
        "additionalProperties",
    ),
    "no message": ({"messages": []}, "messages: Field required"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_api_refuses(anthropic: Any, server: FakeMessages, client: Any, case: str) -> None:
    changes, message = REFUSED[case]
    with pytest.raises(anthropic.BadRequestError, match=message) as raised:
        streamed(client, **changes)
    assert raised.value.type == "invalid_request_error"
    assert server.charges == []


@pytest.mark.parametrize(
    "changes",
    [
        {"tools": [{**TOOL, "strict": True}], "tool_choice": {"type": "auto"}},
        {"tools": [{**TOOL, "input_schema": NESTED}]},
        {"messages": [USER, CALL, RESULT]},
        {"system": cached() * 4},
        {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}},
        {"model": "claude-haiku-5-5", "thinking": {"type": "disabled"}},
        {"model": "claude-haiku-5-5", "tools": [TOOL], "tool_choice": {"type": "tool", "name": "submit"}},
    ],
)
def test_what_the_api_takes(client: Any, changes: dict[str, Any]) -> None:
    assert streamed(client, **changes).stop_reason == "end_turn"


def test_a_lax_server_takes_almost_everything(server: FakeMessages, client: Any) -> None:
    server.strict = False
    streamed(client, messages=[USER, CALL, USER], tools=[TOOL], tool_choice={"type": "any"})
    assert len(server.charges) == 1


def test_a_step_may_be_made_for_its_request(server: FakeMessages, client: Any) -> None:
    server.default = lambda body: reply(text(body["messages"][-1]["content"].upper()))
    assert streamed(client).content[0].text == "GO"


def test_a_step_may_wait_for_its_request(server: FakeMessages, client: Any) -> None:
    """Claude Code asks for titles and the like beside its work: those have no tools."""
    server.script = [
        reply(text("main"), when="main"),
        reply(text("big"), when=lambda body: body["max_tokens"] > 4000),
    ]
    answers = [streamed(client, **changes) for changes in ({}, {"max_tokens": 5000}, {"tools": [TOOL]}, {})]
    assert [answer.content[0].text for answer in answers] == ["ok", "big", "main", "ok"]
    assert server.script == []


def test_a_script_may_change_while_requests_come(server: FakeMessages, client: Any) -> None:
    """Each step is used once, whoever asks, and a step may put others in its place."""

    def renewed(body: dict[str, Any]) -> dict[str, Any]:
        server.script = [reply(text("new"))] * 2
        return reply(text("renewed"))

    server.script = [reply(text("old")), renewed, reply(text("dropped"))]
    assert [streamed(client).content[0].text for _ in range(5)] == ["old", "renewed", "new", "new", "ok"]


def test_many_may_ask_at_once(server: FakeMessages, client: Any) -> None:
    server.script = [reply(text(str(number)), usage={"output_tokens": 100 + number}) for number in range(20)]
    heard: list[int] = []

    def ask() -> None:
        heard.extend(int(streamed(client).content[0].text) for _ in range(5))

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert sorted(heard) == list(range(20))
    assert sorted(charge.usage["output_tokens"] for charge in server.charges) == list(range(100, 120))
    assert all(charge.complete for charge in server.charges)


def broken(body: dict[str, Any]) -> dict[str, Any]:
    raise KeyError(body["model"])


def ask_in_vain(anthropic: Any, step: Any, *errors: type[Exception]) -> None:
    with (
        FakeMessages([step]) as server,
        anthropic.Anthropic(api_key="k", base_url=server.url, max_retries=0) as client,
        suppress(*errors),
    ):
        streamed(client)


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (broken, KeyError),
        (reply(text("ok"), cut_afer=3), ValueError),
        (reply(text("ok"), stall=3), ValueError),
        (reply(text("ok"), cut_after=7), ValueError),
    ],
    ids=["a function that fails", "an unknown option", "a stall nowhere", "a cut after the end"],
)
def test_a_bad_script_is_raised_on_leaving(anthropic: Any, step: Any, error: type[Exception]) -> None:
    """The client sees a connection that drops, which it may well survive."""
    with pytest.raises(error):
        ask_in_vain(anthropic, step, anthropic.APIConnectionError)


def test_a_bad_script_hides_no_other_error(anthropic: Any) -> None:
    with pytest.raises(anthropic.APIConnectionError) as raised:
        ask_in_vain(anthropic, broken)
    assert "KeyError" in raised.value.__notes__[0]


def test_a_server_that_was_left_answers_no_more(anthropic: Any, connections: Any) -> None:
    """Not on a connection that is still open either."""
    with FakeMessages() as server:
        client = connections.with_options(base_url=server.url)
        client.messages.create(**request())
    with pytest.raises(anthropic.APIConnectionError):
        client.messages.create(**request())
    assert len(server.calls) == 1


def test_tokens_are_counted_before_they_are_sent(server: FakeMessages, client: Any) -> None:
    body = {"model": MODEL, "messages": [USER], "system": cached(), "tools": [TOOL]}
    counted = client.messages.count_tokens(**body).input_tokens
    usage = streamed(client, **body).usage
    assert usage.input_tokens + usage.cache_creation_input_tokens == counted
    assert len(server.calls) == len(server.charges) == 1


def test_the_models_are_those_with_a_price(client: Any) -> None:
    assert {model.id for model in client.models.list()} == set(PRICES)


prompts = st.lists(
    st.fixed_dictionaries(
        {"type": st.just("text"), "text": st.sampled_from(["a" * 1600, "b" * 3200])},
        optional={"cache_control": st.sampled_from([HOUR, {"type": "ephemeral"}])},
    ),
    min_size=1,
    max_size=30,
)


@given(st.lists(st.tuples(prompts, st.floats(0, 4000)), min_size=1, max_size=6))
@settings(max_examples=40)
def test_no_token_is_lost_or_counted_twice(calls: list[tuple[list[dict[str, Any]], float]]) -> None:
    """What is read, written and neither adds up to the prompt, and only what was written is read."""
    cache, now, longest = PromptCache(), 0.0, 0
    for prompt, seconds in calls:
        now += seconds
        body = request(messages=[{"role": "user", "content": prompt}])
        usage = cache.usage(body, now)
        read, written = usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]
        assert read + written + usage["input_tokens"] == prompt_tokens(body)
        assert written == sum(usage["cache_creation"].values()) >= 0
        assert read <= longest
        longest = max(longest, read + written)
