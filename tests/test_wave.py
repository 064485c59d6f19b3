"""A wave of ideas says what it means, or why it means nothing."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.errors import UsageError
from autoresearch.experiment import Edit, Refusal
from autoresearch.patch import apply_edits, edits_between
from autoresearch.wave import MAX_IDEAS, Idea, Wave, read_number, read_wave

CODE = {"train.py": "DEPTH = 2\nWIDTH = 64\nrate = DEPTH * 0.1\n"}
TWO = {"a.py": "A = 1\nB = 2\n", "b.py": "B = 3\nC = 4\n"}


def edited(idea: Idea, base: dict[str, str] = CODE) -> dict[str, str]:
    edits = idea.edits_of(base, "cpu")
    assert not isinstance(edits, Refusal), edits
    files = apply_edits(edits, base)
    assert not isinstance(files, Refusal), files
    return dict(files)


def test_constants_are_set_where_they_stand() -> None:
    assert edited(Idea(set={"DEPTH": 3, "WIDTH": 96}))["train.py"].startswith("DEPTH = 3\nWIDTH = 96\n")


def test_a_constant_of_two_files_is_set_in_the_first() -> None:
    assert edited(Idea(set={"B": 9, "C": 8}), TWO) == {"a.py": "A = 1\nB = 9\n", "b.py": "B = 3\nC = 8\n"}


def test_an_unknown_constant_is_refused_with_the_one_that_was_meant() -> None:
    found = Idea(set={"DEPHT": 3}).edits_of(CODE, "cpu")
    assert isinstance(found, Refusal)
    assert (found.reason, "did you mean DEPTH?" in found.detail) == ("constant", True)


def test_a_whole_file_becomes_edits() -> None:
    after = "DEPTH = 2\nrate = 0.5\n\nprint(rate)\n"
    assert edited(Idea(hypothesis="h", files={"train.py": after}))["train.py"] == after


def test_a_file_that_is_not_editable_is_refused() -> None:
    found = Idea(hypothesis="h", files={"prepare.py": "x"}).edits_of(CODE, "cpu")
    assert isinstance(found, Refusal)
    assert "prepare.py is not editable" in found.detail


lines = st.lists(st.sampled_from(["a", "b", "ab", "", "a b", "\ta"]), min_size=1, max_size=12).map("\n".join)


@given(lines.filter(bool), lines)
def test_any_text_turns_into_any_other_by_edits_that_occur_once(before: str, after: str) -> None:
    edits = edits_between(before, after)
    assert bool(edits) == (before != after)
    if edits:
        assert apply_edits(edits, {"t.txt": before}) == {"t.txt": after}


def test_small_changes_make_small_edits() -> None:
    before = "\n".join(f"line {i}" for i in range(1000))
    after = before.replace("line 500", "line five hundred").replace("line 7\n", "")
    edits = edits_between(before, after)
    assert sum(len(edit.old) + len(edit.new) for edit in edits) < 200


def test_a_grid_is_every_combination_the_last_factor_changing_fastest() -> None:
    cells = Wave(factors={"DEPTH": (2, 3), "RATE": (0.1, 0.2, 0.4)}, hypothesis="why").cells()
    assert [tuple(levels.values()) for levels, _ in cells] == [
        (2, 0.1),
        (2, 0.2),
        (2, 0.4),
        (3, 0.1),
        (3, 0.2),
        (3, 0.4),
    ]
    assert cells[-1][1].hypothesis == "why: DEPTH 3, RATE 0.4"
    assert Wave(experiments=(Idea(set={"A": 1}),)).cells() == ()


def test_a_bare_list_is_a_wave() -> None:
    wave = read_wave('[{"hypothesis": "h", "edits": [{"old": "a", "new": "b"}]}]', "here")
    assert wave.experiments == (Idea(hypothesis="h", edits=(Edit(old="a", new="b"),)),)


def test_the_digest_tells_waves_apart_and_not_their_layout() -> None:
    one = read_wave('{"experiments": [{"set": {"A": 1}}], "notes": "n"}', "x")
    same = read_wave('{"notes":"n","experiments":[{"set":{"A":1}}]}', "y")
    other = read_wave('{"experiments": [{"set": {"A": 2}}], "notes": "n"}', "x")
    assert one.digest == same.digest != other.digest


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "wave.json: not JSON"),
        ("[" * 100_000, "wave.json: not JSON"),
        ("3", "wave.json: input should be an object"),
        ("{}", "no experiments and no factors"),
        (
            '{"experiments": [{"hypothesis": "h", "edit": []}]}',
            "experiments.0.edit: unknown key; did you mean edits?",
        ),
        ('[{"hypothesis": "h", "edits": [{"old": "a", "nwe": "b"}]}]', "did you mean new?"),
        ('[{"hypothesis": "h"}]', "experiments.0: has no edits"),
        ('[{"edits": [{"old": "a", "new": "b"}]}]', "experiments.0: needs a hypothesis"),
        ('[{"set": {"A": 1}, "files": {"t": "x"}, "hypothesis": "h"}]', "has set and files"),
        ('[{"set": {"A": true}}]', "experiments.0.set.A: is no number"),
        ('[{"set": {"A": "1"}}]', "experiments.0.set.A: is no number"),
        ('{"factors": {"A": ["x"]}}', "factors.A.0: is no number"),
        ('{"hypothesis": "h", "set": {"A": 1}}', "set: belongs into one of `experiments`"),
        ('{"factors": {"A": []}}', "factors.A: needs levels"),
        ('{"factors": {"A": [1, 1]}}', "factors.A: needs levels, each once"),
        (json.dumps({"factors": {"A": list(range(20)), "B": list(range(20))}}), f"at most {MAX_IDEAS}"),
        (json.dumps([{"set": {"A": 1}, "hypothesis": "h" * 1001}]), "longer than 1000"),
    ],
)
def test_what_is_not_understood_is_one_clear_line(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_wave(text, "wave.json")
    assert said in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("text", ["x", "", "nan", "inf", "1e999", "0x10"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no number"):
        read_number(text, "--set A")


def test_numbers_keep_their_kind() -> None:
    assert (read_number("6", ""), type(read_number("6", ""))) == (6, int)
    assert math.isclose(read_number("3e-4", ""), 0.0003)


@given(st.text(max_size=60))
def test_any_text_is_a_wave_or_a_usage_error(text: str) -> None:
    try:
        read_wave(text, "x")
    except UsageError as error:
        assert error.message


@pytest.mark.parametrize("given", ['"e0002"', '["e0002", "e0003"]', "[]", "null"])
def test_what_is_reworked_is_one_experiment_or_several(given: str) -> None:
    (idea,) = read_wave(f'[{{"set": {{"X": 2}}, "hypothesis": "h", "reworks": {given}}}]', "w").experiments
    assert idea.reworks == (tuple(found) if isinstance(found := json.loads(given), list) else found)


@pytest.mark.parametrize("given", ["2", "[2]", '{"e0002": 1}'])
def test_what_is_reworked_is_named(given: str) -> None:
    with pytest.raises(UsageError, match="reworks"):
        read_wave(f'[{{"set": {{"X": 2}}, "hypothesis": "h", "reworks": {given}}}]', "w")
