"""All an agent is told, as one bounded value, built from the history alone.

The same history gives the same brief, so an agent needs no memory and a restart changes nothing.
Bounded: at most MAX_TRIED experiments and MAX_REFUSED refusals, whatever the history.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoresearch.budget import Budget, Usage, room_for_experiments
from autoresearch.experiment import Experiment, Files, Goal, Refused, Verdict
from autoresearch.history import BASELINE, History
from autoresearch.judging.statistics import Noise, best_estimate, noise

MAX_TRIED = 500
MAX_REFUSED = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One experiment as an agent sees it: typed facts, no log text."""

    id: str
    parent: str | None
    hypothesis: str
    author: str
    constants: Mapping[str, float]
    verdict: Verdict | None
    reason: str
    value: float | None = None
    standard_error: float | None = None
    kind: str | None = None
    runs: int = 0

    @property
    def pending(self) -> bool:
        """Whether it has no value yet and may still get one."""
        return self.verdict is None and self.value is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Brief:
    """What an agent knows when it proposes."""

    study: str
    metric: str
    goal: Goal
    profile: str
    instructions: str
    parent: str  # the best experiment: proposals edit its code
    files: Files  # that code
    baseline_files: Files
    tried: tuple[Tried, ...]  # by id; the best and the most recent of a long history
    refused: tuple[Refused, ...]  # the most recent, oldest first
    noise: Mapping[str, Noise]  # by worker kind
    experiments_left: float
    budget: Budget
    usage: Usage
    serial: int  # proposals the study has received so far, admitted or not
    seed: int

    def find(self, experiment: str) -> Tried | None:
        """Return one experiment of the brief by id."""
        return next((tried for tried in self.tried if tried.id == experiment), None)


def build_brief(
    history: History,
    *,
    study: str,
    metric: str,
    profile: str,
    instructions: str,
    files: Files,
    baseline_files: Files,
    refused: Sequence[Refused],
    budget: Budget,
    usage: Usage,
    serial: int,
    seed: int,
) -> Brief:
    """Return the brief on a history. `files` is the code of the incumbent, or of the baseline."""
    incumbent = history.incumbent()
    kinds = sorted({run.worker_kind for run in history.all_runs() if run.worker_kind and run.measurement})
    spread = {kind: found for kind in kinds if (found := noise(history, kind))}
    return Brief(
        study=study,
        metric=metric,
        goal=history.goal,
        profile=profile,
        instructions=instructions,
        parent=incumbent.id if incumbent else BASELINE,
        files=files,
        baseline_files=baseline_files,
        tried=_bounded(history, [_tried(history, e, spread) for e in history.experiments.values()]),
        refused=tuple(refused[-MAX_REFUSED:]),
        noise=spread,
        experiments_left=room_for_experiments(budget, usage),
        budget=budget,
        usage=usage,
        serial=serial,
        seed=seed,
    )


def _tried(history: History, experiment: Experiment, spread: Mapping[str, Noise]) -> Tried:
    value = best_estimate(history, experiment.id)
    return Tried(
        id=experiment.id,
        parent=experiment.parent,
        hypothesis=experiment.hypothesis,
        author=experiment.author,
        constants=experiment.constants,
        verdict=experiment.verdict,
        reason=experiment.reason,
        value=value.mean if value else None,
        standard_error=value.standard_error(spread.get(value.kind)) if value else None,
        kind=value.kind if value else None,
        runs=len(history.finished(experiment.id)),
    )


def _bounded(history: History, tried: Sequence[Tried]) -> tuple[Tried, ...]:
    """Return everything, or of a long history the pending, the better and the more recent half."""
    if len(tried) <= MAX_TRIED:
        return tuple(tried)
    chosen = {t.id for t in tried if t.pending} | {BASELINE}
    ranked = sorted(
        (t for t in tried if t.value is not None), key=lambda t: history.goal.sign * (t.value or 0.0)
    )
    for source in (ranked, list(reversed(tried))):
        for t in source[: MAX_TRIED // 2]:
            chosen.add(t.id)
    kept = [t for t in tried if t.id in chosen]
    return tuple(kept[-MAX_TRIED:])
