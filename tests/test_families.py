"""What an edit touches is told by name, whatever its layout."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch.constants import find_constants, set_constants
from autoresearch.families import touched

TRAIN = (Path(__file__).parents[1] / "train" / "train.py").read_text()
SMALL = '''"""A module."""
import math
from pool import PROFILE

RATE = 0.04  # of learning
STEPS = 2**4
BETAS = (0.8, 0.95)
PATTERN = "SSSL"
if PROFILE == "cpu":
    DEPTH = 2
else:
    DEPTH = 8
WIDTH, heads = 64, [1, 2]


def scale(x):
    """Return it scaled."""
    def inner(y):
        return y * 2
    return inner(x) * RATE


class Net(Base):
    """A net."""

    channels = 32

    def __init__(self):
        self.a = 1

    async def forward(self, x):
        return x + self.a


math.tau = 6
scale(1)
'''


def change(*pairs: str, text: str = SMALL, profile: str | None = "cpu") -> tuple[str, ...]:
    """Return what replacing texts by others touches."""
    after = text
    for old, new in zip(pairs[::2], pairs[1::2], strict=True):
        assert after.count(old) == 1, old
        after = after.replace(old, new)
    return touched({"a.py": text}, {"a.py": after}, profile)


@pytest.mark.parametrize(
    ("pairs", "names"),
    [
        (["RATE = 0.04", "RATE = 0.05"], ["RATE"]),
        (["(0.8, 0.95)", "(0.8, 0.9)"], ["BETAS"]),
        (["(0.8, 0.95)", "(0.8, 0.95, 0.99)"], ["BETAS"]),
        (["RATE = 0.04", "PACE = 0.04"], ["PACE", "RATE"]),
        (["STEPS = 2**4\n", ""], ["STEPS"]),
        (['"SSSL"', '"SL"'], ["PATTERN"]),
        (["DEPTH = 2", "DEPTH = 3"], ["DEPTH"]),
        (["64, [1, 2]", "32, [1, 2]"], ["WIDTH", "heads"]),
        (['== "cpu"', '!= "cpu"'], ["DEPTH", "module"]),
        (["inner(x) * RATE", "inner(x) / RATE"], ["scale"]),
        (["y * 2", "y * 3"], ["scale.inner"]),
        (["def scale(x)", "def scale(x, k=1)"], ["scale"]),
        (["channels = 32", "channels = 16"], ["Net"]),
        (["class Net(Base)", "class Net(Base, slow=True)"], ["Net"]),
        (["self.a = 1", "self.a = 2"], ["Net.__init__"]),
        (["x + self.a", "x"], ["Net.forward"]),
        (["x + self.a", "x", "self.a = 1", "pass"], ["Net.__init__", "Net.forward"]),
        (["\n\nmath.tau", "\n    def new(self):\n        pass\n\nmath.tau"], ["Net.new"]),
        (["scale(1)", "def one():\n    pass"], ["module", "one"]),
        (["math.tau = 6", "math.tau = 7"], ["module"]),
        (["import math", "import math, os"], ["module"]),
    ],
)
def test_each_part_of_a_module_has_its_name(pairs: list[str], names: list[str]) -> None:
    assert change(*pairs) == tuple(names)


@pytest.mark.parametrize(
    "pairs",
    [
        ["  # of learning", ""],
        ["def scale(x):\n", "def scale(\n    x\n):  # here\n"],
        ["Return it scaled", "Return something"],
        ["A net.", "The net."],
        ['"""A module."""', '"""Another."""'],
        ["2**4", "16"],
        ["0.04", "4e-2"],
        ["DEPTH = 8", "DEPTH = 9"],  # not this profile's
        ['PATTERN = "SSSL"\n', "", "heads = 64, [1, 2]\n", 'heads = 64, [1, 2]\nPATTERN = "SSSL"\n'],
    ],
)
def test_layout_comments_docstrings_and_the_other_profile_do_not_count(pairs: list[str]) -> None:
    assert change(*pairs) == ()


def test_without_a_profile_a_branch_counts_as_it_is_written() -> None:
    assert change("DEPTH = 8", "DEPTH = 9", profile=None) == ("DEPTH",)


def test_what_does_not_parse_touches_nothing() -> None:
    assert change("def scale(x)", "def scale(x") == ()
    assert change("RATE = 0.04", "RATE = 0.05\0") == ()
    assert touched({"a.py": "X = ("}, {"a.py": "X = 1"}, None) == ()


def test_several_files_are_one_edit() -> None:
    before = {"a.py": "X = 1\n", "b.py": "Y = 1\n", "c.py": "Z = 1\n", "d.txt": "one"}
    after = {"a.py": "X = 2\n", "b.py": "Y = 1  # one\n", "e.py": "def f(): pass\n", "d.txt": "two"}
    assert touched(before, after, None) == ("X", "Z", "f")


@pytest.mark.parametrize(
    ("pairs", "names"),
    [
        (["MATRIX_LR = 0.04", "MATRIX_LR = 0.05"], ["MATRIX_LR"]),
        (["F.relu(self.up(x)).square()", "F.gelu(self.up(x))"], ["MLP.forward"]),
        (["gate_channels = 32", "gate_channels = 16"], ["Attention"]),
        (["DEPTH = 2 ", "DEPTH = 3 ", "MLP_RATIO * dim, dim", "3 * dim, dim"], ["DEPTH", "MLP.__init__"]),
    ],
)
def test_edits_of_the_training_code(pairs: list[str], names: list[str]) -> None:
    assert change(*pairs, text=TRAIN) == tuple(names)


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_changed_constants_are_what_is_touched(data: st.DataObject) -> None:
    constants = {
        name: found for name, found in find_constants(TRAIN, "cpu").items() if isinstance(found.value, int)
    }
    names = data.draw(st.sets(st.sampled_from(sorted(constants)), min_size=1))
    after = set_constants(TRAIN, {name: constants[name].value * 2 + 2 for name in names}, "cpu")
    found = touched({"train.py": TRAIN}, {"train.py": after}, "cpu")
    assert found == tuple(sorted(names))
    assert found == touched({"train.py": after}, {"train.py": TRAIN}, "cpu")
