"""The controller: one linear law to hold and one to swing up, and an angle where they change. Edit at will.

What search.py needs of it: a parameter for each of PARAMETERS, and `torque(parameters, state)`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

HOLD_DEGREES = 60.0  # from upright, within which it holds
SPEED_SCALE = 0.125  # brings the speed, of up to 8 rad/s, to the size of the sine
TORQUE_SCALE = 2.0  # Nm; the motor gives no more

PARAMETERS = ("hold: sine", "hold: speed", "swing: sine", "swing: speed")
HOLD_COS = math.cos(math.radians(HOLD_DEGREES))


def torque(parameters: Sequence[float], state: tuple[float, float, float]) -> float:
    """Return the torque in Nm for a state: cos(angle), sin(angle), speed in rad/s."""
    cos, sin, speed = state
    of_sin, of_speed = parameters[:2] if cos > HOLD_COS else parameters[2:]
    return TORQUE_SCALE * math.tanh(of_sin * sin + of_speed * SPEED_SCALE * speed)
