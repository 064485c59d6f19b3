"""Commands as people and programs call them: output, exit codes, and one real process."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from autoresearch.budget import Budget
from autoresearch.calls import Bill, CallOutcome, Tokens
from autoresearch.cli import app
from autoresearch.cli.run import Wishes, with_ceilings
from autoresearch.experiment import Verdict
from autoresearch.store import Store
from lab import ROOT, Lab, git, set_x
from store_contract import began

CONFIG = """
target:
  editable: [train.py]
  protected: [fake_training.py]
  command: "{python} {protected}/fake_training.py"
  score: log
  profile: cpu
  budget_seconds: 5
  timeout_seconds: 20
pool: {workers: {cpu: 2}}
budget: {experiments: 3}
"""
Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def done(lab: Lab) -> Lab:
    """A study of three experiments, one kept, one discarded, one crashed."""
    (lab.folder / "autoresearch.yaml").write_text(CONFIG)
    lab.commit("configured")
    script = [set_x(1.5), set_x(3.5), set_x(2.5, extra="\nCRASH = True")]
    study, _ = lab.run(script, lab.config(budget=Budget(experiments=3)))
    assert {e.verdict for e in study.store.history().experiments.values()} == set(Verdict)
    study.close()
    return lab


READERS = {
    *("brief", "budget", "cancel", "confirm", "diff", "doctor", "down", "log", "note", "notebook"),
    *("reap", "results", "show", "status", "stop", "submit", "up", "wait"),
}


def call(lab: Lab, *arguments: str) -> Any:
    """Call a command as a person at a terminal does, unless JSON is asked for."""
    plain = ["--no-json"] if arguments[0] in READERS and "--json" not in arguments else []
    return CliRunner().invoke(app, [*arguments, *plain, "--folder", str(lab.folder)])


def document(lab: Lab, *arguments: str) -> dict[str, Any]:
    result = call(lab, *arguments, "--json")
    assert result.exit_code == 0, result.output
    assert len(result.stdout) < 2048, "small enough for an agent"
    loaded = json.loads(result.stdout)
    assert loaded["schema_version"] == 1
    return loaded


def test_status_says_how_good_it_is(done: Lab) -> None:
    lines = call(done, "status").stdout.splitlines()
    assert lines[0].startswith("t paused after")
    assert lines[1].startswith("best 1.2")
    assert "1 kept of 3" in lines[1]
    assert all(len(line) <= 80 for line in lines)


def test_status_as_json(done: Lab) -> None:
    found = document(done, "status")
    assert found["best"]["experiment"] == "e0002"
    assert found["verdicts"] == {"keep": 2, "discard": 1, "crash": 1}
    assert (found["dispatching"], found["in_flight"], found["experiments"]) == (False, 0, 3)


def test_results_piped_are_tsv_best_first(done: Lab) -> None:
    lines = [line.split("\t") for line in call(done, "results").stdout.splitlines()]
    assert lines[0] == [
        "experiment",
        "value",
        "standard_error",
        "delta",
        "runs",
        "kind",
        "verdict",
        "hypothesis",
    ]
    assert [line[0] for line in lines[1:]] == ["e0002", "e0001", "e0003", "e0004"]
    assert lines[4][1] == "", "a crash has no value"
    assert len(call(done, "results", "--limit", "2").stdout.splitlines()) == 3


def test_results_as_json(done: Lab) -> None:
    found = document(done, "results")
    assert [row["verdict"] for row in found["results"]] == ["keep", "keep", "discard", "crash"]
    assert found["total"] == 4


def test_show_tells_why_what_and_every_run(done: Lab) -> None:
    text = call(done, "show", "e0002").stdout
    for part in (
        "X 1.5",
        "keep",
        "e0002.1",
        "confirm",
        "calibrate",
        "why:",
        "+X = 1.5",
        "git show refs/autoresearch/t/e0002",
    ):
        assert part in text
    found = document(done, "show", "e0002")
    assert [run["purpose"] for run in found["runs"]] == ["calibrate", "confirm", "screen"], "newest first"
    assert document(done, "show", "e0001")["parent"] is None
    assert document(done, "show", "e0004")["reason"].startswith("shape")


def test_show_expects_the_noise_that_the_configuration_says(done: Lab) -> None:
    def effect() -> float:
        return float(document(done, "show", "e0002")["expected_effect"])

    measured = effect()
    (done.folder / "autoresearch.yaml").write_text(f"{CONFIG}judging: {{noise: 3.0}}\n")
    assert abs(effect()) < abs(measured) / 2, "three times what it was better by is no news"


def test_diff_against_parent_or_another(done: Lab) -> None:
    assert "+X = 1.5" in call(done, "diff", "e0002").stdout
    assert "+X = 3.5" in call(done, "diff", "e0003", "e0002").stdout
    assert call(done, "diff", "e0001").stdout == ""
    assert document(done, "diff", "e0002")["against"] == "e0001"


def test_log_is_cleaned_and_json_has_typed_facts(done: Lab) -> None:
    text = call(done, "log", "e0002").stdout
    assert "val_bpb: 1.2" in text
    assert "\r" not in text
    found = document(done, "log", "e0004")
    assert found["failure"]["kind"] == "shape"
    assert found["state"] == "failed"
    assert "val_bpb:" in call(done, "log", "e0002.1", "--raw").stdout


def test_export_and_plot_write_files(done: Lab, tmp_path: Path) -> None:
    out = tmp_path / "out.tsv"
    assert call(done, "export", str(out)).exit_code == 0
    assert out.read_text().splitlines()[0].startswith("commit\tval_bpb")
    everything = json.loads(call(done, "export", "--format", "json").stdout)
    assert {len(e["runs"]) for e in everything["experiments"]} == {1, 3}
    picture = tmp_path / "p.png"
    assert call(done, "plot", str(picture)).exit_code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("show", "e0099"), 3, "no experiment e0099"),
        (("show", "nonsense"), 3, "'nonsense' is no experiment"),
        (("log", "e0002.9"), 3, "no run e0002.9"),
        (("status", "--study", "other"), 3, "no study other"),
    ],
)
def test_what_is_not_there_is_exit_3(done: Lab, arguments: tuple[str, ...], code: int, message: str) -> None:
    result = call(done, *arguments)
    assert result.exit_code == code
    assert message in result.stderr
    assert result.stdout == ""


def test_an_error_as_json_has_code_message_hint(done: Lab) -> None:
    result = call(done, "show", "e0099", "--json")
    assert json.loads(result.stdout)["error"] == {
        "code": "not_found",
        "message": "no experiment e0099",
        "hint": "`autoresearch results` lists them",
        "retryable": False,
    }


@pytest.mark.parametrize("command", ["status", "results", "plot", "export"])
def test_without_a_study_the_way_out_is_said(lab: Lab, command: str) -> None:
    (lab.folder / "autoresearch.yaml").write_text(CONFIG)
    result = call(lab, command)
    assert result.exit_code == 3
    assert "with `autoresearch up`, or here with `autoresearch run`" in result.stderr


def test_without_a_configuration_the_way_out_is_said(lab: Lab) -> None:
    for command in ("status", "run", "stop"):
        result = call(lab, command)
        assert result.exit_code == 2
        assert "autoresearch init" in result.stderr


def test_claude_without_a_key_says_what_to_do(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    (lab.folder / "autoresearch.yaml").write_text(CONFIG)
    lab.commit("configured")
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    result = call(lab, "run", "--agent", "claude")
    assert result.exit_code == 2
    assert "ANTHROPIC_API_KEY is not set" in result.stderr
    assert "--agent sweep, which needs none" in result.stderr
    assert not (lab.folder / ".autoresearch").exists(), "nothing was begun"


def test_an_unknown_model_is_refused_and_never_free(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    (lab.folder / "autoresearch.yaml").write_text(CONFIG + "agent: {name: claude, model: claude-9}\n")
    lab.commit("configured")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-none")
    result = call(lab, "run")
    assert result.exit_code == 2
    assert "claude-9" in result.stderr
    assert "claude-sonnet-5-5" in result.stderr


def test_a_dry_run_says_what_claude_would_cost_and_calls_nobody(lab: Lab) -> None:
    config = CONFIG.replace("{experiments: 3}", "{experiments: 100, api_dollars: 2}")
    (lab.folder / "autoresearch.yaml").write_text(config)
    lab.commit("configured")
    result = call(lab, "run", "--agent", "claude", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "claude-sonnet-5-5 medium: 4 experiments a call, about $0.0" in result.stdout
    assert "about 100 experiments in 8 h: $" in result.stdout
    assert "budget.api_dollars: $2" in result.stdout


def test_the_notebook_tells_what_notes_led_to(done: Lab) -> None:
    assert "no notes yet" in call(done, "notebook").stdout
    (path,) = (done.folder / ".autoresearch").glob("*/study.db")
    store = Store(path)
    again = dataclasses.replace(set_x(1.5), hypothesis="again")
    store.add_proposals([again], 1_700_000_100.0, notes="X matters\x1b[31m most")
    store.close()
    shown = call(done, "notebook").stdout
    assert "X matters" in shown
    assert "\x1b" not in shown
    assert "waiting" in shown
    (entry,) = document(done, "notebook")["entries"]
    assert [idea["hypothesis"] for idea in entry["ideas"]] == ["again"]


def test_status_says_what_claude_has_cost_and_why_it_is_silent(done: Lab) -> None:
    (path,) = (done.folder / ".autoresearch").glob("*/study.db")
    store = Store(path)
    one = began(store)
    tokens = Tokens(input=6000, cache_read=12_000, output=5000, thinking=3300)
    now = time.time()
    store.bill_call(one.id, Bill(outcome=CallOutcome.PROPOSED, tokens=tokens, cost_usd=0.0632), now)
    trouble = {"reason": "the key is not accepted", "hint": "check it", "gone": True}
    store.record("agent_failed", "", trouble, now)
    store.close()
    shown = call(done, "status").stdout
    assert "API $0.06" in shown
    assert "API 2.11 c an experiment; tokens: 6k in, 0/12k cache, 5k out (3k thinking)" in shown
    assert "agent: the key is not accepted; it proposes nothing more: check it" in shown
    told = document(done, "status")
    assert told["agent_trouble"].startswith("the key is not accepted")
    assert told["usage"]["tokens"]["thinking"] == 3300


def test_stop_without_a_dispatcher_says_so(done: Lab) -> None:
    result = call(done, "stop")
    assert result.exit_code == 0
    assert "nothing is being dispatched" in result.stderr


def test_help_names_every_command_and_loads_nothing_heavy() -> None:
    script = (
        "import sys; import autoresearch.cli; "
        "heavy = {'sky', 'anthropic', 'torch', 'numpy', 'optuna', 'matplotlib', 'yaml'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"
    text = CliRunner().invoke(app, ["--help"]).stdout
    for command in (
        "init",
        "doctor",
        "run",
        "status",
        "results",
        "show",
        "diff",
        "log",
        "plot",
        "export",
        "stop",
    ):
        assert f"  {command} " in text


# ---------------------------------------------------------------------------
# The real process
# ---------------------------------------------------------------------------


@pytest.fixture
def sweepable(lab: Lab) -> Lab:
    (lab.folder / "autoresearch.yaml").write_text(CONFIG)
    lab.commit("configured")
    return lab


@pytest.mark.slow
def test_run_as_a_process_from_nothing_to_a_table(sweepable: Lab, cli: Cli) -> None:
    folder = sweepable.folder
    first = cli("run", "--study", "p", cwd=folder)
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("experiment\tvalue")
    assert "p is complete: budget reached: experiments, 3 of 3" in first.stderr
    assert (folder / "progress.png").exists()
    assert len((folder / "results.tsv").read_text().splitlines()) == 5
    again = cli("run", cwd=folder)
    assert again.returncode == 5
    assert "nothing to do: budget reached" in again.stderr
    more = cli("run", "--experiments", "4", cwd=folder)
    assert more.returncode == 0, more.stderr
    assert "4 of 4" in more.stderr
    status = cli("status", "--json", cwd=folder)
    assert json.loads(status.stdout)["experiments"] == 4
    assert git(folder, "status", "--porcelain", "--untracked-files=no") == ""


@pytest.mark.slow
def test_two_runs_at_once_the_second_says_so(sweepable: Lab, cli: Cli) -> None:
    (sweepable.folder / "train.py").write_text("X = 1.0\nSLEEP = 3.0\n")
    sweepable.commit()
    first = _start(sweepable.folder)
    try:
        _wait_for(sweepable.folder, "running")
        second = cli("run", cwd=sweepable.folder)
        assert second.returncode == 2
        assert "another dispatcher runs this study (pid " in second.stderr
        assert "status --watch" in second.stderr
        stopped = cli("stop", "--now", "--no-json", cwd=sweepable.folder)
        assert "cancels" in stopped.stderr
        assert first.wait(30) == 130
    finally:
        first.kill()
        first.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(("presses", "finished"), [(1, 2), (2, 0)])
def test_ctrl_c_once_finishes_twice_cancels_and_the_study_resumes(
    sweepable: Lab, cli: Cli, presses: int, finished: int
) -> None:
    (sweepable.folder / "train.py").write_text("X = 1.0\nSLEEP = 6.0\n")
    sweepable.commit()
    running = _start(sweepable.folder)
    try:
        _wait_for(sweepable.folder, "running", count=2)
        for _ in range(presses):
            running.send_signal(signal.SIGINT)
            time.sleep(1)  # two that come before the first is taken are one
        _, errors = running.communicate(timeout=120)
    finally:
        running.kill()
    assert running.returncode == 130, errors
    assert "`autoresearch run` resumes the study" in errors
    status = json.loads(cli("status", "--json", cwd=sweepable.folder).stdout)
    assert (status["runs_finished"], status["in_flight"]) == (finished, 0)
    resumed = cli("run", "--experiments", "0", cwd=sweepable.folder)
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(cli("status", "--json", cwd=sweepable.folder).stdout)["verdicts"]["keep"] == 1


@pytest.mark.slow
def test_a_terminated_dispatcher_leaves_its_runs_alive(sweepable: Lab, cli: Cli) -> None:
    (sweepable.folder / "train.py").write_text("X = 1.0\nSLEEP = 2.0\n")
    sweepable.commit()
    running = _start(sweepable.folder)
    _wait_for(sweepable.folder, "running", count=2)
    running.send_signal(signal.SIGTERM)
    _, errors = running.communicate(timeout=120)
    assert running.returncode == 130
    assert "picked up again" in errors
    resumed = cli("run", "--experiments", "0", cwd=sweepable.folder)
    assert resumed.returncode == 0
    assert "requeued" not in resumed.stderr


def _start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "autoresearch", "run", "--study", "p"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _wait_for(folder: Path, kind: str, count: int = 1, seconds: float = 120) -> None:
    """Wait until the study's diary holds events of a kind."""
    import sqlite3

    deadline = time.monotonic() + seconds
    path = folder / ".autoresearch" / "p" / "study.db"
    while time.monotonic() < deadline:
        if path.exists():
            db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
            try:
                found = db.execute("select count(*) from event where kind = ?", (kind,)).fetchone()[0]
            except sqlite3.Error:
                found = 0
            finally:
                db.close()
            if found >= count:
                return
        time.sleep(0.05)
    raise AssertionError(f"no {count} events {kind!r} in {seconds} s")


def test_init_scaffolds_a_folder_that_doctor_likes(tmp_path: Path, cli: Cli) -> None:
    folder = tmp_path / "new"
    made = cli("init", str(folder))
    assert made.returncode == 0, made.stderr
    for name in (
        "train/train.py",
        "train/harness.py",
        "train/data/sotu.jsonl.xz",
        "instructions.md",
        "autoresearch.yaml",
    ):
        assert (folder / name).is_file()
    assert git(folder, "status", "--porcelain") == ""
    again = cli("init", str(folder))
    assert again.returncode == 2
    assert "already has train" in again.stderr
    checked = cli("doctor", "--json", cwd=folder)
    levels = {check["level"] for check in json.loads(checked.stdout)["checks"]}
    assert levels <= {"ok", "warn"}, checked.stdout


def test_doctor_says_how_to_fix_what_is_missing(lab: Lab) -> None:
    result = call(lab, "doctor")
    assert result.exit_code == 1
    assert "fail  no autoresearch.yaml" in result.stdout
    assert "autoresearch init" in result.stdout
    (lab.folder / "autoresearch.yaml").write_text(CONFIG)
    (lab.folder / "train.py").write_text("X = 5\n")
    result = call(lab, "doctor")
    assert "fail  uncommitted changes in train.py" in result.stdout


def test_an_empty_folder_is_scaffolded_by_run(tmp_path: Path, cli: Cli) -> None:
    """The whole of `run` on a new folder is in the slow tests; here it stops before training."""
    folder = tmp_path / "empty"
    folder.mkdir()
    result = cli("run", "--study", "Not A Tag", cwd=folder)
    assert "scaffolded a study there" in result.stderr
    assert result.returncode == 2
    assert "--study is 'Not A Tag'" in result.stderr


def test_the_wheel_holds_what_init_copies(tmp_path: Path) -> None:
    """Built from a copy, since a build writes beside the sources."""
    source = tmp_path / "source"
    ignore = shutil.ignore_patterns(".git", ".venv", ".autoresearch", "*cache*")
    shutil.copytree(ROOT, source, ignore=ignore)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    done = subprocess.run(build, cwd=source, capture_output=True, text=True, check=False)
    if "No module named hatchling" in done.stderr:
        pytest.skip("hatchling is not installed here; CI has it")
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    listed = subprocess.run(
        [sys.executable, "-m", "zipfile", "-l", str(wheel)], capture_output=True, text=True, check=True
    )
    for name in (
        "scaffold/tasks/experiment.yaml",
        "scaffold/tasks/worker.yaml",
        "scaffold/train/train.py",
        "scaffold/train/data/sotu.jsonl.xz",
        "scaffold/autoresearch.yaml",
    ):
        assert f"autoresearch/{name}" in listed.stdout


def test_ceilings_of_a_command_line_hold_until_others_are_given_or_the_file_is_edited(lab: Lab) -> None:
    path = lab.folder / "autoresearch.yaml"
    path.write_text(CONFIG)
    lab.commit("configured")
    study, config = lab.study(), lab.config(budget=Budget(experiments=3))
    os.utime(path, (1, 1))
    assert with_ceilings(study, config, Wishes(experiments=8, hours=2)).budget == Budget(
        experiments=8, hours=2
    )
    assert with_ceilings(study, config, Wishes()).budget == Budget(experiments=8, hours=2)
    assert with_ceilings(study, config, Wishes(experiments=9)).budget == Budget(experiments=9, hours=2)
    later = time.time() + 60
    os.utime(path, (later, later))
    assert with_ceilings(study, config, Wishes()).budget == Budget(experiments=3)
