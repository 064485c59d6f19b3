"""How ideas reach the workers in time, and no earlier. Pure.

An idea that waits grows stale: the base moves on under it. So little is kept in stock. A proposal is
checked when it arrives and admitted when a worker is there to take it; until then it follows the
best code. The agent is asked when what is in stock would not last until its answer: a reorder point,
as in inventory control with a lead time, with orders of a fixed size (Hadley and Whitin 1963).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice

from autoresearch.actions import Admit, Ask, Rebase, Snapshot
from autoresearch.budget import room_for_experiments
from autoresearch.experiment import Purpose, Worker
from autoresearch.history import BASELINE, RECENT, History
from autoresearch.judging.policy import Together

MAX_BARREN = 40  # proposals refused in a row before the agent counts as out of ideas
PRIOR_SCREENS, PRIOR_RUNS = 7, 10  # before there are any


def rebases(snapshot: Snapshot) -> Iterator[Rebase]:
    """Yield the proposals written for a best code that is no longer the best."""
    incumbent = snapshot.history.incumbent()
    if incumbent is None:
        return
    for proposal in snapshot.proposals:
        moved = proposal.follows and proposal.parent != incumbent.id
        if moved and proposal.number is not None and proposal.number not in snapshot.admitting:
            yield Rebase(proposal=proposal.number, parent=incumbent.id)


def admissions(snapshot: Snapshot, unserved: int) -> Iterator[Admit]:
    """Yield the proposals to be dealt with now, in order of arrival, what won before first.

    Those that failed their check, to refuse them; of those that passed, as many as workers wait for;
    and as many unchecked ones as can be checked at once.
    """
    room = room_for_experiments(snapshot.budget, snapshot.usage) - len(snapshot.admitting)
    rebased = {action.proposal for action in rebases(snapshot)}
    places = {True: unserved, False: len(snapshot.proposals), None: snapshot.admissions}
    places[None] -= len(snapshot.admitting)
    for proposal in sorted(snapshot.proposals, key=lambda waiting: not waiting.reworks):
        number = proposal.number
        if number is None or number in snapshot.admitting or number in rebased:
            continue
        passed = snapshot.checked.get(number)
        if places[passed] > 0 and room > 0:
            places[passed] -= 1
            room -= 1
            yield Admit(proposal=number)


def new_combination(snapshot: Snapshot, wanted: Together | None) -> Together | None:
    """Return the combination that is wanted, unless it was tried on this base or there is no room for it."""
    best = snapshot.history.incumbent()
    if wanted is None or best is None or (best.id, *wanted.experiments) in snapshot.combined:
        return None
    stock = len(snapshot.proposals) + snapshot.asked
    return wanted if room_for_experiments(snapshot.budget, snapshot.usage) > stock else None


def asks(snapshot: Snapshot, taking: Sequence[Worker], together: Together | None = None) -> Iterator[Ask]:
    """Yield the requests for proposals without which workers would soon wait.

    What is to be done anew `together` is asked for at once, by itself: much hangs on it.
    """
    nobody = not snapshot.calls or snapshot.agent_gone or snapshot.agent_resting
    if nobody or snapshot.barren >= MAX_BARREN:
        return
    stock = len(snapshot.proposals) + snapshot.asked
    room = int(min(room_for_experiments(snapshot.budget, snapshot.usage) - stock, 1_000_000))
    busy = snapshot.batch is not None and snapshot.open_calls >= snapshot.calls
    if together and not together.stacked and not busy:
        yield Ask(n=1, together=together.experiments)
        return
    wanted = _needed(snapshot, taking) + snapshot.backlog - stock
    if snapshot.batch is None:
        if min(wanted, room) > 0:
            yield Ask(n=min(wanted, room))
        return
    for _ in range(snapshot.calls - snapshot.open_calls):
        if wanted <= 0 or room <= 0:
            return
        n = min(snapshot.batch, room)
        yield Ask(n=n)
        wanted, room = wanted - n, room - n


def _needed(snapshot: Snapshot, taking: Sequence[Worker]) -> int:
    """Return how many new ideas workers will take until a proposal asked for now can start."""
    usual = _usual_seconds(snapshot)
    free = {worker.name for worker in taking}
    ends = {
        run.worker: usual - (snapshot.now - (run.started_at or snapshot.now))
        for run in snapshot.history.in_flight()
    }
    starts = 0
    for worker in snapshot.workers:
        idle = worker.name in free
        coming = worker.held and worker.up_at is not None and not worker.ready  # it is being set up
        if not idle and (snapshot.lead_seconds <= 0 or not (worker.ready or coming)):
            continue
        wait = 0.0 if idle or coming else max(0.0, ends.get(worker.name, 0.0))
        if wait <= snapshot.lead_seconds:
            starts += 1 + int((snapshot.lead_seconds - wait) / usual)
    return math.ceil(max(0, starts - len(snapshot.history.queued())) * _share_of_screens(snapshot.history))


def _usual_seconds(snapshot: Snapshot) -> float:
    lasted = snapshot.history.usual_seconds
    return max(0.1, snapshot.usual_seconds if lasted is None else lasted)


def _share_of_screens(history: History) -> float:
    """Return which share of runs is a first look at a new idea."""
    recent = list(islice((run for run in history.latest_runs() if run.experiment != BASELINE), RECENT))
    screens = sum(run.purpose is Purpose.SCREEN for run in recent)
    return min(1.0, (screens + PRIOR_SCREENS) / (len(recent) + PRIOR_RUNS))
