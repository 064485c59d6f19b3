"""The brief is built from the history alone and bounded whatever the history."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from autoresearch.brief import MAX_FAMILIES, MAX_REFUSED, MAX_TRIED, Brief, Refused, build_brief
from autoresearch.budget import Budget, Usage
from autoresearch.experiment import (
    Experiment,
    FailureKind,
    Goal,
    Measurement,
    Purpose,
    Run,
    RunState,
    Verdict,
)
from autoresearch.history import History
from builders import baseline, experiment, history, run


def brief(past: History, refused: int = 0, **changes: Any) -> Brief:
    known: dict[str, Any] = {
        "study": "t",
        "metric": "val_bpb",
        "profile": "cpu",
        "instructions": "be good",
        "files": {"train.py": "X = 2\n"},
        "baseline_files": {"train.py": "X = 1\n"},
        "refused": [Refused(hypothesis=f"h{i}", reason="no") for i in range(refused)],
        "budget": Budget(experiments=10),
        "usage": Usage(experiments=4),
        "serial": 7,
        "seed": 3,
    }
    return build_brief(past, **{**known, **changes})


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


def test_an_experiment_is_told_with_its_effect_and_what_was_said_of_it() -> None:
    first = replace(run("e0002.1", 0.9), measurement=Measurement(value=0.9, memory_gb=40.0))
    second = replace(run("e0002.2", 0.8), measurement=Measurement(value=0.8, memory_gb=41.5))
    past = history(
        *baseline(1.0, 1.2),
        *(experiment(2, Verdict.KEEP, touches=("LR",), expected=-0.1), first, second),
        *(experiment(3, Verdict.CRASH, reworks=("e0002",)), run("e0003.1", failure=FailureKind.SHAPE)),
    )
    found = brief(past)
    kept, crashed = (found.find(f"e000{n}") for n in (2, 3))
    assert kept is not None
    assert kept.delta == pytest.approx(0.85 - 1.1)
    assert kept.delta_error == pytest.approx(found.noise["cpu"].sigma)
    assert (kept.touches, kept.expected, kept.memory_gb, kept.judged_at) == (("LR",), -0.1, 41.5, 2.0)
    assert crashed is not None
    assert crashed.failure is not None
    assert crashed.failure.fact == "shape"
    assert (crashed.delta, crashed.reworks, kept.failure) == (None, ("e0002",), None)
    assert found.progress == pytest.approx(0.85 - 1.1)
    assert [family.name for family in found.families] == ["LR"]
    assert found.predictions.made == 1
    assert found.counts == {"keep": 2, "crash": 1}


def test_without_more_an_agent_holds_the_code_of_the_baseline() -> None:
    past = history(*baseline(1.0, 1.2))
    found = brief(past)
    assert (found.anchor, found.anchor_files) == ("e0001", found.baseline_files)
    assert (found.notes, found.waiting, found.focus, found.elsewhere) == ((), (), "", ())
    given = brief(past, anchor="e0002", anchor_files={"train.py": "X = 3\n"}, notes=["1", "2", "3", "4"])
    assert (given.anchor, given.anchor_files) == ("e0002", {"train.py": "X = 3\n"})
    assert given.notes == ("2", "3", "4")


def test_it_says_of_when_it_is() -> None:
    """Of the last result: a restart tells the same."""
    assert brief(history(experiment(1), run("e0001.1"))).as_of == 0
    assert brief(history(*baseline(1.0, 1.2), replace(run("e0001.9", 1.1), ended_at=5.0))).as_of == 5


def long_history() -> History:
    """Return 2,000 experiments: the best are on H200; on H100 all were worse; the best is an old one."""
    things: list[Experiment | Run] = [
        *baseline(1.0, 1.01, kind="H100"),
        *(experiment(2, Verdict.KEEP), run("e0002.1", 0.99, kind="H100")),
        *(experiment(3, Verdict.DISCARD, judged_at=5000.0), run("e0003.1", 1.5, kind="H100")),
        *(experiment(4), run("e0004.1")),
        *(experiment(5, Verdict.DISCARD), run("e0005.1", 0.995, kind="H100")),
        *(experiment(6, Verdict.DISCARD), run("e0006.1", 1.0049, kind="H100")),
    ]
    for n in range(7, 2001):
        kind, value = ("H200", 0.5 + n / 1e5) if n % 4 == 0 else ("H100", 1.1 + (n * 7 % 1999) / 1e4)
        touches = (f"NAME_{n // 2}",)
        parent = "e0002"
        things.append(experiment(n, Verdict.DISCARD, parent=parent, touches=touches))
        things.append(run(f"e{n:04d}.1", value, kind=kind))
    return history(*things)


def test_a_long_history_keeps_all_that_is_spoken_of() -> None:
    """The best, what is to be done anew, what is not judged, what was judged last, and each kind's best."""
    past = long_history()
    found = brief(past)
    assert len(found.tried) == MAX_TRIED
    assert (found.parent, found.rework, found.near) == ("e0002", ("e0005",), ("e0006",))
    ids = {t.id for t in found.tried}
    assert {"e0001", "e0002", "e0003", "e0004", "e0005", "e0006", "e2000"} <= ids
    for kind in ("H100", "H200"):
        values = {
            name: min(r.value for r in past.finished(name, kind))
            for name in past.experiments
            if past.finished(name, kind)
        }
        assert set(sorted(values, key=lambda name: values[name])[:12]) <= ids


def test_a_long_history_is_added_up_as_a_whole() -> None:
    found = brief(long_history())
    assert found.counts == {"keep": 2, "discard": 1997, "open": 1}
    assert len(found.families) == MAX_FAMILIES
    assert found.families[0].name == "NAME_1000"


def test_more_pending_than_can_be_held_leaves_the_best() -> None:
    things = [experiment(n) for n in range(3, 700)]
    found = brief(history(*baseline(1.0, 1.0), experiment(2, Verdict.KEEP), run("e0002.1", 0.5), *things))
    assert len(found.tried) == MAX_TRIED
    assert found.find("e0002") is not None
    assert found.find("e0001") is not None
