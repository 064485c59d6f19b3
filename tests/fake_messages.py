"""A stand-in for the Anthropic Messages API on loopback: scripted replies and faults, and a bill.

The real clients are driven against it, the `anthropic` SDK and Claude Code. It refuses what the API refuses
and a client easily gets wrong, it has a prompt cache, and it charges for what it sent. It has no message
threads, no batches, no files and no tools of its own.

    with FakeMessages([fault(529), reply(tool_use("submit", {"n": 1}))]) as server:
        client = anthropic.Anthropic(api_key="sk-ant-test", base_url=server.url)

Each POST to /v1/messages takes the first step of the script that wants it, or else the default. A step is a
dict, or a function of the request's body that returns one:

    content, stop_reason, stop_details, model   the message
    usage           fields that replace those of the usage; cache_creation goes with its sum
    fault, message  an HTTP status from 400 to 599, and what the error says
    headers         more headers of the response
    delay           seconds before the headers
    chunk_delay     seconds after each event of a stream
    cut_after       a stream breaks off after so many events, in the middle of a chunk
    cut_clean       ... or so that it looks like an end
    stall           ... after being silent for so many seconds
    sse_error       (events, type): a stream ends in an error of this type after so many events
    raw_body        the text of a 200 that is not the API's
    bad_tool_json   what a stream sends as the input of tools
    when            a function of the body, or "main" for requests with tools: who the step is for
"""

from __future__ import annotations

import json
import select
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self, cast
from urllib.parse import urlsplit

from prompt_cache import PRICES, Bill, Body, Charge, PromptCache, begun, objection, prompt_tokens, tokens

Step = dict[str, Any] | Callable[[Body], Any]

ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
MESSAGE = frozenset({"content", "stop_reason", "stop_details", "model", "usage"})
TROUBLE = frozenset({"fault", "message", "raw_body", "bad_tool_json", "sse_error"})
PACE = frozenset({"delay", "chunk_delay", "cut_after", "cut_clean", "stall"})
OPTIONS = MESSAGE | TROUBLE | PACE | {"headers", "when"}
# What the last event of a stream says again of the usage that the first one gave.
CUMULATIVE = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")


def text(s: str) -> dict[str, Any]:
    """Return a block of text."""
    return {"type": "text", "text": s}


def thinking(s: str = "", signature: str = "c2lnbmVk") -> dict[str, Any]:
    """Return a block of thinking, by default with its text left out, as the API does."""
    return {"type": "thinking", "thinking": s, "signature": signature}


def tool_use(name: str, input: Any, id: str | None = None) -> dict[str, Any]:  # noqa: A002 - the API's words
    """Return a call of a tool, by default under a new id."""
    return {"type": "tool_use", "id": id or f"toolu_{uuid.uuid4().hex[:20]}", "name": name, "input": input}


def reply(*content: dict[str, Any], stop_reason: str | None = None, **options: Any) -> dict[str, Any]:
    """Return a step that answers with these blocks, and stops for the reason that they imply."""
    calls = any(block["type"] == "tool_use" for block in content)
    reason = stop_reason or ("tool_use" if calls else "end_turn")
    return {"content": list(content), "stop_reason": reason, **options}


def fault(status: int, **options: Any) -> dict[str, Any]:
    """Return a step that answers with an HTTP error."""
    return {"fault": status, **options}


def refusal(category: str = "frontier_llm", explanation: str = "declined") -> dict[str, Any]:
    """Return a step in which the model declines: a 200 with nothing in it."""
    details = {"type": "refusal", "category": category, "explanation": explanation}
    return reply(stop_reason="refusal", stop_details=details)


class FakeMessages:
    """A server that answers from its script while it is entered.

    The script may be appended to and replaced at any time. What goes wrong in it, or in a function that it
    holds, drops the connection and is raised on leaving. `requests` has all that came, with keys cut short;
    `charges` has what is paid for, in order: each answer with a 200, whether or not it was heard.
    """

    def __init__(
        self,
        script: Iterable[Step] = (),
        default: Step | None = None,
        *,
        strict: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.script: list[Step] = list(script)
        self.default: Step = default or reply(text("ok"))
        self.strict = strict
        self.clock = clock
        self.requests: list[dict[str, Any]] = []
        self.charges: list[Charge] = []
        self.cache = PromptCache()
        self.failures: list[BaseException] = []
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._http = _Server(self)

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, args=(0.005,), daemon=True).start()
        return self

    def __exit__(self, _: object, error: BaseException | None, trace: object) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()
        for failure in self.failures:
            if error is None:
                raise failure
            error.add_note(f"the script of the fake API failed: {failure!r}")

    @property
    def url(self) -> str:
        """The base URL for clients."""
        return f"http://127.0.0.1:{self._http.server_port}"

    @property
    def calls(self) -> list[Body]:
        """The bodies of the requests for a message, in order, however they were answered."""
        wanted = ("POST", "/v1/messages")
        return [it["body"] for it in self.requests if (it["method"], urlsplit(it["path"]).path) == wanted]

    def cost(self, complete: bool | None = None) -> float:
        """Return the US dollars charged for all answers, or for those that are complete, or are not."""
        return sum(it.cost_usd for it in self.charges if complete in (None, it.complete))

    def step(self, body: Body) -> dict[str, Any]:
        """Take the script's step for a request.

        Raises:
            ValueError: The step has an option that does not exist, or not alone.
        """
        with self._lock:
            script = self.script
            step = next((step for step in script if _is_for(step, body)), self.default)
            with suppress(ValueError):  # the default is in no script, nor is a step that was just replaced
                script.remove(step)
        while callable(step):
            step = cast("Step", step(body))
        if unknown := step.keys() - OPTIONS:
            raise ValueError(f"a step has {sorted(unknown)}; it may have {sorted(OPTIONS)}")
        if "stall" in step and "cut_after" not in step:
            raise ValueError("a step stalls, but does not say after how many events; give it cut_after")
        return step


def _is_for(step: Step, body: Body) -> bool:
    when = None if callable(step) else step.get("when")
    return bool(body.get("tools")) if when == "main" else when is None or bool(when(body))


def _events(message: dict[str, Any], step: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the names and data of the events of which the stream of a message consists."""
    nothing: dict[str, Any] = {"content": [], "stop_reason": None, "stop_details": None}
    yield "message_start", {"message": {**message, **nothing, "usage": begun(message["usage"])}}
    for index, block in enumerate(message["content"]):
        empty, deltas = _taken_apart(block, step)
        yield "content_block_start", {"index": index, "content_block": empty}
        for delta in deltas:
            yield "content_block_delta", {"index": index, "delta": delta}
        yield "content_block_stop", {"index": index}
    end = {field: message[field] for field in ("stop_reason", "stop_sequence", "stop_details")}
    usage = {field: message["usage"][field] for field in CUMULATIVE}
    usage["output_tokens_details"] = message["usage"].get("output_tokens_details")
    yield "message_delta", {"delta": end, "usage": usage}
    yield "message_stop", {}


def _taken_apart(block: dict[str, Any], step: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a block as its stream starts, and the deltas that fill it."""
    match block["type"]:
        case "text":
            return {**block, "text": ""}, _deltas("text", "text", block["text"], 40)
        case "thinking":
            thought = [{"type": "thinking_delta", "thinking": block["thinking"]}] if block["thinking"] else []
            signature = {"type": "signature_delta", "signature": block["signature"]}
            return {**block, "thinking": "", "signature": ""}, [*thought, signature]
        case "tool_use":
            written = step.get("bad_tool_json", json.dumps(block["input"]))
            return {**block, "input": {}}, _deltas("input_json", "partial_json", written, 600)
        case _:
            return block, []


def _deltas(kind: str, field: str, whole: str, size: int) -> list[dict[str, Any]]:
    """Return the events, of so many characters each, in which a text is sent."""
    pieces = [whole[start : start + size] for start in range(0, len(whole), size)]
    return [{"type": f"{kind}_delta", field: piece} for piece in pieces]


def _breaks(step: dict[str, Any]) -> list[int]:
    """Return after how many events a step breaks its stream off, in each way in which it does."""
    cuts = [step["cut_after"]] if "cut_after" in step else []
    return [*cuts, step["sse_error"][0]] if "sse_error" in step else cuts


def _output(event: dict[str, Any]) -> str:
    """Return what an event holds of the model's own output."""
    written = {"text", "thinking", "signature", "partial_json"}
    return "".join(value for field, value in event.get("delta", {}).items() if field in written)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, fake: FakeMessages) -> None:
        super().__init__(("127.0.0.1", 0), _Exchange)
        self.fake = fake

    def handle_error(self, *_: Any) -> None:
        """Keep what went wrong, unless it is only that a client hung up."""
        error = sys.exc_info()[1]
        if error and not isinstance(error, ConnectionError):
            self.fake.failures.append(error)


class _Exchange(BaseHTTPRequestHandler):
    """The requests of one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @property
    def fake(self) -> FakeMessages:
        return cast("_Server", self.server).fake

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._note(None)
        self._route({"/v1/models": self._list_models})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self._note(body)
        count = lambda: self._send(200, {"input_tokens": prompt_tokens(body)})  # noqa: E731
        answer = lambda: self._answer(body)  # noqa: E731
        self._route({"/v1/messages/count_tokens": count, "/v1/messages": answer})

    def _note(self, body: Body | None) -> None:
        if self.fake.closing.is_set():
            raise ConnectionAbortedError("the server is gone, if not this connection")
        headers = {name.lower(): value for name, value in self.headers.items()}
        for name in headers.keys() & {"x-api-key", "authorization"}:
            headers[name] = f"{headers[name][:12]}..."
        request = {"method": self.command, "path": self.path, "headers": headers, "body": body}
        self.fake.requests.append({**request, "t": self.fake.clock()})

    def _route(self, routes: dict[str, Callable[[], None]]) -> None:
        route = routes.get(urlsplit(self.path).path)
        if route is None:
            self._send_error(404, "Not found")
        elif not (self.headers.get("x-api-key") or self.headers.get("authorization")):
            self._send_error(401, "x-api-key header is required")
        else:
            route()

    def _list_models(self) -> None:
        made = {"type": "model", "created_at": "2026-10-07T00:00:00Z"}
        models = [{**made, "id": name, "display_name": name} for name in PRICES]
        self._send(200, {"data": models, "has_more": False, "first_id": None, "last_id": None})

    def _answer(self, body: Body) -> None:
        if refused := objection(body, strict=self.fake.strict):
            self._send_error(*refused)
            return
        step = self.fake.step(body)
        if "fault" in step:
            self._pause(step.get("delay", 0))
            self._send_error(step["fault"], step.get("message", "scripted fault"), step.get("headers"))
            return
        message = self._message(body, step)
        bill = Bill(self.fake.charges, body["model"], message["usage"])
        if not self._pause(step.get("delay", 0)):
            return
        if "raw_body" in step:
            self._send(200, step["raw_body"], step.get("headers"))
        elif body.get("stream"):
            self._stream(message, step, bill)
        else:
            bill.settle()
            self._send(200, message, step.get("headers"))

    def _message(self, body: Body, step: dict[str, Any]) -> dict[str, Any]:
        content = step.get("content", [])
        output = {"output_tokens": sum(map(tokens, content)) or 1, "service_tier": "standard"}
        fixed = {"type": "message", "role": "assistant", "stop_sequence": None}
        return {
            **fixed,
            "id": f"msg_{uuid.uuid4().hex[:20]}",
            **{field: step.get(field) for field in ("stop_reason", "stop_details")},
            "model": step.get("model", body["model"]),
            "content": content,
            "usage": {**self.fake.cache.usage(body, self.fake.clock()), **output, **step.get("usage", {})},
        }

    def _stream(self, message: dict[str, Any], step: dict[str, Any], bill: Bill) -> None:
        events, written = list(_events(message, step)), ""
        if max(_breaks(step), default=0) > len(events):
            raise ValueError(f"a stream of {len(events)} events cannot break off after {_breaks(step)}")
        chunked = {"transfer-encoding": "chunked", "connection": "close"}
        self._begin(200, "text/event-stream", {**chunked, **step.get("headers", {})})
        for sent, (name, data) in enumerate(events):
            if self._breaks_off(step, sent):
                return
            written += _output(data)
            if name in ("message_delta", "message_stop"):
                bill.settle(complete=name == "message_stop" and not _breaks(step))
            else:
                bill.grow(tokens(written))
            self._send_event(name, data)
            if not self._pause(step.get("chunk_delay", 0)):
                return
        if not self._breaks_off(step, len(events)):
            self._send_chunk(b"")

    def _breaks_off(self, step: dict[str, Any], sent: int) -> bool:
        """Return whether a stream is over after so many events, having ended it as the step says."""
        if "sse_error" in step and sent == step["sse_error"][0]:
            self._send_event("error", {"error": {"type": step["sse_error"][1], "message": "scripted error"}})
            self._send_chunk(b"")
            return True
        if sent != step.get("cut_after"):
            return False
        self._pause(step.get("stall", 0))
        if step.get("cut_clean"):
            self._send_chunk(b"")
        return True

    def _pause(self, seconds: float) -> bool:
        """Wait, and return whether client and server are still there."""
        if not seconds:
            return True
        closing = self.fake.closing.wait(seconds)
        readable, _, _ = select.select([self.connection], [], [], 0)
        left = bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)
        self.close_connection = self.close_connection or closing or left
        return not (closing or left)

    def _send_error(self, status: int, message: str, headers: dict[str, Any] | None = None) -> None:
        error = {"type": ERROR_TYPES.get(status, "api_error"), "message": message}
        self._send(status, {"type": "error", "error": error}, headers)

    def _send(self, status: int, value: Any, headers: dict[str, Any] | None = None) -> None:
        """Send a text as it is, and anything else as JSON."""
        data = (value if isinstance(value, str) else json.dumps(value)).encode()
        self._begin(status, "application/json", {"content-length": len(data), **(headers or {})})
        self.wfile.write(data)

    def _begin(self, status: int, kind: str, headers: dict[str, Any]) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("request-id", f"req_{uuid.uuid4().hex[:20]}")
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()

    def _send_event(self, name: str, data: dict[str, Any]) -> None:
        self._send_chunk(f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n".encode())

    def _send_chunk(self, data: bytes) -> None:
        """Send a part of a body; an empty one ends it."""
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
