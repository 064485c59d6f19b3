"""How ideas go together: what each was worth on its first base, and what on another. Pure.

An idea that is done anew, or stacked, on another base was measured twice; several may be done anew in
one experiment. The effects there and here differ by how they interact, with each other and with what
was built in between, and by noise; both are told as measured, without shrinking, since the question is
whether they differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from autoresearch.history import History
from autoresearch.judging.learning import Learner
from autoresearch.judging.state import Gaussian

SDS = 2.58  # a difference that shows in 99 of 100: many are looked at
HELD_SDS = 2.0  # an effect of its first base that is large enough for a share of it to mean anything


@dataclass(frozen=True, slots=True, kw_only=True)
class Interaction:
    """Ideas on two bases; effects in the metric's unit and direction."""

    experiment: str
    base: str
    earlier: tuple[str, ...]
    effect: float
    effect_there: float  # of several ideas, together
    error: float  # standard error of their difference

    @property
    def difference(self) -> float:
        """What the ideas do here beyond what they did there."""
        return self.effect - self.effect_there

    @property
    def clear(self) -> bool:
        """Whether that is more than noise."""
        return abs(self.difference) > SDS * self.error

    def figures(self) -> dict[str, float | bool]:
        """Return what is told of it."""
        return {
            "effect_here": round(self.effect, 6),
            "effect_there": round(self.effect_there, 6),
            "interaction": round(self.difference, 6),
            "interaction_error": round(self.error, 6),
            "interacts": self.clear,
        }


def interactions(history: History, learner: Learner) -> tuple[Interaction, ...]:
    """Return what was measured on two bases of known value, the oldest first."""
    found = (interaction(history, learner, name) for name in history.experiments)
    return tuple(each for each in found if each)


def interaction(history: History, learner: Learner, experiment: str) -> Interaction | None:
    """Return how an experiment's effect differs from those of what it does anew; None where unknown."""
    here = history.experiments[experiment]
    now = _effect(history, learner, experiment)
    then = [_effect(history, learner, name) for name in here.reworks]
    known = [each for each in then if each]
    if now is None or not known or len(known) < len(then):
        return None
    return Interaction(
        experiment=here.id,
        base=here.parent or "",
        earlier=here.reworks,
        effect=history.goal.sign * now.mean,
        effect_there=history.goal.sign * sum(each.mean for each in known),
        error=math.sqrt(now.variance + sum(each.variance for each in known)),
    )


def _effect(history: History, learner: Learner, experiment: str) -> Gaussian | None:
    """Return what an experiment did to its parent's value, as measured; None where that is not known."""
    found = history.experiments.get(experiment)
    if found is None or not learner.belief.knows(found.parent or ""):
        return None
    return learner.belief.mean_of(history, found.id, found.parent)


def held(found: Sequence[Interaction]) -> tuple[float, float, int] | None:
    """Return which share of their effects ideas kept on another base, its standard error, and of how many.

    The slope of effects here on effects there, through nought, weighted by their errors, over those
    that were beyond the noise there; None without any.
    """
    large = [each for each in found if abs(each.effect_there) > HELD_SDS * each.error]
    weight = sum((each.effect_there / each.error) ** 2 for each in large)
    if not weight:
        return None
    slope = sum(each.effect * each.effect_there / each.error**2 for each in large) / weight
    return slope, 1 / math.sqrt(weight), len(large)
