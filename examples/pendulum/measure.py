"""The measurement: train with one seed, then try the controller from 64 states. Protected.

    AUTORESEARCH_SEED=1 python measure.py

controller.py and search.py are those of the current folder, task.py is the one beside this file.
With AUTORESEARCH_PREFLIGHT set, budget and episodes are tiny, and it only says that the code works.
PENDULUM_STEPS sets another budget, for tests.
"""

from __future__ import annotations

import math
import os
import random
import sys
from importlib import import_module
from pathlib import Path
from statistics import fmean

from task import EPISODE_STEPS, BudgetSpent, Pendulum

BUDGET_STEPS = 3_000_000
PREFLIGHT_STEPS, PREFLIGHT_EPISODE_STEPS = 20_000, 5
STATES = 64


def train(env: Pendulum, seed: int) -> list[float]:
    """Return the last parameters that the search yields within the budget."""
    parameters: list[float] = []
    try:
        for count, found in enumerate(import_module("search").search(env, seed), 1):
            parameters = list(found)
            share, loss = 100 * env.steps / env.budget, -fmean(env.returns or [math.nan])
            print(f"\rstep {count:05d} ({share:.1f}%) | loss: {loss:.6f}", end="", flush=True)
    except BudgetSpent:
        pass
    print()
    if not parameters:
        raise ValueError(f"search() yielded no parameters within {env.steps} steps")
    return parameters


def evaluate(parameters: list[float], episode_steps: int) -> float:
    """Return the mean return from starting states that are always the same."""
    torque, rng = import_module("controller").torque, random.Random(0)
    env = Pendulum(STATES * episode_steps, episode_steps)
    total = 0.0
    for _ in range(STATES):
        state, over = env.reset(rng.uniform(-math.pi, math.pi), rng.uniform(-1.0, 1.0)), False
        while not over:
            state, reward, over = env.step(torque(parameters, state))
            total += reward
    return total / STATES


def main() -> None:
    """Train, measure, and print the metric, or in a preflight that it could be measured."""
    preflight = "AUTORESEARCH_PREFLIGHT" in os.environ
    budget = PREFLIGHT_STEPS if preflight else int(os.environ.get("PENDULUM_STEPS", BUDGET_STEPS))
    episode_steps = PREFLIGHT_EPISODE_STEPS if preflight else EPISODE_STEPS
    sys.path.insert(0, str(Path.cwd()))
    parameters = train(Pendulum(budget, episode_steps), int(os.environ.get("AUTORESEARCH_SEED", "0")))
    value = evaluate(parameters, episode_steps)
    if not math.isfinite(value):
        raise ValueError(f"the return is {value}")
    print("preflight passed" if preflight else f"METRIC return={value:.3f}")


if __name__ == "__main__":
    main()
