"""Every agent keeps the contract."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from agent_contract import AgentContract
from autoresearch.agents.scripted import ScriptedAgent
from autoresearch.agents.sweep import SweepAgent
from autoresearch.brief import Brief, Tried
from autoresearch.budget import Budget, Usage
from autoresearch.constants import values
from autoresearch.experiment import Edit, Goal, Proposal, Verdict
from autoresearch.patch import apply_edits
from autoresearch.protocols import Agent

CODE = (Path(__file__).resolve().parents[2] / "train" / "train.py").read_text()


def tried(number: int, constants: dict[str, float], value: float | None, verdict: Verdict | None) -> Tried:
    return Tried(
        id=f"e{number:04d}",
        parent="e0001",
        hypothesis="h",
        author="a",
        constants=constants,
        verdict=verdict,
        reason="",
        value=value,
        kind="cpu" if value is not None else None,
        runs=int(value is not None),
    )


@pytest.fixture
def brief() -> Brief:
    files = {"train.py": CODE}
    return Brief(
        study="t",
        metric="val_bpb",
        goal=Goal.MINIMIZE,
        profile="cpu",
        instructions="",
        parent="e0001",
        files=files,
        baseline_files=files,
        tried=(tried(1, values(CODE, "cpu"), 1.67, Verdict.KEEP),),
        refused=(),
        noise={},
        experiments_left=10,
        budget=Budget(),
        usage=Usage(),
        serial=0,
        seed=3,
    )


class TestScriptedAgent(AgentContract):
    @pytest.fixture
    def agent(self) -> Agent:
        script = [
            Proposal(
                hypothesis=f"lr {i}",
                edits=(Edit(old="MATRIX_LR = 0.04", new=f"MATRIX_LR = 0.0{i}"),),
                parent="e0001",
                author="script",
            )
            for i in range(5, 9)
        ]
        return ScriptedAgent(script)


class TestSweepAgent(AgentContract):
    @pytest.fixture
    def agent(self) -> Agent:
        return SweepAgent()

    def test_it_moves_one_to_three_constants_and_says_which(self, agent: Agent, brief: Brief) -> None:
        for proposal in agent.propose(brief, 8).proposals:
            files = apply_edits(proposal.edits, brief.files)
            after, before = values(files["train.py"], "cpu"), values(CODE, "cpu")  # type: ignore[index]
            moved = [name for name in after if after[name] != before[name]]
            assert 1 <= len(moved) <= 3
            assert all(name in proposal.hypothesis for name in moved)

    def test_it_never_repeats_itself_nor_what_is_known(self, agent: Agent, brief: Brief) -> None:
        seen = Counter()
        known = list(brief.tried)
        for _ in range(6):
            now = replace(brief, tried=tuple(known), serial=len(known) - 1)
            for proposal in agent.propose(now, 4).proposals:
                files = apply_edits(proposal.edits, brief.files)
                constants = values(files["train.py"], "cpu")  # type: ignore[index]
                seen[tuple(sorted(constants.items()))] += 1
                known.append(tried(len(known) + 1, constants, None, None))
        assert max(seen.values()) == 1

    @pytest.mark.slow
    def test_results_steer_it(self, agent: Agent, brief: Brief) -> None:
        """After a history in which larger MATRIX_LR is better throughout, its values lie higher."""

        def mean_rate(sign: float) -> float:
            known = list(brief.tried)
            base = values(CODE, "cpu")
            for i in range(40):
                rate = 0.015 + 0.1 * i / 40
                known.append(tried(i + 2, {**base, "MATRIX_LR": rate}, 1.7 + sign * rate, Verdict.DISCARD))
            rates = []
            for serial in range(100, 160):
                for p in agent.propose(replace(brief, tried=tuple(known), serial=serial), 4).proposals:
                    files = apply_edits(p.edits, brief.files)
                    rate = values(files["train.py"], "cpu")["MATRIX_LR"]  # type: ignore[index]
                    rates += [rate] if rate != base["MATRIX_LR"] else []
            return sum(rates) / len(rates)

        assert mean_rate(-1) > mean_rate(+1) + 0.02

    def test_where_higher_is_better_it_climbs(self, agent: Agent, brief: Brief) -> None:
        assert agent.propose(replace(brief, goal=Goal.MAXIMIZE), 2).proposals

    def test_powers_of_two_stay_powers_and_shares_stay_shares(self, agent: Agent, brief: Brief) -> None:
        for serial in range(16):
            for proposal in agent.propose(replace(brief, serial=serial), 4).proposals:
                files = apply_edits(proposal.edits, brief.files)
                found = values(files["train.py"], "cpu")  # type: ignore[index]
                for name in ("TOTAL_BATCH_SIZE", "DEVICE_BATCH_SIZE", "HEAD_DIM", "ASPECT_RATIO"):
                    assert int(found[name]).bit_count() == 1
                for name in ("WARMUP_RATIO", "WARMDOWN_RATIO", "FINAL_LR_FRAC", "ADAM_BETA1", "ADAM_BETA2"):
                    assert 0 <= found[name] <= 1
