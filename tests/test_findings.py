"""What results add up to: effects, families, predictions, and what is worth doing again."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.experiment import Experiment, FailureKind, Goal, Purpose, Run, RunState, Verdict
from autoresearch.findings import MAX_NEAR, MAX_REWORK, Family, Findings, Predictions, as_of
from builders import baseline, experiment, history, run

BASE = baseline(1.0, 1.02)  # mean 1.01, sigma .01414; one run against it: noise .01732
MOVED = [experiment(2, Verdict.KEEP), run("e0002.1", 0.9, purpose=Purpose.CONFIRM)]


def tried(number: int, value: float, verdict: Verdict | None = Verdict.DISCARD, **changes: Any) -> list[Any]:
    return [experiment(number, verdict, **changes), run(f"e{number:04d}.1", value)]


def found(*things: Experiment | Run, goal: Goal = Goal.MINIMIZE) -> Findings:
    return Findings(history(*things, goal=goal))


# -- effects --------------------------------------------------------------------------------------


def test_an_effect_is_the_difference_from_the_parent_and_as_noisy_as_both() -> None:
    findings = found(*BASE, *tried(2, 0.97))
    effect = findings.effects["e0002"]
    assert effect.delta == pytest.approx(-0.04)
    assert effect.error == effect.noise == pytest.approx(0.01414 * 1.5**0.5, rel=1e-3)
    assert findings.error(findings.values["e0001"]) == pytest.approx(0.01)
    assert "e0001" not in findings.effects


def test_an_effect_is_measured_on_one_kind() -> None:
    """The kind an experiment is best known on, else another that its parent ran on too, else none."""
    things = [
        *baseline(1.0, 1.02, kind="H100"),
        *(experiment(2), run("e0002.1", 0.5, kind="H200"), run("e0002.2", 0.6, kind="H200")),
        run("e0002.3", 0.97, kind="H100"),
        *(experiment(3), run("e0003.1", 0.5, kind="H200")),
        *(experiment(4, parent="e0002"), run("e0004.1", 0.5, kind="H200")),
    ]
    findings = found(*things)
    assert findings.values["e0002"].kind == "H200"
    assert findings.effects["e0002"].delta == pytest.approx(-0.04)
    assert "e0003" not in findings.effects
    unknown = findings.effects["e0004"]
    assert unknown.delta == pytest.approx(-0.05)
    assert unknown.error is None, "nothing was repeated on H200"
    assert unknown.noise == pytest.approx(0.01414 * 1.5**0.5, rel=1e-3), "so H100 decides what counts"


def test_without_repeats_no_noise_is_known() -> None:
    effect = found(experiment(1, Verdict.KEEP), run("e0001.1", 1.0), *tried(2, 0.9)).effects["e0002"]
    assert (effect.error, effect.noise) == (None, None)


def test_progress_is_how_far_the_best_is_from_the_baseline() -> None:
    assert found(*BASE, *MOVED).progress() == pytest.approx(-0.11)
    assert found(*BASE).progress() == 0
    assert found(experiment(1)).progress() is None


# -- rework ---------------------------------------------------------------------------------------


def test_a_winner_on_an_old_base_is_wanted_again_until_it_is_done_anew() -> None:
    things = [*BASE, *MOVED, *tried(3, 0.95)]
    assert found(*things).rework() == ("e0003",)
    for verdict in (None, *Verdict):
        assert found(*things, experiment(4, verdict, parent="e0002", reworks=("e0003",))).rework() == ()


def test_what_is_done_anew_can_itself_be_wanted_again() -> None:
    anew = tried(4, 0.8, parent="e0002", reworks=("e0003",))
    later = [experiment(5, Verdict.KEEP, parent="e0002", judged_at=3.5), run("e0005.1", 0.7)]
    assert found(*BASE, *MOVED, *tried(3, 0.95), *anew, *later).rework() == ("e0004",)


@pytest.mark.parametrize(
    "things",
    [
        [*BASE, *tried(3, 0.95)],
        [*BASE, *MOVED, *tried(3, 0.95, judged_at=1.5)],
        [*BASE, *MOVED, *tried(3, 0.95, judged_at=2.0)],
        [*BASE, *MOVED, *tried(3, 0.87, parent="e0002")],
        [*BASE, *MOVED, *tried(3, 0.995)],
        [*BASE, *MOVED, *tried(3, 1.2), *tried(4, 0.95, parent="e0003")],
        [*BASE, *MOVED, experiment(3, Verdict.CRASH), run("e0003.1", failure=FailureKind.TIMEOUT)],
        [*BASE, *MOVED, *tried(3, 0.95, None), run("e0003.2", state=RunState.RUNNING)],
        [*BASE, *tried(2, 0.95), *tried(3, 0.8, Verdict.KEEP, parent="e0002")],
    ],
    ids=[
        "the base did not move",
        "it was judged against its parent",
        "in the turn in which the base moved",
        "its parent is the best",
        "within the noise",
        "its parent was never the base",
        "it crashed",
        "it is not over",
        "the best is built on it",
    ],
)
def test_other_experiments_are_not_wanted_again(things: list[Experiment | Run]) -> None:
    assert found(*things).rework() == ()


def test_a_winner_that_will_not_be_judged_is_wanted_again() -> None:
    assert found(*BASE, *MOVED, *tried(3, 0.95, None)).rework() == ("e0003",)


@pytest.mark.parametrize("goal", list(Goal))
def test_the_best_winners_come_first(goal: Goal) -> None:
    things = [
        *baseline(-goal.sign * 1.0, -goal.sign * 1.02),
        experiment(2, Verdict.KEEP),
        run("e0002.1", 9.0),
    ]
    for i in range(20):
        things += tried(3 + i, -goal.sign * (1.01 + (i * 7 % 20 + 4) / 100))
    order = sorted(range(20), key=lambda i: -(i * 7 % 20))
    assert found(*things, goal=goal).rework() == tuple(f"e{3 + i:04d}" for i in order[:MAX_REWORK])


# -- near misses ----------------------------------------------------------------------------------


def test_a_near_miss_is_told_once_the_base_has_moved() -> None:
    near = tried(3, 1.0, judged_at=1.5)
    assert found(*BASE, *near).near() == ()
    assert found(*BASE, *near, *MOVED).near() == ("e0003",)
    anew = experiment(4, parent="e0002", reworks=("e0003",))
    assert found(*BASE, *near, *MOVED, anew).near() == ()


def test_what_lost_to_its_own_parent_by_a_stricter_measure_is_near_too() -> None:
    findings = found(*BASE, *MOVED, *tried(3, 0.98, judged_at=1.5), *tried(4, 1.02), *tried(5, 1.009))
    assert (findings.near(), findings.rework()) == (("e0003", "e0005"), ())


def test_no_more_near_misses_than_can_be_told() -> None:
    things = [*BASE, *MOVED]
    for i in range(3, 30):
        things += tried(i, 1.01 - i / 10000)
    assert found(*things).near() == tuple(f"e{i:04d}" for i in range(29, 29 - MAX_NEAR, -1))


# -- families -------------------------------------------------------------------------------------


def test_a_family_is_what_touched_one_name() -> None:
    things = [
        *baseline(1.0, 1.0),
        *tried(2, 0.9, Verdict.KEEP, touches=("LR",), constants={"LR": 0.1}),
        *tried(3, 1.3, touches=("LR", "MLP.forward"), constants={"LR": 0.4}),
        *(experiment(4, Verdict.CRASH, touches=("LR",), constants={"LR": 0.4}), run("e0004.1")),
        experiment(5, touches=("MLP.forward",), constants={"LR": 0.2}),
    ]
    assert found(*things).families() == (
        Family(
            name="MLP.forward",
            tried=2,
            kept=0,
            crashed=0,
            mean_effect=pytest.approx(0.3),
            best_effect=pytest.approx(0.3),
            last="e0005",
        ),
        Family(
            name="LR",
            tried=3,
            kept=1,
            crashed=1,
            mean_effect=pytest.approx(0.1),
            best_effect=pytest.approx(-0.1),
            values=(0.1, 0.4),
            last="e0004",
        ),
    )


def test_the_best_effect_is_the_goals() -> None:
    things = [*baseline(1.0, 1.0), *tried(2, 0.9, touches=("LR",)), *tried(3, 1.3, touches=("LR",))]
    (family,) = found(*things, goal=Goal.MAXIMIZE).families()
    assert family.best_effect == pytest.approx(0.3)


def test_of_old_experiments_the_constants_tell_what_they_touch() -> None:
    first = experiment(1, Verdict.KEEP, constants={"LR": 0.1, "BETAS[0]": 0.8, "BETAS[1]": 0.9})
    others = [
        experiment(2, constants={"LR": 0.2, "BETAS[0]": 0.7, "BETAS[1]": 0.8}),
        experiment(3, constants={"LR": 0.1, "BETAS[0]": 0.8, "NEW": 1}),
        experiment(4),
        experiment(5, parent="e0009"),
    ]
    findings = found(first, *others)
    assert [findings.touches(e) for e in others] == [("BETAS", "LR"), ("BETAS", "NEW"), (), ()]


def test_a_family_is_exhausted_by_six_failures_of_which_none_looked_better() -> None:
    def exhausted(*values: float, verdict: Verdict = Verdict.DISCARD) -> bool:
        things: list[Experiment | Run] = list(BASE)
        for i, value in enumerate(values, 2):
            things += tried(i, value, verdict if i == 2 else Verdict.DISCARD, touches=("LR",))
        return found(*things).families()[0].exhausted

    assert exhausted(*[1.1] * 6)
    assert exhausted(*[1.0] * 6), "better, but not by more than the noise of a difference"
    assert not exhausted(*[1.1] * 5)
    assert not exhausted(*[1.1] * 5, 0.99), "beyond the noise"
    assert not exhausted(*[1.1] * 6, verdict=Verdict.KEEP)


def test_nothing_is_exhausted_while_the_noise_is_unknown() -> None:
    things: list[Experiment | Run] = [experiment(1, Verdict.KEEP), run("e0001.1", 1.0)]
    for i in range(2, 12):
        things += tried(i, 2.0, touches=("LR",))
    assert not found(*things).families()[0].exhausted


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(list(Verdict)), st.floats(0, 2)), max_size=30)
)
def test_families_count_every_experiment_once(ideas: list[tuple[str, Verdict, float]]) -> None:
    things: list[Experiment | Run] = list(BASE)
    for i, (name, verdict, value) in enumerate(ideas, 2):
        things.append(experiment(i, verdict, touches=(name,)))
        things += [run(f"e{i:04d}.1", value)] if verdict is not Verdict.CRASH else []
    families = found(*things).families()
    assert {f.name for f in families} == {name for name, _, _ in ideas}
    for family in families:
        mine = [(verdict, value) for name, verdict, value in ideas if name == family.name]
        deltas = [value - 1.01 for verdict, value in mine if verdict is not Verdict.CRASH]
        assert (family.tried, family.kept) == (len(mine), sum(v is Verdict.KEEP for v, _ in mine))
        assert family.crashed == len(mine) - len(deltas)
        if deltas:
            assert family.mean_effect == pytest.approx(sum(deltas) / len(deltas))
            assert family.best_effect == pytest.approx(min(deltas))


# -- predictions and time -------------------------------------------------------------------------


def test_predictions_are_compared_with_what_was_measured() -> None:
    things = [
        *baseline(1.0, 1.0),
        *tried(2, 0.9, expected=-0.02),
        *tried(3, 1.3, expected=-0.04),
        *tried(4, 0.8),
        *tried(5, 0.8, None, expected=-0.04),
        experiment(6, Verdict.CRASH, expected=-0.5),
    ]
    assert found(*things).predictions() == Predictions(
        made=2,
        sign_held=1,
        mean_expected=pytest.approx(-0.03),
        mean_measured=pytest.approx(0.1),
    )
    assert found(*BASE).predictions() == Predictions()


def test_the_last_result_is_a_measurement_a_failure_or_a_verdict() -> None:
    def moment(*things: Experiment | Run) -> float:
        return as_of(history(*things))

    assert moment() == moment(experiment(1), run("e0001.1", ended_at=9.0)) == 0
    assert moment(experiment(1), run("e0001.1", 1.0, ended_at=5.0), run("e0001.2", ended_at=9.0)) == 5
    assert moment(experiment(1), run("e0001.1", failure=FailureKind.SHAPE, ended_at=6.0)) == 6
    assert moment(experiment(1, Verdict.KEEP, judged_at=7.0), run("e0001.1", 1.0, ended_at=5.0)) == 7
