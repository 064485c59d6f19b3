"""What the fake Messages API makes of a request: whether it is allowed, what is cached, what it costs.

It is the oracle for the product's own ledger, so nothing here is read from the product. Sizes are crude
but repeatable: three characters are a token.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

Body = dict[str, Any]

LOOK_BACK = 20  # blocks before a breakpoint in which the API looks for a cached prefix
LONG_PROMPT = 100_000  # tokens of input of all kinds, above which some models cost more
OBLIGING = frozenset({"claude-haiku-5-5"})  # models that can be forced to use a tool, or not to think
TTL_SECONDS = {"5m": 300.0, "1h": 3600.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """The US dollars per million tokens of a model, and the shortest prefix that it caches, in tokens."""

    input: float
    write_5m: float
    write_1h: float
    read: float
    output: float
    long_prompt_factor: float = 1.0
    shortest_prefix: int = 1024


PRICES = {
    "claude-fable-5-2": Price(input=8, write_5m=10, write_1h=16, read=0.20, output=40, shortest_prefix=512),
    "claude-opus-5-5": Price(input=4, write_5m=5, write_1h=8, read=0.20, output=20, shortest_prefix=512),
    "claude-sonnet-5-5": Price(input=2, write_5m=2.5, write_1h=4, read=0.10, output=10),
    "claude-haiku-5-5": Price(
        input=0.10, write_5m=0.125, write_1h=0.20, read=0.01, output=0.50, long_prompt_factor=5
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What one answered request costs; `complete` is whether its reply was sent to the end."""

    model: str
    usage: dict[str, Any]
    complete: bool
    cost_usd: float


class Bill:
    """The charge for an answer under way, the last of these when it is opened.

    It grows before a part of the answer is sent, so it is never behind what a client has seen.
    """

    def __init__(self, charges: list[Charge], model: str, usage: dict[str, Any]) -> None:
        self._charges, self._usage = charges, usage
        self._charge = _charge(model, begun(usage), complete=False)
        charges.append(self._charge)

    def grow(self, output_tokens: int) -> None:
        """Charge the output so far, of an answer that may yet break off."""
        self._replace(begun(self._usage, output_tokens), complete=False)

    def settle(self, *, complete: bool = True) -> None:
        """Charge the whole output."""
        self._replace(self._usage, complete=complete)

    def _replace(self, usage: dict[str, Any], *, complete: bool) -> None:
        place = next(place for place, charge in enumerate(self._charges) if charge is self._charge)
        self._charge = self._charges[place] = _charge(self._charge.model, usage, complete=complete)


def begun(usage: dict[str, Any], output_tokens: int = 1) -> dict[str, Any]:
    """Return a usage of whose output only so many tokens were sent, at least 1."""
    output = max(1, min(output_tokens, usage["output_tokens"]))
    return {**usage, "output_tokens": output, "output_tokens_details": None}


def _charge(model: str, usage: dict[str, Any], *, complete: bool) -> Charge:
    return Charge(model=model, usage=usage, complete=complete, cost_usd=_cost_usd(PRICES[model], usage))


def _cost_usd(price: Price, usage: dict[str, Any]) -> float:
    fresh, written = usage["input_tokens"], usage["cache_creation_input_tokens"]
    read, output = usage["cache_read_input_tokens"], usage["output_tokens"]
    written_1h = (usage["cache_creation"] or {}).get("ephemeral_1h_input_tokens", 0)
    micro_usd = (
        fresh * price.input
        + (written - written_1h) * price.write_5m
        + written_1h * price.write_1h
        + read * price.read
        + output * price.output
    )
    factor = price.long_prompt_factor if fresh + written + read > LONG_PROMPT else 1.0
    return float(factor * micro_usd / 1e6)


def tokens(value: Any) -> int:
    """Return the size of a text, or of anything that is written as JSON; at least 1."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    return max(1, (len(text) + 2) // 3)


def prompt_tokens(body: Body) -> int:
    """Return the size of all that a request shows to the model."""
    return sum(tokens(block.text) for block in blocks(body))


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A part of a prompt; with a time to live ("5m" or "1h"), the prompt up to its end is to be cached."""

    text: str
    ttl: str | None


def blocks(body: Body) -> list[Block]:
    """Return a request's blocks in the order in which the API reads them: tools, system, messages."""
    found = [Block(text=_text(place, part), ttl=_ttl(part)) for place, part in _parts(body)]
    if found and _ttl(body):  # automatic caching: the breakpoint is at the end
        found[-1] = replace(found[-1], ttl=_ttl(body))
    return found


def _text(place: tuple[str, ...], part: dict[str, Any]) -> str:
    return json.dumps([*place, _without_breakpoints(part)], sort_keys=True, ensure_ascii=False)


def _ttl(part: dict[str, Any]) -> str | None:
    control = part.get("cache_control")
    return control.get("ttl", "5m") if control else None


def _parts(body: Body) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    for tool in body.get("tools") or []:
        yield ("tool",), tool
    for part in parts(body.get("system") or []):
        yield ("system",), part
    for message in body.get("messages") or []:
        for part in parts(message["content"]):
            yield ("message", message["role"]), part


def parts(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return content as a list, whichever of its two forms a request uses."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _without_breakpoints(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_breakpoints(item) for key, item in value.items() if key != "cache_control"}
    return [_without_breakpoints(item) for item in value] if isinstance(value, list) else value


class PromptCache:
    """The prefixes that a server remembers, each for a while after its last use.

    A prefix hits only if it is the same to the last character. It is kept where the request has a
    breakpoint, and it is looked for at every breakpoint and at the blocks just before it.
    """

    def __init__(self) -> None:
        # By digest: when it ends, and for how many seconds it is kept.
        self._kept: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def usage(self, body: Body, now: float) -> dict[str, Any]:
        """Return the input side of a request's usage, after reading and writing what it says to cache."""
        found = blocks(body)
        digests, sizes = _prefixes(body["model"], found)
        written = dict.fromkeys(TTL_SECONDS, 0)
        with self._lock:
            end = read = self._read(found, digests, sizes, now)
            for block, digest, size in zip(found, digests, sizes, strict=True):
                if block.ttl and size > end and size >= PRICES[body["model"]].shortest_prefix:
                    self._kept[digest] = (now + TTL_SECONDS[block.ttl], TTL_SECONDS[block.ttl])
                    written[block.ttl] += size - end
                    end = size
        return {
            "input_tokens": sizes[-1] - end,
            "cache_read_input_tokens": read,
            "cache_creation_input_tokens": sum(written.values()),
            "cache_creation": {f"ephemeral_{ttl}_input_tokens": size for ttl, size in written.items()},
        }

    def _read(self, found: list[Block], digests: list[str], sizes: list[int], now: float) -> int:
        """Return the size of the longest prefix that hits, and keep it for another while."""
        for at in reversed([at for at, block in enumerate(found) if block.ttl]):
            for candidate in range(at, max(-1, at - LOOK_BACK), -1):
                end, ttl = self._kept.get(digests[candidate], (now, 0.0))
                if end > now:
                    self._kept[digests[candidate]] = (now + ttl, ttl)
                    return sizes[candidate]
        return 0


def _prefixes(model: str, found: list[Block]) -> tuple[list[str], list[int]]:
    """Return the digest and the size in tokens of the prompt up to each block."""
    digest, size = hashlib.sha256(model.encode()), 0
    digests, sizes = [], []
    for block in found:
        digest.update(block.text.encode())
        size += tokens(block.text)
        digests.append(digest.hexdigest())
        sizes.append(size)
    return digests, sizes


def objection(body: Body, *, strict: bool = True) -> tuple[int, str] | None:
    """Return the status and message with which the API turns a request down, if it does."""
    for field in ("model", "max_tokens", "messages"):
        if not body.get(field):
            return 400, f"{field}: Field required"
    if body["model"] not in PRICES:
        return 404, f"model: {body['model']}"
    complaints = chain(_about_cache(body), _about_model(body), _about_tools(body), _about_results(body))
    message = next(complaints, None) if strict else None
    return (400, message) if message else None


def _about_cache(body: Body) -> Iterator[str]:
    lives = [block.ttl for block in blocks(body) if block.ttl]
    if len(lives) > 4:
        yield f"A maximum of 4 blocks with cache_control may be provided. Found {len(lives)}."
    if not TTL_SECONDS.keys() >= set(lives):
        yield "cache_control.ttl: Input should be '5m' or '1h'"


def _about_model(body: Body) -> Iterator[str]:
    """All models of the 5.5 generation always think, as long as they see fit."""
    obliging = body["model"] in OBLIGING
    for field in ("temperature", "top_p", "top_k"):
        if body.get(field) not in (None, 1):
            yield f"{field} is not supported for this model."
    kind = (body.get("thinking") or {}).get("type")
    if kind == "enabled" or (kind == "disabled" and not obliging):
        yield f'"thinking.type.{kind}" is not supported for this model.'
    if (body.get("tool_choice") or {}).get("type") in ("any", "tool") and not obliging:
        yield "tool_choice: forced tool use is not supported for this model."
    if body["messages"][-1]["role"] == "assistant":
        yield "This model does not support assistant message prefill."
    if body.get("thread"):
        yield "thread: message threads are not offered by the fake API"


def _about_tools(body: Body) -> Iterator[str]:
    for place, tool in enumerate(body.get("tools") or []):
        if tool.get("strict") and _is_open(tool.get("input_schema")):
            wanted = "'additionalProperties' must be explicitly set to false"
            yield f"tools.{place}.custom: For 'object' type, {wanted}"


def _is_open(schema: Any) -> bool:
    """Return whether a schema, or one within it, is of an object that may have unnamed properties."""
    if isinstance(schema, list):
        return any(_is_open(item) for item in schema)
    if not isinstance(schema, dict):
        return False
    is_object = schema.get("type") == "object" and schema.get("additionalProperties") is not False
    return is_object or any(_is_open(item) for item in schema.values())


def _about_results(body: Body) -> Iterator[str]:
    pending: list[str] = []
    for message in body["messages"]:
        content = parts(message["content"])
        answered = {part.get("tool_use_id") for part in content if part["type"] == "tool_result"}
        if missing := [call for call in pending if call not in answered]:
            yield f"`tool_use` ids were found without `tool_result` blocks immediately after: {missing[0]}"
        pending = [part["id"] for part in content if part["type"] == "tool_use"]
