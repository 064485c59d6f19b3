"""Dispatches the study of a folder on a stand-in for SkyPilot: `python sky_dispatch.py FOLDER ROOT`.

A process of its own, so that it can be killed.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autoresearch.agents.scripted import ScriptedAgent
from autoresearch.cli.pool import _recipe
from autoresearch.clock import WallClock
from autoresearch.config import load
from autoresearch.dispatcher import Dispatcher
from autoresearch.executors.sky.executor import SkyPilotExecutor
from autoresearch.executors.sky.standin import StandIn
from autoresearch.history import BASELINE
from autoresearch.judging.policy import ConfirmPolicy
from autoresearch.study import open_study, state_folder
from lab import set_x
from sky_pool import PACE

SCRIPT = [set_x(1.0 + i / 8) for i in range(1, 9)]


def main() -> None:
    """Dispatch to the end and say why it ended."""
    folder, root = Path(sys.argv[1]), Path(sys.argv[2])
    config = load(folder / "autoresearch.yaml")
    study = open_study(folder, state_folder(folder))
    clock = WallClock()
    protected = study.state / "protected"
    executor = SkyPilotExecutor(
        StandIn(root),
        _recipe(folder, config.pool, study.target, study.files(BASELINE), study.facts(), protected),
        config.pool,
        study=study.tag,
        state=study.state,
        usual_seconds=0.4,
        pace=PACE,
        wake=clock.wake,
    )
    executor.poll_seconds = 0.02
    dispatcher = Dispatcher(
        study,
        config,
        agent=ScriptedAgent(SCRIPT),
        executor=executor,
        policy=ConfirmPolicy(config.judging),
        preflight=None,
        clock=clock,
    )
    with study.dispatching():
        finish = dispatcher.run()
    sys.exit(0 if finish.complete else finish.reason)


if __name__ == "__main__":
    main()
