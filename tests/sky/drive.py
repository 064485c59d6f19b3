"""`autoresearch run`, with proposals of a test instead of an agent's: python drive.py FOLDER [--keep]."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import typer

from autoresearch.agents.scripted import ScriptedAgent
from autoresearch.cli.output import guard
from autoresearch.experiment import Edit, Proposal

EDITS = {
    "a slower matrix rate": ("MATRIX_LR = 0.04", "MATRIX_LR = 0.03"),
    "breaks when the training is under way": (
        "        budget.step()\n",
        "        budget.step()\n        if budget.steps == 10:\n            raise ValueError('on purpose')\n",
    ),
    "less momentum": ("MUON_MOMENTUM = 0.95", "MUON_MOMENTUM = 0.9"),
    "takes its time": (
        "        budget.step()\n",
        "        budget.step()\n        if budget.steps == 5:\n            time.sleep(60)\n",
    ),
}
SCRIPT = [
    Proposal(hypothesis=hypothesis, edits=(Edit(old=old, new=new),), parent="e0001", author="test")
    for hypothesis, (old, new) in EDITS.items()
]

if __name__ == "__main__":
    command = importlib.import_module("autoresearch.cli.run")  # the package has a function of that name
    command.make_agent = lambda *_: (ScriptedAgent(SCRIPT), 0.0)
    wishes = command.Wishes(yes=True, keep_workers="--keep" in sys.argv)
    try:
        guard(command.run)(Path(sys.argv[1]), "t", wishes)
    except typer.Exit as end:
        sys.exit(end.exit_code)
