"""The heart: what is missing between what should be and what is, as a list of actions. Pure.

`plan(snapshot, policy)` looks at one consistent picture and says what to do next. It is
level-triggered, like a Kubernetes controller: it keeps no memory of what it asked for, so a
dispatcher killed at any instant is continued by any other. Every action is idempotent by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from autoresearch.actions import (
    Action,
    Cancel,
    Collect,
    Drop,
    Finish,
    GiveUp,
    Publish,
    Release,
    Request,
    Requeue,
    Snapshot,
    Stack,
    Started,
    Submit,
)
from autoresearch.budget import room_for_experiments
from autoresearch.commitment import Commitment
from autoresearch.experiment import JobStatus, RunState, Verdict, Worker
from autoresearch.history import BASELINE, History
from autoresearch.judging.policy import Decide, Order, discard
from autoresearch.protocols import Policy
from autoresearch.supply import MAX_BARREN, admissions, asks, new_combination, rebases

MAX_LOSSES = 3  # machines lost under one run before it is given up


def plan(snapshot: Snapshot, policy: Policy) -> list[Action]:
    """Return what to do now, in order. An empty list means: wait."""
    actions: list[Action] = [
        *sorted(_follow_jobs(snapshot), key=lambda action: isinstance(action, Started)),  # ends come first
        *_publish(snapshot.history),
    ]
    judged = (
        policy.decide(snapshot.history, snapshot.workers, snapshot.now)
        if snapshot.request is not Request.CANCEL
        else ()
    )
    actions += judged
    # a verdict or an order changes which runs and which ideas are wanted: they are for the next turn
    if snapshot.request is Request.NONE and not judged:
        taking = _taking(snapshot)
        submits, unserved = _start(snapshot, policy, taking)
        actions += submits
        if not _no_room_for_more(snapshot):
            actions += rebases(snapshot)
            actions += admissions(snapshot, unserved)
            together = new_combination(snapshot, policy.together(snapshot.history, snapshot.proposals))
            if together and together.stacked:
                actions.append(Stack(experiments=together.experiments))
            actions += asks(snapshot, taking, together)
    if not actions:
        actions += _release(snapshot)
    if not actions:
        actions += _finish(snapshot)
        if any(isinstance(action, Finish) and action.complete for action in actions):
            return list(_left(snapshot)) or list(_closing(snapshot, policy)) or actions
    return actions


def _left(snapshot: Snapshot) -> Iterator[Decide]:
    """Yield the verdicts on what was measured and will not be measured again or done anew now."""
    history = snapshot.history
    best = history.incumbent()
    for e in history.without_verdict():
        if history.finished(e.id) and not history.is_open(e.id):
            left = "confirmed" if best and e.parent == best.id else "done anew on the best"
            reason = f"promising on {e.parent}; the study ended before it was {left}"
            yield discard(e.id, reason)


def _publish(history: History) -> Iterator[Publish]:
    """Yield what is to be measured or judged and has no commit yet."""
    for name in dict.fromkeys((*history.index.undecided, *history.index.opened)):
        if history.experiments[name].commit is None:
            yield Publish(experiment=name)


def _closing(snapshot: Snapshot, policy: Policy) -> Sequence[Order]:
    """Return the runs a study should not end without, where there is room for them."""
    return [] if _blocking(snapshot) or not snapshot.workers else policy.closing(snapshot.history)


def _follow_jobs(snapshot: Snapshot) -> Iterator[Action]:
    """Yield what the executor's view of the runs in flight calls for."""
    for run in snapshot.history.in_flight():
        status = snapshot.jobs.get(run.job_name(snapshot.study))
        unwanted = snapshot.request is Request.CANCEL or run.cancelled_by is not None
        match status:
            case JobStatus.RUNNING:  # most are
                if run.state is RunState.SUBMITTING:
                    yield Started(run=run.id)
                if unwanted:
                    yield Cancel(run=run.id)
            case None | JobStatus.PENDING:
                if status and unwanted:
                    yield Cancel(run=run.id)
            case JobStatus.DONE:
                yield Collect(run=run.id)
            case _ if run.cancelled_by:
                yield Drop(run=run.id)
            case JobStatus.ABSENT if run.state is RunState.SUBMITTING:
                # It was to be submitted when we died: do it now, unless we are stopping.
                if snapshot.request is Request.NONE:
                    yield Submit(run=run.id, worker=run.worker or "", kind=run.worker_kind or "")
                else:
                    yield Requeue(run=run.id, lost=False)
            case _:
                if run.losses + 1 >= MAX_LOSSES:
                    yield GiveUp(run=run.id)
                else:
                    yield Requeue(run=run.id, lost=True)


def _start(snapshot: Snapshot, policy: Policy, taking: Sequence[Worker]) -> tuple[list[Submit], int]:
    """Return a submission for every worker that takes a run the policy has for it, within the budget.

    What has no commit yet is published first, in the same turn. Also how many more workers could take
    a run: those for which nothing is queued.
    """
    queued = snapshot.history.queued()
    commitment = _commitment(snapshot)
    submits, idle, unserved = [], [], 0
    for worker in taking:
        run = policy.next_run(snapshot.history, queued, worker) if queued else None
        if run is None:
            idle.append(worker)
        elif not commitment.refusal(worker):
            queued.remove(run)
            commitment.take(worker)
            submits.append(Submit(run=run.id, worker=worker.name, kind=worker.kind))
    for worker in idle:
        if not commitment.refusal(worker):
            commitment.take(worker)
            unserved += 1
    return submits, unserved


def _taking(snapshot: Snapshot) -> list[Worker]:
    """Return the workers that take a run now: the idle ones, then those whose run is about to end."""
    load = Counter(run.worker for run in snapshot.history.in_flight())
    ready = [worker for worker in snapshot.workers if worker.ready]
    idle = [worker for worker in ready if load[worker.name] == 0]
    ending = [
        worker
        for worker in ready
        if load[worker.name] == 1 and worker.handover_at is not None and snapshot.now >= worker.handover_at
    ]
    return idle + ending


def _release(snapshot: Snapshot) -> Iterator[Release]:
    """Yield the idle workers that cost by the hour, once the study can only wait for what runs.

    One is kept of every kind on which what runs may yet be judged. The last ones go with the
    dispatcher's end.
    """
    history = snapshot.history
    busy = {run.worker for run in history.in_flight()}
    stopping = snapshot.request is not Request.NONE or _blocking(snapshot) is not None
    if not busy or not (stopping or _winding_down(snapshot)):
        return
    incumbent = history.incumbent()
    judged = {e.id for e in history.experiments.values() if e.verdict is None or e is incumbent}
    kinds = set() if stopping else {run.worker_kind for run in history.all_runs() if run.experiment in judged}
    left = Counter(worker.kind for worker in snapshot.workers if worker.held)
    for worker in sorted(snapshot.workers, key=lambda worker: worker.ready):
        if worker.held and worker.name not in busy and (left[worker.kind] > 1 or worker.kind not in kinds):
            left[worker.kind] -= 1
            yield Release(worker=worker.name)


def _winding_down(snapshot: Snapshot) -> bool:
    """Whether no new experiment can come, and nothing waits."""
    over = not room_for_experiments(snapshot.budget, snapshot.usage) or bool(snapshot.agent_gone)
    if _not_worth_it(snapshot):
        return not (snapshot.history.queued() or snapshot.asked)
    return over and not (snapshot.history.queued() or snapshot.proposals or snapshot.asked)


def _finish(snapshot: Snapshot) -> Iterator[Finish]:
    """Yield the end when nothing is under way and nothing more may be done."""
    if snapshot.history.in_flight():
        return
    if snapshot.request is not Request.NONE:
        yield Finish(reason="stopped by request", complete=False)
        return
    if snapshot.admitting or snapshot.asked:
        return
    baseline = snapshot.history.experiments.get(BASELINE)
    if baseline is not None and baseline.verdict is Verdict.CRASH:
        yield Finish(reason=f"the baseline itself failed: {baseline.reason}", complete=False)
        return
    waiting = len(snapshot.history.queued()) + len(snapshot.proposals)
    ceiling = _ceiling(snapshot)
    if ceiling:
        yield Finish(reason=f"budget reached: {ceiling}", complete=True)
    elif _not_worth_it(snapshot) and not snapshot.history.queued():
        yield Finish(reason=str(snapshot.outlook), complete=True)
    elif waiting == 0 and snapshot.calls and (snapshot.agent_gone or snapshot.barren >= MAX_BARREN):
        yield Finish(reason=_why_no_ideas(snapshot), complete=True)
    elif waiting == 0 and _patience_is_over(snapshot):
        minutes = (snapshot.patience_seconds or 0.0) / 60
        yield Finish(reason=f"nothing was submitted for {minutes:g} minutes", complete=False)
    elif not snapshot.workers:
        yield Finish(reason="the pool has no workers", complete=False)
    elif stranded := _stranded_kinds(snapshot):
        yield Finish(reason=f"runs wait for {stranded}, which the pool does not have", complete=False)


def _patience_is_over(snapshot: Snapshot) -> bool:
    """Whether nobody has given the pool anything to do for so long that it should not be paid for."""
    if snapshot.patience_seconds is None:
        return False
    made = [snapshot.dispatching_since]
    made += [run.ended_at or run.created_at for run in snapshot.history.all_runs()]
    made += [experiment.created_at for experiment in snapshot.history.experiments.values()]
    return snapshot.now - max(made) > snapshot.patience_seconds


def _stranded_kinds(snapshot: Snapshot) -> str:
    """Return the worker kinds that queued runs need and the pool lacks, when nothing else can run."""
    kinds = {worker.kind for worker in snapshot.workers}
    needed = {run.kind for run in snapshot.history.queued()}
    missing = sorted(kind for kind in needed if kind is not None and kind not in kinds)
    return ", ".join(missing) if missing and len(missing) == len(needed) else ""


def _why_no_ideas(snapshot: Snapshot) -> str:
    if snapshot.barren >= MAX_BARREN:
        return f"the agent is out of ideas: its last {snapshot.barren} proposals were refused"
    return f"the agent has stopped proposing: {snapshot.agent_gone}"


def _ceiling(snapshot: Snapshot) -> str | None:
    """Return the ceiling that forbids all further work, or None."""
    history, budget, usage = snapshot.history, snapshot.budget, snapshot.usage
    if history.queued():
        return _blocking(snapshot)
    if not room_for_experiments(budget, usage):
        return f"experiments, {usage.experiments} of {budget.experiments}"
    return _blocking(snapshot)


def _blocking(snapshot: Snapshot) -> str | None:
    """Return the ceiling no worker's next run fits under, in words, or None."""
    commitment = _commitment(snapshot)
    names: set[str] = set()
    for worker in snapshot.workers:
        name = commitment.refusal(worker)
        if name is None:
            return None
        names.add(name)
    if not names:
        return None
    words = {
        "hours": f"hours, {snapshot.usage.hours:.2f} of {snapshot.budget.hours}",
        "gpu_dollars": f"GPU dollars, {snapshot.usage.gpu_dollars:.2f} of {snapshot.budget.gpu_dollars}",
    }
    return "; ".join(sorted(words[name] for name in names))


def _no_room_for_more(snapshot: Snapshot) -> bool:
    if not room_for_experiments(snapshot.budget, snapshot.usage):
        return True
    baseline = snapshot.history.experiments.get(BASELINE)
    if baseline is None or baseline.verdict is Verdict.CRASH:
        return True
    return _not_worth_it(snapshot) or _blocking(snapshot) is not None


def _not_worth_it(snapshot: Snapshot) -> bool:
    """Whether the next hour promises too little for new ideas; what is under way is finished all the same."""
    return snapshot.outlook is not None and snapshot.outlook.stop


def _commitment(snapshot: Snapshot) -> Commitment:
    return Commitment(
        snapshot.budget,
        snapshot.usage,
        snapshot.workers,
        snapshot.history.in_flight(),
        worst_seconds=snapshot.worst_seconds,
        now=snapshot.now,
    )
