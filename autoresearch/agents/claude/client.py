"""The connection to the API. The SDK retries nothing: every attempt has its own bill."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from autoresearch.errors import AgentError

if TYPE_CHECKING:
    from anthropic import Anthropic
    from httpx2 import Response


CONNECT_SECONDS = 10.0


def connect(api_key: str, base_url: str | None, *, read_seconds: float, total_seconds: float) -> Anthropic:
    """Return a client, for any number of threads. `base_url=None`: as the environment says.

    An answer may be silent for `read_seconds`, and come in for `total_seconds`: it may drip. Raises
    AgentError for a key that cannot be one.
    """
    if not (api_key.isascii() and api_key.isprintable()) or " " in api_key or not api_key:
        raise AgentError(
            "the API key has characters that no key has",
            "set ANTHROPIC_API_KEY to the key and nothing else",
            retryable=False,
        )
    import anthropic
    import httpx2

    timeout = httpx2.Timeout(600.0, connect=CONNECT_SECONDS, read=read_seconds)
    http_client = anthropic.DefaultHttpxClient(
        timeout=timeout,
        limits=httpx2.Limits(max_keepalive_connections=0),  # minutes pass between calls
        event_hooks={"response": [lambda response: _bound(response, total_seconds)]},
    )
    return anthropic.Anthropic(
        api_key=api_key, base_url=base_url, max_retries=0, timeout=timeout, http_client=http_client
    )


def _bound(response: Response, seconds: float) -> None:
    """Have a response break off when it takes longer, pings and half events included."""
    import httpx2

    until, inner = time.monotonic() + seconds, response.stream

    class Bounded(httpx2.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            for part in inner:  # type: ignore[union-attr]
                if time.monotonic() > until:
                    raise httpx2.ReadTimeout(f"the answer took longer than {seconds:g} seconds")
                yield part

        def close(self) -> None:
            inner.close()  # type: ignore[union-attr]

    response.stream = Bounded()
