"""The keeper starts its command again after a crash, and only then."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autoresearch.keeper import CRASHED, MAX_RESTARTS, RESTARTS, Keeper
from lab import ROOT

NO_PAUSE = (0.0, 0.0, 0.0)
PATIENCE = 60.0  # seconds a busy machine may take for what takes milliseconds


def command(script: str) -> list[str]:
    """Return a command of the shell, which starts in a millisecond."""
    return ["/bin/sh", "-c", script]


def counted(ends: str, journal: Path) -> list[str]:
    """Return a command that notes which start it is, and then ends."""
    return command(f'echo "${RESTARTS}" >> {journal}; {ends}')


@pytest.mark.parametrize("ends", ["kill -KILL $$", "kill -SEGV $$", f"exit {CRASHED}"])
def test_a_crash_is_started_again_three_times_and_told_so(tmp_path: Path, ends: str) -> None:
    journal = tmp_path / "journal"
    code, restarts = Keeper(counted(ends, journal), NO_PAUSE).run()
    assert journal.read_text().split() == ["0", "1", "2", "3"]
    assert restarts == MAX_RESTARTS
    assert code == (CRASHED if ends.startswith("exit") else -getattr(signal, f"SIG{ends.split()[1][1:]}"))


@pytest.mark.parametrize("code", [0, 1, 2, 5, 6, 130])
def test_an_end_on_purpose_is_the_end(tmp_path: Path, code: int) -> None:
    journal = tmp_path / "journal"
    assert Keeper(counted(f"exit {code}", journal), NO_PAUSE).run() == (code, 0)
    assert journal.read_text().split() == ["0"]


def test_what_ends_on_purpose_after_a_crash_is_not_started_again(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    ends = f'[ "${RESTARTS}" = 1 ] && exit 5; kill -KILL $$'
    assert Keeper(counted(ends, journal), NO_PAUSE).run() == (5, 1)
    assert journal.read_text().split() == ["0", "1"]


def test_a_command_reads_nothing_from_whoever_started_its_keeper(tmp_path: Path) -> None:
    assert Keeper(command("cat"), NO_PAUSE).run() == (0, 0), "its input is empty"


# ---------------------------------------------------------------------------
# As a process of its own
# ---------------------------------------------------------------------------


class Kept:
    """A keeper's process over a state folder."""

    def __init__(self, state: Path, script: str) -> None:
        self.state = state
        self.process = subprocess.Popen(
            [sys.executable, "-m", "autoresearch.keeper", str(state), *command(script)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )

    def wait(self) -> int:
        return self.process.wait(PATIENCE)

    @property
    def left(self) -> dict[str, float]:
        return json.loads((self.state / "keeper.json").read_text())


@pytest.fixture
def keep(tmp_path: Path):
    """Start a keeper; none of them outlives the test."""
    kept: list[Kept] = []

    def start(script: str) -> Kept:
        kept.append(Kept(tmp_path, script))
        return kept[-1]

    yield start
    for each in kept:
        each.process.terminate()
        each.wait()
        each.process.stdout.close()


def await_lines(journal: Path, count: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while not journal.exists() or len(journal.read_text().splitlines()) < count:
        assert time.monotonic() < deadline, "its command was never started"
        time.sleep(0.01)


def test_keeper_json_says_how_the_command_ended(keep, tmp_path: Path) -> None:
    before = time.time()
    kept = keep(f'[ "${RESTARTS}" = 0 ] && exit {CRASHED}; exit 5')
    assert kept.wait() == 0
    assert (kept.left["code"], kept.left["restarts"]) == (5, 1)
    assert before <= kept.left["ended_at"] <= time.time()
    assert kept.process.stdout.read().startswith(f"keeper: it ended with code {CRASHED}; start 2 of 4")
    assert {path.name for path in tmp_path.iterdir()} == {"keeper.lock", "keeper.json"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_keeper_ends_its_command_for_good(keep, tmp_path: Path, number: int) -> None:
    """Even where the command dies of it, which else is a crash."""
    journal = tmp_path / "journal"
    kept = keep(f"echo $$ >> {journal}; exec sleep {PATIENCE}")
    await_lines(journal, 1)
    kept.process.send_signal(number)
    assert kept.wait() == 0
    assert (kept.left["code"], kept.left["restarts"]) == (-number, 0)
    (pid,) = journal.read_text().split()
    assert not Path("/proc", pid).exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_while_its_command_is_being_started_reaches_it(number: int) -> None:
    """As the signal it was: to be interrupted lets a dispatcher finish what runs."""
    keeper = Keeper(command(f"exec sleep {PATIENCE}"))
    keeper.leave(number, None)
    assert keeper.run() == (-number, 0)


def test_a_signal_in_the_pause_after_a_crash_is_final_too(keep, tmp_path: Path) -> None:
    """It ends at once, and the command is not started once more to be ended."""
    journal = tmp_path / "journal"
    kept = keep(f"echo start >> {journal}; kill -KILL $$")
    await_lines(journal, 2)  # after its second start it pauses for five seconds
    time.sleep(0.5)
    kept.process.terminate()
    assert kept.wait() == 0
    assert (kept.left["code"], kept.left["restarts"]) == (-signal.SIGKILL, 1)
    assert journal.read_text().split() == ["start"] * 2


def test_a_hangup_means_nothing_to_the_keeper(keep, tmp_path: Path) -> None:
    journal, go = tmp_path / "journal", tmp_path / "go"
    kept = keep(f"echo start >> {journal}; until [ -e {go} ]; do sleep 0.02; done; exit 5")
    await_lines(journal, 1)
    kept.process.send_signal(signal.SIGHUP)
    time.sleep(0.1)
    go.touch()
    assert kept.wait() == 0
    assert kept.left["code"] == 5


def test_a_second_keeper_of_a_folder_leaves_at_once(keep, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    first = keep(f"echo first >> {journal}; exec sleep {PATIENCE}")
    await_lines(journal, 1)
    second = keep(f"echo second >> {journal}")
    assert second.wait() == 0
    assert first.process.poll() is None
    assert journal.read_text().split() == ["first"]
    assert not (tmp_path / "keeper.json").exists(), "which is the first one's to write"


def test_whoever_looks_at_the_lock_does_not_keep_a_keeper_from_starting(keep, tmp_path: Path) -> None:
    """Every `wait` and `submit` holds it for an instant, to see whether the study is dispatched."""
    with (tmp_path / "keeper.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        kept = keep("exit 5")
        time.sleep(0.15)
    assert kept.wait() == 0
    assert kept.left["code"] == 5
