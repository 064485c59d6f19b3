"""Variables that are normal together, learned of one number at a time. Pure.

The exact update of a Kalman filter without dynamics (Kalman 1960); who adds variance to a variable
lets it drift.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector = NDArray[np.float64]

ROOM = 64  # variables to begin with


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaussian:
    """A normal distribution."""

    mean: float
    variance: float


class State:
    """A mean and a covariance that grow by a variable at a time."""

    def _clear(self) -> None:
        """Forget all variables."""
        import numpy as np

        self._mean: Vector = np.zeros(ROOM)
        self._cov: Vector = np.zeros((ROOM, ROOM))
        self._size = 0
        self._index: dict[str, int] = {}

    def _add(self, name: str, mean: float, variance: float) -> int:
        """Append a variable that hangs together with nothing yet; return its index."""
        import numpy as np

        i = self._size
        if i == len(self._mean):
            mean_, cov = self._mean, self._cov
            self._mean, self._cov = np.zeros(2 * i), np.zeros((2 * i, 2 * i))
            self._mean[:i], self._cov[:i, :i] = mean_, cov
        self._mean[i], self._cov[i, i] = mean, variance
        self._index[name] = i
        self._size += 1
        return i

    def _learn(self, gain: Vector, surprise: float, scale: float) -> None:
        """Take in a number: its covariances with all variables, how far off it was, its variance."""
        import numpy as np

        k = self._size
        self._mean[:k] += gain * (surprise / scale)
        self._cov[:k, :k] -= np.outer(gain, gain) / scale

    def _spread(self, row: Mapping[int, float]) -> float:
        """Return the variance of a weighted sum of a few variables."""
        total = 0.0
        for i, one in row.items():
            line = self._cov[i]
            total += one * sum(other * float(line[j]) for j, other in row.items())
        return max(0.0, total)

    def _spread_of_all(self, h: Vector) -> float:
        """Return the variance of a sum of all variables."""
        k = self._size
        return max(0.0, float(h @ self._cov[:k, :k] @ h))
