"""Whatever a log holds, what comes out is a typed value; a score is believed from the harness only."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.experiment import FailureKind
from autoresearch.logparse import parse_curve, parse_progress, parse_report
from autoresearch.untrusted import clean

DATA = Path(__file__).parent / "data"


def report(log: bytes | str, exit_code: int | None = 0, **options: object):
    data = log.encode() if isinstance(log, str) else log
    return parse_report(data, metric="val_bpb", exit_code=exit_code, editable=("train/train.py",), **options)


def machine(**facts: object) -> str:
    return "autoresearch: " + json.dumps({"outcome": "ok", **facts}) + "\n"


@pytest.mark.parametrize(
    ("name", "value", "steps", "memory"),
    [
        ("upstream_run.log", 1.451316, 198, 2.1864),
        ("upstream_2gpu_run.log", 1.065145, 608, 9.3439),
        ("upstream_mps_run.log", 1.774935, 87, 0.1978),
    ],
)
def test_public_upstream_logs_are_read(name: str, value: float, steps: int, memory: float) -> None:
    found = report((DATA / name).read_bytes()).measurement
    assert found is not None
    assert (found.value, found.steps, found.memory_gb) == (value, steps, pytest.approx(memory))


def test_the_machine_line_wins_over_a_summary_that_training_printed() -> None:
    log = "---\nval_bpb:  0.100000\n" + machine(val_bpb=1.5, num_steps=3, peak_memory_mb=2000, device="cpu")
    found = report(log)
    assert found.measurement is not None
    assert (found.measurement.value, found.measurement.memory_gb) == (1.5, 2.0)


@pytest.mark.parametrize("steps", ["1e300", -(10**30), 10**400])
def test_a_number_of_steps_that_no_database_takes_is_none(steps: object) -> None:
    found = report(machine(val_bpb=1.5, num_steps=steps)).measurement
    assert found is not None
    assert found.steps is None


def test_of_two_machine_lines_the_last_counts() -> None:
    assert report(machine(val_bpb=0.1) + machine(val_bpb=1.5)).measurement.value == 1.5  # type: ignore[union-attr]


def test_a_machine_line_must_begin_its_line() -> None:
    assert report('loss autoresearch: {"outcome": "ok", "val_bpb": 0.1}\n').facts is None


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "NaN"])
def test_a_score_that_is_not_finite_is_a_failure(text: str) -> None:
    found = report(f"---\nval_bpb: {text}\n")
    assert found.measurement is None
    assert found.failure is not None
    assert found.failure.kind is FailureKind.NOT_FINITE


def test_no_score_is_a_failure_even_with_exit_code_zero() -> None:
    assert report("all is well\n").failure.kind is FailureKind.NO_RESULT  # type: ignore[union-attr]


def test_a_score_does_not_count_when_the_run_failed() -> None:
    found = report("---\nval_bpb: 1.0\n", exit_code=1)
    assert found.measurement is None


TRACEBACK = """Traceback (most recent call last):
  File "/w/launch.py", line 40, in main
    runpy.run_path(script)
  File "/w/runs/e1/train/train.py", line 212, in <module>
    main()
  File "/usr/lib/torch/nn.py", line 9, in forward
    return F.linear(x)
{}
"""


@pytest.mark.parametrize(
    ("last", "kind"),
    [
        ("RuntimeError: mat1 and mat2 shapes cannot be multiplied (8x64 and 32x64)", FailureKind.SHAPE),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", FailureKind.OUT_OF_MEMORY),
        ("MemoryError", FailureKind.OUT_OF_MEMORY),
        ("ModuleNotFoundError: No module named 'flash_attn'", FailureKind.IMPORT),
        ("SyntaxError: invalid syntax", FailureKind.SYNTAX),
        ("ZeroDivisionError: division by zero", FailureKind.ERROR),
        (
            "evaluate.BadModelError: the weights do not fit build_model(): size mismatch for x",
            FailureKind.SHAPE,
        ),
    ],
)
def test_tracebacks_become_typed_facts(last: str, kind: FailureKind) -> None:
    failure = report(TRACEBACK.format(last), exit_code=1).failure
    assert failure is not None
    assert (failure.kind, failure.line) == (kind, 212)
    assert failure.exception == last.split(":", maxsplit=1)[0]


@pytest.mark.parametrize(
    ("log", "exit_code", "timed_out", "kind"),
    [
        ("step\rFAIL\n", 1, False, FailureKind.NOT_FINITE),
        ("", -9, False, FailureKind.KILLED),
        ("", 137, False, FailureKind.KILLED),
        ("", -15, True, FailureKind.TIMEOUT),
        ("", 3, False, FailureKind.ERROR),
        (machine().replace('"ok"', '"timeout"'), 1, False, FailureKind.TIMEOUT),
        (machine().replace('"ok"', '"over_budget"'), 1, False, FailureKind.OVER_BUDGET),
        (machine().replace('"ok"', '"no_weights"'), 1, False, FailureKind.NO_RESULT),
        (machine().replace('"ok"', '"evaluation"'), 1, False, FailureKind.EVALUATION),
        (machine().replace('"ok"', '"unfit"'), 3, False, FailureKind.UNFIT),
    ],
)
def test_endings_without_a_traceback_are_told_apart(
    log: str, exit_code: int, timed_out: bool, kind: FailureKind
) -> None:
    failure = report(log, exit_code=exit_code, timed_out=timed_out).failure
    assert failure is not None
    assert failure.kind is kind


def test_only_the_machine_is_blamed_for_an_unfit_machine() -> None:
    assert report(machine().replace('"ok"', '"unfit"'), exit_code=3).machine_fault
    assert not report("", exit_code=1).machine_fault


def test_progress_is_the_last_progress_line() -> None:
    found = parse_progress((DATA / "upstream_run.log").read_bytes()[-9000:])
    assert found is not None
    assert (found.step, round(found.share, 3), found.loss) == (197, 0.997, 4.055489)
    assert found.tokens_per_second == 40991


def test_the_curve_has_a_point_per_step() -> None:
    curve = parse_curve((DATA / "upstream_2gpu_run.log").read_bytes())
    assert len(curve) == 608
    assert curve == sorted(curve, key=lambda point: point[0])


@given(st.binary(max_size=400), st.sampled_from([None, 0, 1, -9]))
def test_any_bytes_give_a_report(data: bytes, exit_code: int | None) -> None:
    found = report(data, exit_code)
    assert (found.measurement is None) != (found.failure is None)
    parse_progress(data)
    parse_curve(data)


@given(
    st.dictionaries(
        st.sampled_from(["val_bpb", "num_steps", "device", "outcome", "detail"]),
        st.none() | st.booleans() | st.floats() | st.text(max_size=20) | st.lists(st.integers(), max_size=2),
    )
)
def test_any_machine_line_gives_a_report(facts: dict[str, object]) -> None:
    report("autoresearch: " + json.dumps(facts) + "\n")
    report("autoresearch: " + json.dumps(facts) + "\n", exit_code=1)


@given(st.text(max_size=400))
def test_cleaned_text_is_one_short_printable_line(text: str) -> None:
    cleaned = clean(text)
    assert len(cleaned) <= 200
    assert not any(unicodedata.category(c)[0] == "C" for c in cleaned)
    assert "\n" not in cleaned


def test_escape_sequences_and_bidirectional_overrides_are_dropped() -> None:
    assert clean("\x1b[31mred\x1b]0;title\x07 \u202etxt\u2066") == "[31mred]0;title txt"
