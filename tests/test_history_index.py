"""What the store keeps beside a history agrees with the history."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random

import pytest

from autoresearch.experiment import OVER, Purpose, Verdict
from autoresearch.history import BASELINE, History
from autoresearch.judging.arrivals import Arrivals
from autoresearch.simulation import posterior_policy, simulate
from autoresearch.store import Store
from autoresearch.world import WORLDS
from builders import experiment, history, run
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
        assert past.index == bare.index
        for name in past.experiments:
            assert past.ideas_of(name) == bare.ideas_of(name)
            assert past.ideas_in(name) == bare.ideas_in(name)
        seen.append(len(past.experiments))

    simulate(
        WORLDS["base"], posterior_policy, workers={"H100": 6, "H200": 2}, hours=0.5, seed=2, on_turn=look
    )
    assert seen[-1] > 15


def test_every_measured_run_arrives_once_however_rarely_one_looks() -> None:
    looks = [(Arrivals(), every, Counter[str]()) for every in (1, 3, 40)]
    measured: set[str] = set()
    turn = 0

    def look(snapshot: object) -> None:
        nonlocal turn, measured
        past: History = snapshot.history  # type: ignore[attr-defined]
        measured = {run.id for run in past.all_runs() if run.measurement is not None}
        turn += 1
        for arrivals, every, told in looks:
            if turn % every == 0:
                told.update(run.id for run in arrivals.new(past))
                assert set(told) == measured

    simulate(
        WORLDS["base"], posterior_policy, workers={"H100": 6, "H200": 2}, hours=1.0, seed=3, on_turn=look
    )
    assert len(measured) > 40
    assert all(set(told.values()) == {1} for _, _, told in looks)


def test_what_was_measured_again_between_two_looks_arrives() -> None:
    """An old experiment that was neither open at the last look nor is now."""
    first = [experiment(1, Verdict.KEEP), run("e0001.1", 1.0), experiment(2), run("e0002.1", 0.9)]
    arrivals = Arrivals()
    assert {r.id for r in arrivals.new(history(*first))} == {"e0001.1", "e0002.1"}
    again = history(*first[:2], run("e0001.2", 1.1), *first[2:])
    assert [r.id for r in arrivals.new(again)] == ["e0001.2"]
    assert arrivals.new(again) == []


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
