"""An agent that thinks of what a simulated world offers: for simulated studies. Deterministic, offline."""

from __future__ import annotations

from collections.abc import Callable

from autoresearch.brief import Brief
from autoresearch.errors import AgentError
from autoresearch.experiment import Edit, Experiment, Proposal, Verdict
from autoresearch.history import History
from autoresearch.protocols import Reply
from autoresearch.world import END, Idea, Imagination, World, read_code

AUTHOR = "simulated"
STACKED, ANEW = "won on", "done anew"  # what was discarded for that was not tried in vain


class SimulatedAgent:
    """Proposes ideas of a world; does again, first of all, what the brief wants reworked."""

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
        self._judged: set[str] = set()
        self._waiting: dict[str, Idea] = {}  # proposed and not judged, by hypothesis
        self._reworked: set[str] = set()

    def propose(self, brief: Brief, n: int) -> Reply:
        """Return n proposals for the best code; AgentError where there are no more ideas."""
        history = self._look()
        self._learn(history)
        base = read_code(brief.files)
        wanted = [e for e in map(history.experiments.get, brief.rework) if e and e.id not in self._reworked]
        proposals = []
        if not self._world.scenario.reworks:
            ideas = [self._world.idea(experiment.hypothesis) for experiment in wanted]
            self._imagination.spent |= {idea.good for idea in ideas if idea.good is not None}
            wanted = []
        for experiment in wanted[:n]:
            self._reworked.add(experiment.id)
            idea = self._imagination.again(self._world.idea(experiment.hypothesis), self._next(), base)
            proposals.append(self._proposal(brief, idea, experiment))
        while len(proposals) < n and self._imagination.left:
            pending = frozenset(idea.good for idea in self._waiting.values() if idea.good is not None)
            proposals.append(self._proposal(brief, self._imagination.draw(self._next(), base, pending)))
        if not proposals:
            raise AgentError("there are no more ideas", retryable=False)
        return Reply(proposals=tuple(proposals))

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _proposal(self, brief: Brief, idea: Idea, again: Experiment | None = None) -> Proposal:
        self._waiting[idea.name] = idea
        return Proposal(
            hypothesis=idea.name,
            edits=(Edit(old=END, new=f"{idea.name} = 1\n{END}"),),
            parent=brief.parent,
            base=brief.parent,
            follows=True,
            author=AUTHOR,
            reworks=again.id if again else None,
        )

    def _learn(self, history: History) -> None:
        """Think less often of what was discarded on the base it was written for."""
        for name in [
            name for name, e in history.experiments.items() if e.verdict and name not in self._judged
        ]:
            self._judged.add(name)
            experiment = history.experiments[name]
            if experiment.verdict is Verdict.DISCARD and experiment.reason.startswith(STACKED):
                continue  # it is being tried on another base, under its old name
            idea = self._waiting.pop(experiment.hypothesis, None)
            in_vain = experiment.verdict is Verdict.DISCARD and not experiment.reason.startswith(ANEW)
            if idea is not None and in_vain:
                self._imagination.reject(idea)
