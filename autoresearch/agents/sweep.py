"""A classical optimiser over train.py's numeric constants: no key, no network, the honest baseline.

It finds the upper-case numeric constants by syntax tree, and searches them with Optuna's
tree-structured Parzen estimator (Bergstra et al. 2011), ask-and-tell, with pending trials counted
as if they had failed to improve (constant liar, Ginsbourger et al. 2010). Each proposal moves one
to three constants of the best code; its edits are ordinary edits.

Stateless: every call rebuilds the optimiser from the brief, so the same brief gives the same reply.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from autoresearch.brief import Brief, Tried
from autoresearch.constants import Constant, find_constants, setting
from autoresearch.errors import AgentError, UsageError
from autoresearch.experiment import FailureKind, Files, Proposal, Verdict
from autoresearch.protocols import Reply

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
    from optuna.study import Study

SPAN = 3.0  # a constant is searched from its baseline value / SPAN to its value * SPAN
STARTUP_TRIALS = 8  # values are drawn at random until that many have a result
MOVES = (1, 1, 1, 2, 2, 3)  # how many constants a proposal moves, drawn from these
ATTEMPTS = 50  # draws before an idea that was tried already is given up
MIN_POWER = 8  # whole numbers from here on that are powers of two stay so
ZERO_SPAN = 0.3  # a constant that is 0 is searched from 0 to this


@dataclass(frozen=True, slots=True)
class Dimension:
    """One constant as the optimiser sees it: a parameter on a distribution."""

    name: str
    distribution: FloatDistribution | IntDistribution
    scale: Literal["plain", "exponent", "complement"]

    def encode(self, value: float) -> int | float | None:
        """Return a constant's value as a parameter; None where it lies outside of the space."""
        parameter: float = value
        if self.scale == "exponent":
            parameter = math.log2(value) if value > 0 else -1
        elif self.scale == "complement":
            parameter = 1 - value
        inside = self.distribution.low <= parameter <= self.distribution.high
        if not inside or (self.whole and parameter != int(parameter)):
            return None
        return int(parameter) if self.whole else parameter

    def decode(self, parameter: float) -> int | float:
        """Return a parameter as a value for the constant, to three or four digits."""
        if self.scale == "exponent":
            return 1 << int(parameter)
        if self.scale == "complement":
            return float(f"{1 - parameter:.4g}")
        return int(parameter) if self.whole else float(f"{parameter:.3g}")

    @property
    def whole(self) -> bool:
        """Whether parameters are whole numbers."""
        return isinstance(self.distribution.low, int)


Space = Mapping[str, Dimension]


class SweepAgent:
    """Proposes new values for numeric constants."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    def propose(self, brief: Brief, n: int) -> Reply:
        """Return up to n proposals, fewer where nothing new was found; AgentError without constants."""
        current = _constants(brief.files, brief.profile)
        base = _constants(brief.baseline_files, brief.profile)
        found = (_dimension(base[name]) for name in sorted(base) if name in current)
        space = {dimension.name: dimension for dimension in found if dimension}
        if not space:
            names = ", ".join(brief.files)
            raise AgentError(f"{names}: there are no numeric constants to search", retryable=False)
        study = _told(brief, space, self._seed)
        seen = {_key(tried.constants, space) for tried in brief.tried}
        rng = random.Random(f"{self._seed}:{brief.seed}:{brief.serial}")  # noqa: S311  not for secrets
        proposals = []
        for _ in range(n):
            changes = _new_idea(study, space, current, seen, rng)
            if changes is None:
                break
            proposals.append(_proposal(brief, current, changes))
        if not proposals:
            raise AgentError("every neighbouring value was tried", retryable=False)
        return Reply(proposals=tuple(proposals))


def _new_idea(
    study: Study,
    space: Space,
    current: Mapping[str, Constant],
    seen: set[tuple[float, ...]],
    rng: random.Random,
) -> dict[str, int | float] | None:
    """Return new values for a few constants; what was asked before counts as pending."""
    from optuna.trial import TrialState

    for _ in range(ATTEMPTS):
        names = rng.sample(sorted(space), min(rng.choice(MOVES), len(space)))
        asked = study.ask({name: space[name].distribution for name in sorted(names)})
        drawn = {name: space[name].decode(asked.params[name]) for name in sorted(names)}
        changes = {name: value for name, value in drawn.items() if value != current[name].value}
        key = _key({name: constant.value for name, constant in current.items()} | changes, space)
        if changes and key not in seen:
            seen.add(key)
            return changes
        study.tell(asked, state=TrialState.FAIL)
    return None


def _constants(files: Files, profile: str) -> dict[str, Constant]:
    """Return the constants of the Python files by name; of one in several files, the first file's."""
    found: dict[str, Constant] = {}
    for name, text in files.items():
        if name.endswith(".py"):
            found = find_constants(text, profile) | found
    return found


def _proposal(brief: Brief, current: Mapping[str, Constant], changes: Mapping[str, int | float]) -> Proposal:
    said = ", ".join(f"{name} {current[name].value:g} -> {value:g}" for name, value in changes.items())
    return Proposal(
        hypothesis=said,
        edits=setting(brief.files, changes, brief.profile),
        parent=brief.parent,
        author="sweep",
        base=brief.parent,
        follows=True,
    )


def _told(brief: Brief, space: Space, seed: int) -> Study:
    """Return an optimiser that knows every result of the brief and what is pending."""
    try:
        import optuna
    except ImportError:
        raise UsageError(
            "the sweep agent needs optuna", "pip install 'autoresearch[sweep]', or choose another --agent"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constant_liar is marked experimental
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=STARTUP_TRIALS,
            constant_liar=True,
            seed=random.Random(f"{seed}:{brief.seed}:{brief.serial}").getrandbits(31),  # noqa: S311
        )
    study = optuna.create_study(sampler=sampler, direction="minimize")
    kind = _main_kind(brief)
    values = {t.id: _value(brief, t, kind) for t in brief.tried}
    worst = max((v for v in values.values() if v is not None), default=0.0)
    distributions: dict[str, BaseDistribution] = {name: d.distribution for name, d in space.items()}
    for tried in brief.tried:
        encoded = {name: space[name].encode(tried.constants.get(name, math.nan)) for name in space}
        if None in encoded.values():
            continue
        hopeless = tried.failure is not None and tried.failure.kind is FailureKind.PRUNED
        value = worst if tried.verdict is Verdict.CRASH or hopeless else values[tried.id]
        state = optuna.trial.TrialState.RUNNING if value is None else optuna.trial.TrialState.COMPLETE
        if value is not None or tried.pending:
            study.add_trial(
                optuna.trial.create_trial(
                    state=state, params=encoded, distributions=distributions, value=value
                )
            )
    return study


def _main_kind(brief: Brief) -> str | None:
    """Return the worker kind with most results: values of different kinds are not compared."""
    kinds = [tried.kind for tried in brief.tried if tried.value is not None]
    return max(sorted({kind for kind in kinds if kind}), key=kinds.count, default=None)


def _value(brief: Brief, tried: Tried, kind: str | None) -> float | None:
    if tried.value is None or tried.kind != kind:
        return None
    return brief.goal.sign * tried.value


def _dimension(constant: Constant) -> Dimension | None:
    """Return how a constant is searched, from its baseline value; None for one that is left alone.

    Powers of two move by exponent, decay rates such as 0.95 by their distance from 1, shares stay
    within 0 and 1, everything else moves on a logarithmic scale. Negative numbers are left alone.
    """
    from optuna.distributions import FloatDistribution, IntDistribution

    name, value = constant.name, constant.value
    if value < 0 or (isinstance(value, int) and value == 0):
        return None
    if isinstance(value, int):
        if constant.power_of_two or (value >= MIN_POWER and value & (value - 1) == 0):
            exponent = value.bit_length() - 1
            return Dimension(name, IntDistribution(max(0, exponent - 1), exponent + 1), "exponent")
        return Dimension(name, IntDistribution(max(1, math.ceil(value / 2)), 2 * value), "plain")
    if value == 0:
        return Dimension(name, FloatDistribution(0.0, ZERO_SPAN), "plain")
    if value < 1 and ("BETA" in name or "MOMENTUM" in name):
        rest = 1 - value
        return Dimension(name, FloatDistribution(rest / SPAN, min(0.9, rest * SPAN), log=True), "complement")
    if value <= 1 and any(word in name for word in ("RATIO", "FRAC", "DROPOUT")):
        return Dimension(name, FloatDistribution(0.0, 1.0), "plain")
    return Dimension(name, FloatDistribution(value / SPAN, value * SPAN, log=True), "plain")


def _key(setting: Mapping[str, float], space: Space) -> tuple[float, ...]:
    return tuple(float(setting.get(name, math.nan)) for name in sorted(space))
