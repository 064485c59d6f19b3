"""Keeps a dispatcher alive: starts it, and starts it again when it crashes, three times at most.

    python -m autoresearch.keeper STATE_FOLDER COMMAND...

It holds `keeper.lock` in the study's folder while it lives, and leaves `keeper.json` there when it
ends. A command that ends on purpose, with one of our exit codes, is not started again. Loads next to
nothing, so that it stays small through the night.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from autoresearch.files import lock_file

CRASHED = 70  # exit code of a bug; negative ones, of signals, are crashes too
MAX_RESTARTS = 3
PAUSE_SECONDS = (1.0, 5.0, 25.0)  # before the first, second, third restart
POLL_SECONDS = 0.1
OUTPUT = "dispatcher.out"  # what whoever starts a keeper has it write to, in the state folder
KEPT = ("keeper.lock", "keeper.json", OUTPUT)
RESTARTS = "AUTORESEARCH_RESTARTS"  # tells a command how often it was started before


class Keeper:
    """Runs one command to its end."""

    def __init__(self, command: Sequence[str], pauses: Sequence[float] = PAUSE_SECONDS) -> None:
        self._command = list(command)
        self._pauses = pauses
        self._child: subprocess.Popen[bytes] | None = None
        self._leaving = False
        self._unsent: int | None = None  # the signal that came while the command was being started

    def run(self) -> tuple[int, int]:
        """Return the command's last exit code, and how often it was started again."""
        restarts = 0
        while True:
            env = os.environ | {RESTARTS: str(restarts)}
            self._child = None
            self._child = subprocess.Popen(self._command, env=env, stdin=subprocess.DEVNULL)
            if self._unsent is not None:
                self._child.send_signal(self._unsent)
            code = self._child.wait()
            crashed = code < 0 or code == CRASHED
            if not crashed or restarts == MAX_RESTARTS or not self._pause(self._pauses[restarts]):
                return code, restarts
            restarts += 1
            said = f"keeper: it ended with code {code}; start {restarts + 1} of {MAX_RESTARTS + 1}"
            print(said, flush=True)  # noqa: T201  its output is the dispatcher's log

    def _pause(self, seconds: float) -> bool:
        """Wait; return False, and soon, where we are to leave: a signal does not cut a sleep short."""
        until = time.monotonic() + seconds
        while not self._leaving and time.monotonic() < until:
            time.sleep(min(seconds, POLL_SECONDS))
        return not self._leaving

    def leave(self, number: int, _frame: FrameType | None) -> None:
        """End the command, and do not start it again."""
        self._leaving = True
        if self._child is None:
            self._unsent = number
        else:
            self._child.send_signal(number)


def main() -> None:
    """Keep the command of the command line alive; leave how it ended."""
    state, command = Path(sys.argv[1]), sys.argv[2:]
    with (state / "keeper.lock").open("a") as lock:
        if not lock_file(lock):
            return  # another keeper was faster
        keeper = Keeper(command)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, keeper.leave)
        code, restarts = keeper.run()
        partial = state / "keeper.json.tmp"
        partial.write_text(json.dumps({"code": code, "restarts": restarts, "ended_at": time.time()}))
        partial.rename(state / "keeper.json")


if __name__ == "__main__":
    main()
