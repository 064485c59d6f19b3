"""The commands for agents: one small JSON document each, whatever the study, and nothing missed."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from autoresearch.budget import Budget
from autoresearch.cli import app
from autoresearch.cli.output import DOCUMENT_BYTES, fit, shorten
from autoresearch.experiment import Measurement, Verdict
from autoresearch.store import Store
from autoresearch.study import open_study
from autoresearch.submission import submit
from autoresearch.wave import Idea, Wave
from lab import ROOT, Lab
from store_contract import CPU
from test_cli import CONFIG

MANY = 60
NOW = 1_700_000_100.0
LONG = 'a "long" idea — with µ, \\ and \x1b[31mcolour\x1b[0m, <b>markup</b> and [red]more[/red] ' * 4


def measure(store: Store, run_id: str, value: float, now: float) -> None:
    """Record a run as if it had been made."""
    run = store.run(run_id)
    assert store.claim(run, "t", CPU, now)
    store.mark_running(store.run(run_id), now)
    found = Measurement(value=value, steps=7)
    store.close_run(store.run(run_id), measurement=found, started_at=now, ended_at=now + 5, now=now + 5)


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A study of many experiments with the longest words, a third of them judged, some waiting."""
    lab = Lab(tmp_path_factory.mktemp("big") / "study")
    (lab.folder / "autoresearch.yaml").write_text(CONFIG.replace("experiments: 3", "experiments: 500"))
    lab.commit("configured")
    study = lab.study()
    for number in (1, 2, 3):
        measure(study.store, f"e0001.{number}", 2.0 + number / 100, NOW + number)
    study.store.decide("e0001", Verdict.KEEP, "baseline, 3 runs", NOW + 9)
    ideas = tuple(Idea(hypothesis=LONG, set={"X": 1.1 + i / 1000}) for i in range(MANY))
    submit(
        study, Wave(experiments=ideas, notes=LONG), author="ann", request_id=None, budget=Budget(), now=NOW
    )
    for i, waiting in enumerate(study.store.waiting_proposals()[: MANY * 2 // 3]):
        study.store.enlist(waiting, 0, NOW)
        measure(study.store, f"{waiting.experiment}.1", 2.0 - i / 100, NOW + 10 + i)
        if i % 2:
            study.store.decide(waiting.experiment or "", Verdict.DISCARD, LONG, NOW + 20 + i)
    study.store.decide("e0002", Verdict.KEEP, LONG, NOW + 99)
    submit(
        study,
        Wave(factors={"X": (1.1, 1.2, 1.3), "NOISE": (0.01, 0.02)}, hypothesis=LONG),
        author="ann",
        request_id=None,
        budget=Budget(),
        now=NOW,
    )
    study.close()
    return lab


def call(lab: Lab, *arguments: str) -> Any:
    return CliRunner().invoke(app, [*arguments, "--folder", str(lab.folder)])


def answer(lab: Lab, *arguments: str) -> dict[str, Any]:
    """Return the one JSON document of a command; it is small, and starts nothing with a control character."""
    result = call(lab, *arguments)
    assert result.stdout.count("\n") == 1
    assert "\\u001b" not in result.stdout
    if "--code" not in arguments and "--full" not in arguments:
        assert len(result.stdout.encode()) <= 2048, (arguments, len(result.stdout))
    loaded: dict[str, Any] = json.loads(result.stdout)
    return loaded


COMMANDS = [
    ("status",),
    ("brief",),
    ("brief", "--full"),
    ("brief", "--code"),
    ("results",),
    ("results", "--fields", "experiment,value,verdict,author,reason,hypothesis"),
    ("results", "--grid", "g1"),
    ("show", "e0001"),
    ("show", "e0002"),
    ("diff", "e0002"),
    ("diff", "e0003", "e0002"),
    ("budget",),
    ("wait", "--since", "0", "--min-done", "0"),
    ("stop",),
    ("noise",),
    ("verify",),
    ("notebook",),
    ("note", "hello"),
    ("confirm", "e0002"),
    ("submit", "--set", "X=1.4", "--dry-run"),
    ("submit", "--factor", "X=" + ",".join(str(i) for i in range(2, 120)), "--dry-run"),
    ("submit", "--factor", "X=" + ",".join(str(i) for i in range(2, 258)), "--dry-run"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_off_a_terminal_every_command_is_one_small_document(big: Lab, command: tuple[str, ...]) -> None:
    assert answer(big, *command)["schema_version"] == 1


NEEDS_NO_DISPATCHER = [
    *(("status",), ("brief",), ("results",), ("results", "--grid", "g1"), ("show", "e0002"), ("budget",)),
    *(("diff", "e0002"), ("note", "hello"), ("confirm", "e0002"), ("cancel", "e0003")),
    *(("submit", "--set", "X=1.4", "--dry-run"), ("wait", "--since", "0", "--min-done", "0")),
]


@pytest.mark.parametrize("command", NEEDS_NO_DISPATCHER, ids=" ".join)
def test_where_nothing_is_dispatched_every_command_works_and_says_so(
    big: Lab, command: tuple[str, ...]
) -> None:
    assert answer(big, *command)["dispatching"] is False
    plain = call(big, *command, "--no-json")
    assert plain.exit_code == 0
    words = ("nothing is being dispatched", "its dispatcher died")
    assert command[0] == "diff" or any(word in plain.output for word in words)


def test_what_comes_next_is_the_workers_where_there_are_none(big: Lab) -> None:
    before = answer(big, "results")["cursor"]
    found = answer(big, "confirm", "e0004")
    assert (found["next"], found["cursor"]) == ("autoresearch up", before)


def test_a_grid_of_which_nothing_was_measured_says_so(lab: Lab) -> None:
    (lab.folder / "autoresearch.yaml").write_text(CONFIG)
    lab.commit("configured")
    with closing(lab.study()) as study:
        wave = Wave(factors={"X": (1.5, 1.6), "NOISE": (0.02, 0.03)})
        submit(study, wave, author="ann", request_id=None, budget=Budget(), now=NOW)
    told = call(lab, "results", "--grid", "g1", "--no-json")
    assert told.exit_code == 0
    assert "0 of 4 cells measured" in told.stdout
    assert "no cell was measured" in told.stdout


def test_a_log_is_told_by_its_end_and_in_few_words(big: Lab) -> None:
    with closing(open_study(big.folder, big.folder / ".autoresearch", "t")) as study:
        path = study.job_folder(study.store.run("e0002.1")) / "log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"\r{number} {LONG}µ\x00\\" for number in range(200)) + "\nthe end\n")
    found = answer(big, "log", "e0002")
    assert found["tail"][-1] == "the end"
    assert found["tail"][-2].startswith("199 ")
    assert found["dispatching"] is False
    assert len(json.loads(call(big, "log", "e0002", "--lines", "50").stdout)["tail"]) == 50
    assert call(big, "log", "e0002", "--no-json").stdout.endswith("the end\n")


@pytest.mark.parametrize(
    ("command", "code", "kind"),
    [
        (("show", "e9999"), 3, "not_found"),
        (("results", "--fields", "colour"), 2, "usage"),
        (("results", "--grid", "g9"), 3, "not_found"),
        (("submit",), 2, "usage"),
        (("submit", "--set", "X=1", "--factor", "X=1,2"), 2, "usage"),
        (("submit", "--set", "Z=1"), 4, "refused"),
        (("submit", "--set", "X"), 2, "usage"),
        (("submit", "--set", "X=nan"), 2, "usage"),
        (("submit", "--file", "missing.json"), 2, "usage"),
        (("submit", "--wave", "{"), 2, "usage"),
        (("submit", "--set", "X=" + "9" * 400), 2, "usage"),
        (("submit", "--wave", '[{"set": {"X": 1e999}}]'), 2, "usage"),
        (("submit", "--wave", '[{"hypothesis": "h", "files": {"train.py": "\\ud800"}}]'), 2, "usage"),
        (("submit", "--set", "X=1.4", "--request-id", "\x1b[31m"), 2, "usage"),
        (("results", "--grid", "g99999999999999999999"), 3, "not_found"),
        (("submit", "--train", "/dev/null", "-m", "empty"), 2, "usage"),
        (("submit", "--set", "X=1.4", "--parent", "e9999"), 3, "not_found"),
        (("submit", "--set", "X=1.4", "--author", "x" * 41), 2, "usage"),
        (("confirm", "e9999"), 3, "not_found"),
        (("confirm", "e0002", "--kind", "H100"), 2, "usage"),
        (("confirm", f"e{MANY + 1:04d}"), 4, "refused"),
        (("note", "n" * 4001), 2, "usage"),
        (("submit", "--set", "X=1.4", "--notes", "n" * 4001), 2, "usage"),
        (("cancel", "e0001"), 2, "usage"),
        (("cancel", "e0002.99"), 3, "not_found"),
        (("note", "  "), 2, "usage"),
        (("wait", "--timeout", "0", "--min-done", "999"), 6, "pool"),
    ],
    ids=lambda part: " ".join(part)[:60] if isinstance(part, tuple) else str(part),
)
def test_what_cannot_be_done_is_one_clear_line_with_a_stable_code(
    big: Lab, command: tuple[str, ...], code: int, kind: str
) -> None:
    result = call(big, *command)
    assert result.exit_code == code, result.output
    error = json.loads(result.stdout)["error"]
    assert error["code"] == kind
    assert error["message"]
    assert "\n" not in error["message"]
    plain = call(big, *command, "--no-json")
    assert plain.exit_code == code
    assert len(plain.stderr.strip().splitlines()) <= 3


@pytest.mark.parametrize(
    ("command", "said", "hint"),
    [
        (("sumbit",), "Did you mean 'submit'?", "autoresearch --help"),
        (("submit", "--hypotesis", "h"), "--hypotesis", "submit --help"),
        (("show",), "experiment", "show --help"),
        (("confirm", "e0001", "--runs", "99"), "99", "confirm --help"),
        (("wait", "--timeout", "long"), "long", "wait --help"),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, tuple) else None,
)
def test_wrong_use_is_one_document_too(command: tuple[str, ...], said: str, hint: str) -> None:
    """An agent reads one document off stdout, whatever it did wrong; people read what they are used to."""
    result = CliRunner().invoke(app, list(command))
    assert result.exit_code == 2
    error = json.loads(result.stdout)["error"]
    assert error["code"] == "usage"
    assert said in error["message"]
    assert hint in error["hint"]
    plain = CliRunner().invoke(app, [*command, "--no-json"])
    assert (plain.exit_code, plain.stdout) == (2, "")
    assert "Usage: " in plain.stderr


def test_wrong_use_of_what_has_no_json_is_told_in_text() -> None:
    result = CliRunner().invoke(app, ["run", "--bogus"])
    assert (result.exit_code, result.stdout) == (2, "")


def test_cursors_lead_through_all_that_has_ended_once(big: Lab) -> None:
    seen: list[str] = []
    cursor = 0
    for _ in range(40):
        found = answer(big, "wait", "--since", str(cursor), "--min-done", "0")
        seen += [row["experiment"] for row in found["ended"]]
        assert found["cursor"] > cursor or not found["ended"]
        if not found["ended"]:
            break
        cursor = found["cursor"]
    assert len(seen) == len(set(seen)) == 1 + MANY * 2 // 3


def test_wait_says_what_is_settled_and_what_is_not(big: Lab) -> None:
    found = answer(big, "wait", "--since", "0", "--min-done", "0", "--limit", "2")
    states = {row["state"] for row in found["ended"]}
    assert states <= {"keep", "discard", "crash", "open", "cancelled"}
    assert found["more"] > 0
    assert not found["dispatching"]
    assert found["pending"] >= MANY // 3


def test_wait_tells_what_won_on_an_old_base_from_what_was_cancelled(lab: Lab) -> None:
    """Nobody took it back: its author is to hand it in anew."""
    (lab.folder / "autoresearch.yaml").write_text(CONFIG)
    lab.commit("configured")
    study = lab.study()
    for number in (1, 2, 3):
        measure(study.store, f"e0001.{number}", 2.0, NOW)
    study.store.decide("e0001", Verdict.KEEP, "baseline", NOW)
    wave = Wave(experiments=tuple(Idea(set={"X": x}) for x in (1.5, 1.6, 1.7)))
    submit(study, wave, author="ann", request_id=None, budget=Budget(), now=NOW)
    for waiting in study.store.waiting_proposals()[:2]:
        study.store.enlist(waiting, 0, NOW)
        measure(study.store, f"{waiting.experiment}.1", 1.5, NOW)
    study.store.decide("e0003", Verdict.KEEP, "better", NOW)
    study.store.withdraw("e0004", "ann", NOW)
    study.close()
    found = answer(lab, "wait", "--since", "0")
    rows = {row["experiment"]: row for row in found["ended"]}
    assert list(rows) == ["e0001", "e0002", "e0003", "e0004"]
    assert [row["state"] for row in rows.values()] == ["keep", "rework", "keep", "cancelled"]
    assert rows["e0002"]["why"].endswith("--reworks e0002")
    assert (found["done"], found["pending"]) == (3, 0)


def test_what_is_wanted_in_one_experiment_stands_in_the_brief_until_it_is_handed_in(lab: Lab) -> None:
    """Two won on the baseline beside e0002, which is the best now."""
    (lab.folder / "autoresearch.yaml").write_text(CONFIG.replace("experiments: 3", "experiments: 9"))
    lab.commit("configured")
    study = lab.study()
    for number in (1, 2, 3):
        measure(study.store, f"e0001.{number}", 2.0 + number / 100, NOW)
    study.store.decide("e0001", Verdict.KEEP, "baseline", NOW)
    wave = Wave(experiments=tuple(Idea(set={"X": x}) for x in (1.5, 1.6, 1.7)))
    submit(study, wave, author="ann", request_id=None, budget=Budget(), now=NOW)
    for waiting, value in zip(study.store.waiting_proposals(), (1.0, 1.5, 1.4), strict=True):
        study.store.enlist(waiting, 0, NOW)
        measure(study.store, f"{waiting.experiment}.1", value, NOW + 20)
    study.store.decide("e0002", Verdict.KEEP, "better", NOW + 30)
    study.close()
    wanted = "in ONE experiment, `reworks` all of them: e0003 e0004"
    assert wanted in answer(lab, "brief")["brief"]
    assert wanted in call(lab, "brief", "--full").stdout
    answer(lab, "submit", "--set", "X=1.9", "-m", "both", "--reworks", "e0003", "--reworks", "e0004")
    assert "ONE experiment" not in answer(lab, "brief")["brief"]
    assert answer(lab, "show", "e0005")["reworks"] == ["e0003", "e0004"]
    assert answer(lab, "show", "e0004")["reworks"] == []


def test_a_cursor_that_nobody_was_given_is_refused(big: Lab) -> None:
    """It would hide all that ends until then, as the one in the instructions does when it is copied."""
    last = answer(big, "results")["cursor"]
    assert answer(big, "wait", "--since", str(last), "--min-done", "0")["cursor"] == last
    result = call(big, "wait", "--since", str(last + 1), "--min-done", "0")
    assert result.exit_code == 2
    assert f"its last is {last}" in json.loads(result.stdout)["error"]["message"]


def test_rows_that_do_not_fit_are_counted(big: Lab) -> None:
    found = answer(big, "results")
    assert found["more"] + len(found["results"]) == found["total"]
    with_limit = json.loads(call(big, "results", "--limit", "50").stdout)
    assert len(with_limit["results"]) == 50


def test_the_code_of_an_experiment_can_be_saved_changed_and_handed_in(big: Lab, tmp_path: Any) -> None:
    written = answer(big, "show", "e0001", "--save", str(tmp_path))["written"]
    (path,) = (tmp_path / "train.py",)
    assert written == [str(path)]
    path.write_text(path.read_text().replace("X = 1.0", "X = 1.77"))
    found = answer(big, "submit", "--train", str(path), "-m", "by hand", "--parent", "e0001")
    assert found["queued"] == 1
    shown = answer(big, "show", found["experiments"][0])
    assert (shown["parent"], shown["hypothesis"]) == ("e0001", "by hand")


def test_a_wave_may_come_on_stdin(big: Lab) -> None:
    wave = '{"experiments": [{"set": {"X": 1.78}}], "notes": "from a pipe"}'
    arguments = ["submit", "--file", "-", "--request-id", "s1", "--folder", str(big.folder)]
    first = json.loads(CliRunner().invoke(app, arguments, input=wave).stdout)
    again = json.loads(CliRunner().invoke(app, arguments, input=wave).stdout)
    assert first["experiments"] == again["experiments"] != [None]
    assert first["cursor"] == again["cursor"]


def test_the_author_is_who_the_environment_shows(big: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AUTORESEARCH_AUTHOR", raising=False)
    monkeypatch.setenv("CLAUDECODE", "1")
    (mine,) = answer(big, "submit", "--set", "X=1.79")["experiments"]
    assert answer(big, "show", mine)["author"] == "claude-code"
    monkeypatch.setenv("AUTORESEARCH_AUTHOR", "bob")
    (mine,) = answer(big, "submit", "--set", "X=1.81")["experiments"]
    assert answer(big, "show", mine)["author"] == "bob"


def on_a_terminal(lab: Lab, *arguments: str, columns: int = 80) -> str:
    """Return what a command says in a pseudo-terminal, as a person has."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "autoresearch", *arguments],
        cwd=lab.folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": str(columns), "TERM": "xterm"},
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    said = b""
    while True:
        try:
            said += os.read(leader, 1 << 16)
        except OSError:  # how Linux says that the other end is closed
            break
    os.close(leader)
    assert process.wait() == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", said.decode()).replace("\r\n", "\n")


def test_on_a_terminal_commands_speak_to_people(big: Lab) -> None:
    assert on_a_terminal(big, "budget").startswith("experiments ")


def test_what_waits_and_what_was_cancelled_is_told_apart_in_80_columns(lab: Lab) -> None:
    (lab.folder / "autoresearch.yaml").write_text(CONFIG)
    lab.commit("configured")
    study = lab.study()
    measure(study.store, "e0001.1", 2.0, NOW)
    wave = Wave(experiments=tuple(Idea(hypothesis=f"idea {x}", set={"X": x}) for x in (1.5, 1.6)))
    submit(study, wave, author="ann", request_id=None, budget=Budget(), now=NOW)
    study.store.withdraw("e0002", "ann", NOW)
    study.close()
    rows = {line.split()[0]: line.rstrip() for line in on_a_terminal(lab, "results").splitlines()}
    assert "cancelled  idea 1.5 (cancelled by ann)" in rows["e0002"]
    assert rows["e0003"].endswith("open       idea 1.6")
    shown = on_a_terminal(lab, "show", "e0001")
    assert "e0001.1  baseline  cpu-01" in shown
    assert max(map(len, shown.splitlines())) <= 80


rows = st.lists(st.text(max_size=80), max_size=60)


@given(rows)
def test_a_fitted_document_is_small_and_keeps_the_first_rows(texts: list[str]) -> None:
    found = fit({"rows": texts, "other": "x"}, "rows")
    assert len(json.dumps(found)) <= DOCUMENT_BYTES
    assert found["rows"] == texts[: len(found["rows"])]
    assert len(found["rows"]) + found.get("more", 0) == len(texts)


@given(st.text(max_size=300), st.integers(8, 200))
def test_a_shortened_text_takes_no_more_room_in_json(text: str, room: int) -> None:
    short = shorten(text, room)
    assert len(json.dumps(short)) <= max(room, 5)
    assert short == text or (short.endswith("...") and text.startswith(short[:-3]))


def test_the_notebook_ends_with_the_last_note(big: Lab) -> None:
    for text in ("first", "second", "n" * 3000):
        answer(big, "note", text)
    found = answer(big, "notebook")
    assert found["entries"][-1]["notes"].startswith("nnn")
    assert found["entries"][-2]["notes"] == "second"
    assert found["more"] > 0
    whole = json.loads(call(big, "notebook", "--limit", "2").stdout)["entries"]
    assert [entry["notes"][:6] for entry in whole] == ["second", "nnnnnn"]
    assert call(big, "notebook", "--limit", "1", "--no-json").stdout.count("nnn") > 1


@pytest.mark.parametrize(
    "text", ["- depth 3 wins, next: schedules", "-0.01 at every width", "--set X=2 pays"]
)
def test_a_note_may_begin_with_a_dash(big: Lab, text: str) -> None:
    assert answer(big, "note", text, "--author", "ann")["written"]
    assert answer(big, "notebook")["entries"][-1]["notes"] == text
    assert not answer(big, "note", "--author", "ann", text, "--json")["written"], "again, among options"
    assert call(big, "note", text, "--autor", "ann").exit_code == 2


def test_a_note_of_stray_bytes_harms_no_later_one(big: Lab) -> None:
    assert answer(big, "note", "stray \udcff byte", "--author", "eve")["written"]
    assert answer(big, "note", "another", "--author", "eve")["written"]
    assert not answer(big, "note", "another", "--author", "eve")["written"]


def test_what_is_no_utf_8_on_stdin_is_said_in_a_line(big: Lab) -> None:
    arguments = ["submit", "--file", "-", "--folder", str(big.folder)]
    result = CliRunner().invoke(app, arguments, input=b"\xff\xfe")
    assert result.exit_code == 2
    assert "is not UTF-8" in json.loads(result.stdout)["error"]["message"]
