"""The task: swing a pendulum up and hold it there, with a motor too weak to lift it at once. Protected.

Equations, limits and costs are those of Gymnasium's Pendulum-v1: at most 2 Nm and 8 rad/s, episodes of
200 steps of 0.05 s, and a step costs angle² + 0.1 speed² + 0.001 torque², where an angle of 0 is upright.
The environment counts its own steps, so that a run is the same on a fast machine and on a slow one.
"""

from __future__ import annotations

import math
from collections import deque

GRAVITY = 10.0
STEP_SECONDS = 0.05
MAX_TORQUE = 2.0
MAX_SPEED = 8.0
EPISODE_STEPS = 200

State = tuple[float, float, float]  # cos(angle), sin(angle), speed in rad/s


class BudgetSpent(Exception):  # noqa: N818  no error, but the end of training
    """All steps of the budget are taken."""


class Pendulum:
    """A pendulum of 1 m and 1 kg, with a budget of steps over all of its episodes."""

    def __init__(self, budget: int, episode_steps: int = EPISODE_STEPS) -> None:
        self.budget = budget
        self.episode_steps = episode_steps
        self.steps = 0  # taken, over all episodes
        self.returns: deque[float] = deque(maxlen=100)  # of the last complete episodes
        self.reset(math.pi, 0.0)

    def reset(self, angle: float, speed: float) -> State:
        """Begin an episode at an angle and a speed; return its first state."""
        self._angle, self._speed = angle, speed
        self._left, self._return = self.episode_steps, 0.0
        return math.cos(angle), math.sin(angle), speed

    def step(self, torque: float) -> tuple[State, float, bool]:
        """Return the next state, the reward, and whether the episode is over.

        Raises BudgetSpent when no step is left, and ValueError for a torque that is no finite number.
        """
        if self.steps >= self.budget:
            raise BudgetSpent(f"all {self.budget} steps are taken")
        if not math.isfinite(torque):
            raise ValueError(f"the torque is {torque}")
        self.steps += 1
        torque = max(-MAX_TORQUE, min(MAX_TORQUE, torque))
        angle = math.remainder(self._angle, math.tau)
        reward = -(angle**2 + 0.1 * self._speed**2 + 0.001 * torque**2)
        speed = self._speed + (1.5 * GRAVITY * math.sin(angle) + 3.0 * torque) * STEP_SECONDS
        self._speed = max(-MAX_SPEED, min(MAX_SPEED, speed))
        self._angle = angle + self._speed * STEP_SECONDS
        self._return += reward
        self._left -= 1
        if self._left == 0:
            self.returns.append(self._return)
        return (math.cos(self._angle), math.sin(self._angle), self._speed), reward, self._left <= 0
