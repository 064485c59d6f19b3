"""What a call will cost, before it is made: an upper estimate of its prompt, and how long answers were."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from autoresearch.agents.claude.prices import Price
from autoresearch.agents.claude.request import Body, canonical
from autoresearch.calls import Call, CallOutcome, Tokens

BYTES_PER_TOKEN = 3  # of code; prose has more
ADDED_TOKENS = 600  # what the API puts around tools
ENOUGH = 5  # answers that tell how long the next will be
QUANTILE = 0.9
# Before there are any: thinking of a + b * n tokens, and what is written of an experiment. Assumed.
THINKING = {"low": (400, 60), "medium": (1000, 180), "high": (2500, 500), "xhigh": (5000, 1000)}
MOST_THINKING = (8000, 1500)
WRITTEN = 250
CAUTION = 1.5
LENGTHY = frozenset({CallOutcome.ANSWERED, CallOutcome.PROPOSED, CallOutcome.TRUNCATED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a call will hardly pass, and what it cannot pass."""

    prompt: Tokens
    max_tokens: int  # the limit to set on its output
    likely_usd: float  # the 90th percentile
    worst_usd: float


def estimate(
    price: Price, body: Body, n: int, recent: Sequence[Call], *, room: int, at_least: int = 0
) -> Estimate:
    """Return what asking for n proposals will cost.

    `room` is the limit on the output that would be usual, raised where answers are longer; `at_least`
    tokens of output were not enough before.
    """
    prompt = _prompt(body)
    output = max(_likely_output(body["model"], body["output_config"]["effort"], n, recent), at_least)
    max_tokens = min(price.max_output, max(room, math.ceil(output * CAUTION)))
    return Estimate(
        prompt=prompt,
        max_tokens=max_tokens,
        likely_usd=price.cost(prompt + Tokens(output=min(output, max_tokens))),
        worst_usd=price.cost(prompt + Tokens(output=max_tokens)),
    )


def _prompt(body: Body) -> Tokens:
    """Return the prompt as if nothing of it were in the cache yet."""
    cached = _tokens([body["tools"], body["system"]]) + ADDED_TOKENS
    return Tokens(cache_write_1h=cached, input=_tokens(body["messages"]))


def _tokens(part: object) -> int:
    return math.ceil(len(canonical(part).encode(errors="surrogatepass")) / BYTES_PER_TOKEN)


def _likely_output(model: str, effort: str, n: int, recent: Sequence[Call]) -> int:
    """Return the 90th percentile of an answer's length, thinking included."""
    lengths = sorted(
        call.tokens.output / max(1, call.asked)
        for call in recent
        if (call.model, call.effort) == (model, effort)
        and call.outcome in LENGTHY
        and not call.estimated
        and call.tokens.output
    )
    if len(lengths) >= ENOUGH:
        return math.ceil(lengths[math.ceil(QUANTILE * len(lengths)) - 1] * n)
    return math.ceil(assumed_output(effort, n).output * CAUTION)


def assumed_output(effort: str, n: int) -> Tokens:
    """Return what an answer with n experiments is assumed to take, as long as none was measured."""
    a, b = THINKING.get(effort, MOST_THINKING)
    thinking = a + b * n
    return Tokens(output=thinking + WRITTEN * n, thinking=thinking)
