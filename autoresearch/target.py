"""What a study optimises: files, command, metric, and the budget of one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from autoresearch.errors import ConfigError
from autoresearch.experiment import Goal

FILE_NAME = "autoresearch.yaml"
# How pydantic reads these classes from autoresearch.yaml: nothing unknown, nothing converted.
STRICT: dict[str, Any] = {"extra": "forbid", "strict": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """What the target reports and which way is better."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    name: str = "val_bpb"
    goal: Literal["minimize", "maximize"] = "minimize"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is optimised: files, command, metric and the budget of one run."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    editable: tuple[str, ...] = ("train/train.py",)
    protected: tuple[str, ...] = ()
    command: str = "{python} {protected}/train/harness.py train/train.py"
    prepare: str | None = None  # run once on this machine before a study's runs; None: nothing to do
    preflight: str | None = None  # exercises edited code for a few seconds; None: no preflight
    preflight_seconds: float = 90.0
    score: Literal["harness", "log"] = "harness"  # who reports the metric: log means self-reported
    metric: Metric = field(default_factory=Metric)
    profile: str = "auto"
    budget_seconds: float | dict[str, float] = field(default_factory=lambda: {"cpu": 20.0, "gpu": 300.0})
    timeout_seconds: float | dict[str, float] = field(default_factory=lambda: {"cpu": 300.0, "gpu": 600.0})
    env: dict[str, str] = field(default_factory=dict)

    @property
    def goal(self) -> Goal:
        """The direction of the metric."""
        return Goal(self.metric.goal)

    def resolve(self, kinds: Sequence[str]) -> Target:
        """Return the target with profile, budget and timeout fixed for a pool of these kinds.

        `profile: auto` means `cpu` on a pool without accelerators, else `gpu`. A profile without
        figures of its own takes those of the name before its dash (gpu-sotu takes gpu's).
        """
        profile = self.profile
        if profile == "auto":
            profile = "cpu" if set(kinds) <= {"cpu"} else "gpu"
        return replace(
            self,
            profile=profile,
            budget_seconds=_for_profile("budget_seconds", self.budget_seconds, profile),
            timeout_seconds=_for_profile("timeout_seconds", self.timeout_seconds, profile),
        )

    @property
    def seconds(self) -> float:
        """The training budget of one run of a resolved target."""
        return _resolved(self.budget_seconds)

    @property
    def timeout(self) -> float:
        """The wall-time ceiling of one run of a resolved target."""
        return _resolved(self.timeout_seconds)


def _resolved(value: float | Mapping[str, float]) -> float:
    if isinstance(value, Mapping):
        raise TypeError("the target is not resolved")
    return value


def _for_profile(key: str, value: float | Mapping[str, float], profile: str) -> float:
    if not isinstance(value, Mapping):
        return value
    for name in (profile, profile.split("-", maxsplit=1)[0]):
        if name in value:
            return value[name]
    raise ConfigError(
        f"{FILE_NAME}: target.{key} has no figure for profile {profile!r}", f"add `{profile}: SECONDS`"
    )
