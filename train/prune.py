"""When training is ended before its budget is: from what it prints, and nothing else. Pure. Protected.

A watch reads the progress lines that a run prints, keeps its loss curve, and says when to stop:

    not_finite   the printed loss is no number, several lines in a row, or it has exploded: always judged
    pruned       it cannot win any more: its loss is above what a reference run allows at equal progress,
                 in two windows of the budget in a row, or it makes hardly any steps. Judged only where
                 AUTORESEARCH_PRUNE brings limits, and after their grace

A window is a twentieth of the budget; half of its lines decide. Progress is the share of
the budget that a line claims, though never more than was measured from outside: a run that claims less
has a larger loss to beat, and a run that claims more is taken at its clock. Whatever a run prints, the
answer is a value: text that is no progress line is passed over, and what is kept is bounded.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from statistics import median

WINDOW = 0.05  # of the budget
WINDOW_LINES = 2048  # of one window, that are looked at
HELD_BYTES = 256  # of a progress line that is not whole yet
NOT_FINITE_LINES = 5  # in a row
LARGEST = 1e12  # beyond that a loss is taken for infinite
HOPELESS_WINDOWS = 2  # in a row
EXPLODED, TIMES_FIRST = 100.0, 3.0  # without limits: above both, as train.py itself gives up at 100
_PROGRESS = re.compile(rb"step (\d{1,12}) \((\d{1,3}(?:\.\d{1,6})?)%\) \| loss: (\S{1,40})\s")


@dataclass(frozen=True)
class Limits:
    """What a run is judged by: AUTORESEARCH_PRUNE, as it was read."""

    of: str  # the reference, as the orchestrator names it
    shares: tuple[float, ...]  # of the budget, rising
    loss: tuple[float, ...]  # of the reference, at each share
    excess: tuple[float, ...]  # allowed above it
    grace: float  # no run is pruned before this share
    explosion: float  # times the largest loss of the reference
    collapse: float  # times fewer steps than the reference at equal progress
    steps: float | None  # of the reference in its whole budget

    def reference(self, share: float) -> float:
        """Return the reference's loss at a share of the budget."""
        return _between(self.shares, self.loss, share)

    def allowed(self, share: float) -> float:
        """Return the largest loss that is not hopeless at a share of the budget."""
        return self.reference(share) + _between(self.shares, self.excess, share)


@dataclass(frozen=True)
class Ending:
    """Why training is ended early."""

    problem: str  # "not_finite" or "pruned"
    rule: str  # "nan", "explosion", "hopeless" or "collapse"
    share: float  # of the budget
    step: int
    loss: float | None
    detail: str

    def facts(self) -> dict[str, object]:
        """Return what the machine line says of it."""
        loss = None if self.loss is None else round(self.loss, 6)
        return {"rule": self.rule, "share": round(self.share, 4), "step": self.step, "loss": loss}


def read_limits(text: str | None) -> Limits | None:
    """Return the limits that a JSON text holds; None for none, or for text that holds none."""
    try:
        found = json.loads(text or "")
        limits = Limits(
            of=str(found["of"])[:40],
            shares=tuple(float(x) for x in found["shares"]),
            loss=tuple(float(x) for x in found["loss"]),
            excess=tuple(float(x) for x in found["excess"]),
            grace=float(found["grace"]),
            explosion=float(found["explosion"]),
            collapse=float(found["collapse"]),
            steps=None if found["steps"] is None else float(found["steps"]),
        )
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return limits if _sound(limits) else None


def _sound(limits: Limits) -> bool:
    factors = (limits.explosion, limits.collapse)
    lists = (limits.shares, limits.loss, limits.excess)
    return (
        len({len(values) for values in lists}) == 1
        and len(limits.shares) > 0
        and all(math.isfinite(x) for values in lists for x in values)
        and all(a < b for a, b in zip(limits.shares, limits.shares[1:], strict=False))
        and min(limits.excess) >= 0
        and max(limits.loss) > 0
        and 0 <= limits.grace <= 1
        and all(math.isfinite(x) and x > 1 for x in factors)
        and (limits.steps is None or math.isfinite(limits.steps))
    )


def _between(xs: tuple[float, ...], ys: tuple[float, ...], x: float) -> float:
    """Return y at x by straight lines between points; outside them the nearest one's."""
    for i in range(1, len(xs)):
        if x < xs[i]:
            part = max(0.0, x - xs[i - 1]) / (xs[i] - xs[i - 1])
            return ys[i - 1] + (ys[i] - ys[i - 1]) * part
    return ys[-1]


@dataclass
class Watch:
    """Reads what a run prints and says when it should end; its curve is what the report keeps."""

    limits: Limits | None = None
    ending: Ending | None = None
    curve: list[tuple[float, float]] = field(default_factory=list)  # share of the budget, loss; a window each
    _held: bytes = b""
    _window: list[tuple[float, float]] = field(default_factory=list)
    _number: int = 0  # of the window
    _first: float | None = None
    _not_finite: int = 0
    _hopeless: int = 0

    def feed(self, data: bytes, most: float = 1.0) -> None:
        """Take what was printed, when at most this share of the budget was used."""
        data, end = self._held + data, 0
        for match in _PROGRESS.finditer(data):
            end = match.end()
            try:
                loss = float(match[3])
            except ValueError:
                continue
            share = min(1.0, max(0.0, most), float(match[2]) / 100)
            self.see(int(match[1]), share, loss)
        self._held = data[max(end, len(data) - HELD_BYTES) :]

    def see(self, step: int, share: float, loss: float) -> None:
        """Take one progress line."""
        if self.ending is not None:
            return
        if not abs(loss) < LARGEST:  # also NaN
            self._not_finite += 1
            if self._not_finite >= NOT_FINITE_LINES:
                self._end("nan", share, step, None, f"the loss is no number at {share:.0%} of the budget")
            return
        self._not_finite = 0
        self._first = loss if self._first is None else self._first
        number = int(share / WINDOW)
        if number > self._number:
            self._close(step)
            self._number = number
        if len(self._window) < WINDOW_LINES:
            self._window.append((share, loss))
        self._judge_steps(step, share, loss)

    def close(self) -> None:
        """Take the last window as it is: nothing more will be printed."""
        self._close(0)

    def _close(self, step: int) -> None:
        """Judge a window that is over, and add it to the curve."""
        if not self._window or self.ending is not None:
            return
        lines, self._window = self._window, []
        share = sum(s for s, _ in lines) / len(lines)
        loss = median(x for _, x in lines)
        self.curve.append((share, loss))
        self._judge_loss(step, share, loss, lines)

    def _judge_loss(self, step: int, share: float, loss: float, lines: list[tuple[float, float]]) -> None:
        limits = self.limits
        if limits is not None:
            exploded = limits.explosion * max(limits.loss)
        else:
            exploded = max(EXPLODED, TIMES_FIRST * (self._first or 0.0))
        if loss > exploded:
            said = f"the loss exploded: {loss:.4g} at {share:.0%} of the budget"
            self._end("explosion", share, step, loss, said)
        elif limits is not None and share >= limits.grace:
            above = median(x - limits.allowed(s) for s, x in lines)
            self._hopeless = self._hopeless + 1 if above > 0 else 0
            if self._hopeless >= HOPELESS_WINDOWS:
                said = (
                    f"loss {loss:.4f} at {share:.0%} of the budget, where {limits.of} had"
                    f" {limits.reference(share):.4f} and {loss - above:.4f} was allowed"
                )
                self._end("hopeless", share, step, loss, said)

    def _judge_steps(self, step: int, share: float, loss: float) -> None:
        """Judge how many steps a run has made; every line says it."""
        limits = self.limits
        if limits is None or not limits.steps or not share >= max(limits.grace, WINDOW):
            return
        there = limits.steps * share
        if (step + 1) * limits.collapse < there:
            said = (
                f"{step + 1} steps in {share:.0%} of the budget, where {limits.of} had made {there:.0f}:"
                f" fewer than one in {limits.collapse:g}"
            )
            self._end("collapse", share, step, loss, said)

    def _end(self, rule: str, share: float, step: int, loss: float | None, detail: str) -> None:
        problem = "not_finite" if rule in {"nan", "explosion"} else "pruned"
        self.ending = Ending(problem, rule, share, step, loss, detail)
