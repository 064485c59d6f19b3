"""How good policies are at running a night, where the truth is known.

    python benchmarks/policies.py --output nights.jsonl     # all of it, 32 nights a row
    python benchmarks/policies.py --pools 16 --rows waves ours --worlds base --seeds 8

On 16 workers, 13 H100 + 3 H200, nights of 8 h in every world of `autoresearch.world`; in the base world
also on 1, 64 and 256 workers, where larger pools run shorter nights: what a night costs here grows with
its runs. Values are on the H100 scale. A night of ours is the real dispatcher, plan, policy and store on
a virtual clock. Waves cannot be had of it, so they are a loop of their own in the same worlds, with the
same ideas. Parameters were tuned in the base world on seeds 100 to 123; those from 1000 on, used here,
were not looked at meanwhile.

`useless` is the share of keeps whose true effect is no better than -.00005, over all nights; `bad
nights` the share of nights in which that is above 10 %. Errors are standard errors of means; `minus
waves` is paired by seed. With --output, nights are appended to a file as they end, and read back.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from random import Random
from statistics import mean, stdev

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autoresearch.experiment import Purpose, Run, RunState, Verdict, Worker
from autoresearch.history import BASELINE, History
from autoresearch.judging.policy import Decide, Decision, Merge, Order
from autoresearch.judging.posterior import Rules
from autoresearch.protocols import Policy
from autoresearch.simulation import Night, posterior_policy, simulate
from autoresearch.world import USELESS, WORLDS, Code, Idea, Imagination, Scenario, World

POOLS: Mapping[str, Mapping[str, int]] = {
    "16": {"H100": 13, "H200": 3},
    "1": {"H100": 1},
    "64": {"H100": 52, "H200": 12},
    "256": {"H100": 208, "H200": 48},
}
HOURS = {"16": 8.0, "1": 8.0, "64": 4.0, "256": 1.0}
WAVE = (10, 13)  # experiments in a wave of 16 workers
FIRST_SEED = 1000
NOISELESS = {"run_noise": 0.0, "worker_spread": 0.0, "drift": 0.0, "flips": 0.0}
KIND_ERROR = 3e-4  # of the correction between kinds that who judges naively has looked up


# ---------------------------------------------------------------------------
# Naive policies
# ---------------------------------------------------------------------------


class NaivePolicy:
    """Keeps whatever beats the record of the best, as upstream's instructions say, in any order.

    What won on an old base is tried again on the new one. Kinds are corrected by a figure looked up.
    """

    def __init__(self, corrections: Mapping[str, float]) -> None:
        self._corrections = corrections

    def decide(self, history: History, workers: Sequence[Worker], now: float) -> list[Decision]:
        """Return the verdicts on all that ended."""
        del workers, now
        incumbent = history.incumbent()
        if incumbent is None:
            ended = history.finished(BASELINE)
            known = history.experiments[BASELINE].verdict is not None
            if known or not ended:
                return []
            return [Decide(experiment=BASELINE, verdict=Verdict.KEEP, reason="baseline")]
        decisions: list[Decision] = []
        record = self._value(history, incumbent.id)
        for e in history.without_verdict():
            if history.is_open(e.id):
                continue
            if not history.finished(e.id):
                if any(run.state is RunState.FAILED for run in history.runs_of(e.id)):
                    decisions.append(Decide(experiment=e.id, verdict=Verdict.CRASH, reason="crash"))
                continue
            against = record if e.parent == incumbent.id else self._value(history, e.parent or BASELINE)
            if self._value(history, e.id) >= against:
                decisions.append(Decide(experiment=e.id, verdict=Verdict.DISCARD, reason="no better"))
            elif e.parent == incumbent.id:
                return [*decisions, Decide(experiment=e.id, verdict=Verdict.KEEP, reason="better")]
            else:
                decisions.append(Merge(experiment=e.id, reason="won on an old base"))
        return decisions

    def _value(self, history: History, experiment: str) -> float:
        run = history.finished(experiment)[0]
        return (run.value or 0.0) - self._corrections.get(run.worker_kind or "", 0.0)

    def together(self, *_: object) -> None:
        """Return nothing: each idea is measured by itself."""

    def closing(self, _: History) -> list[Order]:
        """Return nothing: the record is what was measured."""
        return []

    def next_run(self, history: History, queued: Sequence[Run], worker: Worker) -> Run | None:
        """Return the oldest run a worker may take."""
        del history
        fitting = [run for run in queued if run.kind in {None, worker.kind}]
        return min(fitting, key=lambda run: (run.purpose is Purpose.SCREEN, run.created_at), default=None)


def waves(
    scenario: Scenario,
    seed: int,
    workers: Mapping[str, int],
    hours: float,
    *,
    think: float = 30.0,
    blind: bool = False,
    margin: float = 0.0,
) -> Night:
    """Return a night of waves of 10 to 13 experiments per 16 workers, with a pause for thought between them.

    The best of a wave that beats the record is kept; the other winners are tried again on it in the
    next wave. The record is known from one run when the night begins.
    """
    pool = [(f"{kind.lower()}-{i:02d}", kind) for kind, n in workers.items() for i in range(1, n + 1)]
    end = 3600 * hours
    world = World(scenario, seed, pool)
    imagination = Imagination(world)
    rng = Random(f"{seed}:waves")
    corrections = dict(scenario.kind_offset)
    for kind in corrections:
        corrections[kind] += rng.gauss(0, KIND_ERROR if scenario.run_noise else 0.0)

    def measure(code: Code, worker: tuple[str, str], at: float, job: str) -> float:
        value = world.measure(code, worker[0], at / 3600, job)
        return value if blind else value - corrections.get(worker[1], 0.0)

    best: Code = ()
    record = measure(best, pool[0], 0.0, "baseline")
    path = [(0.0, 0.0, world.value(best))]
    again: list[Idea] = []
    now, busy, runs, experiments, crashes, keeps, useless = 0.0, 0.0, 0, 0, 0, 0, 0
    while True:
        now += think
        size = max(1, round(rng.randint(*WAVE) * len(pool) / 16))
        tries, again = again[:size], again[size:]
        pending = frozenset(idea.good for idea in [*tries, *again] if idea.good is not None)
        while len(tries) < size:
            experiments += 1
            idea = imagination.draw(experiments, best, pending)
            pending |= {idea.good} if idea.good is not None else set()
            tries.append(idea)
        ended = now
        measured: list[tuple[float, int, Idea]] = []
        for i, (idea, worker) in enumerate(zip(tries, rng.sample(pool, size), strict=True)):
            runs += 1
            code = (*best, idea.name)
            lasts = world.duration(code, f"{runs}")
            busy += max(0.0, min(lasts, end - now))
            ended = max(ended, now + lasts)
            if world.crashes(code):
                crashes += 1
            else:
                measured.append((measure(code, worker, now + lasts, f"{runs}"), i, idea))
        now = ended
        if now > end:
            break
        before, bar = best, record
        for value, _, idea in sorted(measured):
            if not value < bar - margin:
                imagination.reject(idea)
            elif best == before:
                best, record = (*before, idea.name), value
                gained = world.value(best) - world.value(before)
                keeps, useless = keeps + 1, useless + (gained > USELESS)
                path.append((now / 3600, now / 3600 * len(pool), world.value(best)))
            elif idea.good is None or idea.good not in {world.idea(n).good for n in best}:
                again.append(idea)
    return Night(
        seed=seed,
        hours=hours,
        workers=len(pool),
        runs=runs,
        experiments=experiments,
        busy=busy / (end * len(pool)),
        best=world.value(best),
        reported=record,
        keeps=keeps,
        useless=useless,
        crashes=crashes,
        gpu_hours=hours * len(pool),
        dollars=0.0,
        path=tuple(path),
    )


# ---------------------------------------------------------------------------
# Rows
# ---------------------------------------------------------------------------

Play = Callable[[Scenario, int, Mapping[str, int], float], Night]  # seed, workers by kind, hours

OURS = Rules()
ONE_BY_ONE = {"sure": 0.0, "group": 0.0, "alone": 0.0}  # no combinations
# As the planning simulation left it: everything fixed, no drift, large winners handed back.
FIXED = Rules(
    target=0.12,
    jump=1.0,
    baseline_share=1.0,
    base_start=20.0,
    much=1.7,
    drift=0.0,
    shares=(0.45, 0.15, 0.0, 0.40),
    reworked_hold=False,
    wholes=False,
    **ONE_BY_ONE,
)


def _naive(scenario: Scenario, seed: int, first_kind: str) -> Policy:
    rng = Random(f"{seed}:corrections")
    error = KIND_ERROR if scenario.run_noise else 0.0
    offsets = {k: v + rng.gauss(0, error) for k, v in scenario.kind_offset.items() if k != first_kind}
    return NaivePolicy(offsets)


def _ours(rules: Rules) -> Play:
    def night(scenario: Scenario, seed: int, workers: Mapping[str, int], hours: float) -> Night:
        policy = partial(posterior_policy, rules=rules)
        return simulate(scenario, policy, workers=workers, hours=hours, seed=seed)

    return night


def _asynchronous(scenario: Scenario, seed: int, workers: Mapping[str, int], hours: float) -> Night:
    return simulate(scenario, partial(_naive, scenario, seed), workers=workers, hours=hours, seed=seed)


def _oracle(scenario: Scenario, seed: int, workers: Mapping[str, int], hours: float) -> Night:
    return waves(replace(scenario, **NOISELESS), seed, workers, hours, margin=5e-5)


ROWS: Mapping[str, Play] = {
    "waves": waves,
    "waves, hardware-blind": partial(waves, blind=True),
    "asynchronous, naive": _asynchronous,
    "policy.md": _ours(FIXED),
    "ours": _ours(OURS),
    "no worker offsets": _ours(replace(OURS, offsets=False)),
    "no shrinking": _ours(replace(OURS, shares=(0.0, 0.5, 0.0, 0.5))),
    "no controls": _ours(replace(OURS, base_runs=2.0)),
    "no handing back": _ours(replace(OURS, hands_back=False)),
    "no merge queue": _ours(replace(OURS, merges=False)),
    "no combining": _ours(replace(OURS, **ONE_BY_ONE)),
    "last base only": _ours(replace(OURS, wholes=False)),
    "no pace": _ours(replace(OURS, pace=0.0)),
    "no error budget": _ours(replace(OURS, target=0.5, jump=1.0)),
    "oracle, waves": _oracle,
}


def _one(job: tuple[str, str, str, int]) -> tuple[tuple[str, str, str, int], Night]:
    row, world, pool, seed = job
    night = ROWS[row](WORLDS[world], seed, POOLS[pool], HOURS[pool])
    gc.collect()  # between nights only: what a night builds up it keeps
    return job, night


def nights(
    jobs: Sequence[tuple[str, str, str, int]], processes: int, output: Path | None
) -> Iterator[tuple[tuple[str, str, str, int], Night]]:
    """Yield the nights of jobs, those of the output file first; append what is new to it."""
    known: set[tuple[str, str, str, int]] = set()
    if output and output.exists():
        for line in output.read_text().splitlines():
            data = json.loads(line)
            job = tuple(data["job"])
            if job in jobs and job not in known:
                known.add(job)
                yield job, Night(**(data["night"] | {"path": tuple(map(tuple, data["night"]["path"]))}))
    left = [job for job in jobs if job not in known]
    with ProcessPoolExecutor(processes, initializer=gc.disable) as pool:
        for job, night in pool.map(_one, left):
            if output:
                with output.open("a") as file:
                    file.write(json.dumps({"job": job, "night": asdict(night)}) + "\n")
            yield job, night


def show(row: str, world: str, pool: str, found: Sequence[Night], waves_: Sequence[Night]) -> str:
    """Return a line of the table."""
    best, error = _mean([n.best for n in found])
    keeps = sum(n.keeps for n in found)
    bad = mean(n.useless > 0.1 * n.keeps for n in found)
    gap, gap_error = _mean([n.reported - n.best for n in found])
    other = {n.seed: n.best for n in waves_}
    pairs = [n.best - other[n.seed] for n in found if n.seed in other]
    paired = "{:+.5f} +-{:.5f}".format(*_mean(pairs)) if pairs and row != "waves" else ""
    hours = " ".join(f"{mean(n.at(n.hours * share) for n in found):.4f}" for share in (1 / 8, 1 / 4, 1 / 2))
    cells = (
        f"{row:<22} {world:<16} {pool:>4} {found[0].hours:>2g}",
        f"{best:.5f} +-{error:.5f}",
        f"{paired:<20}",
        f"{gap:+.5f} +-{gap_error:.5f}",
        f"{sum(n.useless for n in found) / max(1, keeps):6.1%} {bad:6.0%}",
        f"{keeps / len(found):5.1f}",
        f"{mean(n.runs / n.hours for n in found):6.0f} {mean(n.busy for n in found):6.1%}",
        f"{hours}  {len(found)}",
    )
    return "  ".join(cells)


def _mean(values: Sequence[float]) -> tuple[float, float]:
    return mean(values), stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


HEADER = (
    f"{'policy':<22} {'world':<16} pool  h  {'true best':<18} {'minus waves':<21} {'reported - true':<18}"
    f" {'useless':>7} {'bad nights':>6} keeps  runs/h   busy  after 1/8, 1/4, 1/2   nights"
)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS), metavar="ROW")
    parser.add_argument("--worlds", nargs="*", choices=list(WORLDS), metavar="WORLD", help="of every pool")
    parser.add_argument("--pools", nargs="*", default=list(POOLS), choices=list(POOLS), metavar="POOL")
    parser.add_argument("--seeds", type=int, default=32)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--output", type=Path)
    wanted = parser.parse_args()
    seeds = range(wanted.first_seed, wanted.first_seed + wanted.seeds)
    cells = [
        (row, world, pool)
        for pool in wanted.pools
        for world in wanted.worlds or (WORLDS if pool == "16" else ["base"])
        for row in wanted.rows
    ]
    print(HEADER)
    done: dict[tuple[str, str, str], list[Night]] = {}
    for job, night in nights(
        [(*cell, seed) for cell in cells for seed in seeds], wanted.processes, wanted.output
    ):
        cell = job[:3]
        done.setdefault(cell, []).append(night)
        if len(done[cell]) == len(seeds):
            print(show(*cell, done[cell], done.get(("waves", cell[1], cell[2]), [])), flush=True)


if __name__ == "__main__":
    main()
