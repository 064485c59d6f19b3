"""The agent a configuration names: whether it can work here, and what it would cost."""

from __future__ import annotations

import importlib.util
import os

from autoresearch.accounts import StudyLedger
from autoresearch.agents.scripted import ScriptedAgent
from autoresearch.agents.sweep import SweepAgent
from autoresearch.calls import Tokens
from autoresearch.config import AgentConfig, Config
from autoresearch.errors import UsageError
from autoresearch.experiment import Files
from autoresearch.protocols import Agent
from autoresearch.study import Study

KEY = "ANTHROPIC_API_KEY"
ANSWER_SECONDS = 60.0  # of Claude, before it was measured
# What a forecast assumes:
BRIEF_TOKENS = 5000  # of a typical brief
HANDLING_SECONDS = 25.0  # of a run, beside its training: start, evaluation
SHARE_OF_SCREENS = 0.7  # of all runs; the others repeat what looked good
RULES_BYTES = 7000  # of the rules and the tool
NIGHT_HOURS = 8.0


def check_agent(agent: AgentConfig) -> None:
    """Raise UsageError where the agent lacks a package or a key, ConfigError for an unknown model."""
    if agent.name == "external":
        return
    if agent.name == "sweep":
        if importlib.util.find_spec("optuna") is None:
            raise UsageError("the sweep agent needs optuna", "pip install 'autoresearch[sweep]'")
        return
    from autoresearch.agents.claude.prices import price_of

    for model in (agent.model, agent.second_model):
        if model is not None:
            price_of(model)
    if not os.environ.get(KEY, "").strip():
        raise UsageError(
            f"the agent claude needs a key, and {KEY} is not set",
            f"export {KEY}=..., or run with --agent sweep, which needs none",
        )


def make_agent(config: Config, opened: Study) -> tuple[Agent, float]:
    """Return the agent, and how many seconds it usually takes to answer."""
    agent = config.agent
    if agent.name == "external":
        return ScriptedAgent([]), 0.0  # which nobody asks
    if agent.name == "sweep":
        return SweepAgent(agent.seed), 0.0
    from autoresearch.agents.claude import ClaudeAgent, ClaudeSettings

    settings = ClaudeSettings(
        model=agent.model,
        effort=agent.effort,
        second_model=agent.second_model,
        second_every=agent.second_every,
    )
    ledger = StudyLedger(opened, config.budget.api_dollars)
    return ClaudeAgent(settings, ledger, os.environ[KEY].strip()), ANSWER_SECONDS


def forecast(config: Config, code: Files, instructions: str, workers: int, run_seconds: float) -> list[str]:
    """Return what Claude's calls should cost, by batch and by night, in lines for people; [] for others."""
    agent = config.agent
    n = agent.batch_for(workers)
    if agent.name != "claude" or n is None:
        return []
    from autoresearch.agents.claude.estimate import BYTES_PER_TOKEN, assumed_output
    from autoresearch.agents.claude.prices import price_of

    price = price_of(agent.model)
    prefix = (sum(len(text) for text in code.values()) + len(instructions) + RULES_BYTES) // BYTES_PER_TOKEN
    output = assumed_output(agent.effort, n)
    batch = price.cost(output + Tokens(cache_read=prefix, input=BRIEF_TOKENS))
    first = price.cost(output + Tokens(cache_write_1h=prefix, input=BRIEF_TOKENS))
    hours = config.budget.hours or NIGHT_HOURS
    ideas = SHARE_OF_SCREENS * workers * hours * 3600 / (run_seconds + HANDLING_SECONDS)
    ideas = min(ideas, config.budget.experiments or ideas)
    night = first + batch * max(0.0, ideas / n - 1)
    each = f"about ${batch:.3f} (the first ${first:.3f}), {100 * batch / n:.2f} c an experiment"
    lines = [
        f"{agent.label}: {n} experiments a call, {each}",
        f"about {ideas:.0f} experiments in {hours:g} h: ${night:.2f}, if it thinks as much as assumed",
    ]
    ceiling = config.budget.api_dollars
    lines.append(
        f"budget.api_dollars: ${ceiling:g}; no call is made that would hardly fit under it"
        if ceiling is not None
        else "no ceiling on API dollars: set budget.api_dollars"
    )
    return lines
