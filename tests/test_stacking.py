"""Ideas that were measured on two bases: what held, and what interacts."""

from __future__ import annotations

import json
from dataclasses import replace
from random import Random

import pytest

from autoresearch.experiment import Verdict
from autoresearch.history import History
from autoresearch.judging.learning import Learner
from autoresearch.judging.stacking import Interaction, held, interaction, interactions
from builders import experiment, history
from test_posterior import SIGMA, base, measured


def learned(past: History) -> Learner:
    learner = Learner("H100", SIGMA)
    assert learner.learn(past)
    return learner


def stacked(here: float) -> History:
    """Return a past in which e0003 gained ten noises on the baseline, and anew, as e0004, `here` on e0002."""
    kept = [experiment(2, Verdict.KEEP, judged_at=310.0)]
    kept += [measured(f"e0002.{i}", 0.97, 300.0 + i, worker=i) for i in range(1, 7)]
    old = [experiment(3), *(measured(f"e0003.{i}", 0.99, 320.0 + i, worker=i) for i in range(1, 4))]
    anew = [replace(experiment(4, parent="e0002"), reworks=("e0003",))]
    anew += [measured(f"e0004.{i}", 0.97 + here, 500.0 + i, worker=i) for i in range(1, 4)]
    return history(*base(), *kept, *old, *anew)


@pytest.mark.parametrize(("here", "clear"), [(-0.0098, False), (-0.003, True), (-0.02, True)])
def test_an_idea_that_does_less_or_more_on_another_base_interacts(here: float, clear: bool) -> None:
    past = stacked(here)
    (found,) = interactions(past, learned(past))
    assert (found.experiment, found.base, found.earlier) == ("e0004", "e0002", ("e0003",))
    assert found.difference == pytest.approx(here + 0.01, abs=2 * SIGMA)
    assert found.clear is clear
    assert interaction(past, learned(past), "e0003") is None, "it was first"


def test_the_share_that_held_is_a_slope_with_its_error() -> None:
    """Over many ideas of which eight tenths remain, it lies within three errors of that."""
    rng = Random(1)
    found = []
    for i in range(60):
        effect = rng.choice([-1, 1]) * rng.uniform(2.5, 8) * SIGMA
        there, here = (value + rng.gauss(0, SIGMA / 2) for value in (effect, 0.8 * effect))
        found.append(
            Interaction(
                experiment=f"e{i}",
                base="e0002",
                earlier=("e0001",),
                effect=here,
                effect_there=there,
                error=SIGMA / 2**0.5,
            )
        )
    slope, error, number = held(found) or (0.0, 0.0, 0)
    assert number > 50
    assert abs(slope - 0.8) < 3 * error + 0.03
    assert held([]) is None


def test_what_is_told_is_json() -> None:
    past = stacked(-0.003)
    (found,) = interactions(past, learned(past))
    assert json.loads(json.dumps(found.figures()))["interacts"] is True
