"""An agent that thinks of what a simulated world offers: for simulated studies. Deterministic, offline."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from autoresearch.brief import Brief
from autoresearch.errors import AgentError
from autoresearch.experiment import Edit, Experiment, Proposal, Verdict
from autoresearch.history import History, added
from autoresearch.protocols import Reply
from autoresearch.world import END, Code, Idea, Imagination, World, read_code

AUTHOR = "simulated"
STACKED, ANEW = "won on", "done anew"  # what was discarded for that was not tried in vain


class SimulatedAgent:
    """Proposes ideas of a world; does again, first of all, what the brief wants reworked.

    A hypothesis names an idea, or several that are done anew in one experiment.
    """

    def __init__(
        self, world: World, look: Callable[[], History], imagination: Imagination | None = None
    ) -> None:
        """Think within a world; `look` shows the study, to know what is pending and what failed.

        Without an imagination it has the world's own.
        """
        self._world = world
        self._look = look
        self._imagination = imagination or Imagination(world)
        self._number = 0
        self._seen = 0  # experiments
        self._unjudged: list[str] = []
        self._waiting: dict[str, Idea] = {}  # proposed and not judged, by hypothesis
        self._reworked: set[str] = set()

    def propose(self, brief: Brief, n: int) -> Reply:
        """Return n proposals for the best code; AgentError where there are no more ideas."""
        history = self._look()
        self._learn(history)
        base = read_code(brief.files)
        alone = [(name,) for name in brief.rework if name not in self._reworked]
        groups = [
            [history.experiments[name] for name in names] for names in (brief.together, *alone) if names
        ]
        proposals = []
        if not self._world.scenario.reworks:
            spent = [idea.good for group in groups for each in group for idea in self._ideas(each)]
            self._imagination.spent |= {good for good in spent if good is not None}
            groups = []
        for group in groups[:n]:
            self._reworked |= {experiment.id for experiment in group}
            if ideas := self._anew(group, base):
                proposals.append(self._proposal(brief, ideas, group))
        while len(proposals) < n and self._imagination.left:
            pending = frozenset(idea.good for idea in self._waiting.values() if idea.good is not None)
            proposals.append(self._proposal(brief, [self._imagination.draw(self._next(), base, pending)]))
        if not proposals:
            raise AgentError("there are no more ideas", retryable=False)
        return Reply(proposals=tuple(proposals))

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _ideas(self, experiment: Experiment) -> list[Idea]:
        return [self._world.idea(name) for name in experiment.hypothesis.split("; ")]

    def _anew(self, experiments: Sequence[Experiment], base: Code) -> list[Idea]:
        """Return the ideas of experiments written anew, one upon the other; none of them twice."""
        there = {self._world.idea(name).good for name in base}
        found: list[Idea] = []
        for idea in (idea for experiment in experiments for idea in self._ideas(experiment)):
            if idea.good is None or idea.good not in there:
                place = (*base, *(each.name for each in found))
                found.append(self._imagination.again(idea, self._next(), place))
                there.add(idea.good)
        return found

    def _proposal(self, brief: Brief, ideas: Sequence[Idea], again: Sequence[Experiment] = ()) -> Proposal:
        self._waiting |= {idea.name: idea for idea in ideas}
        return Proposal(
            hypothesis="; ".join(idea.name for idea in ideas),
            edits=(Edit(old=END, new="".join(f"{idea.name} = 1\n" for idea in ideas) + END),),
            parent=brief.parent,
            base=brief.parent,
            follows=True,
            author=AUTHOR,
            reworks=tuple(experiment.id for experiment in again),
        )

    def _learn(self, history: History) -> None:
        """Think less often of what was discarded on the base it was written for."""
        self._unjudged += added(history.experiments, self._seen)
        self._seen = len(history.experiments)
        judged = [name for name in self._unjudged if history.experiments[name].verdict]
        self._unjudged = [name for name in self._unjudged if not history.experiments[name].verdict]
        for name in judged:
            experiment = history.experiments[name]
            if experiment.verdict is Verdict.DISCARD and experiment.reason.startswith(STACKED):
                continue  # it is being tried on another base, under its old name
            in_vain = experiment.verdict is Verdict.DISCARD and not experiment.reason.startswith(ANEW)
            for idea_name in experiment.hypothesis.split("; "):
                idea = self._waiting.pop(idea_name, None)
                if idea is not None and in_vain:
                    self._imagination.reject(idea)
