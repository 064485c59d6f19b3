"""A simulated night: the real dispatcher, plan, policy and store on a virtual clock and in a world.

What is simulated is what a study meets outside: workers, the time and the result of a run, an agent.
The same seed gives the same night, bit by bit, with the same Python and numpy: from 3.12 on `sum` rounds
otherwise, and where two decisions are a rounding apart a night then goes another way.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from autoresearch.actions import Request, Snapshot
from autoresearch.agents.simulated import SimulatedAgent
from autoresearch.brief import Brief
from autoresearch.budget import Budget, Usage
from autoresearch.clock import VirtualClock
from autoresearch.config import AgentConfig, Config, Judging
from autoresearch.dispatcher import Dispatcher
from autoresearch.executors.simulated import SimulatedExecutor
from autoresearch.experiment import Candidate, Files, RunState, Worker
from autoresearch.history import BASELINE, History
from autoresearch.judging.posterior import PosteriorPolicy, Rules
from autoresearch.judging.statistics import best_estimate, expected_noise
from autoresearch.patch import normal_digest
from autoresearch.protocols import Policy
from autoresearch.store import Store, StudyRow
from autoresearch.study import Study, sha256
from autoresearch.target import Metric, Target
from autoresearch.workspace import Commit
from autoresearch.world import FILE, USELESS, Memory, Record, Scenario, World, read_code, write_code

BEGIN = 1_750_000_000.0  # any moment
TAG = "simulated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Night:
    """What came of a simulated night; values on the scale of the first kind of worker."""

    seed: int
    hours: float
    workers: int
    runs: int  # started
    experiments: int
    busy: float  # share of the workers' time that was in runs
    best: float  # true value of the code that was best at the end
    reported: float  # what the study says that code is worth
    keeps: int
    useless: int  # keeps of a true effect no better than USELESS
    crashes: int
    gpu_hours: float
    dollars: float
    path: tuple[tuple[float, float, float], ...]  # hours, GPU hours, true value: after each keep

    def at(self, hours: float) -> float:
        """Return the true value of the best code after so many hours."""
        return next((value for when, _, value in reversed(self.path) if when <= hours), self.path[0][2])

    def cost_of(self, value: float) -> float | None:
        """Return the GPU hours until the best code was truly that good; None where it never was."""
        return next((spent for _, spent, reached in self.path if reached <= value), None)


class CodeBook:
    """Keeps the code of experiments in memory, in place of git."""

    branch = f"refs/heads/autoresearch/{TAG}"

    def __init__(self, base: Files) -> None:
        """Begin with the committed code."""
        self._commits = {"base": dict(base)}

    def ref(self, experiment: str) -> str:
        """Return the full name of an experiment's ref."""
        return f"refs/autoresearch/{TAG}/{experiment}"

    def publish(self, commit: Commit) -> str:
        """Keep a commit; return its id."""
        self._commits[commit.ref] = dict(commit.files)
        return commit.ref

    def read_text(self, commit: str, paths: Sequence[str]) -> Files:
        """Return files of a commit."""
        return {path: self._commits[commit][path] for path in paths}

    def advance(self, lineage: Mapping[str, str], paths: Sequence[str], when: float) -> None:
        """Do nothing: no branch is looked at."""


def posterior_policy(first_kind: str, rules: Rules | None = None) -> PosteriorPolicy:
    """Return the policy of a simulated study; it expects the noise that such a target is known for."""
    noise = expected_noise("val_bpb", "gpu")
    return PosteriorPolicy(Judging(), first_kind=first_kind, noise=noise, rules=rules)


def simulate(
    scenario: Scenario,
    make_policy: Callable[[str], Policy],
    *,
    workers: Mapping[str, int],
    hours: float,
    seed: int,
    prices: Mapping[str, float] | None = None,
    record: Record | None = None,
    on_turn: Callable[[Snapshot], None] | None = None,
) -> Night:
    """Return one night of a pool in a world, judged by the policy that is made for its first kind.

    With a record the agent's ideas are those of a study that was run once, and the night ends with them.
    """
    if record is not None:
        scenario = replace(scenario, start=record.start)
    pool = [
        Worker(name=f"{kind.lower()}-{i:02d}", kind=kind)
        for kind, count in workers.items()
        for i in range(1, count + 1)
    ]
    world = World(scenario, seed, [(worker.name, worker.kind) for worker in pool])
    clock = VirtualClock(BEGIN)
    policy = make_policy(pool[0].kind)
    with tempfile.TemporaryDirectory(prefix="autoresearch-night-") as folder:
        study = _study(Path(folder), seed, list(workers))
        config = Config(
            agent=AgentConfig(name="sweep", backlog=0, seed=seed),
            budget=Budget(),
            judging=Judging(prune=False),  # simulated runs print no loss
        )
        dispatcher = Dispatcher(
            study,
            config,
            agent=SimulatedAgent(world, study.store.history, Memory(world, record) if record else None),
            executor=SimulatedExecutor(world, clock, pool, study.runs_folder),
            policy=policy,
            preflight=None,
            clock=clock,
            on_turn=on_turn,
            spawn=lambda call: clock.at(clock.now() + scenario.answer_seconds, call),
            answer_seconds=scenario.answer_seconds,
            tell=_tell,
        )
        clock.at(BEGIN + 3600 * hours, lambda: dispatcher.request(Request.CANCEL))
        dispatcher.run()
        night = _night(study, world, pool, hours, seed, prices or {}, policy)
        study.close()
    return night


def _study(state: Path, seed: int, kinds: Sequence[str]) -> Study:
    """Return a study of the world's baseline, in a folder of its own."""
    target = Target(
        editable=(FILE,),
        score="harness",
        metric=Metric(),
        profile="gpu",
        budget_seconds=300.0,
        timeout_seconds=600.0,
    )
    (state / "protected").mkdir()
    (state / "runs").mkdir()
    pinned = b"{}"
    (state / "protected" / "protected.json").write_bytes(pinned)
    store = Store(state / "study.db", durable=False)
    files = write_code(())
    row = StudyRow(
        tag=TAG,
        created_at=BEGIN,
        goal=target.goal,
        target=asdict(target),
        kinds=tuple(kinds),
        base_commit="base",
        protected_sha256=sha256(pinned),
        seed=seed,
        request="none",
        outcome=None,
    )
    store.create_study(row, Candidate(files=files, digest=normal_digest(files)), {}, 3, BEGIN)
    return Study(state, TAG, state, store, workspace=CodeBook(files))  # type: ignore[arg-type]


def _tell(study: Study, budget: Budget, instructions: str, *, together: Sequence[str], **_: object) -> Brief:
    """Return what the simulated agent looks at: the best code, and what won on an old base."""
    history = study.store.history()
    incumbent = history.incumbent()
    parent = incumbent.id if incumbent else BASELINE
    files = study.files(parent)
    return Brief(
        study=study.tag,
        metric=study.target.metric.name,
        goal=history.goal,
        profile=study.target.profile,
        instructions=instructions,
        parent=parent,
        files=files,
        baseline_files=files,
        tried=(),
        refused=(),
        noise={},
        experiments_left=float("inf"),
        budget=budget,
        usage=Usage(),
        serial=0,
        seed=study.row.seed,
        together=tuple(together),
        rework=tuple(e.id for e in history.handed_back() if e.id not in together),
    )


def _night(
    study: Study,
    world: World,
    pool: Sequence[Worker],
    hours: float,
    seed: int,
    prices: Mapping[str, float],
    policy: Policy,
) -> Night:
    """Return what came of a night that is over."""
    history = study.store.history()
    end = BEGIN + 3600 * hours
    started = [run for run in history.all_runs() if run.submitted_at is not None]
    seconds = sum(max(0.0, min(r.ended_at or end, end) - (r.started_at or end)) for r in started)
    path = [(0.0, 0.0, world.value(()))]
    useless = 0
    for e in history.lineage()[1:]:
        value, before = world.value(read_code(study.files(e.id))), path[-1][2]
        useless += value - before > USELESS
        when = ((e.judged_at or end) - BEGIN) / 3600
        path.append((when, when * len(pool), value))
    return Night(
        seed=seed,
        hours=hours,
        workers=len(pool),
        runs=len(started),
        experiments=sum(1 for e in history.experiments if history.runs_of(e)) - 1,
        busy=seconds / (3600 * hours * len(pool)),
        best=path[-1][2],
        reported=reported(history, policy),
        keeps=len(path) - 1,
        useless=useless,
        crashes=sum(1 for run in history.all_runs() if run.state is RunState.FAILED),
        gpu_hours=hours * len(pool),
        dollars=sum(prices.get(worker.kind, 0.0) for worker in pool) * hours,
        path=tuple(path),
    )


def reported(history: History, policy: Policy) -> float:
    """Return what a study says that its best code is worth, as its policy judges."""
    best = history.incumbent()
    if best is None:
        return math.nan
    if isinstance(policy, PosteriorPolicy) and policy.learner.learn(history):
        return policy.learner.claim(history, best.id).value
    estimate = best_estimate(history, best.id)
    return estimate.mean if estimate else math.nan
