"""What the store keeps beside a history agrees with the history."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from autoresearch.experiment import OVER, Purpose, Verdict
from autoresearch.history import BASELINE, History
from autoresearch.simulation import posterior_policy, simulate
from autoresearch.store import Store
from autoresearch.world import WORLDS
from store_contract import begin


def plain(past: History) -> History:
    """Return a history without what was kept beside it."""
    return History(goal=past.goal, experiments=past.experiments, runs=past.runs)


def test_open_undecided_and_kept_experiments_are_those_of_the_history() -> None:
    """At every turn of a night, with what is lost, cancelled, merged and judged in it."""
    seen = []

    def look(snapshot: object) -> None:
        past: History = snapshot.history  # type: ignore[attr-defined]
        bare = plain(past)
        assert past.open_experiments() == bare.open_experiments()
        assert past.without_verdict() == bare.without_verdict()
        assert past.lineage() == bare.lineage()
        assert past.in_flight() == bare.in_flight()
        seen.append(len(past.experiments))

    simulate(
        WORLDS["base"], posterior_policy, workers={"H100": 6, "H200": 2}, hours=0.5, seed=2, on_turn=look
    )
    assert seen[-1] > 15


@pytest.mark.parametrize("seed", range(5))
def test_another_store_of_the_same_file_knows_the_same(tmp_path: Path, seed: int) -> None:
    """Two processes that write in turns: each sees what the other did."""
    rng = Random(seed)
    path = tmp_path / "study.db"
    begin(Store(path))
    stores = [Store(path), Store(path)]
    for step in range(30):
        store = rng.choice(stores)
        past = store.history()
        queued = [run for run in past.all_runs() if run.state not in OVER]
        if queued and rng.random() < 0.5:
            store.cancel(rng.choice(queued).id, "ada", float(step))
        else:
            store.queue_run(BASELINE, Purpose.CALIBRATE, kind=None, study_seed=1, why="", now=float(step))
        if rng.random() < 0.2:
            store.decide(BASELINE, Verdict.KEEP, "baseline", float(step))
        pasts = [each.history() for each in stores]
        assert (
            pasts[0].open_experiments() == pasts[1].open_experiments() == plain(pasts[0]).open_experiments()
        )
        assert pasts[0].lineage() == pasts[1].lineage() == plain(pasts[0]).lineage()
        assert stores[0].tried_digests() == stores[1].tried_digests() == Store(path).tried_digests()
