"""What edited code leaves behind is hostile: figures, folders; none of it may stop or blind the harness."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

Fresh = Callable[..., ModuleType]


@pytest.mark.parametrize("figure", ["1" + 400 * "0", "1e300", "-1e300", "1e999", "NaN", '"7"', "true", "[1]"])
def test_a_figure_that_is_none_is_passed_over(fresh: Fresh, tmp_path: Path, figure: str) -> None:
    facts = tmp_path / "facts.json"
    facts.write_text(f'{{"num_steps": {figure}, "depth": 2}}')
    assert fresh("report").read_facts(str(facts)) == {"depth": 2.0}


def nested(folder: Path, depth: int, name: str = "d") -> None:
    """Make folders in one another, deeper than any path can say."""
    before = Path.cwd()
    os.chdir(folder)
    for _ in range(depth):
        os.mkdir(name)  # noqa: PTH102  relative, as edited code would
        os.chdir(name)
    Path("bottom").write_bytes(bytes(1 << 20))
    os.chdir(before)


@pytest.mark.parametrize(("depth", "name"), [(1500, "d"), (30, "d" * 200)])
def test_what_lies_deep_is_seen_and_removed(fresh: Fresh, tmp_path: Path, depth: int, name: str) -> None:
    processes = fresh("processes")
    folder = tmp_path / "home"
    folder.mkdir()
    nested(folder, depth, name)
    assert processes.written(folder, 1 << 30)
    processes.remove(folder)
    assert not folder.exists()


def test_a_folder_without_rights_is_removed(fresh: Fresh, tmp_path: Path) -> None:
    (tmp_path / "home" / "closed" / "inner").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "home" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "home" / "closed" / "inner").chmod(0)
    (tmp_path / "home" / "closed").chmod(0)
    fresh("processes").remove(tmp_path / "home")
    assert not (tmp_path / "home").exists()
    assert (tmp_path / "elsewhere").exists()


def test_a_folder_that_cannot_be_read_is_too_much(
    fresh: Fresh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes = fresh("processes")

    def closed(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(processes.os, "scandir", closed)  # root may read whatever has no rights
    assert "cannot be looked into" in processes.written(tmp_path, 1 << 30)


def test_what_is_gone_while_it_is_counted_does_not_hide_the_rest(
    fresh: Fresh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes = fresh("processes")
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(bytes(1 << 20))

    class Gone:
        def is_dir(self, *, follow_symlinks: bool) -> bool:
            return False

        def stat(self, *, follow_symlinks: bool) -> None:
            raise FileNotFoundError(follow_symlinks)

    listed = list(os.scandir(tmp_path))
    monkeypatch.setattr(processes.os, "scandir", lambda _: contextlib.nullcontext([Gone(), *listed]))
    assert processes.written(tmp_path, 1 << 20)


class Answering:
    """A model's process that is said to use so many CPU seconds for each answer."""

    def __init__(self, fresh: Fresh, folder: Path, monkeypatch: pytest.MonkeyPatch, **env: str) -> None:
        self.supervise = fresh("supervise", **env)
        self.spec = importlib.import_module("spec").Spec.from_environment("train.py")
        self.cpu = 2.0  # of importing torch, before it was asked
        usage = importlib.import_module("processes").Usage
        monkeypatch.setattr(self.supervise, "branch_usage", lambda _: usage(self.cpu, 0, 1, 1))
        monkeypatch.setattr(self.supervise, "POLL_SECONDS", 0.0)
        self.watched = self.supervise.Watched(1, folder, self.spec, self.supervise.Busy("cpu"))

    def answer(self, *costs: float) -> None:
        for cost in costs:
            self.watched.asked()
            self.cpu += cost
            self.watched.answered()


@pytest.fixture
def answering(fresh: Fresh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Answering:
    return Answering(fresh, tmp_path, monkeypatch, BUDGET_SECONDS="20")


def test_only_what_the_first_answer_costs_more_than_others_is_late(answering: Answering) -> None:
    answering.answer(0.4, *9 * [0.3])
    assert answering.watched.late() == pytest.approx(0.1)
    assert answering.watched.verdict() is None


def test_work_between_two_answers_counts_as_theirs(answering: Answering) -> None:
    answering.answer(0.3, 0.3)
    answering.cpu += 49.0
    assert answering.watched.verdict() is None
    answering.cpu += 1.0
    assert answering.watched.verdict() == (
        "over_budget",
        "its model took 51 s to answer, in a budget of 20 s",
    )


@pytest.mark.parametrize(
    ("trained", "late", "over"),
    [(20.5, 0.1, False), (20.5, 1.9, False), (20.5, 2.1, True), (22.0, 0.6, True)],
)
def test_what_a_model_costs_before_its_first_answer_is_training(
    answering: Answering, trained: float, late: float, *, over: bool
) -> None:
    outcome = answering.supervise.Outcome("exited", "", 0, 30.0, trained, 2.0, None, 0)
    assert (answering.supervise.late_problem(answering.spec, outcome, late) is not None) == over
