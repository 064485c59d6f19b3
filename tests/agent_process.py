"""One of many agents at one study: hands in its ideas in waves, and waits until all there are have ended.

    python agent_process.py PLAN LOG

PLAN is JSON: the folder, the author, its waves, how many experiments there will be in all, and after how
many seconds of which wave it is to die. LOG takes a line of JSON for everything it was told. Most calls
are those of the library and of the module behind `wait`, some are the real command.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import click
import typer

from autoresearch.budget import Budget
from autoresearch.cli.wait import wait
from autoresearch.study import open_study, state_folder
from autoresearch.submission import submit
from autoresearch.wave import read_wave

DEADLINE = 400.0  # seconds


class Agent:
    """An author with a list of ideas."""

    def __init__(self, plan: dict[str, Any], log: Path) -> None:
        self.plan, self.log = plan, log
        self.folder = Path(plan["folder"])
        self.study = open_study(self.folder, state_folder(self.folder))
        self.cursor = 0
        self.ended: set[str] = set()

    def run(self) -> None:
        for number, wave in enumerate(self.plan["waves"]):
            answer = self.hand_in(number, wave)
            if number % 4 == 0:  # an agent that was not sure whether it had been heard
                again = self.hand_in(number, wave)
                assert again == answer, "the same request is answered alike"
            if number % 2:
                self.wait(3, by_command=number == 3)
        deadline = time.monotonic() + DEADLINE
        while len(self.ended) < self.plan["total"]:
            assert time.monotonic() < deadline, f"saw only {len(self.ended)} ends"
            self.wait(10)
            time.sleep(0.2)  # where nothing is pending, others may still have ideas

    def hand_in(self, number: int, wave: list[float]) -> list[str]:
        """Hand in a wave; return the ids of its experiments."""
        author = self.plan["author"]
        request_id = f"{author}-{number}" if number % 2 == 0 or self.plan["careful"] else None
        text = json.dumps({"experiments": [{"set": {"X": x}} for x in wave]})
        if number in self.plan["dies"]:
            threading.Thread(target=die, args=(self.plan["dies"][number],), daemon=True).start()
        if number == 1:
            more = ["--request-id", request_id] if request_id else []
            ids = self.command("submit", "--wave", text, "--author", author, *more)["experiments"]
        else:
            answer = submit(
                self.study,
                read_wave(text, "wave"),
                author=author,
                request_id=request_id,
                budget=Budget(),
                now=time.time(),
            )
            ids = [row["experiment"] for row in answer["ideas"]]
        self.note(said="submit", ideas=dict(zip(map(str, wave), ids, strict=True)))
        return ids

    def wait(self, min_done: int, *, by_command: bool = False) -> None:
        """Go on from the last cursor; note what has ended since."""
        if by_command:
            found = self.command("wait", "--since", str(self.cursor), "--timeout", "20")
        else:
            output = io.StringIO()
            with contextlib.redirect_stdout(output), contextlib.suppress(typer.Exit, click.exceptions.Exit):
                wait(
                    self.folder,
                    None,
                    min_done=min_done,
                    timeout=20.0,
                    since=self.cursor,
                    limit=None,
                    author=self.plan["author"],
                    as_json=True,
                )
            found = json.loads(output.getvalue())
        ended = [row["experiment"] for row in found["ended"] if row["state"] != "open"]
        self.note(said="wait", since=self.cursor, cursor=found["cursor"], ended=ended)
        assert found["cursor"] >= self.cursor
        self.cursor = found["cursor"]
        self.ended |= {name for name in ended if name != "e0001"}

    def command(self, *arguments: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "autoresearch", *arguments]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode in {0, 124}, done
        return json.loads(done.stdout)

    def note(self, **line: Any) -> None:
        with self.log.open("a") as log:
            log.write(json.dumps(line) + "\n")


def die(seconds: float) -> None:
    time.sleep(seconds)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    plan = json.loads(Path(sys.argv[1]).read_text())
    plan["dies"] = {int(number): seconds for number, seconds in plan["dies"].items()}
    Agent(plan, Path(sys.argv[2])).run()
