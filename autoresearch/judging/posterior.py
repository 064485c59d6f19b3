"""The posterior queue: what is kept, dropped, measured again, stacked or handed back. Pure.

    keep     an experiment whose probability of being useless is small enough: at most JUMP times the
             error target alone, and with it the expected share of useless keeps within the target
             (the posterior expected false discovery rate, Mueller et al. 2004)
    drop     one whose expected improvement per run still needed is too small, for what runs bring lately
    confirm  the others, the most promising first, on workers that have not measured them
    control  the incumbent itself, until its value is known well enough for what it is compared with
    stack    a winner on an old base is done anew on today's: by the agent where it does so in time,
             those that are sure in one experiment (`combining`), else by the merge queue, which
             applies the same edits there; one that promises little is for a group; one that is more
             likely than not to beat today's best as it stands is confirmed as it stands

A run is worth its expected improvement per run still needed (`Prospect.worth`). The rules and their
numbers come from simulation (benchmarks/policies.py); scales are in noises of a run, so that another
metric needs no others. A pure function of the history: see `belief` for the estimates it rests on.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from autoresearch.config import Judging
from autoresearch.experiment import Experiment, Proposal, Purpose, Run, Verdict, Worker
from autoresearch.history import BASELINE, History
from autoresearch.judging.combining import GROUP, NEAR, SURE, Combiner
from autoresearch.judging.controls import Controls
from autoresearch.judging.effects import SHARES, Prospect
from autoresearch.judging.learning import Candidate, Learner
from autoresearch.judging.policy import (
    MERGE_QUEUE,
    MIN_BASELINE_RUNS,
    Decide,
    Decision,
    Merge,
    Order,
    Together,
    crash,
    discard,
    verdicts_on_failures,
)

WAIT = 0.5  # of a run's time, that a run waits for the best worker for it
LATELY = 6.0  # runs' times over which it is looked at what runs bring
TRIALS = 3  # winners that the agent did not do anew, after which it is not waited for


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The numbers of the policy; changed by benchmarks only. Scales are in noises of a run."""

    target: float = 0.05  # share of keeps that may be useless
    jump: float = 2.4  # times the target: what one keep may risk
    worth: float = 1 / 35  # expected improvement per run below which an experiment is dropped, at least;
    pace: float = 0.25  # it is this share of what a run brought lately, where that is more,
    most_worth: float = 1 / 18  # and never more than this; both grow in a pool smaller than
    few: int = 16  # so many, where a run takes another idea's place
    baseline_share: float = 0.5  # of the workers of each kind, that begin with the baseline
    at_once: int = 3  # confirmations of one experiment at once
    confirms: float = 0.5  # of all workers
    controls: float = 0.125
    base_runs: float = 20.0  # the best should be known as well as by so many runs
    base_start: float = 6.0  # to begin with, and per experiment compared with it:
    base_growth: float = 0.5
    alone: float = 1.0  # a stale winner of no more is for a group, not for an experiment of its own,
    alone_runs: float = 10.0  # while so many runs bring more
    much: float = 0.0  # a stale winner of more is for the agent to do anew
    patience: float = 4.0  # for that, in runs' times; before it has ever done so:
    trial: float = 1.0
    sure: float = SURE  # what is done anew together, see `combining`; 0: each by itself
    near: float = NEAR
    group: float = GROUP
    most_runs: float = 14.0
    # Parts that benchmarks leave out:
    hands_back: bool = True
    merges: bool = True
    offsets: bool = True
    shares: tuple[float, ...] = SHARES
    reworked_hold: bool = True
    wholes: bool = True
    drift: float = 0.3


class PosteriorPolicy:
    """Decides by what is believed of each experiment, given all runs of the study."""

    def __init__(
        self,
        judging: Judging,
        *,
        first_kind: str,
        noise: float | None = None,
        few_ideas: bool = False,
        rules: Rules | None = None,
    ) -> None:
        """Judge a study whose results are told on the scale of its first kind of worker.

        `noise` is how much two runs are expected to differ before any was measured, as a standard
        deviation; None: as much as the runs of the baseline do. With `few_ideas` they are what is limited,
        and not machines: a run more takes no idea's place.
        """
        self._judging, self._few_ideas = judging, few_ideas
        self._rules = rules = rules or Rules(target=judging.useless_keeps)
        self.learner = Learner(
            first_kind,
            noise,
            shares=rules.shares,
            drift=rules.drift,
            offsets=rules.offsets,
            reworked_hold=rules.reworked_hold,
            wholes=rules.wholes,
        )
        self._controls = Controls(
            self.learner,
            share=rules.controls,
            start=rules.base_start,
            growth=rules.base_growth,
            runs=rules.base_runs,
        )
        self._combiner = Combiner(self.learner, sure=rules.sure, near=rules.near, group=rules.group)
        self._sign = 1
        self._workers: Sequence[Worker] = ()  # as of the last decision, as is the next one
        self._now = 0.0
        self._lasted = (0, 0.0)  # how many runs of the baseline there are, and how long they took
        self._anew_of: tuple[object, list[Experiment], dict[str, str]] = (None, [], {})

    # -- the questions ---------------------------------------------------------------------------

    def decide(self, history: History, workers: Sequence[Worker], now: float) -> list[Decision]:
        """Return the verdicts that are due, the runs that are wanted and those that no longer are."""
        self._workers, self._now = workers, now
        baseline = history.experiments.get(BASELINE)
        if baseline is None:
            return []
        if baseline.verdict is None:
            return list(self._baseline(history))
        incumbent = history.incumbent()
        if incumbent is None or not self.learner.learn(history):
            return []
        self._sign = history.goal.sign
        failed = list(verdicts_on_failures(history))
        decisions: list[Decision] = [*failed]
        gone = {decision.experiment for decision in failed}
        if not self.learner.belief.knows(incumbent.id):
            return decisions
        found = self.learner.candidates(history, incumbent)
        candidates = [c for c in found if c.experiment.id not in gone]
        kept = self._keep(candidates)
        if kept:
            return [*decisions, kept]
        brought = self._brought(history)
        bar, little = self._bar(brought), self._little(brought)
        over, left = self._settle(history, candidates, incumbent, bar, little)
        decisions += over
        decisions += self._controls.unwanted(history, incumbent, len(workers))
        decisions += self._orders(history, left, incumbent, bar)
        return decisions

    def together(self, history: History, proposals: Sequence[Proposal]) -> Together | None:
        """Return whose ideas should be in one experiment: of the agent where it does ideas anew."""
        names = self._combiner.together(history, proposals) if self.learner.has_learned else ()
        if not names:
            return None
        stacked = not (self._rules.hands_back and self._patience(self._anew(history)[0]))
        return None if stacked and not self._rules.merges else Together(experiments=names, stacked=stacked)

    def closing(self, history: History) -> list[Order]:
        """Return the controls that a claim of the best's value lacks."""
        return self._controls.closing(history)

    def next_run(self, history: History, queued: Sequence[Run], worker: Worker) -> Run | None:
        """Return which of the queued runs a free worker takes: where it teaches most goes first."""
        fitting = [run for run in queued if run.kind in {None, worker.kind}]
        ranked = [(rank, run.id, run) for run in fitting if (rank := self._rank(history, run, worker))]
        return min(ranked)[2] if ranked else None

    def _rank(self, history: History, run: Run, worker: Worker) -> tuple[float, float] | None:
        """Return where a run stands in a worker's queue, lower first; None: it is for another worker.

        What one worker has measured is confirmed better on another, and a control is made where it
        teaches most; but neither waits for that longer than a share of a run's time.
        """
        ran = Counter(other.worker for other in history.runs_of(run.experiment))
        mine = ran[worker.name]
        waits = self._now - run.created_at < WAIT * self._usual_seconds()
        match run.purpose:
            case Purpose.BASELINE:
                return (0.0, float(mine))
            case Purpose.CONFIRM:
                others = [ran[w.name] for w in self._workers if w.ready and run.kind in {None, w.kind}]
                if waits and mine > min(others, default=mine):
                    return None
                return (1.0, -self.learner.worth(run.experiment) * (0.5 if mine else 1.0))
            case Purpose.CALIBRATE:
                if (
                    waits
                    and run.kind is None
                    and not self._controls.teaches_enough(run.experiment, worker, self._workers)
                ):
                    return None
                return (2.0, float(mine))
        return (3.0, run.created_at)

    # -- deciding --------------------------------------------------------------------------------

    def _baseline(self, history: History) -> Iterator[Decision]:
        """Yield the baseline's verdict, and one run of it for every worker that has none yet."""
        runs = history.runs_of(BASELINE)
        measured = [run for run in runs if run.measurement is not None]
        enough = self._judging.baseline_runs if history.is_open(BASELINE) else MIN_BASELINE_RUNS
        if len(measured) >= enough:
            yield Decide(experiment=BASELINE, verdict=Verdict.KEEP, reason=f"baseline, {len(measured)} runs")
        elif not history.is_open(BASELINE):
            yield crash(BASELINE, runs)
        else:
            there = Counter(run.kind for run in runs)
            for kind, count in Counter(worker.kind for worker in self._workers).items():
                wanted = max(min(count, 2), math.ceil(self._rules.baseline_share * count))
                why = f"baseline: what {kind} makes of known code"
                for _ in range(wanted - there[kind]):
                    yield Order(experiment=BASELINE, purpose=Purpose.BASELINE, kind=kind, why=why)

    def _keep(self, candidates: Sequence[Candidate]) -> Decide | None:
        """Return the best of what may be kept now, if anything."""
        target, risks = self._rules.target, self.learner.risks.values()
        allowed = min(self._rules.jump * target, target * (len(risks) + 1) - sum(risks))
        allowed = max(allowed, target / 2)
        sure = [c for c in candidates if c.outright.useless <= allowed]
        best = max(sure, key=lambda c: c.outright.gain, default=None)
        if best is None:
            return None
        reason = f"{self._said(best.outright)}, {_runs(best.runs)}"
        return Decide(experiment=best.experiment.id, verdict=Verdict.KEEP, reason=reason)

    def _said(self, prospect: Prospect) -> str:
        better = 1 - prospect.useless
        shown = f"{better:.2f}" if better < 0.995 else f"{min(better, 0.9999):.4f}"
        return f"{-prospect.gain * self._sign:+.5f} expected, better with P {shown}"

    def _settle(
        self,
        history: History,
        candidates: Sequence[Candidate],
        incumbent: Experiment,
        bar: float,
        little: float,
    ) -> tuple[list[Decision], list[Candidate]]:
        """Return the verdicts on what is over, and what is still to be measured."""
        most = self._rules.most_runs
        if not self._controls_on_demand():  # else what is not known of the best is no reason for more
            most *= max(1.0, (self.learner.belief.sigma / self.learner.unit) ** 2)
        stale = any(c.stale for c in candidates)
        again, reworked = self._anew(history) if stale else ([], {})
        patience, inside = self._patience(again), history.ideas_in(incumbent.id)
        over: list[Decision] = []
        left: list[Candidate] = []
        for c in candidates:
            name = c.experiment.id
            under_way = history.open_runs(name)
            hopeless = c.prospect.worth < (bar / 2 if under_way else bar) or c.runs >= most
            if c.stale and name in reworked:
                over.append(discard(name, f"done anew as {reworked[name]}"))
            elif c.stale and history.ideas_of(name) <= inside:
                over.append(discard(name, f"done anew: its idea is in {incumbent.id}, the best"))
            elif hopeless:
                over.append(discard(name, f"not worth more runs: {self._said(c.prospect)}, {_runs(c.runs)}"))
            elif not c.stale or c.outright.useless < 0.5:
                left.append(replace(c, prospect=c.outright))
            elif not any(run.purpose is Purpose.SCREEN for run in under_way):
                over += self._stale(c, incumbent, patience, little)
        return over, left

    def _anew(self, history: History) -> tuple[list[Experiment], dict[str, str]]:
        """Return what does others anew and did not crash, and by what each of those is done."""
        key = (history.index.reworking, history.index.crashed)
        if self._anew_of[0] != key:
            again = [e for e in history.reworking() if e.verdict is not Verdict.CRASH]
            self._anew_of = (key, again, {name: e.id for e in again for name in e.reworks})
        return self._anew_of[1:]

    def _patience(self, again: Sequence[Experiment]) -> float:
        """Return for how many seconds the agent may do a winner anew, by what it has made of others."""
        stacked = sum(e.author == MERGE_QUEUE for e in again)
        if len(again) > stacked:
            return self._rules.patience * self._usual_seconds()
        return self._rules.trial * self._usual_seconds() if stacked < TRIALS else 0.0

    def _usual_seconds(self) -> float:
        """Return how long the baseline's runs took."""
        baseline = self.learner.belief.runs_of(BASELINE) if self.learner.has_learned else ()
        if self._lasted[0] != len(baseline):
            lasted = [run.seconds for run in baseline if run.seconds]
            self._lasted = (len(baseline), sum(lasted) / max(1, len(lasted)))
        return self._lasted[1]

    def _stale(
        self, c: Candidate, incumbent: Experiment, patience: float, little: float
    ) -> Iterator[Decision]:
        """Yield what becomes of a winner on an old base: the agent or the merge queue does it anew."""
        name = c.experiment.id
        said = f"won on {c.experiment.parent}, before {incumbent.id}: {self._said(c.prospect)}"
        if self._rules.alone and c.prospect.gain <= little:
            yield discard(name, f"too little to be tried by itself: {said}")
            return
        since = max(incumbent.judged_at or 0.0, self._last_end(name))
        waited = self._now - since >= patience
        much = c.prospect.gain > self._rules.much * self.learner.unit
        if self._rules.hands_back and much and not waited:
            return  # it stands in the brief until then
        if self._rules.merges:
            yield Merge(experiment=name, reason=said)
        else:
            yield discard(name, said)

    def _bar(self, brought: float) -> float:
        """Return what a run must be worth, as expected improvement: more while others bring more.

        That one leaves a small promise for what brings more is Charnov's marginal value theorem (1976).
        The fewer workers there are, the more ideas stay untried for want of them.
        """
        rules, unit = self._rules, self.learner.unit
        scarce = 1.0 if self._few_ideas else max(1.0, rules.few / max(1, len(self._workers)))
        worth = min(max(rules.worth * scarce, rules.pace * brought / unit), rules.most_worth * scarce)
        return worth * unit * min(1.0, unit / self.learner.belief.sigma)

    def _little(self, brought: float) -> float:
        """Return up to what improvement a stale winner is not worth an experiment of its own."""
        rules = self._rules
        return min(rules.alone * self.learner.unit, rules.alone_runs * brought)

    def _brought(self, history: History) -> float:
        """Return by how much each run there was time for has improved the best lately."""
        gained = self.learner.gained_since(history, self._now - LATELY * self._usual_seconds())
        return gained / (LATELY * max(1, len(self._workers)))

    def _last_end(self, name: str) -> float:
        return max((run.ended_at or 0.0 for run in self.learner.belief.runs_of(name)), default=0.0)

    def _orders(
        self, history: History, left: Sequence[Candidate], incumbent: Experiment, bar: float
    ) -> Iterator[Order]:
        """Yield the confirmations and controls that are wanted beside those under way."""
        rules, workers = self._rules, len(self._workers)
        confirming = sum(
            run.purpose is Purpose.CONFIRM and run.cancelled_by is None for run in history.unfinished()
        )
        room = math.ceil(rules.confirms * workers) - confirming
        ordered: defaultdict[str, int] = defaultdict(int)
        while room > 0:
            best, worth = None, bar / 2
            for c in left:
                under_way = len(history.open_runs(c.experiment.id)) + ordered[c.experiment.id]
                value = c.prospect.worth / (1 + under_way)
                if under_way < min(math.ceil(c.prospect.need), rules.at_once) and value > worth:
                    best, worth = c, value
            if best is None:
                break
            ordered[best.experiment.id] += 1
            room -= 1
            why = f"{self._said(best.prospect)}; {_runs(round(best.prospect.need))} more should tell"
            yield Order(experiment=best.experiment.id, purpose=Purpose.CONFIRM, kind=None, why=why)
        as_well = max((c.runs for c in left), default=0) if self._controls_on_demand() else 0
        yield from self._controls.wanted(history, incumbent, workers, as_well)

    def _controls_on_demand(self) -> bool:
        """Whether the best is measured as often as what is compared with it, since no worker is for that."""
        return self._few_ideas or not self._controls.has_place(len(self._workers))


def _runs(n: int) -> str:
    return "1 run" if n == 1 else f"{n} runs"
