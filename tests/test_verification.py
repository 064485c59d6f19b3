"""`verify`: books that hold, and every way in which somebody could have changed them."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.budget import Budget
from autoresearch.study import Study, open_study, sha256
from autoresearch.verification import code_digest, verify
from lab import Lab, git, set_x
from test_cli import CONFIG

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def studied(lab: Lab) -> tuple[Lab, Study]:
    (lab.folder / "autoresearch.yaml").write_text(CONFIG)
    lab.commit("configured")
    script = [set_x(1.5), set_x(3.5), set_x(2.5, extra="\nCRASH = True")]
    study, _ = lab.run(script, lab.config(budget=Budget(experiments=3)))
    return lab, study


def wrong(study: Study) -> list[tuple[str, str]]:
    opened = open_study(study.folder, study.state.parent)
    return [(check.subject, check.fact) for check in verify(opened) if check.wrong]


def write(study: Study, *statements: str) -> None:
    with closing(sqlite3.connect(study.state / "study.db")) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()


def test_books_that_nobody_touched_hold(studied: tuple[Lab, Study]) -> None:
    _, study = studied
    checks = list(verify(study))
    assert not [check for check in checks if check.wrong]
    facts = {check.fact for check in checks}
    assert facts >= {"database", "protected files", "branch", "ref", "code", "log"}
    assert {check.subject for check in checks if check.fact == "ref"} == {"e0001", "e0002", "e0003", "e0004"}
    some = {check.subject for check in verify(study, frozenset({"e0002"}))}
    assert some >= {"t", "e0002"}
    assert "e0003" not in some


def test_a_changed_log_is_found(studied: tuple[Lab, Study]) -> None:
    _, study = studied
    path = study.runs_folder / "e0002.1" / "a1" / "log"
    path.write_text(path.read_text().replace("val_bpb", "val_bpb "))
    assert wrong(study) == [("e0002.1", "log")]
    path.unlink()
    assert wrong(study) == [("e0002.1", "log")]


def test_a_changed_value_is_found_by_its_log(studied: tuple[Lab, Study]) -> None:
    _, study = studied
    write(study, "drop trigger run_is_over", "update run set value = value - 0.1 where id = 'e0003.1'")
    assert wrong(study) == [("e0003.1", "value")]


def test_moved_and_missing_refs_are_found(studied: tuple[Lab, Study]) -> None:
    lab, study = studied
    git(lab.folder, "update-ref", study.workspace.ref("e0002"), "HEAD")
    assert wrong(study) == [("e0002", "ref")]
    git(lab.folder, "update-ref", "-d", study.workspace.ref("e0002"))
    assert wrong(study) == [("e0002", "ref")]


def test_code_that_is_not_what_was_admitted_is_found(studied: tuple[Lab, Study]) -> None:
    _, study = studied
    write(study, "drop trigger verdict_stays", "update experiment set digest = 'another' where id = 'e0003'")
    assert wrong(study) == [("e0003", "code")]


def test_edits_that_do_not_give_the_code_are_found(studied: tuple[Lab, Study]) -> None:
    _, study = studied
    edits = json.dumps([{"old": "X = 1.0", "new": "X = 9.0", "file": None}])
    write(study, "drop trigger verdict_stays", f"update experiment set edits = '{edits}' where id = 'e0003'")
    assert wrong(study) == [("e0003", "code")]


def test_a_branch_that_does_not_end_in_the_best_is_found(studied: tuple[Lab, Study]) -> None:
    lab, study = studied
    git(lab.folder, "update-ref", study.workspace.branch, study.workspace.ref("e0003"))
    assert wrong(study) == [("t", "branch")]


def test_changed_protected_files_and_a_broken_database_are_found(studied: tuple[Lab, Study]) -> None:
    _, study = studied
    pinned = study.state / "protected" / "fake_training.py"
    pinned.chmod(0o644)
    pinned.write_text("print('val_bpb: 0.1')\n")
    write(
        study,
        "pragma foreign_keys = off",
        "drop trigger job_stays",
        "insert into job values ('j', 'e0009.1', 1, 'w', 'cpu', 0, 0, 0, 0, 'finished')",
    )
    assert wrong(study) == [("t", "database"), ("t", "protected files")]


def test_the_command_says_what_holds(studied: tuple[Lab, Study], cli: Cli) -> None:
    lab, study = studied
    told = cli("verify", "--no-json", cwd=lab.folder)
    assert told.returncode == 0, told.stderr
    lines = told.stdout.splitlines()
    assert lines[0].split() == ["ok", "database", "1", "checked"]
    assert all(line.startswith("ok") for line in lines)
    path = study.runs_folder / "e0002.1" / "a1" / "log"
    path.write_bytes(path.read_bytes() + b"\x1b[2J")
    told = cli("verify", "--no-json", cwd=lab.folder)
    assert told.returncode == 1
    assert "fail  log" in told.stdout
    assert "e0002.1   log:" in told.stdout
    document = json.loads(cli("verify", cwd=lab.folder).stdout)
    assert [(row["subject"], row["fact"]) for row in document["failed"]] == [("e0002.1", "log")]
    assert cli("verify", "e0099", cwd=lab.folder).returncode == 3


@pytest.mark.slow
def test_a_run_is_measured_again_beside_the_books(studied: tuple[Lab, Study], cli: Cli) -> None:
    """The training of these tests draws its noise from its seed, so the value is the same."""
    lab, study = studied
    before = study.store.cursor()
    told = json.loads(cli("verify", "e0003.1", "e0001", "--rerun", cwd=lab.folder).stdout)
    assert [row["agrees"] for row in told["rerun"]] == [True, True]
    assert all(row["then"] == row["now"] for row in told["rerun"])
    assert study.store.cursor() == before, "it does not enter the books"
    crashed = cli("verify", "e0004", "--rerun", cwd=lab.folder)
    assert crashed.returncode == 3
    assert "was not measured" in crashed.stdout
    with study.dispatching():
        busy = cli("verify", "e0003", "--rerun", cwd=lab.folder)
    assert busy.returncode == 2
    assert "autoresearch confirm e0003" in busy.stdout


def test_what_this_machine_is_not_is_measured_again_elsewhere(studied: tuple[Lab, Study], cli: Cli) -> None:
    lab, study = studied
    write(study, "drop trigger job_is_over", "update job set kind = 'H100' where run = 'e0003.1'")
    told = cli("verify", "e0003", "--rerun", cwd=lab.folder)
    assert told.returncode == 2
    assert "ran on H100" in told.stdout


@given(st.dictionaries(st.text(min_size=1, max_size=5), st.text(max_size=20), min_size=1, max_size=3))
def test_one_digest_of_one_file_or_of_several(files: dict[str, str]) -> None:
    files = {
        name.encode(errors="ignore").decode() or "a": text.encode(errors="ignore").decode()
        for name, text in files.items()
    }
    digest = code_digest(files)
    if len(files) == 1:
        assert digest == sha256(next(iter(files.values())).encode())
    assert digest != code_digest({**files, "another.py": ""})
