"""What a study optimises: files, command, metric, and the budget of one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from autoresearch.errors import ConfigError
from autoresearch.experiment import Goal

FILE_NAME = "autoresearch.yaml"
MAX_ADDED = 24_000  # characters; the whole train.py has 18,000
# How pydantic reads these classes from autoresearch.yaml: nothing unknown, nothing converted.
STRICT: dict[str, Any] = {"extra": "forbid", "strict": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """What the target reports and which way is better."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    name: str = "val_bpb"
    goal: Literal["minimize", "maximize"] = "minimize"
    pattern: str | None = None  # finds the value in the log: its last match, and there the one group


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
    # who reports the metric: log means self-reported; auto: log where the metric has a pattern
    score: Literal["auto", "harness", "log"] = "auto"
    metric: Metric = field(default_factory=Metric)
    profile: str = "auto"
    budget_seconds: float | dict[str, float] = field(default_factory=lambda: {"cpu": 20.0, "gpu": 300.0})
    timeout_seconds: float | dict[str, float] = field(default_factory=lambda: {"cpu": 300.0, "gpu": 600.0})
    env: dict[str, str] = field(default_factory=dict)
    max_added_chars: int = MAX_ADDED  # that one proposal may add to its parent's code
    # auto: edited code runs in a sandbox where the machine has one; required: nowhere else
    sandbox: Literal["auto", "required", "off"] = "auto"

    @property
    def goal(self) -> Goal:
        """The direction of the metric."""
        return Goal(self.metric.goal)

    @property
    def resolved_score(self) -> Literal["harness", "log"]:
        """Who reports the metric."""
        if self.score == "auto":
            return "harness" if self.metric.pattern is None else "log"
        return self.score

    @property
    def self_reported(self) -> bool:
        """Whether the score is what the edited code prints, measured by nobody else."""
        return self.resolved_score == "log"

    @property
    def facts(self) -> dict[str, str]:
        """The variables of every job of a resolved target, wherever it runs.

        AUTORESEARCH_BESIDE asks whoever starts a job to copy the protected files beside its own: code
        that reports its own score imports them, where a harness would run them from their own place.
        """
        beside = {"AUTORESEARCH_BESIDE": "1"} if self.self_reported else {}
        return {
            **self.env,
            "AUTORESEARCH_PROFILE": self.profile,
            "AUTORESEARCH_EDITABLE": ":".join(self.editable),
            "AUTORESEARCH_SANDBOX": self.sandbox,
            **beside,
        }

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
            score=self.resolved_score,
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
