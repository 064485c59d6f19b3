"""What results add up to: effects, families, predictions, and what is worth doing again."""

from __future__ import annotations

from typing import Any

import pytest

from autoresearch.experiment import Experiment, FailureKind, Goal, Purpose, Run, RunState, Verdict
from autoresearch.findings import Findings, as_of
from autoresearch.history import History
from builders import baseline, experiment, history, run

BASE = baseline(1.000, 1.002, 1.001)  # sigma .001; a difference of 1 and 3 runs has an sd of .00115
DISCARD = Verdict.DISCARD


def idea(number: int, value: float | None, verdict: Verdict | None = DISCARD, **changes: Any) -> list[Any]:
    made: list[Experiment | Run] = [experiment(number, verdict, **changes)]
    if value is not None:
        made.append(run(f"e{number:04d}.1", value))
    return made


def moved(*more: Any) -> History:
    """Return a study whose base moved from e0001 to e0002, with more experiments."""
    kept = [
        *idea(2, 0.990, Verdict.KEEP),
        *(run(f"e0002.{n}", 0.990 + n / 1000, purpose=Purpose.CONFIRM) for n in (2, 3)),
    ]
    return history(*BASE, *kept, *more)


class TestEffects:
    def test_an_effect_is_against_the_parent_on_the_same_kind(self) -> None:
        past = history(
            *BASE,
            *idea(2, 0.998),
            experiment(3, DISCARD),
            run("e0003.1", 0.7, kind="H100"),
            *idea(4, None, Verdict.CRASH),
        )
        found = Findings(past)
        assert found.effects["e0002"].delta == pytest.approx(-0.003)
        assert found.effects["e0002"].error == pytest.approx(0.001 * (1 + 1 / 3) ** 0.5)
        assert set(found.effects) == {"e0002"}, "e0003 ran where its parent never did"

    def test_the_last_result_is_the_moment_it_tells_of(self) -> None:
        assert as_of(history(experiment(1))) == 0.0
        ended = run("e0001.1", 1.0, ended_at=70.0)
        running = run("e0002.1", state=RunState.RUNNING, started_at=90.0)
        past = history(experiment(1), ended, experiment(2), running)
        assert as_of(past) == 70.0
        assert as_of(history(experiment(1, Verdict.KEEP, judged_at=80.0), ended)) == 80.0


class TestFamilies:
    def test_members_are_counted_by_what_they_touch(self) -> None:
        past = history(
            *BASE,
            *idea(2, 0.999, touches=("RATE",), constants={"RATE": 0.5}),
            *idea(3, 1.005, touches=("RATE", "build"), constants={"RATE": 0.9}),
            *idea(4, None, Verdict.CRASH, touches=("build",)),
            *idea(5, 0.995, Verdict.KEEP, touches=("build",)),
        )
        build, rate = Findings(past).families()
        assert (rate.name, rate.tried, rate.kept, rate.crashed, rate.values) == ("RATE", 2, 0, 0, (0.5, 0.9))
        assert (rate.mean_effect, rate.best_effect) == (pytest.approx(0.001), pytest.approx(-0.002))
        assert (build.name, build.tried, build.kept, build.crashed, build.last) == ("build", 3, 1, 1, "e0005")

    def test_without_a_note_the_constants_that_differ_tell(self) -> None:
        one = experiment(1, Verdict.KEEP, constants={"A": 1.0, "B[0]": 2.0, "B[1]": 3.0})
        other = experiment(2, DISCARD, constants={"A": 1.0, "B[0]": 9.0, "B[1]": 8.0})
        assert [family.name for family in Findings(history(one, other)).families()] == ["B"]

    @pytest.mark.parametrize(
        ("best", "kept", "dry"), [(1.0005, False, True), (0.95, False, False), (1.0, True, False)]
    )
    def test_a_family_is_exhausted_when_six_were_measured_and_none_helped(
        self, best: float, kept: bool, dry: bool
    ) -> None:
        ideas = [idea(n, 1.01, touches=("RATE",)) for n in range(3, 8)]
        last = idea(8, best, Verdict.KEEP if kept else DISCARD, touches=("RATE",))
        past = history(*BASE, *(thing for each in [*ideas, last] for thing in each))
        assert Findings(past).families()[0].exhausted is dry
        assert not Findings(history(*BASE, *(t for each in ideas for t in each))).families()[0].exhausted


class TestAgain:
    def test_a_winner_on_an_old_base_wants_rework_until_it_is_done(self) -> None:
        winner = idea(3, 0.992)
        assert Findings(moved(*winner)).rework() == ("e0003",)
        done = experiment(4, parent="e0002", reworks="e0003")
        assert Findings(moved(*winner, done)).rework() == ()
        assert Findings(history(*BASE, *winner)).rework() == (), "the base has not moved"

    def test_a_near_miss_is_worth_a_look_once_the_base_has_moved(self) -> None:
        near, far = idea(3, 1.0005), idea(4, 1.01)
        assert Findings(history(*BASE, *near, *far)).near() == ()
        found = Findings(moved(*near, *far))
        assert (found.near(), found.rework()) == (("e0003",), ())

    def test_the_best_come_first_and_the_list_is_bounded(self) -> None:
        winners = [thing for n in range(3, 23) for thing in idea(n, 0.99 - n / 10_000)]
        found = Findings(moved(*winners)).rework()
        assert found[0] == "e0022"
        assert len(found) == 8

    def test_where_higher_is_better_a_gain_is_a_rise(self) -> None:
        past = moved(*idea(3, 1.02), *idea(4, 0.99))
        risen = History(goal=Goal.MAXIMIZE, experiments=past.experiments, runs=past.runs)
        assert Findings(risen).rework() == ("e0003",)


def test_predictions_are_compared_with_what_was_measured() -> None:
    past = history(
        *BASE,
        *idea(2, 0.999, expected=-0.004),
        *idea(3, 1.005, expected=-0.002),
        *idea(4, None, Verdict.CRASH, expected=-0.5),
        run("e0004.1", failure=FailureKind.SHAPE),
        *idea(5, 0.9),
    )
    found = Findings(past).predictions()
    assert (found.made, found.sign_held) == (2, 1)
    assert found.mean_expected == pytest.approx(-0.003)
    assert found.mean_measured == pytest.approx(0.001)
    assert Findings(history(*BASE)).predictions().made == 0
