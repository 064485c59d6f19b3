"""Edits apply exactly once; the same code is recognised whatever it looks like."""

from __future__ import annotations

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.experiment import Candidate, Edit, Proposal, Refusal
from autoresearch.files import decode_source
from autoresearch.patch import admit, apply_edits, check_syntax, normal_digest, unified_diff

BASE = {"train.py": "LR = 0.1\nDEPTH = 2\n\ndef f(x):\n    return x * LR\n"}


def propose(*edits: Edit) -> Proposal:
    return Proposal(hypothesis="h", edits=edits, parent="e0001", author="a")


def test_an_edit_that_matches_once_is_applied() -> None:
    found = admit(propose(Edit(old="LR = 0.1", new="LR = 0.2")), BASE, {})
    assert isinstance(found, Candidate)
    assert found.files["train.py"].startswith("LR = 0.2\n")


@pytest.mark.parametrize(
    ("edit", "reason", "detail"),
    [
        (Edit(old="LR", new="lr"), "edit", "occurs 2 times"),
        (Edit(old="WIDTH = 3", new="WIDTH = 4"), "edit", "does not occur"),
        (Edit(old="", new="x"), "edit", "`old` is empty"),
        (Edit(old="LR = 0.1", new="LR = ("), "syntax", "train.py line"),
        (Edit(old="LR = 0.1", new="LR = 0.1", file="prepare.py"), "file", "touches prepare.py"),
        (Edit(old="LR = 0.1", new="LR = 0.1  # same"), "unchanged", "leave the code"),
        (Edit(old=BASE["train.py"], new="  \n"), "syntax", "is empty"),
        (Edit(old="LR = 0.1", new="LR = 0.1\0"), "syntax", "null"),
    ],
)
def test_what_cannot_be_admitted_is_refused_with_its_reason(edit: Edit, reason: str, detail: str) -> None:
    found = admit(propose(edit), BASE, {})
    assert isinstance(found, Refusal)
    assert (found.reason, detail in found.detail) == (reason, True), found


def test_no_edits_are_refused() -> None:
    assert isinstance(admit(propose(), BASE, {}), Refusal)


def test_edits_apply_in_order_each_on_what_the_last_one_left() -> None:
    edits = (Edit(old="LR = 0.1", new="LR = 0.2\nWD = 0.1"), Edit(old="WD = 0.1", new="WD = 0.3"))
    files = apply_edits(edits, BASE)
    assert not isinstance(files, Refusal)
    assert files["train.py"].startswith("LR = 0.2\nWD = 0.3\n")


def test_with_several_editable_files_an_edit_must_name_its_file() -> None:
    base = {**BASE, "model.py": "LR = 0.1\n"}
    unnamed = apply_edits((Edit(old="DEPTH = 2", new="DEPTH = 3"),), base)
    assert isinstance(unnamed, Refusal)
    assert unnamed.reason == "file"
    named = apply_edits((Edit(old="LR = 0.1", new="LR = 9", file="model.py"),), base)
    assert named == {**BASE, "model.py": "LR = 9\n"}


def test_a_duplicate_is_refused_with_the_earlier_id() -> None:
    first = admit(propose(Edit(old="LR = 0.1", new="LR = 0.2")), BASE, {})
    assert isinstance(first, Candidate)
    again = admit(propose(Edit(old="LR = 0.1", new="LR = 0.2  # faster\n")), BASE, {first.digest: "e0007"})
    assert isinstance(again, Refusal)
    assert (again.reason, again.experiment) == ("duplicate", "e0007")


@pytest.mark.parametrize(
    "same",
    [
        "LR = 0.1  # a comment\nDEPTH = 2\ndef f(x):\n\n    return x*LR\n",
        "LR=0.1\nDEPTH = 2\n\ndef f(x):\n    '''Documented.'''\n    return (x * LR)\n",
        '"""A module docstring."""\nLR = 0.1\nDEPTH = 2\n\ndef f(x):\n    return x * LR\n',
    ],
)
def test_comments_layout_and_docstrings_do_not_make_another_experiment(same: str) -> None:
    assert normal_digest({"train.py": same}) == normal_digest(BASE)


def test_another_value_makes_another_experiment() -> None:
    assert normal_digest({"train.py": BASE["train.py"].replace("0.1", "0.10001")}) != normal_digest(BASE)


@given(st.text(max_size=200))
def test_any_text_is_admitted_or_refused_never_an_exception(text: str) -> None:
    found = admit(propose(Edit(old="LR = 0.1", new=text)), BASE, {})
    if isinstance(found, Candidate):
        ast.parse(found.files["train.py"])


@given(st.binary(max_size=200))
def test_source_bytes_are_text_or_a_clear_error(data: bytes) -> None:
    try:
        assert decode_source("train.py", data).encode() == data
    except ValueError as error:
        assert str(error).startswith("train.py ")


def test_absurd_nesting_is_a_refusal() -> None:
    found = check_syntax({"train.py": "x = " + "(" * 5000 + ")" * 5000})
    assert found is not None
    assert found.reason == "syntax"


def test_the_diff_is_unified() -> None:
    after = {"train.py": BASE["train.py"].replace("0.1", "0.2")}
    assert unified_diff(BASE, after).splitlines()[:5] == [
        "--- a/train.py",
        "+++ b/train.py",
        "@@ -1,4 +1,4 @@",
        "-LR = 0.1",
        "+LR = 0.2",
    ]


def test_an_edit_that_matches_twice_with_an_overlap_is_refused() -> None:
    base = {"train.py": "A = 1\nA = 1\nA = 1\n"}
    found = apply_edits((Edit(old="A = 1\nA = 1\n", new="A = 2\n"),), base)
    assert isinstance(found, Refusal)
    assert "occurs 2 times" in found.detail
