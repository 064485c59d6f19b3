"""What Claude models cost, from prices.json. An unknown model is an error, never free."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from autoresearch.calls import Tokens
from autoresearch.errors import ConfigError

MILLION = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """One model's prices, in USD per million tokens, and its limits."""

    model: str
    input: float
    cache_write_5m: float
    cache_write_1h: float
    cache_read: float
    output: float
    max_output: int  # tokens of one answer, thinking included
    long_prompt_tokens: float = math.inf  # a longer prompt costs more, its answer too
    long_prompt_factor: float = 1.0

    def cost(self, tokens: Tokens) -> float:
        """Return what a call cost, in USD."""
        prompt = (
            tokens.input * self.input
            + tokens.cache_write_5m * self.cache_write_5m
            + tokens.cache_write_1h * self.cache_write_1h
            + tokens.cache_read * self.cache_read
        )
        return (prompt + tokens.output * self.output) * self._factor(tokens) / MILLION

    def affordable_output(self, prompt: Tokens, usd: float) -> int:
        """Return how many tokens of output a sum pays for beside a prompt."""
        rate = self.output * self._factor(prompt) / MILLION
        # the last token is not lost to rounding
        return max(0, math.floor((usd - self.cost(prompt)) / rate + 1e-6))

    def _factor(self, tokens: Tokens) -> float:
        return self.long_prompt_factor if tokens.prompt > self.long_prompt_tokens else 1.0


def price_of(model: str) -> Price:
    """Return a model's price. Raises ConfigError for a model without one."""
    known = prices()
    if model not in known:
        raise ConfigError(
            f"the price of the model {model!r} is not known; known are {', '.join(known)}",
            "set agent.model in autoresearch.yaml to one of these",
        )
    return known[model]


@cache
def prices() -> Mapping[str, Price]:
    """Return the price of every known model, the cheapest first."""
    table = json.loads((files("autoresearch.agents.claude") / "prices.json").read_text(encoding="utf-8"))
    found = [Price(model=model, **entry) for model, entry in table["models"].items()]
    return {price.model: price for price in sorted(found, key=lambda price: price.output)}
