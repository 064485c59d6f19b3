"""Runs that cannot win are ended early, and only those."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.brief import Brief, build_brief
from autoresearch.budget import Budget, Usage
from autoresearch.config import Judging
from autoresearch.experiment import Edit, Failure, FailureKind, Proposal, Purpose, Run, RunState, Verdict
from autoresearch.judging.policy import ConfirmPolicy, Decide
from autoresearch.judging.posterior import PosteriorPolicy
from autoresearch.judging.pruning import (
    GRID,
    VARIABLE,
    Curve,
    Rule,
    Thresholds,
    comparable,
    curve_of,
    loss_at,
    pruned,
    thresholds,
)
from autoresearch.logparse import parse_report
from autoresearch.prose import tell
from autoresearch.protocols import Policy
from autoresearch.references import References
from autoresearch.report import results, results_tsv
from builders import baseline, experiment, history, run
from lab import ROOT, Lab, module, target

HARNESS = module(ROOT / "train" / "prune.py")
FALLING = [(0.05 * i, 9.0 - 0.2 * i) for i in range(1, 21)]  # 8.8 at 5 % of the budget, 5.0 at its end
LOSSES = st.floats(0.01, 20.0)
CURVES = st.lists(LOSSES, min_size=20, max_size=20).map(
    lambda losses: [(0.05 * i, loss) for i, loss in enumerate(losses, 1)]
)
RULES = st.builds(
    Rule,
    lag=st.floats(0.1, 1.0),
    spreads=st.floats(0.0, 8.0),
    grace=st.floats(0.0, 1.0),
    explosion=st.floats(1.5, 10.0),
    collapse=st.floats(1.5, 50.0),
)


def made(*curves: Curve, steps: float | None = None, rule: Rule | None = None) -> Thresholds:
    found = thresholds({"e0001": curves}, [] if steps is None else [steps], rule or Rule())
    assert found is not None
    return found


def watch(limits: Thresholds | None = None) -> Any:
    return HARNESS.Watch(HARNESS.read_limits(limits.document if limits else None))


def line(step: int, share: float, loss: object) -> bytes:
    return f"\rstep {step:05d} ({100 * share:.1f}%) | loss: {loss} | lrm: 1.00 | dt: 2ms".encode()


def follow(found: Any, curve: Curve, lines: int = 200) -> Any:
    """Have a run print a curve, from its beginning to its end or to where it is ended."""
    for i in range(lines + 1):
        found.see(i, i / lines, loss_at(curve, i / lines))
    return found


def shifted(curve: Curve, by: float) -> Curve:
    return [(share, loss + by) for share, loss in curve]


# -- the limits ------------------------------------------------------------------------------------


@given(CURVES, st.lists(st.floats(0.0, 1.0), max_size=60), RULES)
def test_a_curve_equal_to_the_reference_is_never_pruned_whatever_the_shares(
    curve: Curve, shares: list[float], rule: Rule
) -> None:
    limits = made(curve, steps=300, rule=rule)
    reference = list(zip(limits.shares, limits.loss, strict=True))
    found = watch(limits)
    for share in sorted(shares):
        found.see(int(300 * share), share, loss_at(reference, share))
    found.close()
    assert found.ending is None


@given(st.lists(CURVES, min_size=1, max_size=4), st.lists(st.integers(1, 10**6), max_size=4), RULES)
def test_the_harness_reads_what_is_written(curves: list[Curve], steps: list[int], rule: Rule) -> None:
    wrote = thresholds({"e0001": curves[:2], "e0007": curves[2:]}, steps, rule)
    assert wrote is not None
    assert len(wrote.document) < 1000
    read = HARNESS.read_limits(wrote.document)
    for field in dataclasses.fields(wrote):
        value = getattr(wrote, field.name)
        close = value if isinstance(value, str | None) else pytest.approx(value, rel=1e-5, abs=1e-9)
        assert getattr(read, field.name) == close, field.name
    assert all(read.allowed(share) >= loss for share, loss in zip(wrote.shares, read.loss, strict=True))


@given(
    st.one_of(
        st.text(),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        ).map(json.dumps),
        st.fixed_dictionaries(
            {
                "of": st.text(),
                "shares": st.lists(st.floats()),
                "loss": st.lists(st.floats()),
                "excess": st.lists(st.floats()),
                "grace": st.floats(),
                "explosion": st.floats(),
                "collapse": st.floats(),
                "steps": st.none() | st.floats(),
            }
        ).map(json.dumps),
    )
)
def test_garbage_means_no_pruning(text: str) -> None:
    limits = HARNESS.read_limits(text)
    if limits is None:
        found = follow(HARNESS.Watch(None), shifted(FALLING, 50.0))
        assert found.ending is None
    else:  # by chance it makes sense
        assert min(limits.excess) >= 0


def test_a_run_is_hopeless_that_is_not_where_the_reference_was_at_six_tenths_of_its_way() -> None:
    limits = made(FALLING)
    late = [(share, loss_at(FALLING, 0.7 * share)) for share, _ in FALLING]
    hopeless = [(share, loss_at(FALLING, 0.5 * share)) for share, _ in FALLING]
    assert follow(watch(limits), late).ending is None
    ended = follow(watch(limits), hopeless).ending
    assert (ended.problem, ended.rule) == ("pruned", "hopeless")
    assert 0.4 <= ended.share < 0.6
    assert "where e0001 had" in ended.detail


def test_nothing_is_hopeless_before_the_grace_is_over() -> None:
    catches_up = [(share, loss + (3.0 if share < 0.38 else 0.0)) for share, loss in FALLING]
    assert follow(watch(made(FALLING)), catches_up).ending is None


def test_one_bad_window_is_not_enough() -> None:
    found = watch(made(FALLING))
    for i in range(1001):
        share = i / 1000
        found.see(i, share, loss_at(FALLING, share) + (9.0 if 0.55 <= share < 0.6 else 0.0))
    assert found.ending is None


def test_the_reference_is_the_larger_of_the_best_and_the_baseline() -> None:
    """A best run with another schedule stays above the baseline for long, and the other way round."""
    slow = [(share, loss + (1.0 if share < 0.7 else -1.0)) for share, loss in FALLING]
    both = thresholds({"e0001": [FALLING], "e0007": [slow]})
    assert both is not None
    assert both.of == "e0001 and e0007"
    for share, loss in zip(both.shares, both.loss, strict=True):
        assert loss == pytest.approx(max(loss_at(FALLING, share), loss_at(slow, share)))
    assert follow(watch(both), FALLING).ending is None
    assert follow(watch(both), slow).ending is None


def test_curves_that_scatter_allow_more() -> None:
    scattered = made(shifted(FALLING, 0.5), FALLING, shifted(FALLING, -0.5))
    assert min(scattered.excess) >= 4 * 0.5
    assert max(made(FALLING, FALLING).excess) < 2.0


def test_without_a_whole_curve_there_are_no_limits() -> None:
    assert thresholds({}) is None
    assert thresholds({"e0001": []}) is None
    assert thresholds({"e0001": [FALLING[:12], []]}) is None


def test_limits_say_in_words_what_they_prune() -> None:
    said = str(made(FALLING, steps=300))
    assert said.startswith("pruned from 40% of the budget on above the loss of e0001: 8.040 at 40%")
    assert said.endswith("or with one step in 10 of its")


# -- steps, explosions, and what is no number ---------------------------------------------------------


@pytest.mark.parametrize(("per_budget", "ended"), [(29, True), (31, False)])
def test_a_run_that_makes_hardly_any_steps_is_pruned(per_budget: int, *, ended: bool) -> None:
    found = watch(made(FALLING, steps=300))
    for i in range(per_budget):
        found.see(i, (i + 1) / per_budget, loss_at(FALLING, i / per_budget))
    assert (found.ending is not None and found.ending.rule == "collapse") is ended
    assert not ended or found.ending.share >= 0.4


def test_a_loss_that_is_no_number_is_ended_with_or_without_limits() -> None:
    for limits in (None, made(FALLING)):
        found = watch(limits)
        for i in range(10):
            found.feed(line(i, i / 100, 5.0 if i < 3 else "nan"))
        assert (found.ending.problem, found.ending.rule) == ("not_finite", "nan")
        assert found.ending.step == 7


def test_a_single_line_without_a_number_is_forgiven() -> None:
    found = watch()
    for i in range(100):
        found.feed(line(i, i / 100, "nan" if i % 5 == 0 else 5.0))
    assert found.ending is None


@pytest.mark.parametrize(
    ("limits", "loss", "ended"),
    [(None, 99.0, False), (None, 101.0, True), (made(FALLING), 26.0, False), (made(FALLING), 27.0, True)],
)
def test_a_loss_that_explodes_is_not_finite(limits: Thresholds | None, loss: float, *, ended: bool) -> None:
    found = watch(limits)
    for i in range(40):
        found.feed(line(i, i / 100, 9.0 if i < 4 else loss))
    if limits is None or not ended:
        assert (found.ending is not None) is ended
    assert not ended or (found.ending.problem, found.ending.rule) == ("not_finite", "explosion")


def test_large_losses_are_no_explosion_where_they_are_usual() -> None:
    found = watch()
    for i in range(100):
        found.feed(line(i, i / 100, 9000.0 - i))
    assert found.ending is None


# -- what edited code prints ------------------------------------------------------------------------


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=200),
            st.builds(
                lambda step, share, loss: f"step {step} ({share}%) | loss: {loss} ".encode(),
                st.integers(-1, 10**14),
                st.floats(),
                st.one_of(st.floats(), st.text(max_size=60), st.just("1e308"), st.just("-1e308")),
            ),
        ),
        max_size=80,
    ),
    st.booleans(),
)
def test_whatever_is_printed_the_watch_answers(pieces: list[bytes], limited: bool) -> None:
    found = watch(made(FALLING, steps=300) if limited else None)
    for piece in pieces:
        found.feed(piece)
    found.close()
    json.dumps(found.curve, allow_nan=False)
    assert len(found._held) <= 256
    if found.ending:
        json.dumps(found.ending.facts(), allow_nan=False)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=200))
def test_lines_that_arrive_in_pieces_are_whole(sizes: list[int]) -> None:
    text = b"".join(line(i, i / 100, f"{9.0 - i / 50:.6f}") for i in range(100))
    pieces, whole = watch(), watch()
    whole.feed(text)
    at = 0
    for size in sizes:
        pieces.feed(text[at : at + size])
        at += size
    pieces.feed(text[at:])
    assert pieces.curve == whole.curve
    assert len(whole.curve) == 19


def test_a_run_that_claims_less_time_than_was_measured_is_taken_at_its_word_and_never_more() -> None:
    """A share is never larger than what the harness measured: nobody is judged too early."""
    found = watch(made(FALLING))
    for i in range(100):
        found.feed(line(i, 0.9, 9.0), most=0.3)
    assert found.ending is None
    assert all(share == pytest.approx(0.3) for share, _ in found.curve)


def test_a_million_lines_take_bounded_memory() -> None:
    found = watch()
    block = b"".join(line(i, 0.5, 5.0) for i in range(1000))
    for _ in range(50):
        found.feed(block)
    assert len(found._window) <= 2048


# -- what the harness reports, and what becomes of it ------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "kind"), [("pruned", FailureKind.PRUNED), ("not_finite", FailureKind.NOT_FINITE)]
)
def test_an_early_end_is_a_typed_fact(outcome: str, kind: FailureKind) -> None:
    said = {"outcome": outcome, "detail": "loss 8.9 at 50% of the budget", "exit_code": -9, "val_bpb": None}
    log = f"step\nautoresearch: {json.dumps(said)}\n".encode()
    report = parse_report(log, metric="val_bpb", exit_code=1)
    assert report.measurement is None
    assert report.failure == Failure(kind=kind, message="loss 8.9 at 50% of the budget")


@given(st.dictionaries(st.just("curve"), st.none() | st.lists(st.lists(st.floats() | st.text(), max_size=3))))
def test_only_rising_finite_points_make_a_curve(facts: dict[str, Any]) -> None:
    found = curve_of(facts)
    assert all(a[0] < b[0] for a, b in pairwise(found))
    assert all(0 <= share <= 1 and math.isfinite(loss) for share, loss in found)


def ended_early(id_: str, **changes: Any) -> Run:
    return run(id_, state=RunState.PRUNED, failure=FailureKind.PRUNED, **changes)


@pytest.mark.parametrize(
    "policy",
    [ConfirmPolicy(Judging()), PosteriorPolicy(Judging(), first_kind="cpu")],
    ids=["confirm", "posterior"],
)
def test_a_pruned_screen_is_a_discard_with_its_reason(policy: Policy) -> None:
    past = history(*baseline(1.0, 1.1, 1.2), experiment(2), ended_early("e0002.1"))
    verdicts = [d for d in policy.decide(past, (), 0.0) if isinstance(d, Decide)]
    assert [(d.experiment, d.verdict) for d in verdicts] == [("e0002", Verdict.DISCARD)]
    assert verdicts[0].reason.startswith("pruned: it broke")
    assert pruned(past.runs_of("e0002")) == past.runs["e0002"][0]
    assert pruned(past.runs_of("e0001")) is None


def test_upstream_tools_read_a_pruned_experiment_as_a_crash_that_says_so() -> None:
    """A row needs a value, and as a discard 0.000000 would be the best of all."""
    past = history(*baseline(1.0, 1.2), experiment(2, Verdict.DISCARD), ended_early("e0002.1"))
    last = results_tsv(past).splitlines()[-1]
    assert last.split("\t")[1:] == ["0.000000", "0.0", "crash", "pruned: idea 2"]
    (row,) = [row for row in results(past) if row.experiment == "e0002"]
    assert (row.verdict, row.value) == (Verdict.DISCARD, None)


def brief_of_one_pruned() -> Brief:
    past = history(*baseline(1.0, 1.2), experiment(2, Verdict.DISCARD), ended_early("e0002.1"))
    return build_brief(
        past,
        study="t",
        metric="val_bpb",
        profile="cpu",
        instructions="",
        files={},
        baseline_files={},
        refused=(),
        budget=Budget(),
        usage=Usage(),
        serial=0,
        seed=0,
    )


def test_an_agent_is_told_that_an_idea_was_pruned() -> None:
    assert "e0002 discard pruned: idea 2" in tell(brief_of_one_pruned())


def test_an_optimiser_takes_what_was_pruned_for_as_bad_as_the_worst() -> None:
    pytest.importorskip("optuna", reason="the sweep agent needs autoresearch[sweep]")
    from autoresearch.agents import sweep

    told = sweep._told(brief_of_one_pruned(), {}, 0)
    assert [trial.value for trial in told.trials] == [pytest.approx(1.1)] * 2


# -- who is compared with whom ----------------------------------------------------------------------

CODE = """
DEPTH = 4
SEQUENCE_LEN = 128
MATRIX_LR = 0.04
loss = F.cross_entropy(logits, targets)
"""


@pytest.mark.parametrize(
    ("old", "new", "alike"),
    [
        ("DEPTH = 4", "DEPTH = 8", True),
        ("MATRIX_LR = 0.04", "MATRIX_LR = 0.08  # twice, as the loss allows", True),
        ("SEQUENCE_LEN = 128", "SEQUENCE_LEN = 64", False),
        ("targets)", "targets, label_smoothing=0.1)", False),
        ("loss = F", "loss = 2 * F", False),
    ],
)
def test_only_losses_that_mean_the_same_are_compared(old: str, new: str, *, alike: bool) -> None:
    assert comparable({"train.py": CODE.replace(old, new)}, {"train.py": CODE}) is alike


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A study whose harness judges curves by the real rule and trains nothing."""
    made = Lab(tmp_path / "study")
    (made.folder / "train.py").write_text("START = 9.0\nSPEED = 0.5\nloss = 1\n")
    shutil.copy(ROOT / "tests" / "fake_harness.py", made.folder / "fake_harness.py")
    shutil.copy(ROOT / "train" / "prune.py", made.folder / "prune.py")
    made.commit()
    return made


def judged() -> Any:
    return target(
        protected=("fake_harness.py", "prune.py"),
        command="{python} {protected}/fake_harness.py",
        score="harness",
    )


def change(old: str, new: str) -> Proposal:
    return Proposal(hypothesis=new, edits=(Edit(old=old, new=new),), parent="e0001", author="test")


HOPELESS = change("SPEED = 0.5", "SPEED = 0.1")


def test_a_study_prunes_what_is_hopeless_and_measures_the_rest(lab: Lab) -> None:
    slower = change("SPEED = 0.5", "SPEED = 0.45")
    elsewhere = change("SPEED = 0.5\nloss = 1", "SPEED = 0.09\nloss = 2")
    study, _ = lab.run([HOPELESS, slower, elsewhere], lab.config(workers=1, target=judged()))
    past = study.store.history()
    by_name = {e.hypothesis.split("\n")[0]: e.id for e in past.experiments.values()}
    (ended,) = past.runs_of(by_name["SPEED = 0.1"])
    assert ended.state is RunState.PRUNED
    assert ended.value is None
    assert study.store.facts(ended.id)["pruned"]["rule"] == "hopeless"
    found = past.experiments[ended.experiment]
    assert found.verdict is Verdict.DISCARD
    assert found.reason.startswith("pruned: loss 8.")
    assert past.runs_of(by_name["SPEED = 0.45"])[0].state is RunState.FINISHED
    assert past.runs_of(by_name["SPEED = 0.09"])[0].value is not None, "another loss"


def test_with_prune_false_every_run_is_measured(lab: Lab) -> None:
    config = lab.config(target=judged(), judging=Judging(baseline_runs=3, prune=False))
    study, _ = lab.run([HOPELESS], config)
    assert {r.state for r in study.store.history().all_runs()} == {RunState.FINISHED}


def test_only_screens_are_sent_with_limits_and_only_to_known_kinds(lab: Lab) -> None:
    study, _ = lab.run([change("SPEED = 0.5", "SPEED = 0.45")], lab.config(target=judged()))
    past, references = study.store.history(), References(study)
    (screen,) = past.runs_of("e0002")
    limits = references.thresholds(screen, "cpu", past)
    assert limits is not None
    assert (limits.of, limits.shares, limits.steps) == ("e0001", GRID, 200)
    assert study.job_spec(screen, None, limits).env[VARIABLE] == limits.document
    assert VARIABLE not in study.job_spec(screen).env
    assert references.thresholds(screen, "H100", past) is None
    for purpose in (Purpose.BASELINE, Purpose.CONFIRM, Purpose.CALIBRATE):
        assert references.thresholds(dataclasses.replace(screen, purpose=purpose), "cpu", past) is None


def test_a_best_that_boasts_of_its_steps_ends_no_other_run(lab: Lab) -> None:
    study, _ = lab.run([change("SPEED = 0.5", "SPEED = 0.45")], lab.config(target=judged()))
    past, references = study.store.history(), References(study)
    (screen,) = past.runs_of("e0002")
    assert screen.measurement is not None
    boast = dataclasses.replace(screen, measurement=dataclasses.replace(screen.measurement, steps=10**12))
    kept = dataclasses.replace(past.experiments["e0002"], verdict=Verdict.KEEP, judged_at=1e12)
    boasting = dataclasses.replace(
        past,
        experiments={**past.experiments, "e0002": kept},
        runs={**past.runs, "e0002": (boast,) * 9},
        known=None,
    )
    limits = references.thresholds(screen, "cpu", boasting)
    assert limits is not None
    assert (limits.of, limits.steps) == ("e0002 and e0001", 200)


# -- what it costs ----------------------------------------------------------------------------------


def test_on_the_public_curves_the_default_kills_none_of_the_best() -> None:
    bench = module(ROOT / "benchmarks" / "pruning.py")
    runs = bench.records()
    assert len(runs) == 47
    for chosen in (runs, [r for r in runs if r.family == "focused"], bench.records(bench.ON_CPU)):
        for names in (("baseline",), ("best",), ("baseline", "best")):
            found = bench.toll(chosen, bench.ours(Rule(), *names)(chosen))
            assert (found.top5, found.regret) == (0, 0.0)
        foil = bench.toll(chosen, bench.worst_half(0.2)(chosen))
        assert foil.top5 > 0


@pytest.mark.slow
def test_the_benchmark_is_one_command() -> None:
    command = [sys.executable, ROOT / "benchmarks" / "pruning.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "one architecture: 32 runs" in done.stdout
    assert "train.py on a CPU: 21 runs" in done.stdout
    assert done.stdout.count("worst half") == 9
