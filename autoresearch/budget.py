"""Ceilings and what is spent: the arithmetic that keeps a study under them."""

from __future__ import annotations

from dataclasses import dataclass, field

from autoresearch.calls import Tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Hard ceilings of a study, None: no ceiling; and whether it may end before them."""

    experiments: int | None = None  # admitted proposals, the baseline not counted
    hours: float | None = None  # of dispatching, pauses not counted
    gpu_dollars: float | None = None
    gpu_dollars_per_hour: float | None = None  # of the whole pool
    api_dollars: float | None = None
    stop_below: float | None = None  # gain that the next hour must promise; None: one noise sigma
    until_ceiling: bool = False  # stop where the next hour promises less

    @property
    def limits_ideas_only(self) -> bool:
        """Whether ideas are limited, by number or by what asking for them costs, and machines are not."""
        ideas = self.experiments is not None or self.api_dollars is not None
        return ideas and self.hours is None and self.gpu_dollars is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a study has spent so far."""

    experiments: int = 0
    hours: float = 0.0
    gpu_dollars: float = 0.0  # of workers and runs, up to now
    reserved_dollars: float = 0.0  # what is in flight may still cost
    api_dollars: float = 0.0
    api_calls: int = 0
    tokens: Tokens = field(default_factory=Tokens)  # of the API
    allocated_seconds: float = 0.0  # workers were there for so long, busy or not; 0: they cost nothing idle


def room_for_experiments(budget: Budget, usage: Usage) -> float:
    """Return how many more experiments may be admitted; infinite without a ceiling."""
    if budget.experiments is None:
        return float("inf")
    return max(0, budget.experiments - usage.experiments)


def may_start(budget: Budget, usage: Usage, *, worst_hours: float, worst_dollars: float) -> str | None:
    """Return None if a run of that worst case fits under every ceiling, else the ceiling's name."""
    if budget.hours is not None and usage.hours + worst_hours > budget.hours:
        return "hours"
    committed = usage.gpu_dollars + usage.reserved_dollars + worst_dollars
    if budget.gpu_dollars is not None and committed > budget.gpu_dollars:
        return "gpu_dollars"
    return None
