"""An agent that reads its proposals from a list: for tests and replays. Deterministic, offline."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from autoresearch.brief import Brief
from autoresearch.errors import AgentError
from autoresearch.experiment import Proposal
from autoresearch.protocols import Reply

Script = Sequence[Proposal] | Callable[[Brief, int], Sequence[Proposal]]


class ScriptedAgent:
    """Proposes what its script says: a list taken in order, or a function of the brief.

    Stateless like every agent: its place in a list is the number of proposals the study has
    received, so a restarted study goes on where it was.
    """

    def __init__(self, script: Script) -> None:
        self._script = script

    def propose(self, brief: Brief, n: int) -> Reply:
        """Return the next n proposals; AgentError when the list is used up."""
        if callable(self._script):
            return Reply(proposals=tuple(self._script(brief, n)))
        following = tuple(self._script[brief.serial : brief.serial + n])
        if not following:
            raise AgentError("the script is at its end", retryable=False)
        return Reply(proposals=following)
