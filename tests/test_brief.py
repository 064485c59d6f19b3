"""The brief is built from the history alone and bounded whatever the history."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoresearch.brief import MAX_REFUSED, MAX_TRIED, Brief, Refused, build_brief
from autoresearch.budget import Budget, Usage
from autoresearch.experiment import Experiment, Goal, Purpose, Run, RunState, Verdict
from autoresearch.history import History
from builders import baseline, experiment, history, run


def brief(past: History, refused: int = 0) -> Brief:
    return build_brief(
        past,
        study="t",
        metric="val_bpb",
        profile="cpu",
        instructions="be good",
        files={"train.py": "X = 2\n"},
        baseline_files={"train.py": "X = 1\n"},
        refused=[Refused(hypothesis=f"h{i}", reason="no") for i in range(refused)],
        budget=Budget(experiments=10),
        usage=Usage(experiments=4),
        serial=7,
        seed=3,
    )


def test_it_holds_the_best_the_noise_and_what_is_left() -> None:
    past = history(
        *baseline(1.0, 1.2),
        experiment(2, Verdict.KEEP),
        run("e0002.1", 0.5),
        run("e0002.2", 0.7, purpose=Purpose.CONFIRM),
        experiment(3),
        run("e0003.1", state=RunState.RUNNING),
        experiment(4, Verdict.CRASH, reason="shape: x"),
    )
    found = brief(past)
    assert (found.parent, found.experiments_left, found.serial) == ("e0002", 6, 7)
    assert found.noise["cpu"].df == 1
    best, pending, crashed = (found.find(f"e000{n}") for n in (2, 3, 4))
    assert best is not None
    assert (best.value, best.runs, best.kind) == (0.7, 2, "cpu")
    assert best.standard_error == pytest.approx(found.noise["cpu"].sigma)
    assert pending is not None
    assert pending.pending
    assert crashed is not None
    assert (crashed.pending, crashed.reason) == (False, "shape: x")


def test_before_anything_is_measured_the_baseline_is_the_parent() -> None:
    found = brief(history(experiment(1), run("e0001.1", purpose=Purpose.BASELINE)))
    assert (found.parent, found.noise) == ("e0001", {})


@pytest.mark.parametrize("goal", list(Goal))
def test_a_long_history_is_cut_to_the_best_the_recent_and_the_pending(goal: Goal) -> None:
    things: list[Experiment | Run] = [*baseline(1.0, 1.0)]
    for n in range(2, 2001):
        things += [experiment(n, Verdict.DISCARD), run(f"e{n:04d}.1", 1.0 + goal.sign * (n % 977) / 1000)]
    things += [experiment(2001), run("e2001.1")]
    past = history(*things, goal=goal)
    found = brief(past, refused=100)
    assert len(found.tried) <= MAX_TRIED
    assert len(found.refused) == MAX_REFUSED
    assert found.refused[-1].hypothesis == "h99"
    ids = {t.id for t in found.tried}
    assert {"e0001", "e2000", "e2001"} <= ids
    best = min(
        (t for t in brief(past).tried if t.value is not None), key=lambda t: goal.sign * (t.value or 0)
    )
    assert best.id in ids
    assert [t.id for t in found.tried] == sorted(ids)


def test_the_same_history_gives_the_same_brief() -> None:
    past = history(*baseline(1.0, 1.2), experiment(2), run("e0002.1", 0.5))
    assert brief(past) == brief(replace(past))
