"""Rows, figures and the upstream results.tsv."""

from __future__ import annotations

import csv
import io

import pytest

from autoresearch.budget import Budget, Usage, may_start, room_for_experiments
from autoresearch.experiment import FailureKind, Goal, Prior, Purpose, RunState, Verdict
from autoresearch.report import overview, results, results_tsv
from builders import baseline, experiment, history, run

PAST = (
    *baseline(1.0, 1.2),
    experiment(2, Verdict.KEEP, hypothesis="wide\tr\n\x1b[31m model"),
    run("e0002.1", 0.5),
    run("e0002.2", 0.7, purpose=Purpose.CONFIRM),
    experiment(3, Verdict.CRASH),
    run("e0003.1", failure=FailureKind.OUT_OF_MEMORY),
    experiment(4),
    run("e0004.1", state=RunState.RUNNING),
)


def test_the_best_comes_first_and_what_has_no_value_last() -> None:
    rows = results(history(*PAST))
    assert [r.experiment for r in rows] == ["e0002", "e0001", "e0003", "e0004"]
    assert rows[0].delta == pytest.approx(-0.4)
    assert rows[1].delta is None
    assert rows[0].runs == 2


def test_where_higher_is_better_the_order_turns() -> None:
    assert results(history(*PAST, goal=Goal.MAXIMIZE))[0].experiment == "e0001"


def test_a_delta_is_taken_on_the_same_kind_only() -> None:
    rows = results(
        history(*baseline(1.0, 1.2), experiment(2, Verdict.DISCARD), run("e0002.1", 0.5, kind="H200"))
    )
    assert next(r for r in rows if r.experiment == "e0002").delta is None


def test_results_tsv_is_what_upstream_tools_read() -> None:
    text = results_tsv(history(*PAST))
    rows = list(csv.DictReader(io.StringIO(text), delimiter="\t"))
    assert list(rows[0]) == ["commit", "val_bpb", "memory_gb", "status", "description"]
    assert [(r["status"], r["val_bpb"]) for r in rows] == [
        ("keep", "1.100000"),
        ("keep", "0.700000"),
        ("crash", "0.000000"),
    ]
    assert rows[0]["description"] == "idea 1"
    assert all(len(r["commit"]) == 7 for r in rows)
    assert rows[1]["description"] == "wide r [31m model"


def test_earlier_results_come_before_the_baseline_as_upstream_writes_them() -> None:
    priors = [
        Prior(commit="a" * 40, value=0.9979, memory_gb=44.04, status="keep", description="baseline"),
        Prior(commit="exp12", value=None, memory_gb=None, status="crash", description="too wide"),
    ]
    lines = results_tsv(history(*PAST), priors).splitlines()
    assert lines[1:3] == [
        "aaaaaaa\t0.997900\t44.0\tkeep\tbaseline",
        "exp12\t0.000000\t0.0\tcrash\ttoo wide",
    ]
    assert [lines[0], *lines[3:]] == results_tsv(history(*PAST)).splitlines()


def test_what_was_judged_without_a_value_and_is_no_crash_is_left_out() -> None:
    gone = [experiment(5, Verdict.DISCARD), run("e0005.1", state=RunState.CANCELLED)]
    assert results_tsv(history(*PAST, *gone)) == results_tsv(history(*PAST))


def test_figures_per_hour_and_the_useful_share() -> None:
    timed = [
        run(f"e0001.{i}", 1.0, purpose=Purpose.BASELINE, submitted_at=100.0 * i, ended_at=100.0 * i + 80)
        for i in range(2)
    ]
    found = overview(history(experiment(1, Verdict.KEEP), *timed), "t", workers=1, now=200.0)
    assert found.runs_per_hour == pytest.approx(36)
    assert found.useful == pytest.approx(0.8)
    assert found.best is not None
    assert found.best.experiment == "e0001"


def test_an_empty_study_has_no_figures() -> None:
    found = overview(history(experiment(1)), "t", workers=2, now=0.0)
    assert (found.best, found.runs_per_hour, found.useful, found.noise) == (None, None, None, None)


def test_ceilings_count_what_is_in_flight() -> None:
    usage = Usage(experiments=3, hours=7.9, gpu_dollars=5.0, reserved_dollars=4.0)
    assert room_for_experiments(Budget(experiments=4), usage) == 1
    assert room_for_experiments(Budget(experiments=2), usage) == 0
    assert room_for_experiments(Budget(), usage) == float("inf")
    assert may_start(Budget(hours=8), usage, worst_hours=0.2, worst_dollars=0) == "hours"
    assert may_start(Budget(gpu_dollars=10), usage, worst_hours=0.1, worst_dollars=1.5) == "gpu_dollars"
    assert may_start(Budget(gpu_dollars=10, hours=8), usage, worst_hours=0.1, worst_dollars=1.0) is None
