"""A study led by the agent claude: real training, the real SDK, and a server that fails every fifth time."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from autoresearch.judging.policy import MERGE_QUEUE
from fake_messages import FakeMessages, fault, reply, text, tool_use
from lab import ROOT
from researcher import Researcher, best_code

pytestmark = pytest.mark.slow
Cli = Callable[..., "subprocess.CompletedProcess[str]"]
KEY = "sk-ant-a-key-that-must-stay-here"
EMPTY = tool_use("submit_experiments", {"notes": "", "experiments": []})
FAULTS: tuple[dict[str, Any], ...] = (
    fault(529),
    {**reply(text("x" * 400)), "cut_after": 4},
    fault(429, headers={"retry-after": "2"}),
    {**reply(text("a" * 400)), "sse_error": (2, "overloaded_error")},
    {**reply(EMPTY), "stop_reason": "max_tokens"},
    {**reply(text("x" * 400)), "cut_after": 4, "cut_clean": True},
    fault(500),
    reply(text("I would try a larger learning rate.")),
)


class Unreliable:
    """Answers as the researcher does, and fails in every fifth call, in another way each time."""

    def __init__(self) -> None:
        self._researcher = Researcher(seed=7, think=900)
        self._calls = itertools.count(1)
        self._faults = itertools.cycle(FAULTS)

    def __call__(self, body: dict[str, Any]) -> dict[str, Any]:
        return next(self._faults) if next(self._calls) % 5 == 0 else self._researcher(body)


@pytest.fixture
def folder(tmp_path: Path, cli: Cli) -> Path:
    folder = tmp_path / "led"
    folder.mkdir()
    made = cli("init", cwd=folder)
    assert made.returncode == 0, made.stderr
    config = folder / "autoresearch.yaml"
    config.write_text(config.read_text().replace("{cpu: 20, gpu: 300}", "{cpu: 5, gpu: 300}"))
    return folder


def environment(server: FakeMessages, cache: Path) -> dict[str, str]:
    return {"AUTORESEARCH_CACHE": str(cache), "ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": server.url}


def rows(folder: Path, sql: str) -> list[sqlite3.Row]:
    (path,) = (folder / ".autoresearch").glob("*/study.db")
    with closing(sqlite3.connect(path)) as opened:
        opened.row_factory = sqlite3.Row
        return opened.execute(sql).fetchall()


def share_waited(folder: Path) -> float:
    """Return how much of the time between two runs and in them workers waited for an idea, a share.

    That is the time from the end of a run until the idea of the next one on that worker had been handed in.
    What passes after that, the machine takes, and whatever else runs on it.
    """
    jobs = rows(
        folder,
        "select job.worker, job.started_at, job.ended_at, max(proposal.created_at) as proposed_at from job"
        " join run on run.id = job.run left join proposal"
        " on proposal.experiment = run.experiment and proposal.state = 'admitted'"
        " group by job.name order by job.started_at",
    )
    waited = there = 0.0
    for worker in {job["worker"] for job in jobs}:
        mine = [job for job in jobs if job["worker"] == worker]
        there += max(job["ended_at"] for job in mine) - min(job["started_at"] for job in mine)
        waited += sum(
            max(0.0, later["proposed_at"] - job["ended_at"])
            for job, later in itertools.pairwise(mine)
            if later["proposed_at"] is not None  # a merge, or the baseline
        )
    return waited / there


@pytest.mark.alone
def test_forty_experiments_in_spite_of_a_fault_in_every_fifth_call(
    folder: Path, cli: Cli, cache: Path
) -> None:
    with FakeMessages(default=Unreliable()) as server:
        variables = environment(server, cache)
        done = cli(
            *("run", "--agent", "claude", "--experiments", "40", "--workers", "2"),
            cwd=folder,
            env=variables,
            timeout=1500,
        )
        assert done.returncode == 0, done.stderr
        spent, complete, count = server.cost(), server.cost(complete=True), len(server.calls)
    status = json.loads(cli("status", "--json", cwd=folder).stdout)
    assert status["experiments"] == 40
    assert status["verdicts"]["keep"] >= 1
    assert share_waited(folder) <= 0.03

    calls = rows(folder, "select outcome, cost_usd, estimated, ended_at from call")
    assert len(calls) == count
    assert all(call["ended_at"] for call in calls)
    exact = sum(call["cost_usd"] for call in calls if not call["estimated"])
    assert exact == pytest.approx(complete, abs=1e-9), "to the cent, and beyond"
    assert sum(call["cost_usd"] for call in calls) >= spent, "what broke off is not billed too low"
    assert status["usage"]["api_dollars"] == pytest.approx(sum(c["cost_usd"] for c in calls), abs=1e-4)
    assert status["usage"]["tokens"]["thinking"] > 900
    assert {call["outcome"] for call in calls} >= {"proposed", "rejected", "cut"}

    told = json.loads(cli("notebook", "--json", "--limit", "1000", cwd=folder).stdout)
    ideas = [idea for entry in told["entries"] for idea in entry["ideas"]]
    stacked = rows(folder, f"select 1 from experiment where author = '{MERGE_QUEUE}'")
    assert sum(idea["state"] == "admitted" for idea in ideas) + len(stacked) == 40
    assert any(idea["state"] == "refused" for idea in ideas)
    kept = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.parent.name == "calls" for path in kept)
    assert not [path for path in kept if KEY.encode() in path.read_bytes()], "the key is written nowhere"


def test_killed_in_mid_call_it_asks_the_same_again_and_bills_nothing_twice(folder: Path, cache: Path) -> None:
    """Its runs outlast the restart, so nothing new is known when it asks again."""
    config = folder / "autoresearch.yaml"
    long = config.read_text().replace("{cpu: 5, gpu: 300}", "{cpu: 200, gpu: 300}")
    config.write_text(long.replace("# backlog: 2 ", "backlog: 8 ").replace("# calls: 4 ", "calls: 1 "))
    with FakeMessages() as server:
        slow = {**reply(EMPTY), "delay": 600.0}
        server.script = [Researcher(seed=3, bad=0.0), slow, Researcher(seed=4, bad=0.0)]
        first = started(folder, environment(server, cache))
        until(lambda: len(server.calls) == 2, first)
        first.send_signal(signal.SIGKILL)
        first.wait()
        second = started(folder, environment(server, cache))
        until(lambda: len(hypotheses(folder)) == 8, second)
        second.send_signal(signal.SIGINT)
        time.sleep(0.5)
        second.send_signal(signal.SIGINT)
        second.wait(60)
        killed, again = server.calls[1:3]
    assert again["system"] == killed["system"]
    assert best_code(again) == best_code(killed)
    told = [call["messages"][0]["content"][0]["text"] for call in (killed, again)]
    assert told[0] == told[1], "the same brief, byte for byte"
    calls = rows(folder, "select outcome, taken, reply from call")
    assert [call["outcome"] for call in calls] == ["proposed", "lost", "proposed"]
    assert all(call["taken"] for call in calls if call["reply"])
    assert len(hypotheses(folder)) == len(set(hypotheses(folder))), "no answer was taken in twice"


def started(folder: Path, variables: dict[str, str]) -> subprocess.Popen[bytes]:
    command = [*(sys.executable, "-m", "autoresearch", "run"), *("--agent", "claude", "--experiments", "30")]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.Popen(command, cwd=folder, env=environ, stderr=subprocess.DEVNULL)


def until(done: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 200
    while not done():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)


def hypotheses(folder: Path) -> list[str]:
    return [row["hypothesis"] for row in rows(folder, "select hypothesis from proposal")]
