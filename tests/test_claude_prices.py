"""What a call costs, and what it may cost before it is made."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.agents.claude.estimate import ADDED_TOKENS, estimate
from autoresearch.agents.claude.prices import price_of, prices
from autoresearch.calls import Call, CallOutcome, Tokens
from autoresearch.errors import ConfigError
from prompt_cache import PRICES, begun, tokens

SONNET = "claude-sonnet-5-5"
HAIKU = "claude-haiku-5-5"
MILLION = 1_000_000


@pytest.mark.parametrize(
    ("model", "usd"),
    [
        (HAIKU, (0.10, 0.125, 0.20, 0.01, 0.50)),
        (SONNET, (2, 2.5, 4, 0.10, 10)),
        ("claude-opus-5-5", (4, 5, 8, 0.20, 20)),
        ("claude-fable-5-2", (8, 10, 16, 0.20, 40)),
    ],
)
def test_a_million_tokens_cost_what_the_list_says(model: str, usd: tuple[float, ...]) -> None:
    """In lots that no surcharge for long prompts touches."""
    kinds = ("input", "cache_write_5m", "cache_write_1h", "cache_read", "output")
    costs = [100 * price_of(model).cost(Tokens(**{kind: MILLION // 100})) for kind in kinds]
    assert costs == [pytest.approx(price) for price in usd]


def test_the_prices_are_those_of_the_fake_api() -> None:
    """The two lists are typed apart, so that one checks the other."""
    assert prices().keys() == PRICES.keys()


@given(
    st.sampled_from(sorted(PRICES)),
    st.lists(st.integers(0, 150_000), min_size=4, max_size=4),
    st.integers(1, 10_000),
)
def test_a_usage_costs_what_the_fake_api_charges(model: str, prompt: list[int], output: int) -> None:
    from prompt_cache import _cost_usd

    fresh, short, long, read = prompt
    usage: dict[str, Any] = {
        "input_tokens": fresh,
        "cache_creation_input_tokens": short + long,
        "cache_creation": {"ephemeral_5m_input_tokens": short, "ephemeral_1h_input_tokens": long},
        "cache_read_input_tokens": read,
        "output_tokens": output,
    }
    used = Tokens(input=fresh, cache_write_5m=short, cache_write_1h=long, cache_read=read, output=output)
    assert price_of(model).cost(used) == pytest.approx(_cost_usd(PRICES[model], begun(usage, output)))


def test_a_long_prompt_of_haiku_costs_five_times_as_much() -> None:
    """All of it and its answer too, from the first token above the limit, whichever kind it is of."""
    short, long = (
        Tokens(cache_read=99_999, input=1, output=100),
        Tokens(cache_read=100_000, input=1, output=100),
    )
    haiku = price_of(HAIKU)
    assert haiku.cost(short) == pytest.approx((99_999 * 0.01 + 0.10 + 50) / 1e6)
    assert haiku.cost(long) == pytest.approx(5 * (100_000 * 0.01 + 0.10 + 50) / 1e6)
    assert price_of(SONNET).cost(long) < 1.001 * price_of(SONNET).cost(short)


def test_thinking_is_part_of_the_output() -> None:
    assert price_of(SONNET).cost(Tokens(output=1000, thinking=900)) == pytest.approx(0.01)


def test_an_unknown_model_is_an_error_that_names_the_known() -> None:
    with pytest.raises(ConfigError, match=r"'claude-2'.*claude-haiku-5-5, claude-sonnet-5-5") as raised:
        price_of("claude-2")
    assert "agent.model" in raised.value.hint


@given(st.sampled_from(sorted(PRICES)), st.integers(0, 200_000), st.integers(0, 128_000))
def test_a_sum_affords_what_it_pays_for_and_not_a_token_more(model: str, prompt: int, output: int) -> None:
    price, asked = price_of(model), Tokens(input=prompt)
    usd = price.cost(Tokens(input=prompt, output=output))
    assert price.affordable_output(asked, usd) == output
    assert price.affordable_output(asked, price.cost(asked) / 2) == 0


# -- estimates ------------------------------------------------------------------------------------


def body(size: int = 30_000, effort: str = "medium", model: str = SONNET) -> dict[str, Any]:
    return {
        "model": model,
        "tools": [{"name": "t"}],
        "system": [{"type": "text", "text": "é\n" * size}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "x" * size}]}],
        "output_config": {"effort": effort},
    }


def call(output: int, asked: int = 10, **changes: Any) -> Call:
    plain: dict[str, Any] = {
        "id": 1,
        "batch": 1,
        "model": SONNET,
        "effort": "medium",
        "asked": asked,
        "digest": "",
        "started_at": 0.0,
        "reserved_usd": 1.0,
        "likely_usd": 0.1,
        "ended_at": 1.0,
        "outcome": CallOutcome.PROPOSED,
        "tokens": Tokens(output=output),
    }
    return Call(**{**plain, **changes})


def output_of(found: Any) -> int:
    """Return the output that a likely cost was made of."""
    return price_of(SONNET).affordable_output(found.prompt, found.likely_usd)


def guess(
    recent: list[Call], n: int = 10, *, effort: str = "medium", room: int = 16_000, at_least: int = 0
) -> Any:
    return estimate(price_of(SONNET), body(effort=effort), n, recent, room=room, at_least=at_least)


def test_the_prompt_is_never_taken_for_shorter_than_it_is() -> None:
    """Three bytes a token, all that can be cached as written for an hour, and what the API adds."""
    found, sent = guess([]).prompt, body()
    assert found.prompt >= sum(tokens(sent[part]) for part in ("tools", "system", "messages"))
    assert found.cache_write_1h > ADDED_TOKENS + tokens(sent["system"]) + tokens(sent["tools"])
    assert found.cache_write_1h > 40_000  # é has two bytes, and a line's end in JSON too
    assert found.input > 10_000
    assert found.cache_read == found.output == 0


@pytest.mark.parametrize(
    ("effort", "output"),
    [
        ("low", 400 + 600),
        ("medium", 1000 + 1800),
        ("high", 2500 + 5000),
        ("xhigh", 5000 + 10_000),
        ("max", 8000 + 15_000),
    ],
)
def test_before_there_are_answers_their_length_is_assumed(effort: str, output: int) -> None:
    found = guess([], effort=effort)
    assert output_of(found) == (output + 2500) * 1.5
    assert found.max_tokens == max(16_000, math.ceil((output + 2500) * 1.5 * 1.5))
    assert found.worst_usd > found.likely_usd


def test_then_it_is_the_ninth_longest_of_ten() -> None:
    answers = [call(1000 * i) for i in range(1, 11)]
    assert output_of(guess(answers, 20)) == 18_000
    assert output_of(guess(answers[:5])) == 5000
    assert output_of(guess(answers[:4])) == (1000 + 4300) * 1.5


def test_only_whole_answers_of_the_same_model_and_effort_count() -> None:
    others = [
        call(90_000, model="claude-opus-5-5"),
        call(90_000, effort="high"),
        call(90_000, estimated=True),
        call(90_000, outcome=CallOutcome.CUT),
        call(90, outcome=CallOutcome.REFUSAL),
        call(90, outcome=CallOutcome.UNUSABLE),
        call(0, outcome=None, ended_at=None),
    ]
    assert guess(others) == guess([])
    assert output_of(guess([*others, *[call(2000)] * 5])) == 2000


def test_truncated_answers_count_as_long_as_they_came() -> None:
    assert output_of(guess([*[call(2000)] * 4, call(16_000, outcome=CallOutcome.TRUNCATED)])) == 16_000


def test_what_was_too_little_is_not_thought_likely_again() -> None:
    found = guess([call(2000)] * 9, room=32_000, at_least=16_000)
    assert (output_of(found), found.max_tokens) == (16_000, 32_000)


def test_nothing_is_longer_than_the_model_writes() -> None:
    found = guess([call(100_000, asked=1)] * 5)
    assert found.max_tokens == output_of(found) == 128_000
    assert found.worst_usd == found.likely_usd


def test_a_price_has_a_field_for_every_kind_of_token() -> None:
    kinds = {field.name for field in fields(Tokens)} - {"thinking"}
    assert kinds < {field.name for field in fields(price_of(SONNET))}
