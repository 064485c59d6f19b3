"""How the controller is trained: cross-entropy method on its parameters (Rubinstein 1999). Edit at will.

What measure.py needs of it: `search(env, seed)` yields parameters; those it yields last are measured.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from statistics import fmean, pstdev
from typing import TYPE_CHECKING

from controller import PARAMETERS, torque

if TYPE_CHECKING:
    from task import Pendulum

POPULATION = 50  # candidates in a generation
ELITE = 10  # the best of them, which the next generation is drawn around
EPISODES = 4  # that a candidate is judged by
INITIAL_SD = 2.0  # of each parameter, around 0
EXTRA_SD = 0.1  # added to the elite's spread, so that the search does not settle too early
START_SPEED = 1.0  # rad/s; episodes begin at any angle and at up to this speed


def search(env: Pendulum, seed: int) -> Iterator[list[float]]:
    """Yield the mean of each generation's elite, until the environment raises BudgetSpent."""
    rng = random.Random(seed)
    mean, sd = [0.0] * len(PARAMETERS), [INITIAL_SD] * len(PARAMETERS)
    while True:
        population = [[rng.gauss(m, s) for m, s in zip(mean, sd, strict=True)] for _ in range(POPULATION)]
        judged = [(judge(env, rng, candidate), candidate) for candidate in population]
        elite = [candidate for _, candidate in sorted(judged, reverse=True)[:ELITE]]
        mean = [fmean(values) for values in zip(*elite, strict=True)]
        sd = [pstdev(values) + EXTRA_SD for values in zip(*elite, strict=True)]
        yield mean


def judge(env: Pendulum, rng: random.Random, parameters: Sequence[float]) -> float:
    """Return the mean return of a few episodes from random states."""
    total = 0.0
    for _ in range(EPISODES):
        state = env.reset(rng.uniform(-math.pi, math.pi), rng.uniform(-START_SPEED, START_SPEED))
        over = False
        while not over:
            state, reward, over = env.step(torque(parameters, state))
            total += reward
    return total / EPISODES
