"""What a study tells its agents now, read from its store and its code.

As of the last result, not of this second: a restart tells the same, byte for byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from autoresearch.brief import MAX_NOTES, MAX_REFUSED, Brief, build_brief
from autoresearch.budget import Budget
from autoresearch.findings import as_of
from autoresearch.history import BASELINE
from autoresearch.prior import worth_telling
from autoresearch.prose import choose_anchor
from autoresearch.study import Study


class Tell(Protocol):
    """How an agent is told of a study."""

    def __call__(
        self,
        study: Study,
        budget: Budget,
        instructions: str,
        *,
        focus: str,
        elsewhere: Sequence[str],
        together: Sequence[str],
    ) -> Brief:
        """Return the brief; `together` are winners on old bases to be done anew in one experiment."""
        ...


def tell_all(
    study: Study,
    budget: Budget,
    instructions: str,
    *,
    focus: str = "",
    elsewhere: Sequence[str] = (),
    together: Sequence[str] = (),
) -> Brief:
    """Return the brief on a study: all an agent is told."""
    store = study.store
    history = store.history()
    lineage = [(e.id, study.files(e.id)) for e in history.lineage() if e.commit]
    lineage = lineage or [(BASELINE, study.files(BASELINE))]
    files = dict(lineage)
    anchor = choose_anchor(lineage)
    waiting = store.waiting_proposals()
    notes = [str(event.data["notes"]) for event in store.last_events(MAX_NOTES, ["noted"])]
    brief = build_brief(
        history,
        study=study.tag,
        metric=study.target.metric.name,
        profile=study.target.profile,
        instructions=instructions,
        files=lineage[-1][1],
        baseline_files=study.files(BASELINE),
        anchor=anchor,
        anchor_files=files[anchor],
        refused=store.refusals(MAX_REFUSED),
        waiting=[proposal.hypothesis for proposal in waiting if proposal.experiment is None],
        promised=[proposal.experiment for proposal in waiting if proposal.experiment],
        notes=notes,
        budget=budget,
        usage=store.usage(as_of(history) or study.row.created_at, study.worst_seconds),
        serial=store.proposal_count(),
        seed=study.row.seed,
        focus=focus,
        elsewhere=elsewhere,
        together=together,
    )
    priors = store.priors()
    return replace(
        brief,
        changes={name: store.edits(name) for name in (*brief.together, *brief.rework)},
        prior=worth_telling(priors, history.goal),
        priors=len(priors),
    )
