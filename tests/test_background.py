"""A dispatcher in the background: it outlives its shell and its own death, and ends when it is told to."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

from autoresearch.actions import Finish, Request
from autoresearch.cli import app
from autoresearch.config import Judging
from autoresearch.experiment import Proposal, RunState
from autoresearch.judging.policy import ConfirmPolicy
from autoresearch.keeper import CRASHED, MAX_RESTARTS
from autoresearch.plan import plan
from builders import baseline, experiment, history, run, snapshot
from lab import Lab
from outside import PATIENCE, Outside, await_, signal_one, told

WORSE, WORST = {"X": 0.5}, {"X": 0.25}  # than X = 1, the baseline: one run is enough to discard them
SLOW = {"X": 0.5, "SLEEP": 60.0}


@pytest.fixture
def outside(lab: Lab) -> Iterator[Outside]:
    """A study of two workers; no process of it outlives the test."""
    made = Outside(lab)
    made.configure()
    yield made
    made.close()


# ---------------------------------------------------------------------------
# Its beginning
# ---------------------------------------------------------------------------


@pytest.mark.slow
def test_up_says_what_it_started_and_twice_is_harmless(outside: Outside) -> None:
    first = outside.ask("up")
    assert {key: first[key] for key in ("study", "dispatching", "started", "agent", "workers")} == {
        "study": "t",
        "dispatching": True,
        "started": True,
        "agent": "external",
        "workers": "2 cpu",
    }
    assert psutil.pid_exists(first["pid"])
    again = outside.ask("up")
    assert (again["dispatching"], again["started"], again["pid"]) == (True, False, first["pid"])
    assert len(outside.study.store.sessions()) == len(outside.keepers()) == 1


@pytest.mark.slow
def test_what_is_asked_of_a_dispatcher_that_runs_is_what_it_has_or_is_refused(outside: Outside) -> None:
    """It is told with its own workers, not with those that a later command would have liked."""
    outside.ask("up")
    assert outside.ask("up", "--workers", "2", "--agent", "external")["workers"] == "2 cpu"
    for name, value in (("workers", "4"), ("agent", "sweep"), ("executor", "skypilot")):
        said = outside.call("up", f"--{name}", value)
        assert (said.code, said.document["error"]["code"]) == (2, "busy"), said
        assert said.document["error"]["hint"].endswith(f"`autoresearch up --{name} {value}`")
    assert outside.ask("up")["executor"] == "local"
    outside.submit(SLOW)
    await_(lambda: any("e0002" in name for name in outside.running()), "it runs")
    outside.ask("stop")
    assert outside.call("up", "--workers", "4").code == 2
    assert outside.study.store.request() == Request.DRAIN, "what is refused takes no request to stop back"


@pytest.mark.slow
def test_of_several_at_once_in_a_new_folder_one_starts_it(outside: Outside) -> None:
    """None of them sees half a study, and all of them name the same dispatcher."""
    said = [outside.end(process) for process in [outside.begin("up") for _ in range(4)]]
    assert [each.code for each in said] == [0] * 4, said
    assert {each.document["pid"] for each in said} == {outside.pid}
    assert len(outside.study.store.sessions()) == 1
    await_(lambda: len(outside.keepers()) == 1, "the other keepers leave")


@pytest.mark.slow
def test_it_outlives_the_shell_it_was_started_from(outside: Outside, tmp_path: Path) -> None:
    """Its shell's session is hung up and killed, as when a tool call of an agent ends."""
    answer = tmp_path / "answer"
    script = f"{sys.executable} -m autoresearch up > {answer} && mv {answer} {answer}.json; sleep {PATIENCE}"
    shell = subprocess.Popen(
        ["/bin/sh", "-c", script], cwd=outside.folder, env=outside.environment, start_new_session=True
    )
    said = tmp_path / "answer.json"
    await_(said.exists, "up answers")
    for number in (signal.SIGHUP, signal.SIGKILL):
        os.killpg(shell.pid, number)
    shell.wait()
    (idea,) = outside.submit(WORSE)["experiments"]
    found = outside.ask("wait", "--timeout", f"{PATIENCE:g}")
    assert [row["experiment"] for row in found["ended"]][-1] == idea
    assert outside.pid == json.loads(said.read_text())["pid"], "and it is the same one"


@pytest.mark.slow
def test_a_used_up_budget_is_said_at_once(outside: Outside) -> None:
    outside.configure(budget="{experiments: 1}")
    outside.ask("up")
    outside.submit(WORSE)
    await_(lambda: not outside.study.dispatched(), "it has had its one experiment")
    for _ in range(3):
        said = outside.call("up")
        assert said.code == 5, said
        assert said.document["error"]["code"] == "budget"
        assert "experiments, 1 of 1" in said.document["error"]["message"]
    outside.await_quiet()
    assert outside.ask("up", "--experiments", "2")["dispatching"], "a higher one begins it again"


BROKEN = {
    "configuration": {"budget": "{experiment: 3}"},
    "preparation": {"target": 'prepare: "false"'},
    "baseline": {"target": 'preflight: "{python} {protected}/fake_training.py"'},
    "command": {"target": 'prepare: "missing-command"'},
}


@pytest.mark.slow
@pytest.mark.parametrize("what", BROKEN)
def test_what_cannot_begin_is_said_as_run_says_it(outside: Outside, what: str) -> None:
    """In the same line, with the same way out and the same exit code; no process is left."""
    if what == "baseline":
        (outside.folder / "train.py").write_text("X = 1.0\nBROKEN = True\n")
    outside.configure(**BROKEN[what])
    in_front = outside.begin("run")
    _, errors = in_front.communicate(timeout=PATIENCE)
    for _ in range(2):
        begun_at = time.monotonic()
        said = outside.call("up")
        assert said.code == in_front.returncode != 0, said
        error = said.document["error"]
        assert f"autoresearch: {error['message']}" in errors.splitlines()
        assert error["hint"] in errors
        assert time.monotonic() - begun_at < PATIENCE - 10, "it does not wait for what has ended"
    outside.await_quiet()
    if what == "baseline":
        (outside.folder / "train.py").write_text("X = 1.0\n")
        outside.lab.commit("corrected")
        assert outside.ask("up")["dispatching"]


# ---------------------------------------------------------------------------
# Deaths
# ---------------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_dispatcher_is_started_again_and_nothing_runs_twice(outside: Outside) -> None:
    outside.ask("up")
    first = outside.pid
    ideas = outside.submit(*({"X": 0.1 * i, "SLEEP": 2.0} for i in range(1, 5)))["experiments"]
    await_(lambda: len([r for r in outside.running() if "e0001" not in r]) == 2, "two experiments run")
    os.kill(first, signal.SIGKILL)
    ended: set[str] = set()
    since = 0
    while not ended.issuperset(ideas):
        found = outside.ask("wait", "--since", str(since), "--timeout", f"{PATIENCE:g}")
        ended |= {row["experiment"] for row in found["ended"] if row["state"] == "discard"}
        since = found["cursor"]
    assert len(outside.study.store.sessions()) == 2
    assert outside.pid != first
    assert set(outside.starts().values()) == {1}
    assert all(run.attempt == 1 for run in outside.study.store.history().all_runs())


@pytest.mark.slow
def test_a_request_to_stop_made_while_it_is_dead_is_heeded(outside: Outside) -> None:
    outside.ask("up")
    (keeper,) = outside.keepers()
    keeper.suspend()
    os.kill(outside.pid, signal.SIGKILL)
    await_(lambda: not outside.study.dispatcher_alive(), "the dispatcher is dead")
    assert outside.ask("stop")["stopping"]
    keeper.resume()
    await_(lambda: not outside.study.dispatched(), "the one started in its place stops")
    assert outside.kept["code"] == 130
    assert outside.kept["restarts"] == 1
    assert outside.study.store.study().request == Request.DRAIN


@pytest.mark.slow
def test_a_down_right_after_an_up_is_heeded(outside: Outside) -> None:
    """Even where the dispatcher has not begun by then: no request is forgotten on the way."""
    for _ in range(3):
        assert not outside.ask("up", "--timeout", "0")["dispatching"]
        assert outside.ask("down", "--timeout", f"{PATIENCE:g}")["ended"]
        outside.await_quiet()
    assert outside.ask("up")["dispatching"]


@pytest.mark.slow
def test_a_bug_that_stays_ends_it_after_three_restarts(outside: Outside) -> None:
    """Here a request that is none, which no dispatcher can read. Then it is said, and can be mended."""
    outside.ask("up")
    with closing(sqlite3.connect(outside.state / "study.db", timeout=30)) as db, db:
        db.execute("update study set request = 'nonsense'")
    await_(lambda: not outside.study.dispatched(), "the keeper gives up", 2 * PATIENCE)
    assert (outside.kept["code"], outside.kept["restarts"]) == (CRASHED, MAX_RESTARTS)
    assert len(outside.study.store.sessions()) == 1 + MAX_RESTARTS
    outside.await_quiet()
    assert not outside.ask("status")["dispatching"]
    plain, _ = outside.begin("status", "--no-json").communicate(timeout=PATIENCE)
    assert "nothing is being dispatched" in plain
    assert "its dispatcher died" in plain
    assert "ValueError" in (outside.state / "dispatcher.out").read_text(), "its traceback is there"
    assert outside.ask("up")["dispatching"], "and what was asked of a dead one is taken back"


@pytest.mark.slow
def test_what_kills_every_dispatcher_at_its_start_is_not_blamed_on_an_old_error(outside: Outside) -> None:
    """The last words in the log may be those of an earlier dispatcher."""
    outside.ask("up")
    outside.ask("down")
    starting = outside.begin("up", "--timeout", f"{2 * PATIENCE:g}")
    killed: set[int] = set()
    while starting.poll() is None:
        for process in outside.processes():
            words = told(process)
            if "autoresearch.cli.background" in words and "autoresearch.keeper" not in words:
                killed.add(process.pid)
                signal_one(process, signal.SIGSEGV)
        time.sleep(0.02)
    said = outside.end(starting)
    assert said.code == 1
    assert f"code {-signal.SIGSEGV}" in said.document["error"]["message"]
    assert len(killed) == 1 + MAX_RESTARTS


# ---------------------------------------------------------------------------
# Its end
# ---------------------------------------------------------------------------


@pytest.mark.slow
def test_down_ends_it_what_ran_is_queued_again_and_up_resumes(outside: Outside) -> None:
    outside.ask("up")
    (idea,) = outside.submit(SLOW)["experiments"]
    await_(lambda: any(idea in name for name in outside.running()), "it runs")
    down = outside.ask("down")
    assert down["ended"]
    assert down["waiting"] >= 1, "the idea, and perhaps a control"
    assert outside.jobs() == [], "no training is left, not even for an instant"
    outside.await_quiet()
    (cut,) = outside.study.store.history().runs_of(idea)
    assert (cut.state, cut.attempt, cut.losses) == (RunState.QUEUED, 2, 0)
    again = outside.ask("down")
    assert (again["ended"], again["waiting"]) == (False, down["waiting"])
    outside.ask("up")
    await_(lambda: f"t-{idea}.1-a2" in outside.running(), "it runs again")


@pytest.mark.slow
def test_stop_lets_what_runs_finish(outside: Outside) -> None:
    outside.ask("up")
    ideas = outside.submit({"X": 0.5, "SLEEP": 6.0}, {"X": 0.4, "SLEEP": 6.0}, WORST)["experiments"]
    await_(lambda: len([name for name in outside.running() if "e0001" not in name]) == 2, "two run")
    said = CliRunner().invoke(app, ["stop", "--json", "--folder", str(outside.folder)])  # in no time
    assert json.loads(said.stdout)["running"] == 2
    await_(lambda: not outside.study.dispatched(), "it stops")
    past = outside.study.store.history()
    assert [len(past.finished(idea)) for idea in ideas] == [1, 1, 0]


# ---------------------------------------------------------------------------
# Waiting
# ---------------------------------------------------------------------------


@pytest.mark.slow
def test_waiting_for_what_nobody_dispatches_is_refused_with_what_there_is(outside: Outside) -> None:
    """One document holds the results so far and the error; its exit code is that of a pool that is gone."""
    outside.ask("up")
    (first,) = outside.submit(WORSE)["experiments"]
    outside.ask("wait", "--timeout", f"{PATIENCE:g}")
    outside.ask("down")
    outside.submit(WORST)
    said = outside.call("wait", "--since", "0", "--min-done", "2")
    assert said.code == 6
    assert said.document["error"]["code"] == "pool"
    assert said.document["error"]["retryable"]
    assert not said.document["dispatching"]
    assert said.document["ended"][-1]["experiment"] == first
    assert (said.document["done"], said.document["pending"]) == (1, 1)


@pytest.mark.slow
def test_a_wait_is_over_in_time(outside: Outside) -> None:
    outside.ask("up")
    outside.submit(SLOW)
    begun_at = time.monotonic()
    waiting = outside.begin("wait", "--timeout", "1")
    said = outside.end(waiting)
    took = time.monotonic() - begun_at
    assert said.code == 124
    assert said.document["error"]["code"] == "timeout"
    assert said.document["pending"] >= 1
    # a loaded machine takes long to start and end any command: that is measured beside it, with margin
    begun_at = time.monotonic()
    outside.ask("status")
    assert 1 <= took < 1 + 3 + 4 * (time.monotonic() - begun_at)


# ---------------------------------------------------------------------------
# Without a dispatcher
# ---------------------------------------------------------------------------


@pytest.fixture
def quiet(outside: Outside) -> Outside:
    """A study that was begun, and that nobody dispatches."""
    outside.ask("up", "--timeout", "0")
    outside.ask("down")
    return outside


@pytest.mark.slow
def test_agents_work_on_where_nothing_is_dispatched(quiet: Outside) -> None:
    submitted = quiet.submit(WORSE, WORST, WORSE)
    first, second, same = submitted["experiments"]
    assert (first, submitted["queued"], submitted["duplicates"]) == (same, 2, 1)
    assert (submitted["dispatching"], submitted["next"]) == (False, "autoresearch up")
    assert quiet.call("confirm", first).code == 4, "its first run comes by itself"
    assert len(quiet.ask("confirm", "e0001", "--runs", "16")["queued"]) >= 1
    assert quiet.ask("confirm", "e0001", "--runs", "16")["queued"] == []
    assert quiet.ask("cancel", second)["cancelled"] == [second]
    assert quiet.ask("note", "all is quiet")["written"]
    assert not quiet.ask("note", "all is quiet")["written"], "twice is once"
    assert not quiet.ask("brief")["dispatching"]
    assert quiet.ask("results")["total"] >= 1
    assert not quiet.ask("status")["dispatching"]
    assert quiet.ask("budget")["spent"]["experiments"]["promised"] == 1
    assert not quiet.ask("stop")["stopping"]
    quiet.await_quiet()


@pytest.mark.slow
def test_a_wave_beyond_the_ceiling_is_taken_in_part(quiet: Outside) -> None:
    quiet.configure(budget="{experiments: 2}")
    quiet.ask("up", "--timeout", "0")
    quiet.ask("down")
    answer = quiet.submit({"X": 0.1}, {"X": 0.2}, {"X": 0.3}, {"X": 0.1})
    assert answer["experiments"] == ["e0002", "e0003", None, "e0002"]
    assert [row["idea"] for row in answer["refused"]] == [2]
    assert answer["refused"][0]["reason"].startswith("budget")
    more = quiet.call("submit", "--set", "X=0.4")
    assert (more.code, more.document["error"]["code"]) == (5, "budget")
    assert quiet.submit({"X": 0.2})["duplicates"] == 1, "what is known costs nothing"
    quiet.ask("cancel", "e0003")
    assert quiet.submit({"X": 0.4})["queued"] == 1, "what was taken back makes room"


# ---------------------------------------------------------------------------
# Taking back
# ---------------------------------------------------------------------------


@pytest.mark.slow
def test_what_waits_for_its_check_what_is_queued_and_what_runs_is_taken_back(
    outside: Outside, tmp_path: Path
) -> None:
    hold = tmp_path / "hold"  # checks last as long as it exists
    checks = f"sh -c 'while [ -e {hold} ]; do sleep 0.05; done'"
    outside.configure(workers=1, target=f'preflight: "{checks}"')
    outside.ask("up")
    (runs,) = outside.submit(SLOW)["experiments"]
    await_(lambda: any(runs in name for name in outside.running()), "it runs")
    assert outside.ask("confirm", runs, "--runs", "2")["queued"] == [f"{runs}.2"]
    hold.touch()
    (promised,) = outside.submit(WORST)["experiments"]
    await_(lambda: list((outside.state / "preflight").glob("p*/a1/claim")), "its check runs")
    cancelled = outside.ask("cancel", promised, f"{runs}.2", runs)
    assert cancelled["cancelled"] == [promised, f"{runs}.2", f"{runs}.1"]
    assert cancelled["ending"] == [f"{runs}.1"]
    ended = outside.ask("wait", "--since", "0", "--min-done", "2", "--timeout", f"{PATIENCE:g}")
    assert {row["experiment"]: row["state"] for row in ended["ended"] if row["experiment"] != "e0001"} == {
        promised: "cancelled",
        runs: "cancelled",
    }
    await_(lambda: outside.jobs() == [], "training and check are ended, not left to their own ends", 40)
    assert outside.ask("cancel", runs, promised)["cancelled"] == [], "twice is once"
    hold.unlink()
    again = outside.submit(WORST, SLOW)
    assert (again["experiments"], again["queued"]) == ([promised, runs], 2), "the same ideas, the same ids"
    cursor = str(again["cursor"])
    ended = outside.ask("wait", "--since", cursor, "--timeout", f"{PATIENCE:g}")["ended"]
    assert [(row["experiment"], row["state"]) for row in ended] == [(promised, "discard")]
    await_(lambda: f"t-{runs}.3-a1" in outside.running(), "and it runs anew")


# ---------------------------------------------------------------------------
# Patience
# ---------------------------------------------------------------------------

POLICY = ConfirmPolicy(Judging())
NOW = 1_700_000_000.0
HOUR = 3600.0


def outcome(*things: Any, **changes: Any) -> list[Any]:
    """Return the plan of a study nobody inside proposes for, an hour's patience after its beginning."""
    defaults = {"calls": 0, "patience_seconds": HOUR, "dispatching_since": NOW - 2 * HOUR, "now": NOW}
    past = history(*(things or baseline(1.0, 1.1)))
    return plan(snapshot(past, **{**defaults, **changes}), POLICY)


def test_a_study_nobody_submits_to_gives_its_workers_back() -> None:
    (finish,) = outcome()
    assert finish == Finish(reason="nothing was submitted for 60 minutes", complete=False)


WAITING = Proposal(number=1, hypothesis="h", edits=(), parent="e0001", author="ann", experiment="e0002")
JUST_ENDED = run("e0001.3", 1.0, ended_at=NOW - HOUR + 1)
JUST_SUBMITTED = experiment(2, created_at=NOW - HOUR + 1)


@pytest.mark.parametrize(
    ("things", "changes"),
    [
        ((), {"patience_seconds": None}),
        ((), {"dispatching_since": NOW - HOUR + 1}),
        ((*baseline(1.0, 1.1), JUST_ENDED), {}),
        ((*baseline(1.0, 1.1), JUST_SUBMITTED), {}),
        ((*baseline(1.0, 1.1), experiment(2)), {"proposals": (WAITING,), "admitting": frozenset({1})}),
        ((*baseline(1.0, 1.1), experiment(2), run("e0002.1", state=RunState.RUNNING)), {}),
    ],
    ids=["for-ever", "just-begun", "just-ended", "just-submitted", "being-checked", "running"],
)
def test_it_waits_as_long_as_there_is_reason_to(things: tuple[Any, ...], changes: dict[str, Any]) -> None:
    assert not any(isinstance(action, Finish) for action in outcome(*things, **changes))


def test_patience_begins_anew_with_each_end_and_each_idea() -> None:
    """A run that ends long after its submission counts, as does an idea of a study that stood still."""
    for late in (JUST_ENDED, JUST_SUBMITTED):
        things = (*baseline(1.0, 1.1), late)
        assert outcome(*things) == []
        assert any(isinstance(action, Finish) for action in outcome(*things, now=NOW + 2))
