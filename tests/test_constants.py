"""Numeric constants are found by syntax tree and changed without touching anything else."""

from __future__ import annotations

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.constants import find_constants, set_constants, values
from autoresearch.experiment import Refusal
from autoresearch.patch import apply_edits, edits_between

SOURCE = '''"""Doc: LR = 9"""
PROFILE = "cpu"
if PROFILE == "cpu":
    DEPTH = 2  # é layers
else:
    DEPTH = 8
LR = 0.04  # LR = 5
BATCH = 2**10
TOKENS = 40 * 524288
BETAS = (0.8, 0.95)
NEGATIVE = -1.5
FLAG = True
NAME = "x"
lower = 3
HUGE = 9**9**9

def f():
    INNER = 5
'''


def test_constants_of_every_form_are_found() -> None:
    assert values(SOURCE, "cpu") == {
        "DEPTH": 2,
        "LR": 0.04,
        "BATCH": 1024,
        "TOKENS": 40 * 524288,
        "BETAS[0]": 0.8,
        "BETAS[1]": 0.95,
        "NEGATIVE": -1.5,
    }


@pytest.mark.parametrize(("profile", "depth"), [("cpu", 2), ("gpu", 8), (None, None)])
def test_the_branch_of_the_profile_counts(profile: str | None, depth: int | None) -> None:
    assert values(SOURCE, profile).get("DEPTH") == depth


def test_values_change_and_nothing_else() -> None:
    after = set_constants(SOURCE, {"DEPTH": 3, "BATCH": 2048, "BETAS[1]": 0.975, "LR": 0.0123456}, "cpu")
    changed = [(a, b) for a, b in zip(SOURCE.splitlines(), after.splitlines(), strict=True) if a != b]
    assert changed == [
        ("    DEPTH = 2  # é layers", "    DEPTH = 3  # é layers"),
        ("LR = 0.04  # LR = 5", "LR = 0.0123456  # LR = 5"),
        ("BATCH = 2**10", "BATCH = 2**11"),
        ("BETAS = (0.8, 0.95)", "BETAS = (0.8, 0.975)"),
    ]


def test_a_name_that_is_no_constant_is_an_error() -> None:
    with pytest.raises(KeyError):
        set_constants(SOURCE, {"MISSING": 1})


def test_code_that_does_not_parse_has_no_constants() -> None:
    assert find_constants("LR = (") == {}


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_offsets_hold_with_odd_characters(newline: str) -> None:
    text = newline.join(["# form\x0cfeed \u2028 separators", "A = 1", "S = 'é\x1c'; B = 2.5", ""])
    assert values(set_constants(text, {"A": 7, "B": 0.5})) == {"A": 7, "B": 0.5}


names = st.sampled_from(["LR", "DEPTH", "WD", "B1", "B2"])


@given(
    st.lists(st.tuples(names, st.sampled_from(["1", "0.5", "2**3", "1"])), min_size=1, max_size=8), st.data()
)
def test_edits_turn_one_version_into_the_other(lines: list[tuple[str, str]], data: st.DataObject) -> None:
    before = "".join(f"{name} = {value}\n" for name, value in lines)
    found = find_constants(before)
    changes = {name: data.draw(st.integers(1, 64)) for name in found if data.draw(st.booleans())}
    after = set_constants(before, changes)
    edits = edits_between(before, after)
    if before == after:
        assert edits == ()
        return
    applied = apply_edits(edits, {"train.py": before})
    assert not isinstance(applied, Refusal), applied
    assert applied["train.py"] == after
    ast.parse(after)
