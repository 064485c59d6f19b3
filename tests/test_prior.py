"""Earlier results are read by their header, and junk in them costs its own row at most."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.experiment import Goal, Prior
from autoresearch.prior import TOLD, read_results, worth_telling
from autoresearch.report import results_tsv
from builders import history

DATA = Path(__file__).parent / "data"
UPSTREAM = "commit\tval_bpb\tmemory_gb\tstatus\tdescription\n"
SKYPILOT = "experiment_id\tstatus\tval_bpb\tmemory_gb\tdescription\n"


def prior(value: float | None = 1.0, description: str = "an idea", **changes: object) -> Prior:
    known = {"commit": "a1b2c3d", "memory_gb": 44.0, "status": "discard" if value else "crash"}
    return Prior(**{**known, "value": value, "description": description, **changes})


def test_either_order_of_columns_says_the_same() -> None:
    ours = prior(0.9979, "baseline", status="keep")
    assert read_results(UPSTREAM + "a1b2c3d\t0.997900\t44.0\tkeep\tbaseline\n") == (ours,)
    assert read_results(SKYPILOT + "a1b2c3d\tkeep\t0.997900\t44.0\tbaseline\n") == (ours,)


def test_the_zeros_of_a_crash_are_no_values() -> None:
    (crash,) = read_results(UPSTREAM + "a1b2c3d\t0.000000\t0.0\tcrash\tdouble the width\n")
    assert (crash.value, crash.memory_gb, crash.status) == (None, None, "crash")


@pytest.mark.parametrize("name", ["upstream_bigmem_results.tsv", "upstream_h100_results.tsv"])
def test_a_public_table_is_written_again_to_the_byte(name: str) -> None:
    text = (DATA / name).read_text()
    assert results_tsv(history(), read_results(text)) == text


def test_a_table_from_a_spreadsheet_is_read_too() -> None:
    """With a byte order mark, carriage returns, quotes, blank lines and cells that are missing."""
    text = "\ufeff" + UPSTREAM.upper() + '\r\n"b"\t"1.5"\t\tKeep\t"so ""wide"""\r\n\n\nc\t1.25\n'
    assert read_results(text.replace("\n", "\r\n")) == (
        prior(1.5, 'so "wide"', commit="b", memory_gb=None, status="keep"),
        prior(1.25, "", commit="c", memory_gb=None),
    )


def test_junk_costs_its_own_number_or_row() -> None:
    rows = ("a\tnan\t-\tkeep\tone", "b\toops\t2\tdiscard\ttwo", "\t\t\t\t", "???", UPSTREAM.strip())
    found = read_results(UPSTREAM + "\n".join(rows))
    assert [(p.commit, p.value, p.memory_gb, p.status) for p in found] == [
        ("a", None, None, "keep"),
        ("b", None, 2.0, "discard"),
    ]


@pytest.mark.parametrize("column", ["val_bpb", "status", "description"])
def test_a_table_without_a_column_that_is_needed_says_so(column: str) -> None:
    with pytest.raises(ValueError, match=f"names no column {column}, but "):
        read_results(UPSTREAM.replace(column, "other") + "x\n")


def test_an_empty_file_holds_no_results() -> None:
    assert read_results("") == read_results("\n \n") == read_results(UPSTREAM) == ()


@given(st.text())
def test_no_row_whatever_it_holds_is_more_than_a_row(junk: str) -> None:
    text = UPSTREAM + junk
    found = read_results(text)
    assert len(found) <= junk.count("\n") + 1
    written = results_tsv(history(), found)
    assert len(written.split("\n")) == len(found) + 2
    assert results_tsv(history(), read_results(written)) == written, "and read again it is the same"


def test_an_agent_is_told_of_the_best_and_of_the_last() -> None:
    priors = [prior(1 + i / 100 if i % 7 else None, f"idea {i}") for i in range(50)]
    told = worth_telling(priors, Goal.MINIMIZE)
    assert [p.description for p in told[:3]] == ["idea 1", "idea 2", "idea 3"]
    assert [p.description for p in told[TOLD:]] == [f"idea {i}" for i in range(49, 39, -1)]
    assert worth_telling(priors, Goal.MAXIMIZE)[0].description == "idea 48"
    few = worth_telling(priors[:4], Goal.MINIMIZE)
    assert sorted(p.description for p in few) == [f"idea {i}" for i in range(4)]
