"""When a run cannot win any more: the limits that a screen is sent with. Pure.

The harness (train/prune.py) reads them from AUTORESEARCH_PRUNE and judges the loss that a run prints at
equal progress, that is at equal shares of the training budget. What is here says where the limits lie:

    reference   at each share the larger one of the mean curves of the best code and of the baseline, of
                their finished runs on the same kind of worker
    excess      what the reference was above that at `lag` times the share: a run is hopeless that is not
                even where the reference was at six tenths of its way. At least `spreads` standard
                deviations of one run's curve about its code's mean, and a hundredth of the loss
    collapse    a tenth of the reference's steps at equal progress

It is loose by intent. Smoothed train loss hardly correlates with the final score before 40 % of a budget
(0.27 at 30 %, 0.73 at 40 % on the public curves of one architecture), learning rates and schedules cross
over late, and a rule by rank kills winners. benchmarks/pruning.py measures what ours would have cost.

Only code whose train loss means the same can be compared: where lines about the loss, its targets, the
batch or the sequence differ, there are no limits, and the harness only ends what is not finite.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median

from autoresearch.experiment import Files, Run, RunState

VARIABLE = "AUTORESEARCH_PRUNE"
GRID = tuple(round(0.05 * i, 2) for i in range(1, 20))  # shares of the budget
REACHES = 0.85  # a curve that ends before this share is no finished run's
LEAST_EXCESS = 0.01  # of the reference's loss

Curve = Sequence[tuple[float, float]]  # share of the budget, train loss; shares rise


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How loose the limits are."""

    lag: float = 0.6  # of its progress, at which the reference's loss is the limit
    spreads: float = 4.0  # standard deviations of a curve that are always allowed
    grace: float = 0.4  # share of the budget before which nothing is pruned
    explosion: float = 3.0  # times the reference's largest loss
    collapse: float = 10.0  # times fewer steps


LOOSE = Rule()


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """What the harness judges one run by; shares are of the training budget."""

    of: str  # the experiments whose curves are the reference
    shares: tuple[float, ...]
    loss: tuple[float, ...]  # of the reference at each share
    excess: tuple[float, ...]  # allowed above it
    grace: float
    explosion: float
    collapse: float
    steps: float | None = None  # of the reference in its whole budget

    @property
    def document(self) -> str:
        """The thresholds as the value of AUTORESEARCH_PRUNE, in less than a kilobyte."""
        fields = {
            name: [_short(x) for x in value] if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }
        return json.dumps(fields, separators=(",", ":"), allow_nan=False)

    def __str__(self) -> str:
        """Return the rule in words."""
        allowed = ", ".join(
            f"{loss + excess:.3f} at {share:.0%}"
            for share, loss, excess in zip(self.shares, self.loss, self.excess, strict=True)
            if share >= self.grace and round(100 * share) % 20 == 0
        )
        fewer = f", or with one step in {self.collapse:g} of its" if self.steps else ""
        return f"pruned from {self.grace:.0%} of the budget on above the loss of {self.of}: {allowed}{fewer}"


def thresholds(
    curves: Mapping[str, Sequence[Curve]], steps: Iterable[float] = (), rule: Rule = LOOSE
) -> Thresholds | None:
    """Return the thresholds that finished runs make, by experiment; None where no curve is whole.

    `steps` are those of the same runs. Every limit is at or above the reference.
    """
    whole = {
        name: [_on_grid(curve) for curve in found if curve and curve[-1][0] >= REACHES]
        for name, found in curves.items()
    }
    known = {name: found for name, found in whole.items() if found}
    if not known:
        return None
    means = [[fmean(losses) for losses in zip(*found, strict=True)] for found in known.values()]
    reference = [max(losses) for losses in zip(*means, strict=True)]
    points = list(zip(GRID, reference, strict=True))
    spread = _spread(known.values())
    excess = tuple(
        max(loss_at(points, rule.lag * share) - loss, rule.spreads * sd, LEAST_EXCESS * abs(loss))
        for share, loss, sd in zip(GRID, reference, spread, strict=True)
    )
    made = sorted(steps)
    return Thresholds(
        of=" and ".join(known),
        shares=GRID,
        loss=tuple(reference),
        excess=excess,
        grace=rule.grace,
        explosion=rule.explosion,
        collapse=rule.collapse,
        steps=median(made) if made else None,
    )


def loss_at(curve: Curve, share: float) -> float:
    """Return a curve's loss at a share of the budget by straight lines; outside it the nearest point's."""
    before = curve[0]
    for point in curve:
        if share <= point[0]:
            width = point[0] - before[0]
            part = (share - before[0]) / width if width > 0 else 1.0
            return before[1] + (point[1] - before[1]) * max(0.0, part)
        before = point
    return before[1]


def curve_of(facts: Mapping[str, object]) -> Curve:
    """Return the curve in a harness's machine line; empty where it has none that is one."""
    found = facts.get("curve")
    points: list[tuple[float, float]] = []
    for point in found if isinstance(found, list) else ():
        match point:
            case [int() | float() as share, int() | float() as loss] if math.isfinite(loss):
                if 0 <= share <= 1 and (not points or share > points[-1][0]):
                    points.append((float(share), float(loss)))
    return points


def pruned(runs: Iterable[Run]) -> Run | None:
    """Return the first run that was ended early because it could not win, or None."""
    return next((run for run in runs if run.state is RunState.PRUNED), None)


# What a train loss is taken over and how it is shown. A changed line with one of these words may shift it.
_MEANING = re.compile(
    r"loss|entropy|logit|target|label|smooth|vocab|batch|seq|token|accum|dropout|mask|nll|step \{",
    re.IGNORECASE,
)


def comparable(code: Files, other: Files) -> bool:
    """Whether the train losses of two codes can be compared: nothing that shifts their meaning differs."""
    return _meaning(code) == _meaning(other)


def _meaning(code: Files) -> Counter[str]:
    lines = (" ".join(line.split("#", 1)[0].split()) for text in code.values() for line in text.splitlines())
    return Counter(line for line in lines if _MEANING.search(line))


def _on_grid(curve: Curve) -> list[float]:
    return [loss_at(curve, share) for share in GRID]


def _spread(groups: Iterable[Sequence[Sequence[float]]]) -> list[float]:
    """Return the standard deviation of a run's curve about its code's mean at each share; 0: unknown."""
    squares, df = [0.0] * len(GRID), 0
    for runs in groups:
        for i, losses in enumerate(zip(*runs, strict=True)):
            mean = fmean(losses)
            squares[i] += sum((loss - mean) ** 2 for loss in losses)
        df += len(runs) - 1
    return [math.sqrt(total / df) if df else 0.0 for total in squares]


def _short(value: float) -> float:
    return float(f"{value:.6g}")
