"""The first policy: measure the baseline, screen, confirm once with a fresh seed, keep what holds.

    baseline   its runs with different seeds, all on one kind, give the base and its noise
    screen     one run of a proposal; worse than the incumbent by the noise of a difference: discard
    confirm    one run with a fresh seed on the same worker kind; if it too beats the incumbent by
               more than the noise of a difference: keep
    calibrate  the new incumbent is measured once more, and again on every kind it is compared on

Worker kinds never mix: a run is compared with runs of the incumbent on its own kind. A pure
function of the history; who proposes and where runs execute is not its business.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from autoresearch.config import Judging
from autoresearch.experiment import Experiment, Failure, FailureKind, Purpose, Run, RunState, Verdict, Worker
from autoresearch.history import BASELINE, History
from autoresearch.judging.pruning import pruned
from autoresearch.judging.statistics import Noise, estimate, noise

FRESH_RUNS = 2  # of the best, that a claim of its value needs
MIN_BASELINE_RUNS = 2  # noise cannot be told from fewer


@dataclass(frozen=True, slots=True, kw_only=True)
class Decide:
    """Give an experiment its verdict."""

    experiment: str
    verdict: Verdict
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Queue one more run of an experiment."""

    experiment: str
    purpose: Purpose
    kind: str | None  # worker kind it must run on; None: any
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdraw:
    """Take back a run whose question is answered."""

    run: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """Discard a winner on an old base, and have its edits tried on today's best."""

    experiment: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """Have the ideas of several experiments tried as one, on today's best."""

    experiments: tuple[str, ...]
    stacked: bool = False  # by the edits they have; otherwise an agent writes them anew


ASKED_FOR = "asked for by"  # how the reason of a run begins that a person or an agent wanted
MERGE_QUEUE = "merge queue"  # the author of what is stacked mechanically
Decision = Decide | Order | Withdraw | Merge


class ConfirmPolicy:
    """Decides on screens and confirmations as the module says."""

    def __init__(self, judging: Judging) -> None:
        self._judging = judging

    def decide(self, history: History, workers: Sequence[Worker] = (), now: float = 0.0) -> list[Decision]:
        """Return the verdicts that are due and the runs they still need, in order of experiment.

        At most one verdict is KEEP, since a keep moves the base the others are judged on.
        """
        del workers, now
        if not history.experiments:
            return []
        baseline = history.experiments[BASELINE]
        if baseline.verdict is None:
            return self._baseline(history)
        incumbent = history.incumbent()
        if incumbent is None:  # the baseline crashed: there is nothing to compare with
            return []
        decisions: list[Decision] = list(self._calibrations(history, incumbent))
        asked = {d.kind for d in decisions if isinstance(d, Order)}
        for experiment in history.experiments.values():
            if experiment.verdict is not None or history.is_open(experiment.id):
                continue
            decision = self._judge(history, experiment, incumbent)
            if isinstance(decision, Order) and decision.purpose is Purpose.CALIBRATE:
                if decision.kind in asked:
                    continue
                asked.add(decision.kind)
            if decision:
                decisions.append(decision)
            if isinstance(decision, Decide) and decision.verdict is Verdict.KEEP:
                break
        return decisions

    def together(self, *_: object) -> None:
        """Return nothing: each idea is measured by itself."""

    def closing(self, _: History) -> list[Order]:
        """Return nothing: a new best is measured again at once."""
        return []

    def next_run(self, _: History, queued: Sequence[Run], worker: Worker) -> Run | None:
        """Return which queued run a free worker takes: what decides most goes first."""
        fitting = [run for run in queued if run.kind in {None, worker.kind}]
        order = (Purpose.BASELINE, Purpose.CONFIRM, Purpose.CALIBRATE, Purpose.SCREEN)
        return min(fitting, key=lambda run: (order.index(run.purpose), run.created_at, run.id), default=None)

    def _baseline(self, history: History) -> list[Decision]:
        runs = history.runs_of(BASELINE)
        if history.is_open(BASELINE):
            return []
        measured = [run for run in runs if run.measurement is not None]
        if len(measured) < MIN_BASELINE_RUNS:
            return [crash(BASELINE, runs)]
        return [Decide(experiment=BASELINE, verdict=Verdict.KEEP, reason=f"baseline, {len(measured)} runs")]

    def _calibrations(self, history: History, incumbent: Experiment) -> list[Order]:
        """Return the run a new incumbent still needs for a value free of selection."""
        if history.is_open(incumbent.id):
            return []
        for kind in sorted({run.worker_kind or "" for run in history.finished(incumbent.id)}):
            known = estimate(history, incumbent.id, kind)
            if known and known.n < FRESH_RUNS and _wanted(history, incumbent.id, kind):
                why = f"the new best has {known.n} fresh run on {kind}"
                return [Order(experiment=incumbent.id, purpose=Purpose.CALIBRATE, kind=kind, why=why)]
        return []

    def _judge(self, history: History, experiment: Experiment, incumbent: Experiment) -> Decision | None:
        runs = history.runs_of(experiment.id)
        if ended := pruned(runs):
            return discard(experiment.id, str(ended.failure))
        failed = [run for run in runs if run.measurement is None and run.state is not RunState.CANCELLED]
        if failed:
            return crash(experiment.id, failed)
        measured = history.finished(experiment.id)
        if not measured:
            return None
        kind = measured[0].worker_kind or ""
        measured = history.finished(experiment.id, kind)  # others may have been asked for elsewhere
        base = estimate(history, incumbent.id, kind)
        if base is None:
            if history.is_open(incumbent.id):
                return None  # its calibration is under way
            why = f"{experiment.id} ran on {kind}, where the best was never measured"
            return Order(experiment=incumbent.id, purpose=Purpose.CALIBRATE, kind=kind, why=why)
        spread = noise(history, kind) or _widest(history)
        sd = spread.of_difference(1, base.n)
        deltas = [(run, history.goal.sign * ((run.value or 0.0) - base.mean)) for run in measured]
        for run, delta in deltas:
            if not delta < -self._judging.margin * sd:
                said = (
                    "did not hold on a fresh seed"
                    if run.purpose is Purpose.CONFIRM
                    else "not beyond the noise"
                )
                reason = f"{said}: {_signed(delta)} against {incumbent.id}, noise of a difference {sd:.5f}"
                return discard(experiment.id, reason)
        shown = ", ".join(_signed(delta) for _, delta in deltas)
        confirmed = any(run.purpose is Purpose.CONFIRM for run in measured)
        taken_back = [r for r in runs if r.purpose is Purpose.CONFIRM and r.state is RunState.CANCELLED]
        if taken_back and not confirmed:
            reason = f"its confirmation was cancelled by {taken_back[-1].cancelled_by}"
            return discard(experiment.id, reason)
        if not confirmed:
            why = f"{shown} against {incumbent.id}, noise {sd:.5f}: does it hold on a fresh seed?"
            return Order(experiment=experiment.id, purpose=Purpose.CONFIRM, kind=kind, why=why)
        reason = f"{shown} against {incumbent.id}, noise of a difference {sd:.5f}"
        return Decide(experiment=experiment.id, verdict=Verdict.KEEP, reason=reason)


def _wanted(history: History, experiment: str, kind: str) -> bool:
    """Whether no calibration of this experiment on this kind has failed already."""
    return not any(
        run.purpose is Purpose.CALIBRATE and run.measurement is None and run.kind == kind
        for run in history.runs_of(experiment)
    )


def _widest(history: History) -> Noise:
    """Return the largest noise known on any kind; where nothing was repeated, infinite."""
    kinds = {run.worker_kind or "" for run in history.all_runs()}
    known = [found for kind in kinds if (found := noise(history, kind))]
    return max(known, key=lambda n: n.sigma, default=Noise(sigma=float("inf"), df=0))


def discard(experiment: str, reason: str) -> Decide:
    """Return the verdict that an experiment is no better than the best."""
    return Decide(experiment=experiment, verdict=Verdict.DISCARD, reason=reason)


def crash(experiment: str, runs: Sequence[Run]) -> Decide:
    """Return the verdict that an experiment crashed, with the first reason that its runs give."""
    unknown = Failure(kind=FailureKind.NO_RESULT, message="")
    failure = next((run.failure for run in runs if run.failure), unknown)
    return Decide(experiment=experiment, verdict=Verdict.CRASH, reason=str(failure))


def verdicts_on_failures(history: History) -> Iterator[Decide]:
    """Yield the verdicts on experiments of which a run failed or was ended early, and none is open.

    A measured experiment that merely lost a machine is not among them.
    """
    for e in history.without_verdict():
        if history.is_open(e.id):
            continue
        runs = history.runs_of(e.id)
        failed = [run for run in runs if run.state in {RunState.FAILED, RunState.LOST}]
        if ended := pruned(runs):
            yield discard(e.id, str(ended.failure))
        elif failed and not (history.finished(e.id) and all(r.state is RunState.LOST for r in failed)):
            yield crash(e.id, failed)


def _signed(value: float) -> str:
    return f"{value:+.5f}"
