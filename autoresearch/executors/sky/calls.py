"""Calls of SkyPilot's SDK: from any thread, within a time limit, silent, with errors of our own.

The SDK is loaded on the first call. It waits for answers without a limit, prints, and switches
tracebacks off for the whole process, so each call has a thread of its own that can be left behind.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

from autoresearch.executors.sky.client import GoneError, SkyError, UnansweredError, UnavailableError

# the API server's worker processes each start a thread pool per core otherwise, 0.4 GB in all
_SERVER_ENV = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NUMEXPR_NUM_THREADS": "1"}
_CANCEL_SECONDS = 15.0
_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_MESSAGE_CHARACTERS = 400

# by class name, as what arrives may be of SkyPilot, of requests or of Python
_GONE = frozenset({"ClusterDoesNotExist", "ClusterNotUpError"})
_UNAVAILABLE = frozenset({"ResourcesUnavailableError", "ResourcesMismatchError", "NoCloudAccessError"})
_DOWN = frozenset({"ApiServerConnectionError", "ConnectionError"})
_LOCKED = frozenset({"ApiServerAuthenticationError", "JSONDecodeError"})  # the latter of a login page
_UNANSWERED = frozenset(
    {
        "RequestException",
        "ServerTemporarilyUnavailableError",
        "RequestCancelled",
        "RequestInterruptedError",
        "_NoServerError",
    }
)

Call = Callable[[ModuleType], Any]  # is handed the module `sky`


class Calls:
    """Asks SkyPilot, on behalf of any number of threads."""

    def __init__(self) -> None:
        self._starting = threading.Lock()

    def request(self, what: str, seconds: float, submit: Call, *, cancel: bool = False) -> Any:
        """Return the result of the request that `submit` sends.

        Raises UnansweredError after so many seconds; with `cancel`, the request is then withdrawn.
        """
        requests: list[str] = []

        def ask(sky: ModuleType) -> Any:
            requests.append(submit(sky))
            return sky.get(requests[0])

        try:
            return self.call(what, seconds, ask)
        except UnansweredError:
            if cancel and requests:
                self._withdraw(requests)
            raise

    def call(self, what: str, seconds: float, ask: Call, *, start: bool = True) -> Any:
        """Return what `ask` returns; with `start`, a local API server is started where none answers.

        Raises SkyError, each of whose messages begins with `what`.
        """

        def reach_and_ask() -> Any:
            sky = load()
            if start:
                self._reach(sky)
            return ask(sky)

        asker = _Asker(reach_and_ask)
        asker.start()
        asker.join(seconds)
        if asker.is_alive():
            raise UnansweredError(f"{what}: SkyPilot did not answer within {seconds:g} seconds")
        if asker.error is not None:
            raise translated(what, asker.error) from asker.error
        return asker.answer

    def _reach(self, sky: ModuleType) -> None:
        """Start the local API server where none answers; a remote one is its owner's to start."""
        if _answers(sky) or not sky.server.common.is_api_server_local():
            return
        with self._starting:
            if not _answers(sky):
                _start_server()

    def _withdraw(self, requests: list[str]) -> None:
        with contextlib.suppress(SkyError):
            self.call(
                "cancel", _CANCEL_SECONDS, lambda sky: sky.api_cancel(requests, silent=True), start=False
            )


def load() -> ModuleType:
    """Return the module `sky`, which takes seconds to load, with its logger detached from the screen."""
    sky = importlib.import_module("sky")
    logger = logging.getLogger("sky")
    logger.handlers = [logging.NullHandler()]
    logger.setLevel(logging.WARNING)
    logger.propagate = True  # whoever configures logging sees its warnings
    return sky


def translated(what: str, error: BaseException) -> SkyError:
    """Return our error for one of SkyPilot's, with one clean line."""
    text = one_line(str(error)) or type(error).__name__
    names = {kind.__name__ for kind in type(error).__mro__}
    status = getattr(getattr(error, "response", None), "status_code", None)
    if names & _LOCKED or status in {401, 403}:
        return UnansweredError(f"{what}: SkyPilot's API server wants a login; run `sky api login`")
    if names & _DOWN:
        return UnansweredError(
            f"{what}: SkyPilot's API server does not answer; start one with `sky api start`, "
            "or join one with `sky api login`"
        )
    if names & _GONE or "not in UP status" in text:
        return GoneError(f"{what}: {text}")
    if names & _UNAVAILABLE:
        return UnavailableError(f"{what}: {text}")
    refused = status is not None and status < 500
    # a server that was restarted does not know the request it was sent
    if (names & _UNANSWERED and not refused) or text.startswith("Failed to get request"):
        return UnansweredError(f"{what}: {text}")
    return SkyError(f"{what}: {text}")


def one_line(text: str) -> str:
    """Return a message without colour codes and line breaks, cut to a readable length."""
    clean = " ".join(_COLOUR.sub("", text).split())
    return clean if len(clean) <= _MESSAGE_CHARACTERS else clean[:_MESSAGE_CHARACTERS] + "..."


class _NoServerError(Exception):
    """The local API server does not start."""


class _Asker(threading.Thread):
    """A thread in which SkyPilot is asked; what it prints there is dropped."""

    def __init__(self, ask: Callable[[], Any]) -> None:
        super().__init__(name="sky", daemon=True)
        self._ask = ask
        self.answer: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            _mute()
            self.answer = self._ask()
        except BaseException as error:  # noqa: BLE001 - it is raised again in the thread that waits
            self.error = error
        finally:
            # SkyPilot sets it to 0 around a raise, and leaves it there
            vars(sys).pop("tracebacklimit", None)


class _Muted:
    """A standard stream that drops what is written by a thread that asks SkyPilot."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        if isinstance(threading.current_thread(), _Asker):
            return len(text)
        written: int = self._stream.write(text)
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _mute() -> None:
    """Have standard output and error drop what SkyPilot prints.

    They stay wrapped: a live display may have put itself over them since, and takes itself off later.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, _Muted):
            setattr(sys, name, _Muted(stream))


def _answers(sky: ModuleType) -> bool:
    import requests

    try:
        sky.api_info()
    except requests.ConnectionError:
        return False
    return True


def _start_server() -> None:
    """Start the local API server from a process of its own, which alone gets its environment."""
    started = subprocess.run(
        [sys.executable, "-c", "import sky; sky.api_start()"],
        env=_SERVER_ENV | dict(os.environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if started.returncode != 0:
        last = one_line(started.stderr.strip().rpartition("\n")[2])
        raise _NoServerError(f"`sky api start` failed: {last}")
