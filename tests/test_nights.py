"""What a night in a world whose truth is known must show of the judging."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from typer.testing import CliRunner

from autoresearch.cli import app
from autoresearch.experiment import Purpose, Verdict, Worker
from autoresearch.history import History
from autoresearch.judging.learning import Learner
from autoresearch.judging.policy import Decide
from autoresearch.judging.posterior import PosteriorPolicy
from autoresearch.prior import read_results
from autoresearch.simulation import posterior_policy, simulate
from autoresearch.world import WORLDS, Scenario, recorded
from builders import baseline, experiment, history, run
from lab import ROOT, module

DATA = Path(__file__).parent / "data"
POOL = {"H100": 13, "H200": 3}
SAME = Scenario(good=0.0, gross=0.0, crash=0.0, null=1.0, null_spread=0.0)  # every idea is the baseline again


def test_the_same_seed_gives_the_same_night_and_another_seed_another() -> None:
    nights = [
        simulate(WORLDS["base"], posterior_policy, workers=POOL, hours=0.5, seed=seed) for seed in (3, 3, 4)
    ]
    assert nights[0] == nights[1]
    assert nights[0] != nights[2]


def test_a_night_survives_machines_that_are_taken_away() -> None:
    scenario = replace(WORLDS["base"], preemptions=2.0)
    night = simulate(scenario, posterior_policy, workers=POOL, hours=0.7, seed=1)
    assert night.runs > 60
    assert night.best <= WORLDS["base"].start


def test_a_recorded_study_is_replayed_to_its_last_idea() -> None:
    record = recorded(read_results((DATA / "upstream_bigmem_results.tsv").read_text()))
    night = simulate(WORLDS["base"], posterior_policy, workers={"H100": 4}, hours=6.0, seed=1, record=record)
    assert night.path[0][2] == record.start
    assert night.experiments >= len(record.effects), "each once, and some again on a later best"


@pytest.mark.slow
def test_every_row_of_the_benchmark_is_a_night(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = module(ROOT / "benchmarks" / "policies.py")
    monkeypatch.setitem(bench.HOURS, "16", 0.4)
    nights = [bench._one((row, "base", "16", 1))[1] for row in bench.ROWS]
    assert all(night.runs > 30 and night.path[0][2] == 1.003 for night in nights)


@pytest.mark.parametrize("pool", ["1", "64"])
def test_waves_fill_as_much_of_any_pool(pool: str) -> None:
    bench = module(ROOT / "benchmarks" / "policies.py")
    workers = sum(bench.POOLS[pool].values())
    night = bench.waves(WORLDS["base"], 1, bench.POOLS[pool], 2.0)
    assert night.workers == workers
    rounds = night.runs / max(1, round(11.5 * workers / 16))
    assert 17 <= rounds <= 25, "one after another, of about five and a half minutes"


@pytest.mark.slow
def test_identical_code_is_hardly_ever_kept() -> None:
    """200 and more tries a night of code that is the best's: at most one in twenty is kept."""
    nights = [simulate(SAME, posterior_policy, workers=POOL, hours=3.0, seed=seed) for seed in range(3)]
    assert all(night.experiments >= 200 for night in nights)
    assert sum(night.keeps for night in nights) <= 0.05 * sum(night.experiments for night in nights)
    assert all(night.useless == night.keeps for night in nights), "the world knows that none was better"


@pytest.mark.slow
def test_a_difference_of_hardware_alone_is_not_kept() -> None:
    """One kind is better by fifty noises, and workers differ by three."""
    scenario = replace(SAME, kind_offset={"H200": -0.02}, worker_spread=1e-3)
    nights = [simulate(scenario, posterior_policy, workers=POOL, hours=2.0, seed=seed) for seed in range(3)]
    assert sum(night.keeps for night in nights) <= 0.02 * sum(night.experiments for night in nights)
    assert all(abs(night.reported - night.best) < 2e-3 for night in nights), "nor is its value another"


def test_code_that_only_ran_on_the_better_kind_is_not_thought_better() -> None:
    base = [
        *baseline(1.0, 1.0003, 0.9998, kind="H100"),
        run("e0001.4", 0.995, purpose=Purpose.CALIBRATE, kind="H200"),
    ]
    past = history(*base, experiment(2), run("e0002.1", 0.9951, kind="H200"))
    decided = posterior_policy("H100").decide(past, [Worker(name="H100-01", kind="H100")], 10.0)
    assert not [d for d in decided if isinstance(d, Decide) and d.verdict is Verdict.KEEP]


@pytest.mark.slow
def test_offsets_are_recovered_within_their_intervals() -> None:
    """Of kinds and of workers, over a dozen worlds: 95 in 100, as far as so many can tell."""
    within = total = 0
    for seed in range(12):
        judges: list[PosteriorPolicy] = []

        def remembered(first_kind: str, judges: list[PosteriorPolicy] = judges) -> PosteriorPolicy:
            judges.append(posterior_policy(first_kind))
            return judges[-1]

        simulate(WORLDS["base"], remembered, workers=POOL, hours=1.0, seed=seed)
        for found, truth in offsets(judges[0].learner, seed):
            total += 1
            within += abs(found[0] - truth) <= 1.96 * found[1]
    assert total == 12 * 17
    assert within / total >= 0.9


def offsets(learner: Learner, seed: int) -> Iterator[tuple[tuple[float, float], float]]:
    """Yield what was found of each worker, and of the second kind, beside the truth."""
    from autoresearch.world import World

    names = [(f"{kind.lower()}-{i:02d}", kind) for kind, count in POOL.items() for i in range(1, count + 1)]
    world = World(WORLDS["base"], seed, names)
    belief = learner.belief
    for name, _ in names:
        known = belief.offset(name)
        assert known is not None
        yield (known.mean, math.sqrt(known.variance)), world.offset(name, 0.5)
    kind = belief.kind_offset("H200")
    assert kind is not None
    truth = [world.offset(name, 0.5) for name, which in names if which == "H200"]
    yield (kind.mean, math.sqrt(kind.variance)), sum(truth) / len(truth)


# ---------------------------------------------------------------------------
# Public replicates
# ---------------------------------------------------------------------------


def replicate_groups() -> list[list[float]]:
    with (DATA / "noise_replicates_h200.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [[float(value) for value in row["values"].split(",")] for row in rows if int(row["n"]) >= 6]


def judged_better(base: list[float], tried: list[float]) -> bool:
    """Whether code measured so would be kept on a base measured so."""
    runs = [run(f"e0002.{i}", value, kind="H200") for i, value in enumerate(tried, start=1)]
    past: History = history(*baseline(*base, kind="H200"), experiment(2), *runs)
    decided = posterior_policy("H200").decide(past, [Worker(name="H200-01", kind="H200")], 100.0)
    return any(
        isinstance(d, Decide) and d.experiment == "e0002" and d.verdict is Verdict.KEEP for d in decided
    )


def test_runs_of_one_public_configuration_are_not_told_apart() -> None:
    """Three of them as the base, one to three others as an experiment: at most 5 % would be kept.

    Bad configurations, above 1.02, vary ten times as much as the noise that is expected.
    """
    rng = Random(7)
    groups = replicate_groups()
    assert len(groups) == 60
    told = []
    for _ in range(400):
        group = rng.sample(groups[rng.randrange(len(groups))], 6)
        told.append(judged_better(group[:3], group[3 : 3 + rng.randint(1, 3)]))
    assert sum(told) / len(told) <= 0.05


# ---------------------------------------------------------------------------
# From the command line
# ---------------------------------------------------------------------------


def test_simulate_tells_what_came_of_its_nights() -> None:
    call = ["simulate", "--seeds", "1", "--hours", "0.4", "--workers", "H100=4", "--reach", "1.0"]
    told = CliRunner().invoke(app, [*call, "--json"])
    assert told.exit_code == 0, told.output
    document = json.loads(told.stdout)
    assert document["means"]["busy"] > 0.8
    assert document["means"]["gpu_hours"] == pytest.approx(1.6)
    text = CliRunner().invoke(app, [*call, "--no-json"]).stdout
    assert "worker time in runs" in text
    assert "GPU hours until then" in text


@pytest.mark.parametrize(
    "wrong",
    [
        ["--workers", "H10=4"],
        ["--workers", "H100"],
        ["--world", "flat"],
        ["--policy", "luck"],
        ["--seeds", "0"],
    ],
)
def test_what_simulate_cannot_do_is_one_line(wrong: list[str]) -> None:
    told = CliRunner().invoke(app, ["simulate", *wrong, "--no-json"])
    assert told.exit_code == 2
    assert 1 <= len(told.stderr.strip().splitlines()) <= 2
