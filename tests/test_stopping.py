"""What the next hour promises, when a search stops, and when the noise lets nobody decide."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch.actions import Ask, Finish, Request
from autoresearch.budget import Budget
from autoresearch.cli.run import Wishes, overridden, with_ceilings
from autoresearch.config import Judging, parse
from autoresearch.console import text
from autoresearch.experiment import Edit, Goal, Proposal, Purpose, RunState, Verdict
from autoresearch.history import History
from autoresearch.judging.policy import ConfirmPolicy
from autoresearch.judging.stopping import (
    MINIMUM,
    Doubt,
    Hour,
    Lookout,
    Outlook,
    Phase,
    Trial,
    believed,
    doubt,
    doubt_of,
    few,
    hour_of,
    outlook,
    outlook_of,
    resolution,
    runs_needed,
    sigma_of,
    trials_of,
    trials_of_table,
)
from autoresearch.plan import plan
from autoresearch.prior import read_results
from builders import baseline, experiment, history, run, snapshot
from lab import ROOT, Lab, set_x
from test_console import drawn, look

TABLES = Path(__file__).parent / "data" / "tables"
HOUR = Hour(experiments=10.0, workers=1)
NIGHT = Hour(experiments=114.0, workers=16, dollars=32.9)
FRUITLESS = Trial()

gains = st.lists(st.one_of(st.just(0.0), st.floats(0.1, 50.0)), max_size=150)


def trials(values: list[float], unit: float = 1.0) -> list[Trial]:
    return [Trial(gain=value * unit) for value in values]


# ---------------------------------------------------------------------------
# The next hour
# ---------------------------------------------------------------------------


def test_an_hour_after_nothing_promises_what_the_prior_says() -> None:
    """Three gains of four sigmas in 60 experiments, and ten experiments count for 60 (1 - exp(-1/6))."""
    seen = outlook([], 0.5, HOUR)
    assert seen.gain == pytest.approx(60 * (1 - 2.718281828 ** (-1 / 6)) * 3 * 4 * 0.5 / 60)
    assert seen.low < seen.gain < seen.high
    assert seen.phase is Phase.BROAD
    assert seen.worth == 0.5
    assert seen.missing == MINIMUM


def test_the_interval_is_that_of_a_ratio_of_gammas() -> None:
    """Gamma(3) over Gamma(4), against draws of it."""
    import numpy as np

    rng = np.random.default_rng(0)
    drawn = rng.gamma(3.0, size=200_000) / rng.gamma(4.0, size=200_000)
    seen = outlook([], 1.0, HOUR)
    low, high = np.quantile(drawn, [0.1, 0.9])
    assert seen.low / seen.gain == pytest.approx(low, rel=0.02)
    assert seen.high / seen.gain == pytest.approx(high, rel=0.02)


@given(gains, st.floats(1.0, 200.0), st.integers(1, 30))
def test_fruitless_experiments_never_raise_what_is_expected(
    before: list[float], per_hour: float, n: int
) -> None:
    hour = Hour(experiments=per_hour, workers=1)
    now, later = trials(before), trials([*before, *[0.0] * n])
    assert outlook(later, 1.0, hour).gain <= outlook(now, 1.0, hour).gain * (1 + 1e-12)


@given(gains)
def test_a_fresh_big_gain_raises_what_is_expected(before: list[float]) -> None:
    big = 1 + 4 * max([1.0, *before])
    assert outlook(trials([*before, big]), 1.0, HOUR).gain > outlook(trials(before), 1.0, HOUR).gain


@given(gains, st.floats(1e-4, 1e4))
def test_the_unit_of_the_metric_does_not_matter(before: list[float], unit: float) -> None:
    one, other = outlook(trials(before), 1.0, HOUR), outlook(trials(before, unit), unit, HOUR)
    for name in ("gain", "low", "high", "worth"):
        assert getattr(other, name) == pytest.approx(unit * getattr(one, name), rel=1e-6)
    assert (one.phase, one.chance) == (other.phase, pytest.approx(other.chance))
    assert one.stop == other.stop or one.high == pytest.approx(one.worth, rel=1e-6)


@given(st.lists(st.just(0.0), max_size=MINIMUM - 1), st.floats(0.1, 1e6))
def test_it_never_stops_before_the_minimum(before: list[float], worth: float) -> None:
    assert not outlook(trials(before), 1.0, HOUR, worth=worth).stop


@given(gains, st.floats(1.0, 200.0))
def test_the_same_experiments_have_the_same_outlook(before: list[float], per_hour: float) -> None:
    hour = Hour(experiments=per_hour, workers=1)
    assert outlook(trials(before), 1.0, hour) == outlook(trials(before), 1.0, hour)


def test_where_many_run_at_once_an_hour_must_have_been_tried_before_it_stops() -> None:
    assert outlook([FRUITLESS] * 113, 1.0, NIGHT, worth=1e9).missing == 1
    assert outlook([FRUITLESS] * 114, 1.0, NIGHT, worth=1e9).stop


def test_a_search_that_finds_nothing_stops_and_one_that_finds_enough_does_not() -> None:
    """At ten an hour, after 40 and before 120 fruitless ones; never with a gain of 5 sigmas every 20."""
    stops = [n for n in range(1, 200) if outlook([FRUITLESS] * n, 1.0, HOUR).stop]
    assert MINIMUM < stops[0] < 120
    assert stops == list(range(stops[0], 200)), "and it stays with that"
    busy = trials([0.0] * 19 + [5.0]) * 20
    assert not any(outlook(busy[:n], 1.0, HOUR).stop for n in range(1, len(busy)))


def test_phases_follow_each_other_and_do_not_flicker() -> None:
    """Gains get smaller and rarer; each phase is entered once."""
    found = trials([0.0] * 9 + [20.0]) * 8 + trials([0.0] * 14 + [4.0]) * 8 + trials([0.0]) * 200
    seen = [outlook(found[:n], 1.0, HOUR).phase for n in range(1, len(found) + 1)]
    changes = [after for before, after in pairwise(seen) if before is not after]
    assert seen[0] is Phase.BROAD
    assert changes == [Phase.REFINEMENT, Phase.DIMINISHING]


def test_diminishing_returns_are_left_only_with_a_margin() -> None:
    drought = trials([30.0] + [0.0] * 130)
    before = outlook(drought, 1.0, HOUR)
    assert before.phase is Phase.DIMINISHING
    small, big = (
        outlook([*drought, Trial(gain=1.0)], 1.0, HOUR),
        outlook([*drought, Trial(gain=20.0)], 1.0, HOUR),
    )
    assert small.phase is Phase.DIMINISHING
    assert big.phase is not Phase.DIMINISHING


def test_an_outlook_says_it_in_one_line() -> None:
    found = [Trial(gain=0.002)] * 40 + [FRUITLESS] * 100
    seen = outlook(found, 0.0005, NIGHT)
    assert str(seen).startswith("broad search: next hour expects -.0")
    assert str(seen).endswith(" for $33")
    assert "expects +" in str(replace(seen, sign=-1))
    assert str(replace(seen, hour=HOUR)).endswith("for 1 worker-hour")
    over = outlook([FRUITLESS] * 400, 0.0005, NIGHT)
    assert over.stop
    assert str(over) == f"diminishing returns, not worth it: next hour expects -{few(over.gain)} for $33"
    sixteen = replace(over, gain=0.00027, hour=replace(NIGHT, dollars=0.0))
    assert str(sixteen).endswith("next hour expects -.00027 for 16 worker-hours")
    assert str(outlook([FRUITLESS] * 12, 1.0, HOUR)).startswith("broad search: 12 of the 40 experiments")
    assert max(len(str(each)) for each in (seen, over, sixteen, outlook([], 1.0, HOUR))) <= 80


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0.0006, ".0006"), (0.000634, ".00063"), (0.02546, ".025"), (12.3, "12"), (0, "0"), (1, "1")],
)
def test_few_digits(number: float, shown: str) -> None:
    assert few(number) == shown


# ---------------------------------------------------------------------------
# What the noise hides
# ---------------------------------------------------------------------------


def test_a_noisy_machine_resolves_little_and_a_small_gain_takes_many_runs() -> None:
    assert resolution(0.009) == pytest.approx(0.0255, abs=1e-4)
    assert runs_needed(0.009, 0.002) == 162
    assert resolution(0.009, 162) == pytest.approx(0.002)
    said = Doubt(sigma=0.009, resolves=resolution(0.009), gain=0.002, runs=162)
    assert str(said) == "noise sigma .009: one run resolves .025, a gain of .002 would take 162 runs"


def test_it_refuses_to_decide_only_where_most_keeps_are_within_the_noise() -> None:
    hidden = [Trial(gain=0.0, claimed=0.01, error=0.042)] * 3
    clear = [Trial(gain=0.2, claimed=0.2, error=0.042)] * 3
    refused = doubt(hidden, 0.03, 1.1)
    assert refused is not None
    assert refused.runs == runs_needed(0.03, 0.0022)
    assert doubt([], 0.03, 1.1) == refused
    assert doubt([*hidden, *clear], 0.03, 1.1) is None
    assert doubt(hidden, 0.0005, 1.1) is None, "where the noise is small, runs can tell"
    assert doubt(hidden, 0.0, 1.1) is None
    assert doubt(hidden, 0.002, 1.1) is not None or doubt(hidden, 0.002, 1.1, most=5) is not None


@settings(deadline=None)
@given(st.floats(1e-6, 10), st.floats(1e-4, 10))
def test_so_many_runs_resolve_the_gain_they_are_needed_for(sigma: float, gain: float) -> None:
    assert resolution(sigma, runs_needed(sigma, gain)) <= gain * (1 + 1e-6)


def test_what_is_believed_of_a_gain_is_nothing_within_its_error_and_nearly_all_far_beyond() -> None:
    assert believed(0.5, 1.0) == 0.0
    assert believed(-2.0, 1.0) == 0.0
    assert believed(2.0, 1.0) == 1.5
    assert believed(10.0, 1.0) == pytest.approx(9.9)


# ---------------------------------------------------------------------------
# Public tables
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ec_rtx5070ti_pubmed_gpt41_r1", "ec_rtx5070ti_pubmed_sonnet46_r1"])
def test_on_the_noisy_public_tables_it_refuses_to_decide(name: str) -> None:
    rows = read_results((TABLES / f"{name}.tsv").read_text())
    refused = doubt(list(trials_of_table(rows, 0.03, 0.1)), 0.03, rows[0].value or 0.0)
    assert refused is not None
    assert 1400 < refused.runs < 1600


def test_on_the_public_h100_table_it_goes_on_and_gains_are_counted_once() -> None:
    rows = read_results((TABLES / "karpathy_h100_mar8.tsv").read_text())
    found = list(trials_of_table(rows, 0.0005, 348 / 3600))
    assert len(found) == 125
    assert sum(trial.claimed or 0.0 for trial in found) == pytest.approx(0.9979 - 0.969686)
    assert 0 < sum(trial.gain for trial in found) < 0.9979 - 0.969686
    assert doubt(found, 0.0005, 0.9979) is None
    hour = hour_of(found, 1)
    assert hour is not None
    assert hour.experiments == pytest.approx(3600 / 348)
    views = [outlook(found[:n], 0.0005, hour) for n in range(1, 126)]
    assert not any(view.stop for view in views)
    assert {view.phase for view in views} == {Phase.BROAD, Phase.REFINEMENT}


# ---------------------------------------------------------------------------
# A study's own history
# ---------------------------------------------------------------------------


def measured(
    n: int, *, kept: tuple[int, ...] = (), goal: Goal = Goal.MINIMIZE, hours: float = 0.1
) -> History:
    """A study of n experiments after its baseline; each one kept is better by .1, and measured twice."""
    took: dict[str, Any] = {"started_at": 0.0, "ended_at": 3600 * hours}
    things = [*baseline(2.00, 2.01, 1.99)]
    value = 2.0
    for i in range(2, n + 2):
        better = i in kept
        value -= 0.1 * goal.sign * better
        things.append(experiment(i, Verdict.KEEP if better else Verdict.DISCARD))
        things.append(run(f"e{i:04d}.1", value if better else value + 0.05 * goal.sign, **took))
        if better:
            things += [
                run(f"e{i:04d}.{k}", value + 0.01 * (k - 3), purpose=Purpose.CONFIRM, **took)
                for k in (2, 3, 4)
            ]
    return history(*things, goal=goal)


@pytest.mark.parametrize("goal", list(Goal))
def test_the_trials_of_a_study_are_its_verdicts_with_what_is_believed_of_each(goal: Goal) -> None:
    past = measured(6, kept=(4,), goal=goal)
    found = trials_of(past)
    assert [trial.gain > 0 for trial in found] == [False, False, True, False, False, False]
    assert found[2].claimed == pytest.approx(0.1)
    assert found[2].error == pytest.approx(0.01 * (2 / 3) ** 0.5)
    assert found[2].gain == pytest.approx(believed(0.1, found[2].error))
    assert (found[0].hours, found[2].hours) == (pytest.approx(0.1), pytest.approx(0.4))
    assert sigma_of(past) == pytest.approx(0.01)
    seen = outlook_of(past, 2, 4.0, None)
    assert seen is not None
    assert seen.sign == goal.sign
    assert seen.hour.experiments == pytest.approx(2 * 6 / 0.9)


def test_before_noise_and_cost_are_known_nothing_is_said() -> None:
    assert outlook_of(history(*baseline(1.0)), 2, 0.0, None) is None
    assert outlook_of(measured(0), 2, 0.0, None) is None
    assert doubt_of(history(*baseline(1.0)), 1.0, None) is None
    assert hour_of([Trial(hours=0.1)], 0) is None


def test_a_small_budget_on_a_noisy_machine_is_told_what_it_cannot_decide() -> None:
    past = history(*baseline(1.691, 1.700, 1.682))
    said = doubt_of(past, 1.691, 12)
    assert str(said) == "noise sigma .009: one run resolves .025, a gain of .0034 would take 57 runs"
    assert doubt_of(history(*baseline(1.6910, 1.6911, 1.6909)), 1.691, 12) is None


def test_a_lookout_looks_anew_when_another_experiment_was_judged() -> None:
    eyes = Lookout(None)
    first = eyes.look(measured(5), 2, 0.0)
    assert first is not None
    assert eyes.look(measured(5), 2, 0.0) is first
    later = eyes.look(measured(6), 2, 0.0)
    assert later is not None
    assert (first.tried, later.tried) == (5, 6)


# ---------------------------------------------------------------------------
# The end of a study
# ---------------------------------------------------------------------------


def over(**changes: Any) -> Outlook:
    return replace(outlook([FRUITLESS] * 200, 0.01, HOUR), **changes)


POLICY = ConfirmPolicy(Judging())
IDEA = Proposal(hypothesis="h", edits=(Edit(old="a", new="b"),), parent="e0001", author="a", number=1)


def test_a_study_whose_next_hour_is_not_worth_it_asks_and_admits_nothing_and_ends() -> None:
    past = measured(45)
    assert over().stop
    end = plan(snapshot(past, outlook=over(), proposals=(IDEA,), checked={1: True}), POLICY)
    assert end == [Finish(reason=str(over()), complete=True)]
    for going in (None, over(high=1.0)):
        asked = plan(snapshot(past, outlook=going), POLICY)
        assert [type(action) for action in asked] == [Ask]


def test_what_is_under_way_is_finished_before_the_end() -> None:
    past = measured(45)
    running = history(
        *past.experiments.values(),
        *past.all_runs(),
        experiment(60),
        run("e0060.1", state=RunState.RUNNING),
    )
    assert plan(snapshot(running, outlook=over(), jobs={}), POLICY) == []
    queued = history(*past.experiments.values(), *past.all_runs(), experiment(60), run("e0060.1"))
    actions = plan(snapshot(queued, outlook=over()), POLICY)
    assert [type(action).__name__ for action in actions] == ["Submit"], (
        "a run that waits is run, and no idea asked"
    )
    assert plan(snapshot(past, outlook=over(), asked=1), POLICY) == [], "an answer under way is received"


def test_a_ceiling_and_a_request_go_before_the_outlook() -> None:
    past = measured(45)
    stopped = plan(snapshot(past, outlook=over(), request=Request.DRAIN), POLICY)
    assert stopped == [Finish(reason="stopped by request", complete=False)]


@pytest.mark.parametrize("asked", [True, False])
def test_a_study_stops_by_itself_only_where_that_was_asked_for(lab: Lab, asked: bool) -> None:
    config = lab.config(budget=Budget(until_ceiling=asked))
    study = lab.study(config)
    dispatcher = lab.dispatcher([], config, study)
    found = dispatcher._outlook(measured(45), snapshot(measured(45)).workers)
    assert (found is not None) == asked
    study.close()


@pytest.mark.slow
def test_a_real_study_stops_by_itself_when_an_hour_must_promise_more(lab: Lab) -> None:
    """Its training takes milliseconds, so an hour holds more than was tried: it goes on to its ceiling."""
    budget = Budget(experiments=3, stop_below=1e9, until_ceiling=True)
    study, finish = lab.run([set_x(1.0 + i / 10) for i in range(1, 6)], lab.config(budget=budget))
    assert finish.reason == "budget reached: experiments, 3 of 3"
    study.close()


def test_until_ceiling_on_a_command_line_holds_until_it_is_taken_back(lab: Lab) -> None:
    (lab.folder / "autoresearch.yaml").write_text("budget: {experiments: 3}\n")
    study, config = lab.study(), lab.config(budget=Budget(experiments=3))
    for said, holds in ((None, False), (True, True), (None, True), (False, False), (None, False)):
        wishes = Wishes(until_ceiling=said)
        assert with_ceilings(study, config, wishes).budget == Budget(experiments=3, until_ceiling=holds)
        assert overridden(config, wishes).budget.until_ceiling == bool(said)
    study.close()


def test_what_an_hour_must_promise_and_until_ceiling_are_configured() -> None:
    found = parse({"budget": {"stop_below": 0.001, "until_ceiling": True}}).budget
    assert found == Budget(stop_below=0.001, until_ceiling=True)


# ---------------------------------------------------------------------------
# What is seen of it
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("goal", list(Goal))
def test_status_and_the_screen_say_what_the_next_hour_expects_and_what_the_noise_hides(goal: Goal) -> None:
    past = measured(45, kept=(4,), goal=goal)
    hidden = doubt_of(history(*baseline(1.691, 1.700, 1.682)), 1.691, 12)
    seen = look(outlook=outlook_of(past, 16, 32.9, None), doubt=hidden)
    lines = text.status_lines(seen)
    assert max(len(line) for line in lines) <= 80
    (promised,) = [line for line in lines if "next hour expects" in line]
    sign = "-" if goal is Goal.MINIMIZE else "+"
    assert promised.startswith("broad search: next hour expects " + sign)
    assert promised.endswith("for $33")
    assert "noise sigma .009: one run resolves .025, a gain of .0034 would take 57 runs" in lines
    screen = drawn(seen, 80, 40)
    assert any(line.startswith("phase   broad search: next hour") for line in screen)
    assert "noise   sigma .009: one run resolves .025, a gain of .0034 would take 57 runs" in screen


@pytest.mark.slow
def test_status_as_json_has_the_figures(lab: Lab, cli: Any) -> None:
    (lab.folder / "autoresearch.yaml").write_text(
        "target: {editable: [train.py], protected: [fake_training.py], score: log, profile: cpu}\n"
    )
    study, _ = lab.run([set_x(1.5)])
    study.close()
    document = json.loads(cli("status", "--json", cwd=lab.folder).stdout)
    assert set(document["outlook"]) >= {"phase", "gain", "low", "high", "worth", "dollars", "stop"}
    assert document["outlook"]["phase"] == "broad search"
    assert not document["outlook"]["stop"]
    assert document["doubt"] is None or document["doubt"]["runs"] > 1
    said = cli("status", "--no-json", cwd=lab.folder).stdout
    assert "broad search: 1 of the 40 experiments that tell what an hour promises" in said


@pytest.mark.slow
def test_the_replay_of_the_public_tables_is_one_command() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "stopping.py"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.count("refuses to decide") == 2
    assert "karpathy_h100_mar8\n    125 experiments, sigma .0005: goes on" in done.stdout
