"""All an agent is told, as one bounded value, built from the history alone.

The same history gives the same brief, so an agent needs no memory and a restart changes nothing.
Bounded: at most MAX_TRIED experiments, MAX_REFUSED refusals and MAX_FAMILIES families, whatever the
history; what it all adds up to (families, predictions, what to do again) is reckoned over the whole of it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, zip_longest

from autoresearch.budget import Budget, Usage, room_for_experiments
from autoresearch.experiment import Edit, Experiment, Failure, Files, Goal, Prior, Refused, Verdict
from autoresearch.findings import Family, Findings, Predictions, as_of
from autoresearch.history import BASELINE, History
from autoresearch.judging.statistics import Noise

MAX_TRIED = 500
MAX_REFUSED = 12
MAX_FAMILIES = 200
MAX_NOTES = 3
LATEST = 20  # judged last, which stay whatever their number


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
    touches: tuple[str, ...] = ()  # the constants, functions and methods it changes
    delta: float | None = None  # its value minus its parent's, on one kind
    delta_error: float | None = None
    expected: float | None = None  # the delta its author predicted
    reworks: tuple[str, ...] = ()
    failure: Failure | None = None
    memory_gb: float | None = None
    judged_at: float | None = None
    taken_back: bool = False  # somebody cancelled it

    @property
    def pending(self) -> bool:
        """Whether it has no value yet and may still get one."""
        return self.verdict is None and self.value is None and not self.taken_back


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
    as_of: float = 0.0  # the moment of the last result; 0 before there is any
    progress: float | None = None  # the best's value minus the baseline's, on one kind
    counts: Mapping[str, int] = field(default_factory=dict)  # all experiments, by verdict or "open"
    anchor: str = ""  # the experiment whose code an agent holds already
    anchor_files: Files = field(default_factory=dict)
    families: tuple[Family, ...] = ()  # of ideas; the one tried last first
    together: tuple[str, ...] = ()  # winners on old bases, to be done anew on today's in one experiment
    rework: tuple[str, ...] = ()  # others, each in an experiment of its own
    changes: Mapping[str, tuple[Edit, ...]] = field(default_factory=dict)  # what those changed, by id
    near: tuple[str, ...] = ()  # near misses on an old base
    predictions: Predictions = field(default_factory=Predictions)
    notes: tuple[str, ...] = ()  # the agent's own, oldest first
    waiting: tuple[str, ...] = ()  # hypotheses of proposals not yet admitted
    focus: str = ""  # what this request is for, where several are under way; "": anything
    elsewhere: tuple[str, ...] = ()  # what the others were asked for
    prior: tuple[Prior, ...] = ()  # from before the study, not comparable: the best, then the last
    priors: int = 0  # how many there are in all

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
    anchor: str = "",
    anchor_files: Files | None = None,
    waiting: Sequence[str] = (),
    promised: Sequence[str] = (),  # experiments that wait as proposals; `waiting` are those that are none
    notes: Sequence[str] = (),
    focus: str = "",
    elsewhere: Sequence[str] = (),
    together: Sequence[str] = (),
) -> Brief:
    """Return the brief on a history; `files` is the best code. Without an anchor it is the baseline."""
    findings = Findings(history)
    rework, near = (_without(names, together) for names in (findings.rework(), findings.near()))
    parent = best.id if (best := history.incumbent()) else BASELINE
    tried = [_tried(history, e, findings, promised) for e in history.experiments.values()]
    return Brief(
        study=study,
        metric=metric,
        goal=history.goal,
        profile=profile,
        instructions=instructions,
        parent=parent,
        files=files,
        baseline_files=baseline_files,
        tried=_bounded(tried, (parent, BASELINE, *together, *rework, *near), history.goal),
        refused=tuple(refused[-MAX_REFUSED:]),
        noise=findings.noise,
        experiments_left=max(0, room_for_experiments(budget, usage) - len(waiting) - len(promised)),
        budget=budget,
        usage=usage,
        serial=serial,
        seed=seed,
        as_of=as_of(history),
        progress=findings.progress(),
        counts=Counter(str(t.verdict or ("cancelled" if t.taken_back else "open")) for t in tried),
        anchor=anchor or BASELINE,
        anchor_files=baseline_files if anchor_files is None else anchor_files,
        families=findings.families()[:MAX_FAMILIES],
        together=tuple(together),
        rework=rework,
        near=near,
        predictions=findings.predictions(),
        notes=tuple(notes[-MAX_NOTES:]),
        waiting=tuple(waiting),
        focus=focus,
        elsewhere=tuple(elsewhere),
    )


def _without(names: Sequence[str], others: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name not in others)


def _tried(history: History, experiment: Experiment, findings: Findings, promised: Sequence[str]) -> Tried:
    value = findings.values.get(experiment.id)
    effect = findings.effects.get(experiment.id)
    runs = history.runs_of(experiment.id)
    memory = [r.measurement.memory_gb for r in runs if r.measurement and r.measurement.memory_gb]
    return Tried(
        id=experiment.id,
        parent=experiment.parent,
        hypothesis=experiment.hypothesis,
        author=experiment.author,
        constants=experiment.constants,
        verdict=experiment.verdict,
        reason=experiment.reason,
        value=value.mean if value else None,
        standard_error=findings.error(value) if value else None,
        kind=value.kind if value else None,
        runs=len(history.finished(experiment.id)),
        touches=findings.touches(experiment),
        delta=effect.delta if effect else None,
        delta_error=effect.error if effect else None,
        expected=experiment.expected,
        reworks=experiment.reworks,
        failure=next((run.failure for run in runs if run.failure), None),
        memory_gb=max(memory, default=None),
        judged_at=experiment.judged_at,
        taken_back=experiment.id not in promised and history.taken_back(experiment.id),
    )


def _bounded(tried: Sequence[Tried], named: Sequence[str], goal: Goal) -> tuple[Tried, ...]:
    """Return everything, or of a long history the named, the unjudged, and the better and the recent half."""
    latest = sorted((t for t in tried if t.judged_at is not None), key=lambda t: (t.judged_at, t.id))
    must = [*(t.id for t in reversed(tried) if t.verdict is None), *(t.id for t in latest[-LATEST:])]
    pairs = zip_longest(_ranked(tried, goal), (t.id for t in reversed(tried)))
    order = dict.fromkeys([*named, *must, *(name for pair in pairs for name in pair if name)])
    chosen = set(islice(order, MAX_TRIED))
    return tuple(t for t in tried if t.id in chosen)


def _ranked(tried: Sequence[Tried], goal: Goal) -> Iterator[str]:
    """Yield what was measured, the better first; kinds in turn, since their values do not compare."""
    kinds: defaultdict[str, list[tuple[float, str]]] = defaultdict(list)
    for t in tried:
        if t.value is not None:
            kinds[t.kind or ""].append((goal.sign * t.value, t.id))
    for rank in zip_longest(*(sorted(kinds[kind]) for kind in sorted(kinds))):
        yield from (found[1] for found in rank if found)
