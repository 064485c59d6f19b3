"""What happens to a request on the wire, as a value: every way in which an answer comes, breaks or fails.

The SDK (2.12) raises for some of them, with its own errors and with those of what it is built on, and is
silent about others: an answer that just ends, a tool input that was cut off.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from autoresearch.agents.claude.request import TOOL_NAME, Body
from autoresearch.calls import CallOutcome, Tokens
from autoresearch.untrusted import clean

if TYPE_CHECKING:
    from anthropic import Anthropic, APIStatusError

log = logging.getLogger(__name__)

CHARS_PER_TOKEN = 3  # of output that arrived and that the API has not counted
TOO_LONG = "model_context_window_exceeded"
OUTCOMES = {  # by stop reason; any other is an answer
    "refusal": CallOutcome.REFUSAL,
    "max_tokens": CallOutcome.TRUNCATED,
    TOO_LONG: CallOutcome.TRUNCATED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a request ended."""

    outcome: CallOutcome
    detail: str = ""  # one line, for people
    tokens: Tokens = field(default_factory=Tokens)  # that are known to be used
    exact: bool = False  # ... which are all: the API said so
    inputs: Sequence[object] = ()  # what the tool was called with
    content: Sequence[Mapping[str, Any]] = ()  # the whole answer, but for the text of its thinking
    stop_reason: str | None = None
    status: int | None = None  # of an HTTP error
    retry_after: float | None = None  # seconds that the API asks to wait
    request_id: str | None = None


@dataclass(slots=True)
class _Heard:
    """What has arrived of an answer."""

    request_id: str | None = None  # of its headers
    message: Any = None  # the SDK's, which it completes in place
    chars: int = 0  # of output
    inputs: dict[int, str] = field(default_factory=dict)  # the JSON that tools were called with, by block

    def note(self, event: Any, stream: Any) -> None:
        if event.type == "message_start":
            self.message = stream.current_message_snapshot
        elif event.type == "content_block_delta":
            written = event.delta.to_dict()
            self.chars += sum(len(str(text)) for key, text in written.items() if key != "type")
            if "partial_json" in written:
                self.inputs[event.index] = self.inputs.get(event.index, "") + written["partial_json"]

    @property
    def stop_reason(self) -> str | None:
        """Why the answer ended; None while it has not. Once it has, nothing of it is missing."""
        reason = getattr(self.message, "stop_reason", None)
        return str(reason) if reason else None

    @property
    def tokens(self) -> Tokens:
        """What was used, as far as it is known."""
        used = tokens_of(getattr(self.message, "usage", None))
        if self.stop_reason:
            return used
        return used + Tokens(output=max(0, math.ceil(self.chars / CHARS_PER_TOKEN) - used.output))


def hear(client: Anthropic, body: Body) -> Ending:
    """Return how a request ended; nothing that can happen to it raises."""
    heard = _Heard()
    try:
        with client.messages.stream(**body) as stream:
            heard.request_id = stream.request_id or ""
            for event in stream:
                heard.note(event, stream)
    except Exception as error:
        if heard.stop_reason is None:
            log.debug("a call broke", exc_info=True)
            return _broken(error, heard, client.api_key or "")
    if heard.stop_reason is None:
        return _cut(heard, "the answer ended early")
    return _whole(heard, heard.stop_reason)


def _whole(heard: _Heard, stop_reason: str) -> Ending:
    content = [_block(block, heard.inputs.get(i, "")) for i, block in enumerate(heard.message.content)]
    outcome = OUTCOMES.get(stop_reason, CallOutcome.ANSWERED)
    detail = "" if outcome is CallOutcome.ANSWERED else stop_reason
    if outcome is CallOutcome.REFUSAL:
        category = getattr(getattr(heard.message, "stop_details", None), "category", None)
        detail = clean(str(category or "no category given"))
    return Ending(
        outcome=outcome,
        detail=detail,
        tokens=heard.tokens,
        exact=heard.tokens.prompt > 0,  # a gateway may leave the usage out
        inputs=[block["input"] for block in content if block.get("name") == TOOL_NAME],
        content=content,
        stop_reason=stop_reason,
        request_id=heard.request_id,
    )


def _block(block: Any, written: str) -> dict[str, Any]:
    """Return a block as it is kept. A tool's input is read anew: the SDK closes brackets that are open."""
    kind = str(getattr(block, "type", None))
    if kind == "text":
        return {"type": kind, "text": str(getattr(block, "text", ""))}
    if kind != "tool_use":
        return {"type": kind}
    try:
        given = json.loads(written or "{}")
    except (ValueError, RecursionError):
        given = {"not JSON": written}
    return {"type": kind, "name": getattr(block, "name", None), "input": given}


def _broken(error: Exception, heard: _Heard, key: str) -> Ending:
    """Return what an exception means: not sent or turned down, not answered, or cut."""
    import anthropic
    import httpx2

    if isinstance(error, anthropic.APIStatusError):
        said = _line(f"{error.type or 'error'}: {error.api_message or error.message}", key)
        if error.status_code < 300:  # an error in the middle of an answer
            return _cut(heard, said)
        return Ending(
            outcome=CallOutcome.REJECTED,
            detail=f"{error.status_code} {said}",
            status=error.status_code,
            retry_after=_retry_after(error),
            request_id=error.request_id,
        )
    cause = (error.__cause__ or error) if isinstance(error, anthropic.APIConnectionError) else error
    said = _line(f"{type(cause).__name__}: {cause}", key)
    if heard.message is not None:
        return _cut(heard, said)
    if heard.request_id is not None and not isinstance(cause, httpx2.HTTPError):
        return _cut(heard, said)
    network = isinstance(error, anthropic.APIConnectionError | httpx2.HTTPError | OSError)
    sent = network and not isinstance(cause, _unsent())
    outcome = CallOutcome.UNANSWERED if sent else CallOutcome.REJECTED
    return Ending(outcome=outcome, detail=said, request_id=heard.request_id)


def _unsent() -> tuple[type[Exception], ...]:
    """Return the errors before anything was sent."""
    import httpx2

    return (
        *(httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError),
        *(httpx2.UnsupportedProtocol, httpx2.LocalProtocolError),
    )


def _cut(heard: _Heard, detail: str) -> Ending:
    return Ending(outcome=CallOutcome.CUT, detail=detail, tokens=heard.tokens, request_id=heard.request_id)


def _line(text: str, key: str) -> str:
    return clean(text.replace(key, "[key]") if key else text)


def _retry_after(error: APIStatusError) -> float | None:
    """Return how many seconds an error's headers ask to wait; None where they do not."""
    headers = error.response.headers
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    try:
        until = parsedate_to_datetime(headers.get("retry-after", "")).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, until - time.time())


def tokens_of(usage: object) -> Tokens:
    """Return what a message's usage says; zeros where there is none."""
    split = getattr(usage, "cache_creation", None)
    details = getattr(usage, "output_tokens_details", None)
    written = _count(usage, "cache_creation_input_tokens")
    written_5m = _count(split, "ephemeral_5m_input_tokens")
    return Tokens(
        input=_count(usage, "input_tokens"),
        cache_write_5m=written_5m,
        # what is written and not said for how long was written for an hour, as we ask
        cache_write_1h=max(_count(split, "ephemeral_1h_input_tokens"), written - written_5m),
        cache_read=_count(usage, "cache_read_input_tokens"),
        output=_count(usage, "output_tokens"),
        thinking=_count(details, "thinking_tokens"),
    )


def _count(holder: object, name: str) -> int:
    found = getattr(holder, name, None)
    return found if isinstance(found, int) and found > 0 else 0
