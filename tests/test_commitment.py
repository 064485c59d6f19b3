"""Ceilings are kept whatever the runs in flight do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.budget import Budget, Usage
from autoresearch.commitment import RELEASE_SECONDS, Commitment
from autoresearch.experiment import Run, RunState, Worker
from builders import run

NOW = 1_700_000_000.0
WORST = 900.0


def paid(number: int, price: float = 2.0) -> Worker:
    return Worker(name=f"h100-{number:02d}", kind="H100", price_per_hour=price, up_at=NOW - 100)


def by_the_run(price: float) -> Worker:
    return Worker(name="local-01", kind="H100", price_per_hour=price)


def commitment(
    workers: list[Worker], in_flight: tuple[Run, ...] = (), spent: float = 0.0, ceiling: float = 10.0
) -> Commitment:
    return Commitment(
        Budget(gpu_dollars=ceiling),
        Usage(gpu_dollars=spent),
        workers,
        in_flight,
        worst_seconds=WORST,
        now=NOW,
    )


def on(worker: str, submitted_at: float) -> Run:
    return run("e0002.1", state=RunState.RUNNING, worker=worker, submitted_at=submitted_at)


def test_a_worker_paid_by_the_run_reserves_the_run() -> None:
    worker = by_the_run(4.0)  # a worst case of 1 dollar
    found = commitment([worker], ceiling=2.5)
    for _ in range(2):
        assert found.refusal(worker) is None
        found.take(worker)
    assert found.refusal(worker) == "gpu_dollars"


def test_the_first_run_reserves_the_stretch_for_all_paid_workers_and_the_next_ones_nothing_more() -> None:
    pool = [paid(n) for n in range(1, 5)]  # 8 dollars an hour
    worst = 8.0 * (WORST + RELEASE_SECONDS) / 3600
    assert commitment(pool, ceiling=worst - 0.01).refusal(pool[0]) == "gpu_dollars"
    found = commitment(pool, ceiling=worst + 0.01)
    for worker in pool:
        assert found.refusal(worker) is None
        found.take(worker)
    assert found.refusal(pool[0]) == "gpu_dollars", "a run behind a run stretches the night"


def test_a_run_in_flight_reserves_what_is_left_of_its_worst_case() -> None:
    pool = [paid(1, price=3.6)]  # a tenth of a cent a second
    left = WORST - 300 + RELEASE_SECONDS
    behind = 0.001 * (left + WORST)
    assert commitment(pool, (on("h100-01", NOW - 300),), ceiling=behind + 0.01).refusal(pool[0]) is None
    assert commitment(pool, (on("h100-01", NOW - 300),), ceiling=behind - 0.01).refusal(pool[0])


def test_hours_are_a_ceiling_too() -> None:
    found = Commitment(Budget(hours=1.0), Usage(hours=0.8), [paid(1)], (), worst_seconds=WORST, now=NOW)
    assert found.refusal(paid(1)) == "hours"


@given(
    prices=st.lists(st.floats(0.1, 10), min_size=1, max_size=6),
    spent=st.floats(0, 20),
    ceiling=st.floats(0, 40),
    picks=st.lists(st.integers(0, 5), max_size=20),
)
def test_what_is_taken_on_never_costs_more_than_the_ceiling(
    prices: list[float], spent: float, ceiling: float, picks: list[int]
) -> None:
    """Whatever runs it lets through, all workers staying until the last one's worst end fit under it."""
    pool = [paid(n, price) for n, price in enumerate(prices, 1)]
    found = commitment(pool, spent=spent, ceiling=ceiling)
    taken: dict[str, int] = {}
    for pick in picks:
        worker = pool[pick % len(pool)]
        if found.refusal(worker) is None:
            found.take(worker)
            taken[worker.name] = taken.get(worker.name, 0) + 1
    if taken:
        hours = (WORST * max(taken.values()) + RELEASE_SECONDS) / 3600
        assert spent + sum(prices) * hours <= ceiling + 1e-6
    else:
        assert found.refusal(pool[0]) or not picks


def test_without_a_ceiling_nothing_is_refused() -> None:
    found = Commitment(Budget(), Usage(gpu_dollars=1e6), [paid(1)], (), worst_seconds=WORST, now=NOW)
    assert found.refusal(paid(1)) is None
    assert pytest.approx(120.0) == RELEASE_SECONDS
