"""What stands between a score and the code that it is about."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from autoresearch.experiment import Goal, Measurement, Run, Verdict
from autoresearch.history import History
from autoresearch.trust import gap_of, trust_of
from builders import experiment, history, run


def measured(id_: str, value: float, **changes: object) -> Run:
    return replace(run(id_, value), measurement=Measurement(value=value, **changes))


def night(lost: float, *, goal: Goal = Goal.MINIMIZE, runs: int = 6, seed: int = 0) -> History:
    """A best that gains .02 on one split and less by `lost` on the second; gaps have noise of .0003."""
    rng = random.Random(seed)
    sign = goal.sign
    things: list[object] = [experiment(1, Verdict.KEEP), experiment(2, Verdict.KEEP, judged_at=9.0)]
    for number, gain in ((1, 0.0), (2, 0.02)):
        for i in range(1, runs + 1):
            value = 1.0 - sign * gain + rng.gauss(0, 0.002)
            there = value + 0.1 + sign * (lost if number == 2 else 0.0) + rng.gauss(0, 0.0003)
            things.append(measured(f"e000{number}.{i}", value, hidden=there))
    return history(*things, goal=goal)  # type: ignore[arg-type]


@pytest.mark.parametrize("goal", list(Goal))
def test_a_gain_that_holds_on_the_second_split_is_no_overfitting(goal: Goal) -> None:
    gap = gap_of(night(0.0, goal=goal))
    assert gap is not None
    assert gap.gain == pytest.approx(0.02, abs=0.003)
    assert gap.hidden_gain == pytest.approx(gap.gain, abs=4 * gap.error)
    assert gap.error == pytest.approx(0.0003 * (2 / 6) ** 0.5, rel=0.5)
    assert not gap.overfitted


@pytest.mark.parametrize("goal", list(Goal))
def test_a_gain_that_is_lost_on_the_second_split_is_overfitting(goal: Goal) -> None:
    past = night(0.005, goal=goal)
    gap = gap_of(past)
    assert gap is not None
    assert gap.overfitted
    assert gap.gain - gap.hidden_gain == pytest.approx(0.005, abs=4 * gap.error)
    (line,) = trust_of(past, self_reported=False).lines()
    assert line.startswith("overfitted: the best's gain of ")


def test_few_false_alarms_in_many_nights() -> None:
    gaps = [gap_of(night(0.0, runs=4, seed=seed)) for seed in range(400)]
    assert sum(gap.overfitted for gap in gaps if gap) <= 6


def test_without_a_second_split_nothing_is_said_of_it() -> None:
    things = [experiment(1, Verdict.KEEP), experiment(2, Verdict.KEEP, judged_at=9.0)]
    past = history(*things, run("e0001.1", 1.0), run("e0002.1", 0.9))
    assert gap_of(past) is None
    assert not list(trust_of(past, self_reported=False).lines())
    assert gap_of(history(experiment(1, Verdict.KEEP), measured("e0001.1", 1.0, hidden=1.1))) is None


def test_one_run_without_a_sandbox_marks_the_study() -> None:
    things = [experiment(1, Verdict.KEEP), measured("e0001.1", 1.0, unsandboxed="")]
    assert not list(trust_of(history(*things), self_reported=False).lines())
    things.append(measured("e0001.2", 1.0, unsandboxed="no Landlock on Darwin"))
    things.append(measured("e0001.3", 1.0, unsandboxed=""))
    (line,) = trust_of(history(*things), self_reported=False).lines()
    assert line == "unsandboxed: no Landlock on Darwin; edited code can reach what its user can"


def test_a_score_of_the_codes_own_is_said_to_be_one() -> None:
    (line,) = trust_of(history(experiment(1)), self_reported=True).lines()
    assert line.startswith("score self-reported, code unsandboxed")


def test_flags_of_code_and_of_runs_are_told_once_an_experiment() -> None:
    things = [
        experiment(1, Verdict.KEEP),
        experiment(2, flags=("imports ctypes (line 3)",)),
        experiment(3),
        measured("e0002.1", 1.0, flags=("trained 24.0 s in a budget of 20 s",)),
        measured("e0003.1", 1.0, flags=("trained 24.0 s in a budget of 20 s",)),
    ]
    trust = trust_of(history(*things), self_reported=False)
    assert trust.flagged == ("e0002", "e0003")
    assert list(trust.lines()) == ["2 flagged for you to look at, e0003 last: `autoresearch show e0003`"]
