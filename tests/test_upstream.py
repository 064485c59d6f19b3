"""An unmodified checkout of upstream becomes a study in place, and its own files keep working."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autoresearch.budget import Budget
from autoresearch.cli import app
from autoresearch.cli.adopt import adopt
from autoresearch.config import Config, Judging, Pool, load
from autoresearch.errors import UsageError
from autoresearch.experiment import Edit, FailureKind, Proposal
from autoresearch.founding import default_tag
from autoresearch.logparse import parse_progress, parse_report
from autoresearch.report import results_tsv
from autoresearch.study import Study, open_study
from autoresearch.telling import tell_all
from lab import git
from upstream import EARLIER, PREPARE, SKYPILOT, UPSTREAM, UV, Checkout, table

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
SUMMARY = "---\nval_bpb:          0.997900\ntraining_seconds: 300.1\n"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own: upstream keeps its data below it. On PATH there is no uv."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    return folder


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "checkout", results=table())


def told(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["init", *arguments])
    return result.exit_code, result.stderr


def edited(checkout: Checkout, *changes: tuple[str, str]) -> None:
    """Change what was written for the checkout, as its owner may."""
    path = checkout.folder / "autoresearch.yaml"
    text = path.read_text()
    for old, new in [("baseline_runs: 3", "baseline_runs: 2"), *changes]:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path.write_text(text)


# -- what is found and written --------------------------------------------------------------------


def test_a_checkout_becomes_a_study_and_nothing_else_changes(checkout: Checkout) -> None:
    (checkout.folder / "run.log").write_text("\rstep 00012 (3.4%) | loss: 5.1" * 999 + "\n" + SUMMARY)
    code, said = told("--from", str(checkout.folder))
    assert code == 0, said
    for line in (
        "python: pyproject.toml is not committed, so runs use autoresearch's own",
        "run.log: val_bpb 0.997900",
        "results.tsv: 3 earlier results",
        "score self-reported",
        "`autoresearch doctor`, then `autoresearch run`",
    ):
        assert line in said
    assert checkout.untracked() == "?? autoresearch.yaml\n!! results.tsv\n!! run.log\n"
    config = load(checkout.folder / "autoresearch.yaml")
    assert (config.history, config.instructions) == ("results.tsv", "program.md")
    target = config.target.resolve(["H100"])
    assert (target.editable, target.protected) == (("train.py",), ("prepare.py",))
    assert (target.command, target.prepare) == ("{python} train.py", "{python} {protected}/prepare.py")
    assert (target.seconds, target.timeout, target.profile) == (300, 600, "gpu")
    assert target.self_reported
    assert (config.budget.experiments, config.pool.executor, config.agent.name) == (100, "local", "sweep")


def test_an_environment_that_uv_can_repeat_is_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = Checkout(tmp_path / "checkout")
    for name in ("pyproject.toml", "uv.lock", ".python-version"):
        (checkout.folder / name).write_text("")
    git(checkout.folder, "add", "pyproject.toml", "uv.lock")
    git(checkout.folder, "commit", "--quiet", "-m", "locked")
    assert adopt(checkout.folder).why_python == "there is no uv on PATH"
    (tmp_path / "uv").touch(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (checkout.folder / "autoresearch.yaml").unlink()
    assert adopt(checkout.folder).why_python == ""
    config = load(checkout.folder / "autoresearch.yaml")
    assert config.history is None
    assert config.target.protected == ("prepare.py", "pyproject.toml", "uv.lock"), "what is committed"
    assert config.target.command == "uv run --frozen --project {protected} python train.py"
    assert config.target.prepare == "uv run --frozen --project {protected} python {protected}/prepare.py"


def test_doctor_asks_for_nothing_that_only_our_training_needs(checkout: Checkout) -> None:
    """What upstream's training needs is in its own environment."""
    adopt(checkout.folder)
    result = CliRunner().invoke(app, ["doctor", "--no-json", "--folder", str(checkout.folder)])
    assert result.exit_code == 0, result.stdout
    assert "torch" not in result.stdout


def test_the_branch_of_somebody_else_is_left_alone(checkout: Checkout) -> None:
    """Upstream names its branches as we do, after the day."""
    tag = default_tag(time.time())
    git(checkout.folder, "checkout", "--quiet", "-b", f"autoresearch/{tag}")
    adopt(checkout.folder)
    assert load(checkout.folder / "autoresearch.yaml").study == f"{tag}-2"


@pytest.mark.parametrize("name", ["train.py", "prepare.py", "program.md"])
def test_what_is_no_checkout_is_refused_with_the_way_out(checkout: Checkout, name: str) -> None:
    (checkout.folder / name).unlink()
    code, said = told("--from", str(checkout.folder))
    assert code == 2
    assert f"checkout has no {name}" in said
    assert "autoresearch init DIR" in said


def _again(checkout: Checkout) -> None:
    (checkout.folder / "autoresearch.yaml").touch()


def _uncommitted(checkout: Checkout) -> None:
    git(checkout.folder, "rm", "--quiet", "--cached", "prepare.py")
    git(checkout.folder, "commit", "--quiet", "-m", "less")


def _unversioned(checkout: Checkout) -> None:
    (checkout.folder / ".git").rename(checkout.folder / "not-git")


def _unreadable(checkout: Checkout) -> None:
    (checkout.folder / "results.tsv").write_text("a\tb\n1\t2\n")


@pytest.mark.parametrize(
    ("wrong", "says", "way"),
    [
        (_again, "has autoresearch.yaml already", "autoresearch run"),
        (_uncommitted, "prepare.py is not committed", "git add prepare.py && git commit"),
        (_unversioned, "in no git repository", "git init"),
        (_unreadable, "results.tsv is no results.tsv: its first line names no column", "move the file away"),
    ],
)
def test_what_stands_in_the_way_is_said_and_nothing_written(
    checkout: Checkout, wrong: Callable[[Checkout], None], says: str, way: str
) -> None:
    wrong(checkout)
    before = sorted(path.name for path in checkout.folder.iterdir())
    with pytest.raises(UsageError) as refused:
        adopt(checkout.folder)
    assert says in refused.value.message
    assert way in refused.value.hint
    assert sorted(path.name for path in checkout.folder.iterdir()) == before


def test_in_place_means_no_other_folder(checkout: Checkout, tmp_path: Path) -> None:
    code, said = told(str(tmp_path / "new"), "--from", str(checkout.folder))
    assert code == 2
    assert "in place" in said
    assert not (tmp_path / "new").exists()


# -- the study ------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [UPSTREAM, SKYPILOT])
def test_earlier_results_are_taken_over_once_with_the_study(
    checkout: Checkout, columns: tuple[str, ...]
) -> None:
    path = checkout.folder / "results.tsv"
    path.write_text(table(columns))
    adopt(checkout.folder)
    config = load(checkout.folder / "autoresearch.yaml")
    checkout.study(config).close()
    path.write_text(table(columns).replace("0.99", "0.11"))
    study = checkout.study(config)  # as after a kill
    assert [p.value for p in study.store.priors()] == [0.9979, 0.9932, None]
    brief = tell_all(study, Budget(), "")
    assert (brief.priors, [p.description for p in brief.prior]) == (3, [EARLIER[i][4] for i in (1, 0, 2)])


def test_a_history_that_is_not_there_is_said_before_anything_begins(checkout: Checkout) -> None:
    adopt(checkout.folder)
    (checkout.folder / "results.tsv").unlink()
    with pytest.raises(UsageError, match=r"results\.tsv, the history in autoresearch\.yaml: no such file"):
        checkout.study(load(checkout.folder / "autoresearch.yaml"))
    assert not (checkout.folder / ".autoresearch").exists()


def logged(study: Study, commit: str) -> list[float]:
    """Return what the logs of an experiment's runs report."""
    history = study.store.history()
    (found,) = (e for e in history.experiments.values() if (e.commit or "").startswith(commit))
    logs = [(study.job_folder(run) / "log").read_bytes() for run in history.runs_of(found.id)]
    reports = [parse_report(log, metric="val_bpb", exit_code=0) for log in logs]
    return [report.measurement.value for report in reports if report.measurement]


def check_run(checkout: Checkout, cli: Cli, **env: str) -> Study:
    """Run the study as its owner would; check what it leaves, and return it."""
    folder = checkout.folder
    done = cli("run", "--agent", "sweep", "--experiments", "4", cwd=folder, env=env)
    assert done.returncode == 0, done.stderr
    rows = checkout.rows()
    assert [tuple(row) for row in rows[:3]] == list(EARLIER)
    assert len(rows) == 3 + 5
    study = open_study(folder, folder / ".autoresearch")
    for commit, value, memory, _, _ in rows[3:]:
        assert set(logged(study, commit)) == {float(value)}
        assert memory == "45.1"
    assert rows[3][0] == git(folder, "rev-parse", "HEAD")[:7], "the baseline is the committed code"
    assert "wrote results.tsv and .autoresearch/" in done.stderr, "progress.png is upstream's own"
    assert checkout.untracked() == "?? autoresearch.yaml\n!! .autoresearch/\n!! results.tsv\n"
    again = cli("run", "--experiments", "4", cwd=folder, env=env)
    assert again.returncode == 5
    assert "nothing to do: budget reached" in again.stderr
    assert checkout.rows() == rows
    return study


@pytest.mark.slow
def test_a_run_goes_on_where_upstream_was(checkout: Checkout, cli: Cli) -> None:
    assert cli("init", "--from", ".", cwd=checkout.folder).returncode == 0
    edited(checkout, ("workers: auto", "workers: 2"))
    study = check_run(checkout, cli)
    copy = study.runs_folder / "e0001.1" / "a1" / "prepare.py"
    assert copy.read_text() == PREPARE, "runs import a copy of the pinned file"
    assert study.target.self_reported
    progress = parse_progress((copy.parent / "log").read_bytes())
    assert progress is not None
    assert (progress.step, progress.share) == (30, 1.0)


@pytest.mark.slow
def test_a_run_goes_on_where_skypilots_example_was(checkout: Checkout, cli: Cli) -> None:
    (checkout.folder / "results.tsv").write_text(table(SKYPILOT))
    adopt(checkout.folder)
    edited(checkout, ("workers: auto", "workers: 2"))
    check_run(checkout, cli).close()


@pytest.mark.slow
@pytest.mark.skipif(not UV.exists(), reason="uv is not installed here")
def test_a_run_through_uv_uses_the_locked_environment(
    tmp_path: Path, home: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{UV.parent}:{os.environ['PATH']}")
    checkout = Checkout(tmp_path / "checkout", locked=True, results=table())
    assert "uv" not in adopt(checkout.folder).why_python
    offline = f'env: {{UV_OFFLINE: "1", UV_PYTHON: {sys.executable}}} # {{HF'
    edited(checkout, ("workers: auto", "workers: 2"), ("# env: {HF", offline))
    study = check_run(checkout, cli)
    environment = study.state / "protected" / ".venv"
    assert Path((home / ".cache/autoresearch/python").read_text()) == environment
    study.check_protected()


def idea(old: str, new: str) -> Proposal:
    return Proposal(hypothesis=new, edits=(Edit(old=old, new=new),), parent="e0001", author="test")


@pytest.fixture
def quick(checkout: Checkout, home: Path) -> Config:
    """The configuration of the checkout, for few runs on this machine, whose data is there."""
    data = home / ".cache" / "autoresearch"
    data.mkdir(parents=True)
    (data / "tokens").write_text("prepared")
    adopt(checkout.folder)
    return dataclasses.replace(
        load(checkout.folder / "autoresearch.yaml"),
        pool=Pool(workers={"cpu": 2}),
        judging=Judging(baseline_runs=2),
        budget=Budget(experiments=2),
    )


def test_a_run_that_diverges_is_a_row_of_zeros(checkout: Checkout, quick: Config) -> None:
    script = [idea("MATRIX_LR = 0.04", "MATRIX_LR = 0.05"), idea("DIVERGES = False", "DIVERGES = True")]
    study, _ = checkout.run(script, quick)
    failures = [run.failure for run in study.store.history().all_runs() if run.failure]
    assert [failure.kind for failure in failures] == [FailureKind.NOT_FINITE]
    rows = results_tsv(study.store.history(), study.store.priors()).splitlines()
    assert len(rows) == 1 + 3 + 3
    assert rows[-1].split("\t")[1:] == ["0.000000", "0.0", "crash", "DIVERGES = True"]


def test_a_prepare_that_was_changed_since_is_not_what_runs_import(checkout: Checkout, quick: Config) -> None:
    study = checkout.study(quick)
    (checkout.folder / "prepare.py").write_text(PREPARE.replace("return 0.99", "return 0.0"))
    study, _ = checkout.run([idea("MATRIX_LR = 0.04", "MATRIX_LR = 0.06")], quick, study)
    values = [run.value for run in study.store.history().all_runs() if run.value is not None]
    assert min(values) == pytest.approx(1.0)
