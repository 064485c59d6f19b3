"""Keep what beats the noise twice, on the same worker kind; say why of everything."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from autoresearch.config import Judging
from autoresearch.experiment import FailureKind, Goal, Purpose, RunState, Verdict, Worker
from autoresearch.judging.policy import ConfirmPolicy, Decide, Order
from autoresearch.judging.statistics import best_estimate, estimate, noise
from builders import baseline, experiment, history, run

POLICY = ConfirmPolicy(Judging())


def decide(*things: object, goal: Goal = Goal.MINIMIZE) -> list[Decide | Order]:
    return list(POLICY.decide(history(*things, goal=goal)))  # type: ignore[arg-type]


def test_noise_is_the_pooled_spread_of_repeats_on_one_kind() -> None:
    past = history(
        *baseline(1.0, 1.2),
        run("e0001.3", 9.0, kind="H100", purpose=Purpose.CALIBRATE),
        experiment(2),
        run("e0002.1", 5.0),
        run("e0002.2", 1.0, purpose=Purpose.CONFIRM),
        run("e0002.3", 1.4, purpose=Purpose.CONFIRM),
    )
    found = noise(past, "cpu")
    assert found is not None
    assert found.df == 2
    assert found.sigma == pytest.approx(((0.02 + 0.08) / 2) ** 0.5)
    assert noise(past, "H100") is None


def test_an_estimate_prefers_runs_that_were_not_selected() -> None:
    past = history(
        *baseline(1.0, 1.2), experiment(2), run("e0002.1", 0.5), run("e0002.2", 0.9, purpose=Purpose.CONFIRM)
    )
    assert estimate(past, "e0002", "cpu").mean == 0.9  # type: ignore[union-attr]
    assert best_estimate(past, "e0001").n == 2  # type: ignore[union-attr]
    assert best_estimate(past, "e0099") is None


def test_the_baseline_is_judged_when_all_its_runs_are_over() -> None:
    open_run = run("e0001.3", purpose=Purpose.BASELINE)
    assert decide(*baseline(1.0, 1.1, verdict=None), open_run) == []
    (verdict,) = decide(*baseline(1.0, 1.1, 1.2, verdict=None))
    assert isinstance(verdict, Decide)
    assert (verdict.verdict, verdict.reason) == (Verdict.KEEP, "baseline, 3 runs")


def test_a_baseline_that_fails_is_a_crash_with_its_reason() -> None:
    broken = [run(f"e0001.{i}", failure=FailureKind.IMPORT, purpose=Purpose.BASELINE) for i in (1, 2, 3)]
    (verdict,) = decide(experiment(1), *broken)
    assert isinstance(verdict, Decide)
    assert (verdict.verdict, verdict.reason) == (Verdict.CRASH, "import: it broke")


def test_one_failed_run_of_the_baseline_is_survived() -> None:
    failed = run("e0001.3", failure=FailureKind.KILLED, purpose=Purpose.BASELINE)
    (verdict,) = decide(*baseline(1.0, 1.1, verdict=None), failed)
    assert isinstance(verdict, Decide)
    assert verdict.verdict is Verdict.KEEP


@pytest.mark.parametrize("value", [1.2, 1.0, 0.95])
def test_what_does_not_beat_the_noise_is_discarded(value: float) -> None:
    (verdict,) = decide(*baseline(0.9, 1.0, 1.1), experiment(2), run("e0002.1", value))
    assert isinstance(verdict, Decide)
    assert verdict.verdict is Verdict.DISCARD
    assert "noise" in verdict.reason


def test_a_promising_screen_is_run_once_more_on_the_same_kind() -> None:
    (order,) = decide(*baseline(0.9, 1.0, 1.1), experiment(2), run("e0002.1", 0.8))
    assert isinstance(order, Order)
    assert (order.purpose, order.kind, order.experiment) == (Purpose.CONFIRM, "cpu", "e0002")
    assert "-0.20000 against e0001" in order.why


@pytest.mark.parametrize(("second", "verdict"), [(0.8, Verdict.KEEP), (0.99, Verdict.DISCARD)])
def test_the_confirmation_decides(second: float, verdict: Verdict) -> None:
    confirm = run("e0002.2", second, purpose=Purpose.CONFIRM)
    (found,) = decide(*baseline(0.9, 1.0, 1.1), experiment(2), run("e0002.1", 0.8), confirm)
    assert isinstance(found, Decide)
    assert found.verdict is verdict


def test_where_higher_is_better_the_signs_turn() -> None:
    past = (*baseline(0.9, 1.0, 1.1), experiment(2), run("e0002.1", 1.3), experiment(3), run("e0003.1", 0.7))
    order, discard = decide(*past, goal=Goal.MAXIMIZE)
    assert isinstance(order, Order)
    assert order.experiment == "e0002"
    assert isinstance(discard, Decide)
    assert (discard.experiment, discard.verdict) == ("e0003", Verdict.DISCARD)


def test_a_failed_run_is_a_crash_with_its_typed_reason() -> None:
    (verdict,) = decide(*baseline(1.0, 1.1), experiment(2), run("e0002.1", failure=FailureKind.OUT_OF_MEMORY))
    assert isinstance(verdict, Decide)
    assert (verdict.verdict, verdict.reason) == (Verdict.CRASH, "out of memory: it broke")


def test_a_run_on_another_kind_is_compared_there_or_nowhere() -> None:
    """A result on H200 waits until the best has been measured on H200 too."""
    past = (*baseline(0.9, 1.0, 1.1), experiment(2), run("e0002.1", 0.1, kind="H200"))
    (order,) = decide(*past)
    assert isinstance(order, Order)
    assert (order.experiment, order.purpose, order.kind) == ("e0001", Purpose.CALIBRATE, "H200")
    waiting = run("e0001.4", purpose=Purpose.CALIBRATE, state=RunState.RUNNING, kind="H200")
    assert decide(*past, waiting) == []
    measured = run("e0001.4", 0.1, purpose=Purpose.CALIBRATE, kind="H200")
    again, verdict = decide(*past, measured)
    assert isinstance(again, Order), "one run of the best on H200 is measured once more"
    assert isinstance(verdict, Decide)
    assert verdict.verdict is Verdict.DISCARD, "it was hardware alone"


def test_a_new_best_is_measured_once_more() -> None:
    past = (
        *baseline(0.9, 1.0, 1.1),
        experiment(2, Verdict.KEEP),
        run("e0002.1", 0.5),
        run("e0002.2", 0.6, purpose=Purpose.CONFIRM),
    )
    (order,) = decide(*past)
    assert isinstance(order, Order)
    assert (order.experiment, order.purpose) == ("e0002", Purpose.CALIBRATE)
    assert decide(*past, run("e0002.3", 0.6, purpose=Purpose.CALIBRATE)) == []
    failed = run("e0002.3", failure=FailureKind.KILLED, purpose=Purpose.CALIBRATE)
    assert decide(*past, replace(failed, kind="cpu")) == [], (
        "a calibration that failed is not asked for again"
    )


def test_at_most_one_keep_at_a_time_since_a_keep_moves_the_base() -> None:
    winners = [
        thing
        for n in (2, 3)
        for thing in (experiment(n), run(f"e000{n}.1", 0.5), run(f"e000{n}.2", 0.5, purpose=Purpose.CONFIRM))
    ]
    decisions = decide(*baseline(0.9, 1.0, 1.1), *winners)
    assert [d.verdict for d in decisions if isinstance(d, Decide)] == [Verdict.KEEP]


def test_confirmations_go_before_screens_and_kinds_are_respected() -> None:
    screen, confirm = run("e0002.1"), run("e0003.2", purpose=Purpose.CONFIRM, created_at=99.0)
    bound = replace(run("e0004.1", purpose=Purpose.BASELINE), kind="H200")
    past = history()
    assert POLICY.next_run(past, [screen, confirm, bound], Worker(name="cpu-01", kind="cpu")) == confirm
    assert POLICY.next_run(past, [screen, confirm, bound], Worker(name="h200-01", kind="H200")) == bound
    assert POLICY.next_run(past, [bound], Worker(name="cpu-01", kind="cpu")) is None


def test_identical_code_is_seldom_kept() -> None:
    """Planted 400 times, code without any effect is kept in well under one case of ten."""
    rng = random.Random(1)
    kept = 0
    for _ in range(400):
        base = baseline(*(rng.gauss(1, 0.01) for _ in range(3)))
        screen = (experiment(2), run("e0002.1", rng.gauss(1, 0.01)))
        if isinstance(decide(*base, *screen)[0], Order):
            confirm = run("e0002.2", rng.gauss(1, 0.01), purpose=Purpose.CONFIRM)
            (verdict,) = decide(*base, *screen, confirm)
            assert isinstance(verdict, Decide)
            kept += verdict.verdict is Verdict.KEEP
    assert kept < 40, kept


def test_a_real_effect_is_kept() -> None:
    rng = random.Random(2)
    kept = 0
    for _ in range(100):
        past = [
            *baseline(*(rng.gauss(1, 0.01) for _ in range(3))),
            experiment(2),
            run("e0002.1", rng.gauss(0.95, 0.01)),
            run("e0002.2", rng.gauss(0.95, 0.01), purpose=Purpose.CONFIRM),
        ]
        (verdict,) = decide(*past)
        assert isinstance(verdict, Decide)
        kept += verdict.verdict is Verdict.KEEP
    assert kept > 90, kept


GONE = RunState.CANCELLED


def test_a_screen_that_was_cancelled_says_nothing_of_what_was_asked_for_again() -> None:
    past = [*baseline(2.0, 2.01, 2.02), experiment(2), run("e0002.1", state=GONE), run("e0002.2", 1.5)]
    (order,) = decide(*past)
    assert isinstance(order, Order)
    assert order.purpose is Purpose.CONFIRM


def test_a_confirmation_more_that_was_cancelled_takes_no_win_away() -> None:
    confirmed = run("e0002.2", 1.5, purpose=Purpose.CONFIRM)
    more = run("e0002.3", state=GONE, purpose=Purpose.CONFIRM, cancelled_by="ann")
    (kept,) = decide(*baseline(2.0, 2.01, 2.02), experiment(2), run("e0002.1", 1.5), confirmed, more)
    assert isinstance(kept, Decide)
    assert kept.verdict is Verdict.KEEP


def test_an_only_confirmation_that_was_cancelled_ends_the_experiment() -> None:
    gone = run("e0002.2", state=GONE, purpose=Purpose.CONFIRM, cancelled_by="ann")
    (dropped,) = decide(*baseline(2.0, 2.01, 2.02), experiment(2), run("e0002.1", 1.5), gone)
    assert isinstance(dropped, Decide)
    assert (dropped.verdict, dropped.reason) == (Verdict.DISCARD, "its confirmation was cancelled by ann")


def test_a_confirmation_on_another_kind_neither_confirms_nor_refutes() -> None:
    for elsewhere in (0.5, 3.0):
        other = run("e0002.2", elsewhere, purpose=Purpose.CONFIRM, kind="H200")
        (order,) = decide(*baseline(2.0, 2.01, 2.02), experiment(2), run("e0002.1", 1.5), other)
        assert isinstance(order, Order)
        assert (order.purpose, order.kind) == (Purpose.CONFIRM, "cpu")
