"""What every agent must keep. Subclass, provide `agent`, and the tests run on it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoresearch.brief import Brief
from autoresearch.errors import AgentError
from autoresearch.experiment import Refusal
from autoresearch.patch import apply_edits
from autoresearch.protocols import Agent


class AgentContract:
    """Proposals are real edits of the parent's code; the brief is the only memory."""

    @pytest.fixture
    def agent(self) -> Agent:
        raise NotImplementedError

    def test_it_proposes_at_most_what_was_asked(self, agent: Agent, brief: Brief) -> None:
        for n in (1, 3):
            assert 1 <= len(agent.propose(brief, n).proposals) <= n

    def test_every_proposal_applies_to_its_parent_and_changes_it(self, agent: Agent, brief: Brief) -> None:
        for proposal in agent.propose(brief, 4).proposals:
            assert proposal.parent == brief.parent
            assert proposal.hypothesis
            assert proposal.author
            files = apply_edits(proposal.edits, brief.files)
            assert not isinstance(files, Refusal), files
            assert files != brief.files

    def test_the_same_brief_gives_the_same_reply(self, agent: Agent, brief: Brief) -> None:
        assert agent.propose(brief, 3) == agent.propose(brief, 3)

    def test_a_later_brief_gives_other_proposals(self, agent: Agent, brief: Brief) -> None:
        first = agent.propose(brief, 2).proposals
        second = agent.propose(replace(brief, serial=brief.serial + len(first)), 2).proposals
        assert first != second

    def test_what_it_cannot_do_is_an_agent_error(self, agent: Agent, brief: Brief) -> None:
        barren = replace(
            brief, files={"train.py": "pass\n"}, baseline_files={"train.py": "pass\n"}, serial=10**6
        )
        with pytest.raises(AgentError):
            agent.propose(barren, 2)
