"""What an edit touches, by name."""

from __future__ import annotations

import pytest

from autoresearch.families import touched
from lab import ROOT

CODE = '''"""A module."""
import os
RATE = 0.04
BETAS = (0.8, 0.95)
if PROFILE == "cpu":
    DEPTH = 4
else:
    DEPTH = 8

class Block(Base):
    width = 3

    def forward(self, x):
        """Doc."""
        return x + 1

    def init(self):
        pass

def build():
    # a comment
    return Block()

print("begins")
'''


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("RATE = 0.04", "RATE = 0.05", ("RATE",)),
        ("RATE = 0.04", "RATE  =  4e-2  # same", ()),
        ("(0.8, 0.95)", "(0.8, 0.99)", ("BETAS",)),
        ("DEPTH = 4", "DEPTH = 5", ("DEPTH",)),
        ("x + 1", "x + 2", ("Block.forward",)),
        ("x + 1", "x+1  # layout", ()),
        ("width = 3", "width = 4", ("Block",)),
        ("Block(Base)", "Block(Other)", ("Block",)),
        ("    def init(self):\n        pass\n", "", ("Block.init",)),
        ("return Block()", "return Block().half()", ("build",)),
        ('print("begins")', "begin()", ("module",)),
        ("RATE = 0.04", "RATE = 0.05\nWARMUP = 3", ("RATE", "WARMUP")),
        ("x + 1", "x +", ()),
    ],
)
def test_an_edit_touches_the_innermost_name(old: str, new: str, names: tuple[str, ...]) -> None:
    assert CODE.count(old) == 1
    assert touched({"train.py": CODE}, {"train.py": CODE.replace(old, new)}, "cpu") == names


def test_files_add_up_and_what_is_no_python_does_not_count() -> None:
    before = {"a.py": "A = 1\n", "b.py": "B = 1\n", "c.txt": "x"}
    after = {"a.py": "A = 2\n", "b.py": "B = 2\n", "c.txt": "y"}
    assert touched(before, after, None) == ("A", "B")


def test_real_edits_of_the_real_file() -> None:
    code = (ROOT / "train" / "train.py").read_text()
    after = code.replace("F.relu(self.up(x)).square()", "F.gelu(self.up(x))").replace(
        "MATRIX_LR = 0.04", "MATRIX_LR = 0.05"
    )
    assert touched({"train.py": code}, {"train.py": after}, "cpu") == ("MATRIX_LR", "MLP.forward")
