"""The real harness ends training early, by what it prints."""

from __future__ import annotations

import json

import pytest

from autoresearch.experiment import FailureKind
from autoresearch.judging.pruning import VARIABLE, curve_of, thresholds
from test_harness import Bench, bench, facts_of

__all__ = ["bench"]
pytestmark = pytest.mark.slow
FALLING = [(0.05 * i, 9.0 - 0.2 * i) for i in range(1, 21)]
LIMITS = thresholds({"e0001": [FALLING]})
# Uses its budget as training does and prints LOSS, in which `s` is the share of the budget.
PRINTS = """
budget, i = prepare.Budget("cpu"), 0
while budget.progress < 1.0:
    s, until = budget.progress, time.process_time() + 0.01
    while time.process_time() < until: pass
    print(f"\\rstep {i:05d} ({100 * s:.1f}%) | loss: {LOSS} | lrm: 1.00 ", end="", flush=True)
    i += 1
print()
leave()
"""


def printing(loss: str) -> str:
    return PRINTS.replace("LOSS", loss)


def test_a_hopeless_curve_is_ended_and_has_no_score(bench: Bench) -> None:
    assert LIMITS is not None
    code, report, log = bench.measure(
        printing("9.0 - 0.1 * s"), AUTORESEARCH_BUDGET_SECONDS="5", **{VARIABLE: LIMITS.document}
    )
    facts = facts_of(report)
    assert (code, report.measurement, facts["outcome"], facts["val_bpb"]) == (1, None, "pruned", None)
    assert facts["pruned"]["rule"] == "hopeless"
    assert 0.4 <= facts["pruned"]["share"] < 0.9
    assert facts["pruned"]["loss"] == pytest.approx(8.95, abs=0.1)
    assert report.failure is not None
    assert report.failure.kind is FailureKind.PRUNED
    assert "where e0001 had" in report.failure.message
    assert b"FAILED pruned: loss 8.9" in log
    assert b"(99" not in log


@pytest.mark.parametrize("limits", ["", "{broken", LIMITS.document if LIMITS else ""])
def test_a_good_curve_is_measured_and_reported_whatever_the_limits(bench: Bench, limits: str) -> None:
    body = printing("9.0 - 4 * s" if limits.endswith("}") else "9.0 - 0.1 * s")
    code, report, _ = bench.measure(body, AUTORESEARCH_BUDGET_SECONDS="4", **{VARIABLE: limits})
    facts = facts_of(report)
    assert (code, facts["outcome"], facts["pruned"]) == (0, "ok", None)
    assert thresholds({"e0001": [curve_of(facts)]}) is not None, "it can be a reference"


def test_a_nan_fails_as_before_and_also_where_the_code_goes_on(bench: Bench) -> None:
    gives_up = "print('step 00007 (1.0%) | loss: nan | x', flush=True)\nprint('FAIL')\nraise SystemExit(1)"
    for body, said in ((gives_up, "exit"), (printing("float('nan')"), "not_finite")):
        code, report, _ = bench.measure(body, AUTORESEARCH_BUDGET_SECONDS="5")
        assert (code, facts_of(report)["outcome"]) == (1, said)
        assert report.failure is not None
        assert report.failure.kind is FailureKind.NOT_FINITE


def test_nothing_that_is_printed_breaks_the_harness(bench: Bench) -> None:
    assert LIMITS is not None
    lines = [
        "step 1 (50.0%) | loss: 1e308 | ",
        "step 2 (50.0%) | loss: -1e308 | ",
        "step 999999999999 (999.9%) | loss: 0x1 | ",
        f"step {'9' * 400} (1.0%) | loss: {'1' * 400} | ",
        "step 3 (1e9%) | loss: | step 4 (",
        json.dumps({"outcome": "pruned"}),
    ]
    body = f"for line in {lines!r} * 50: print(line, end='\\r', flush=True)\ntime.sleep(2)\nleave()"
    code, report, _ = bench.measure(body, AUTORESEARCH_BUDGET_SECONDS="4", **{VARIABLE: LIMITS.document})
    assert code in {0, 1}
    assert facts_of(report)["outcome"] in {"ok", "not_finite"}
