"""Many agents at one study, at once, and some of them dying: each idea is one experiment, run once.

Real processes, a real dispatcher in the background, real SQLite and git. See `agent_process` for what
one agent does.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from autoresearch.budget import Budget
from autoresearch.experiment import RunState, Verdict
from autoresearch.submission import submit
from autoresearch.wave import Idea, Wave
from lab import TESTS, Lab, git
from outside import Outside

AGENTS, OWN, SHARED = 8, 20, 5  # ideas of each agent alone, and with each of its two neighbours
TOTAL = AGENTS * (OWN + SHARED)
LIVES = {  # of the agents that die: in which wave, how many seconds after it began to hand it in
    2: ({0: 0.005}, {2: 0.05}, {4: 0.2}),
    5: ({2: 0.02}, {3: 0.1}, {6: 0.4}),
}
DEADLINE = 500.0  # seconds; about 70 are usual on two slow cores


@pytest.fixture
def outside(lab: Lab) -> Iterator[Outside]:
    made = Outside(lab)
    made.configure(workers=4)
    yield made
    made.close()


@pytest.mark.slow
def test_many_agents_at_once_lose_nothing_and_run_nothing_twice(outside: Outside, tmp_path: Path) -> None:
    begun_at = time.monotonic()
    outside.ask("up")
    ideas = ideas_of_each(random.Random(20261123))
    assert len({x for own in ideas for x in own}) == TOTAL
    folder = tmp_path / "agents"
    folder.mkdir()
    crew = [Member(outside, folder, number, own) for number, own in enumerate(ideas)]
    try:
        going = crew
        while going := [member for member in going if member.goes_on()]:
            assert time.monotonic() < begun_at + DEADLINE
            time.sleep(0.1)
    finally:
        for member in crew:
            member.close()
    took = time.monotonic() - begun_at
    assert outside.ask("down")["waiting"] == 0
    check_answers(crew)
    check_study(outside)
    print(f"\n{AGENTS} agents, {sum(len(m.lives) for m in crew)} deaths, {TOTAL} experiments in {took:.0f} s")


def test_a_ref_that_another_process_is_writing_is_waited_for(lab: Lab) -> None:
    """An idea's author and the dispatcher publish it at the same moment, and disks take their time."""
    study = lab.study()
    wave = Wave(experiments=(Idea(set={"X": 0.5}),))
    lock = lab.folder / ".git" / "refs" / "autoresearch" / "t" / "e0002.lock"
    lock.touch()  # as git does it
    other = threading.Timer(1.0, lock.unlink)
    other.start()
    submit(study, wave, author="ann", request_id=None, budget=Budget(), now=1.0)
    other.join()
    assert study.workspace.resolve(study.workspace.ref("e0002")) == study.store.experiment("e0002").commit
    study.close()


def ideas_of_each(rng: random.Random) -> list[list[float]]:
    """Return what X each agent wants to try: all worse than the baseline, so that one run settles them."""
    values = [round(0.1 + 0.004 * i, 3) for i in range(TOTAL)]
    rng.shuffle(values)
    shared = [[values.pop() for _ in range(SHARED)] for _ in range(AGENTS)]
    each = [
        [values.pop() for _ in range(OWN)] + shared[number] + shared[number - 1] for number in range(AGENTS)
    ]
    for own in each:
        rng.shuffle(own)
    return each


class Member:
    """An agent, started anew as often as it dies on purpose."""

    def __init__(self, outside: Outside, folder: Path, number: int, ideas: list[float]) -> None:
        self.outside = outside
        self.number = number
        self.ideas = ideas
        self.lives = list(LIVES.get(number, ()))
        self.log = folder / f"agent{number}.log"
        self._plan = folder / f"agent{number}.json"
        self._left = list(self.lives)
        self._output = (folder / f"agent{number}.out").open("w")
        self._start()

    def _start(self) -> None:
        waves = [self.ideas[i : i + 4] for i in range(0, len(self.ideas), 4)]
        plan: dict[str, Any] = {
            "folder": str(self.outside.folder),
            "author": f"agent-{self.number}",
            "waves": waves,
            "total": TOTAL,
            "careful": bool(self.lives),  # each of its waves has a request id
            "dies": self._left[0] if self._left else {},
        }
        self._plan.write_text(json.dumps(plan))
        self._process = subprocess.Popen(
            [sys.executable, str(TESTS / "agent_process.py"), str(self._plan), str(self.log)],
            env=self.outside.environment,
            stdout=self._output,
            stderr=self._output,
        )

    def goes_on(self) -> bool:
        """Whether it is not done; one that has died is started again."""
        code = self._process.poll()
        if code == -signal.SIGKILL and self._left:
            self._left.pop(0)
            self._start()
            return True
        assert code in {None, 0}, Path(self._output.name).read_text()
        return code is None

    def close(self) -> None:
        if self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._output.close()

    def said(self, what: str) -> list[dict[str, Any]]:
        """Return what it was told, over all its lives."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in lines if line["said"] == what]

    @property
    def died(self) -> bool:
        """Whether it died as often as it was to."""
        return not self._left


def check_answers(crew: list[Member]) -> None:
    """Assert that every idea has one id whoever asked, and that everybody saw every end."""
    names: dict[str, set[str | None]] = defaultdict(set)
    for member in crew:
        assert member.died
        asked: set[str] = set()
        for answer in member.said("submit"):
            asked |= set(answer["ideas"])
            for idea, experiment in answer["ideas"].items():
                names[idea].add(experiment)
        assert asked == {str(x) for x in member.ideas}, "every idea was answered"
        seen: set[str] = set()
        cursor = 0
        for wait in member.said("wait"):
            assert wait["since"] in {0, cursor}, "a chain without gaps, begun again by each life"
            cursor = wait["cursor"]
            seen |= set(wait["ended"])
        assert len(seen - {"e0001"}) == TOTAL, "every end was told"
    assert len(names) == TOTAL
    assert {len(experiments) for experiments in names.values()} == {1}
    assert len({experiment for (experiment,) in names.values()} - {None}) == TOTAL


def check_study(outside: Outside) -> None:
    """Assert that there is exactly what was asked for: distinct, published, run once and judged."""
    past = outside.study.store.history()
    experiments = past.experiments
    assert sorted(experiments) == [f"e{number:04d}" for number in range(1, TOTAL + 2)]
    assert len({e.digest for e in experiments.values()}) == TOTAL + 1
    assert {e.author for e in experiments.values()} <= {"baseline", *(f"agent-{n}" for n in range(AGENTS))}
    refs = dict(
        line.split()
        for line in git(
            outside.folder, "for-each-ref", "--format=%(refname) %(objectname)", "refs/autoresearch"
        ).splitlines()
    )
    assert refs == {f"refs/autoresearch/t/{name}": e.commit for name, e in experiments.items()}
    proposed = [e for name, e in experiments.items() if name != "e0001"]
    assert {e.verdict for e in proposed} == {Verdict.DISCARD}
    runs = [run for e in proposed for run in past.runs_of(e.id)]
    assert [run.id for run in runs] == [f"{e.id}.1" for e in proposed], "one screen each"
    assert {(run.state, run.attempt) for run in runs} == {(RunState.FINISHED, 1)}
    starts = outside.starts()
    assert set(starts.values()) == {1}, "no training was started twice"
    assert {name for name in starts if not name.startswith("e0001.")} == {run.id for run in runs}
    assert outside.study.store.waiting_proposals() == []
    with closing(sqlite3.connect(outside.state / "study.db")) as db:
        assert db.execute("pragma integrity_check").fetchall() == [("ok",)]
        assert db.execute("pragma foreign_key_check").fetchall() == []
    outside.await_quiet()
