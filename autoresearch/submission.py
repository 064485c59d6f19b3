"""How agents outside hand in ideas: resolved on their parents' code, judged, stored, published.

Safe beside a dispatcher and beside other agents: what one process does here is one transaction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from autoresearch.budget import Budget
from autoresearch.constants import constants_of
from autoresearch.errors import NotFoundError
from autoresearch.experiment import Candidate, Proposal, Refusal
from autoresearch.families import touched
from autoresearch.history import BASELINE, History
from autoresearch.patch import admit
from autoresearch.store import Entry
from autoresearch.study import Study
from autoresearch.untrusted import as_text, clean
from autoresearch.wave import MAX_HYPOTHESIS, Idea, Wave


def submit(
    study: Study, wave: Wave, *, author: str, request_id: str | None, budget: Budget, now: float
) -> Mapping[str, Any]:
    """Take in a wave, and return what became of it: `ideas` in order, `grid`, `cursor`.

    Each idea has its `experiment`, or None, and a `state`: queued, duplicate or refused, with the
    `reason`. The cells of a grid come after the other ideas. The same `request_id` is answered alike.
    """
    store = study.store
    known = store.answer_to(request_id, wave.digest) if request_id else None
    answer = known or store.submit(
        list(_entries(study, wave, author)),
        author=author,
        digest=wave.digest,
        request_id=request_id,
        ceiling=budget.experiments,
        factors=wave.factors,
        parent=_parent(store.history(), wave.parent),
        hypothesis=wave.hypothesis,
        notes=as_text(wave.notes),
        now=now,
    )
    for experiment in dict.fromkeys(row["experiment"] for row in answer["ideas"] if row["experiment"]):
        study.publish(experiment, now)
    return answer


def rehearse(study: Study, wave: Wave, *, author: str, budget: Budget) -> Mapping[str, Any]:
    """Return what `submit` would answer now, without ids of new experiments. Nothing is stored."""
    tried = study.store.tried_digests()
    room = float("inf")
    if budget.experiments is not None:
        used = study.store.usage(0.0, 0.0).experiments + len(study.store.waiting_proposals())
        room = budget.experiments - used
    rows: list[dict[str, Any]] = []
    for entry in _entries(study, wave, author):
        found = entry.found
        if isinstance(found, Refusal):
            rows.append(
                {"experiment": entry.proposal.parent, "state": "duplicate"}
                if found.reason == "unchanged"
                else {"experiment": None, "state": "refused", "reason": str(found)}
            )
        elif (known := tried.get(found.digest)) == "" or (known and not study.store.is_idle(known)):
            rows.append({"experiment": known or None, "state": "duplicate"})
        elif room < 1:
            rows.append(
                {"experiment": None, "state": "refused", "reason": "budget: no experiment is left of it"}
            )
        else:
            room -= 1
            tried[found.digest] = ""
            rows.append({"experiment": None, "state": "queued"})
    return {"ideas": rows, "grid": None, "cursor": study.store.cursor()}


def _entries(study: Study, wave: Wave, author: str) -> Iterator[Entry]:
    history = study.store.history()
    for idea in wave.experiments:
        yield _entry(study, history, wave, idea, author)
    for levels, idea in wave.cells():
        yield _entry(study, history, wave, idea, author, levels)


def _entry(
    study: Study,
    history: History,
    wave: Wave,
    idea: Idea,
    author: str,
    levels: Mapping[str, int | float] | None = None,
) -> Entry:
    """Return an idea with its code, or with the reason why it has none."""
    parent = _parent(history, idea.parent or wave.parent)
    reworks = (idea.reworks,) if isinstance(idea.reworks, str) else idea.reworks or ()
    for name in reworks:
        if name not in history.experiments:
            raise NotFoundError(f"no experiment {clean(name, 60)} to rework", "the brief lists them")
    study.publish(parent, history.experiments[parent].created_at)  # handed in, and its author died here
    base, profile = study.files(parent), study.target.profile
    edits = idea.edits_of(base, profile)
    told = ", ".join(f"{name} {value:g}" for name, value in idea.set.items())
    incumbent = history.incumbent()
    proposal = Proposal(
        hypothesis=clean(idea.hypothesis or told, MAX_HYPOTHESIS),
        edits=() if isinstance(edits, Refusal) else edits,
        parent=parent,
        author=author,
        base=incumbent.id if incumbent else BASELINE,
        expected=idea.expected,
        reworks=tuple(dict.fromkeys(reworks)),
    )
    found = edits if isinstance(edits, Refusal) else _judged(proposal, base, study.target.max_added_chars)
    if isinstance(found, Refusal):
        return Entry(proposal=proposal, found=found, levels=levels)
    names = touched(base, found.files, profile)
    candidate = replace(found, touches=names)
    return Entry(
        proposal=proposal, found=candidate, constants=constants_of(found.files, profile), levels=levels
    )


def _judged(proposal: Proposal, base: Mapping[str, str], most: int) -> Candidate | Refusal:
    """Return the code of a proposal, or why it is refused; whether it was tried is the store's to say."""
    if not proposal.edits:
        return Refusal(reason="unchanged", detail=f"it leaves the code of {proposal.parent} as it is")
    return admit(proposal, base, {}, max_added=most)


def _parent(history: History, named: str | None) -> str:
    """Return the experiment an idea builds on: the one named, else the best."""
    if named is None:
        incumbent = history.incumbent()
        return incumbent.id if incumbent else BASELINE
    if named not in history.experiments:
        raise NotFoundError(f"no experiment {named} to build on", "`autoresearch results` lists them")
    return named
