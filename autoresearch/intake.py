"""What becomes of a proposal: checked when it arrives, admitted when a worker wants it, or refused."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Protocol

from autoresearch.constants import constants_of
from autoresearch.experiment import Candidate, Edit, Failure, Files, Proposal, Refusal
from autoresearch.families import touched
from autoresearch.history import History
from autoresearch.judging.policy import MERGE_QUEUE
from autoresearch.patch import admit, apply_edits
from autoresearch.protocols import Clock
from autoresearch.study import Study

log = logging.getLogger(__name__)

UNLIMITED = 1_000_000
USUAL_CHECK_SECONDS = 10.0  # before one was measured
RECENT = 9


class Preflight(Protocol):
    """Exercises edited code before it takes a worker."""

    def running(self, proposals: Sequence[int]) -> frozenset[int]:
        """Return the numbers of those proposals whose check is under way."""
        ...

    def start(self, proposal: int, files: Files) -> None:
        """Begin a check; nothing where it was begun before."""
        ...

    def result(self, proposal: int) -> tuple[bool, Failure | None]:
        """Return whether the check has ended, and what it found wrong with the code, if anything."""
        ...

    def forget(self, proposal: int) -> None:
        """Drop what a check that was read has left."""
        ...

    def close(self, proposals: Sequence[int]) -> None:
        """End the checks that still run."""
        ...


class Intake:
    """Takes proposals in, for the one dispatcher of a study."""

    def __init__(self, study: Study, preflight: Preflight | None, clock: Clock) -> None:
        """Take over the checks that a dispatcher before us may have left."""
        self._study = study
        self._store = study.store
        self._preflight = preflight
        self._clock = clock
        self._ended: dict[int, Failure | None] = {}  # what ended checks found
        self._begun: dict[int, float] = {}
        self._lasted: list[float] = []
        # checks that may run at once beside the workers
        self.admissions = max(1, (os.cpu_count() or 1) // 4) if preflight else UNLIMITED

    @property
    def usual_seconds(self) -> float:
        """How long a check takes."""
        if self._preflight is None:
            return 0.0
        return median(self._lasted[-RECENT:]) if self._lasted else USUAL_CHECK_SECONDS

    def checking(self, proposals: Sequence[Proposal]) -> frozenset[int]:
        """Return the numbers of those proposals whose check is under way; end those of no proposal."""
        unknown = [p.number for p in proposals if p.number is not None and p.number not in self._ended]
        withdrawn = [number for number in self._begun if number not in unknown]
        for number in withdrawn:
            del self._begun[number]
        if self._preflight and withdrawn:
            self._preflight.close(withdrawn)
        return self._preflight.running(unknown) if self._preflight else frozenset()

    def checked(self, proposals: Sequence[Proposal]) -> dict[int, bool]:
        """Return the numbers of those proposals whose check has ended, and whether the code passed."""
        numbers = [p.number for p in proposals if p.number is not None]
        for number in numbers:
            if self._preflight and number not in self._ended:
                self._look(self._preflight, number)
        return {number: self._ended[number] is None for number in numbers if number in self._ended}

    def _look(self, preflight: Preflight, number: int) -> None:
        ended, failure = preflight.result(number)
        if ended:
            self._ended[number] = failure
            if number in self._begun:
                self._lasted.append(self._clock.now() - self._begun.pop(number))

    def rebase(self, number: int, parent: str) -> None:
        """Have a proposal follow the best code to a new one; what was checked on the old is void."""
        self._forget(number)  # first: a check must never be taken for one of other code
        self._store.rebase(number, parent, self._clock.now())

    def admit(self, proposal: Proposal) -> None:
        """Refuse a proposal that cannot be admitted; else check it, or admit it where that was done."""
        number = proposal.number or 0
        if proposal.experiment:
            self._admit_promised(proposal, number)
            return
        found = self._judge(proposal)
        if isinstance(found, Candidate) and number not in self._ended:
            self._check(number, found.files)
            return
        failure = self._ended.get(number)
        if isinstance(found, Candidate) and failure:
            found = Refusal(reason="preflight", detail=str(failure), failure=failure)
        if isinstance(found, Candidate):
            profile = self._study.target.profile
            names = touched(self._study.files(proposal.parent), found.files, profile)
            found = replace(found, touches=names)
            constants = constants_of(found.files, profile)
            admitted = self._store.admit(proposal, found, constants, self._study.row.seed, self._clock.now())
            if isinstance(admitted, str):
                found = Refusal(
                    reason="duplicate", detail=f"{admitted} is the same code", experiment=admitted
                )
        if isinstance(found, Refusal):
            log.info("refused proposal %s: %s", number, found)
            self._store.refuse(number, found, self._clock.now())
        self._forget(number)  # last: a check is repeated only while its proposal waits

    def _admit_promised(self, proposal: Proposal, number: int) -> None:
        """Do the same for a proposal from outside, which is an experiment already."""
        now = self._clock.now()
        if number not in self._ended:
            self._study.publish(proposal.experiment or "", now)
            self._check(number, self._study.files(proposal.experiment or ""))
            return
        failure = self._ended[number]
        if failure:
            refusal = Refusal(reason="preflight", detail=str(failure), failure=failure)
            log.info("%s failed its check: %s", proposal.experiment, refusal)
            self._store.reject(proposal, refusal, now)
        else:
            self._store.enlist(proposal, self._study.row.seed, now)
        self._forget(number)

    def _check(self, number: int, files: Files) -> None:
        if self._preflight is None:
            self._ended[number] = None
            return
        self._begun.setdefault(number, self._clock.now())
        self._preflight.start(number, files)

    def stack(self, experiments: Sequence[str]) -> tuple[str, ...]:
        """Have the edits of several experiments tried on the best there is now, as far as they fit there.

        Returns the best, then the experiments.
        """
        history = self._store.history()
        best = history.lineage()[-1]
        files = self._study.files(best.id)
        edits: list[Edit] = []
        fitting: list[str] = []
        for name in experiments:
            more = self._store.edits(name)
            found = apply_edits(more, files)
            if not isinstance(found, Refusal):
                files = found
                edits += more
                fitting.append(name)
        if len(fitting) > 1:
            self._store.add_proposals([stacked(history, fitting, edits)], self._clock.now())
            log.info("stacked: %s", ", ".join(fitting))
        return best.id, *experiments

    def close(self) -> None:
        """End the checks that still run."""
        if self._preflight:
            self._preflight.close([p.number or 0 for p in self._store.waiting_proposals()])

    def _judge(self, proposal: Proposal) -> Candidate | Refusal:
        parent = self._store.history().experiments.get(proposal.parent)
        if parent is None or parent.commit is None:
            return Refusal(reason="parent", detail=f"there is no experiment {proposal.parent}")
        if refusal := self._redundant(proposal):
            return refusal
        base, most = self._study.files(parent.id), self._study.target.max_added_chars
        found = admit(proposal, base, self._store.tried_digests(), max_added=most)
        moved = proposal.follows and proposal.base not in {None, proposal.parent}
        if isinstance(found, Refusal) and moved and found.reason in {"edit", "unchanged"}:
            detail = (
                f"written for {proposal.base}, it does not fit {proposal.parent}, the best since: rework it"
            )
            return Refusal(reason="stale", detail=detail)
        return found

    def _redundant(self, proposal: Proposal) -> Refusal | None:
        """Return a refusal where an idea that a proposal does anew is in its parent's code."""
        history, inside = self._store.history(), None
        for earlier in proposal.reworks:
            inside = history.ideas_in(proposal.parent) if inside is None else inside
            if history.ideas_of(earlier) & inside:
                return Refusal(
                    reason="stale", detail=f"the idea of {earlier} is in {proposal.parent} already"
                )
        return None

    def _forget(self, number: int) -> None:
        self._ended.pop(number, None)
        self._begun.pop(number, None)
        if self._preflight:
            self._preflight.forget(number)


def stacked(history: History, experiments: Sequence[str], edits: Sequence[Edit]) -> Proposal:
    """Return the proposal to try the edits of experiments, as they are, on the best there is."""
    best = history.lineage()[-1].id
    return Proposal(
        hypothesis="; ".join(history.experiments[name].hypothesis for name in experiments),
        edits=tuple(edits),
        parent=best,
        author=MERGE_QUEUE,
        base=best,
        follows=True,
        reworks=tuple(experiments),
    )
