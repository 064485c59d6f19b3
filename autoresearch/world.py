"""What a simulated laboratory is like: its ideas, its machines, its noise. All of it is in this file.

Nothing here is a forecast: the world ranks policies. Values are val_bpb on the scale of the pool's
first kind of worker. A code is the list of ideas built into it, in order, so its true value is a sum
that nobody but the simulation sees.

Where the numbers come from
    run_noise      .0003: one good configuration re-run on one H200, 299 degrees of freedom
    tails          4 % of runs have three times that noise (95th percentile / sd of the same groups)
    worker_spread  .0004: one default configuration over 27 jobs has .0005, less the run's own .0003
    kind_offset    -.005 on H200: 9 % more steps in the same time (the 16-GPU run of SkyPilot's article)
    duration       25 s to start, 300 s to train, 22 s to evaluate: 347 s between commits of the public
                   H100 run, and 345.6 s in its log
    crash          5 % of 2,164 public single-GPU runs, 1 % of the best one; 23 % in the article: .08
    ideas          such that a sequential night of 125 naive runs resembles the public H100 table:
                   keep rate .18, gain .028, two thirds of the differences below .0011
Assumed, for want of public data: the number and the sizes of good ideas, how likely each is proposed,
that ideas add up, what is lost when one is carried to another base mechanically, drift.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from autoresearch.experiment import Files, Prior

USELESS = -5e-5  # a true effect no better than this was not worth keeping
Code = tuple[str, ...]  # the names of the ideas in a code, in the order they were built in


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """The parameters of a world."""

    start: float = 1.003  # of the committed code
    run_noise: float = 3e-4
    tail_share: float = 0.04
    tail_factor: float = 3.0
    worker_spread: float = 4e-4
    kind_offset: Mapping[str, float] = field(default_factory=lambda: {"H200": -0.005})
    drift: float = 0.0  # sd of a worker's offset after one hour
    flips: float = 0.0  # sd of what an idea is worth more or less on another kind than the first, for
    flip_share: float = 0.3  # this share of ideas
    crash: float = 0.08
    gross: float = 0.05  # ideas that ruin the run
    good: float = 0.17  # proposals that are good ideas, while all are left
    null: float = 0.36  # of the others, those that change nothing much
    null_spread: float = 1e-4
    harm_median: float = 7.5e-4
    harm_spread: float = 1.0  # of its logarithm
    ideas: int = 40
    total: float = 0.032  # what all good ideas are worth together
    largest: float = 0.012
    idea_spread: float = 1.3  # of the logarithm of their sizes
    attraction: float = 1.3  # an agent thinks of an idea in proportion to its size to this power
    discouragement: float = 0.5  # what a rejection does to that proportion
    carried: float = 0.8  # an idea carried to another base keeps at least this share of its effect
    pair: float = 0.0  # share of pairs of ideas of which the second is worth less where the first is in
    pair_low: float = 0.3  # and at least this share
    reworks: bool = True  # whether the agent does again what won on an old base
    start_seconds: float = 25.0
    train_seconds: float = 300.0
    evaluate_seconds: float = 22.0
    jitter_seconds: float = 3.0
    launch_seconds: float = 6.0  # mean
    answer_seconds: float = 10.0  # of the agent, and for each proposal:
    proposal_seconds: float = 5.0
    preemptions: float = 0.0  # per worker and hour


# The worlds a policy has to live in; each differs from the first in what its name says.
WORLDS: Mapping[str, Scenario] = {
    "base": Scenario(),
    "noise x2": Scenario(run_noise=6e-4, worker_spread=8e-4),
    "seed noise": Scenario(run_noise=1e-3),
    "no offsets": Scenario(worker_spread=0.0),
    "drift and flips": Scenario(drift=2e-4, flips=4e-4),
    "bad stacking": Scenario(carried=0.3),
    "pair": Scenario(pair=0.1, carried=1.0),
    "no reworks": Scenario(reworks=False),
    "idea-poor": Scenario(good=0.08),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Idea:
    """One idea as it was proposed once: what it does to the value of a code."""

    name: str
    effect: float
    good: int | None = None  # which of the world's good ideas it is
    crashes: bool = False
    base: Code = ()  # the code it was written for


class World:
    """One draw of a scenario. The same seed gives the same world and the same nights."""

    def __init__(self, scenario: Scenario, seed: int, workers: Sequence[tuple[str, str]]) -> None:
        """Draw ideas and offsets for workers, each with its kind; the first kind is the scale."""
        self.scenario = scenario
        self.seed = seed
        self._kinds = dict(workers)
        self._first = workers[0][1] if workers else ""
        rng = Random(f"{seed}:ideas")
        sizes = [math.exp(rng.gauss(0, scenario.idea_spread)) for _ in range(scenario.ideas)]
        self.sizes = [min(size / sum(sizes) * scenario.total, scenario.largest) for size in sizes]
        self._ideas: dict[str, Idea] = {}
        self._values: dict[Code, float] = {(): scenario.start}
        rng = Random(f"{seed}:workers")
        offsets = {name: rng.gauss(0, scenario.worker_spread) for name, _ in workers}
        mean = [offsets[name] for name, kind in workers if kind == self._first]
        middle = sum(mean) / max(1, len(mean))
        self.offsets = {name: offset - middle for name, offset in offsets.items()}
        self._walks: dict[str, list[float]] = {}
        self._flips: dict[tuple[str, Code], float] = {}

    # -- ideas -----------------------------------------------------------------------------------

    def note(self, idea: Idea) -> None:
        """Take in an idea that was proposed."""
        self._ideas[idea.name] = idea

    def idea(self, name: str) -> Idea:
        """Return a proposed idea."""
        return self._ideas[name]

    def value(self, code: Code) -> float:
        """Return the true value of a code on the first kind of worker."""
        known = self._values.get(code)
        if known is None:
            known = self._values[code] = self.value(code[:-1]) + self._effect(code)
        return known

    def _effect(self, code: Code) -> float:
        """Return what the last idea of a code adds to the rest."""
        idea, before = self._ideas[code[-1]], code[:-1]
        if idea.good is None:
            return idea.effect
        others = [self._ideas[name].good for name in before]
        if idea.good in others:
            return 0.0  # it is in already
        effect = idea.effect
        if self.scenario.pair:
            for other in others:
                rng = Random(f"{self.seed}:pair:{other}:{idea.good}")
                if other is not None and rng.random() < self.scenario.pair:
                    effect *= rng.uniform(self.scenario.pair_low, 1.0)
        if before != idea.base:
            place = ",".join(before)
            effect *= Random(f"{self.seed}:carried:{idea.name}:{place}").uniform(self.scenario.carried, 1.0)
        return effect

    def crashes(self, code: Code) -> bool:
        """Whether a code cannot train."""
        return any(self._ideas[name].crashes for name in code)

    # -- runs ------------------------------------------------------------------------------------

    def measure(self, code: Code, worker: str, hours: float, job: str) -> float:
        """Return what one run of a code reports."""
        scenario = self.scenario
        rng = Random(f"{self.seed}:run:{job}")
        sigma = scenario.run_noise * (scenario.tail_factor if rng.random() < scenario.tail_share else 1.0)
        kind = self._kinds[worker]
        value = self.value(code) + self.offset(worker, hours) + rng.gauss(0, sigma)
        return value + (self._flip(code, kind) if scenario.flips and kind != self._first else 0.0)

    def _flip(self, code: Code, kind: str) -> float:
        """Return what a code is worth more or less on a kind of worker than on the first."""
        if not code:
            return 0.0
        known = self._flips.get((kind, code))
        if known is None:
            idea = self._ideas[code[-1]]
            rng = Random(f"{self.seed}:flip:{kind}:{idea.name if idea.good is None else idea.good}")
            flips = rng.random() < self.scenario.flip_share
            own = rng.gauss(0, self.scenario.flips) if flips else 0.0
            known = self._flips[kind, code] = self._flip(code[:-1], kind) + own
        return known

    def offset(self, worker: str, hours: float) -> float:
        """Return how much worse a worker's results are than the first kind's on average, after so long."""
        known = self.offsets[worker]
        kind = self._kinds[worker]
        if kind != self._first:
            known += self.scenario.kind_offset.get(kind, 0.0)
        return known + self._drifted(worker, hours)

    def _drifted(self, worker: str, hours: float) -> float:
        if not self.scenario.drift:
            return 0.0
        walk = self._walks.setdefault(worker, [0.0])
        while len(walk) <= int(hours * 4) + 1:  # a step every quarter of an hour
            rng = Random(f"{self.seed}:drift:{worker}:{len(walk)}")
            walk.append(walk[-1] + rng.gauss(0, self.scenario.drift / 2))
        return walk[int(hours * 4)]

    def duration(self, code: Code, job: str) -> float:
        """Return how many seconds a run occupies its worker."""
        scenario = self.scenario
        rng = Random(f"{self.seed}:time:{job}")
        if self.crashes(code):
            return rng.uniform(10, 60)
        whole = scenario.start_seconds + scenario.train_seconds + scenario.evaluate_seconds
        return (
            whole + abs(rng.gauss(0, scenario.jitter_seconds)) + rng.expovariate(1 / scenario.launch_seconds)
        )

    def preempted_after(self, job: str) -> float:
        """Return after how many seconds a job's machine is lost; infinite where that never happens."""
        if not self.scenario.preemptions:
            return math.inf
        return Random(f"{self.seed}:preempt:{job}").expovariate(self.scenario.preemptions / 3600)


class Imagination:
    """What an agent thinks of: draws ideas from a world, the better ones sooner."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._weights = [size**world.scenario.attraction for size in world.sizes]
        self.spent: set[int] = set()  # good ideas that will not be proposed again

    @property
    def left(self) -> float:
        """How many ideas there still are."""
        return math.inf

    def reject(self, idea: Idea) -> None:
        """Think of an idea less often, since it was tried in vain."""
        if idea.good is not None:
            self._weights[idea.good] *= self._world.scenario.discouragement

    def draw(self, number: int, base: Code, unwanted: frozenset[int]) -> Idea:
        """Return the idea of a proposal's number for a base, none of the unwanted good ones."""
        world, scenario = self._world, self._world.scenario
        rng = Random(f"{world.seed}:propose:{number}")
        used = {i for name in base if (i := world.idea(name).good) is not None}
        left = [i for i in range(scenario.ideas) if i not in used and i not in self.spent]
        free = [i for i in left if i not in unwanted]
        u = rng.random()
        if u < scenario.crash:
            idea = Idea(name=f"x{number}", effect=0.0, crashes=True)
        elif u < scenario.crash + scenario.gross:
            idea = Idea(name=f"b{number}", effect=0.008 * math.exp(rng.gauss(0.6, 0.8)))
        elif free and rng.random() < scenario.good * (len(left) / scenario.ideas) ** 0.6:
            good = rng.choices(free, [self._weights[i] for i in free])[0]
            idea = Idea(name=f"g{good}_{number}", effect=-world.sizes[good], good=good)
        elif rng.random() < scenario.null:
            idea = Idea(name=f"n{number}", effect=rng.gauss(0, scenario.null_spread))
        else:
            harm = scenario.harm_median * math.exp(rng.gauss(0, scenario.harm_spread))
            idea = Idea(name=f"h{number}", effect=harm)
        idea = replace(idea, base=base)
        world.note(idea)
        return idea

    def again(self, earlier: Idea, number: int, base: Code) -> Idea:
        """Return an idea that won before, written anew for a base."""
        idea = replace(earlier, name=f"{earlier.name.split('_')[0]}_{number}", base=base)
        self._world.note(idea)
        return idea


# ---------------------------------------------------------------------------
# Codes as files
# ---------------------------------------------------------------------------

FILE = "train.py"
END = "# end\n"


def write_code(code: Code) -> Files:
    """Return a code as the editable file of a simulated study."""
    return {FILE: "".join(f"{name} = 1\n" for name in code) + END}


def read_code(files: Files) -> Code:
    """Return the ideas in a file, in order."""
    return tuple(line.split(" ", 1)[0] for line in files[FILE].splitlines() if line.endswith("= 1"))


# ---------------------------------------------------------------------------
# Recorded studies
# ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A study that was run once: where it began, and what each of its ideas did to the best of its time."""

    start: float
    effects: tuple[float | None, ...]  # in order; None: a crash


def recorded(rows: Sequence[Prior]) -> Record:
    """Return a record of an upstream table. Raises ValueError where it has no baseline.

    An idea's effect is its value minus the best's before it, as measured: it holds the noise of two
    runs, so a replay tells what another policy had made of such ideas, not what they were truly worth.
    """
    measured = [row for row in rows if row.value is not None]
    if not measured:
        raise ValueError("no experiment in it was measured")
    best = start = measured[0].value or 0.0
    effects: list[float | None] = []
    for row in rows[rows.index(measured[0]) + 1 :]:
        effects.append(None if row.value is None else row.value - best)
        if row.status == "keep" and row.value is not None:
            best = row.value
    return Record(start=start, effects=tuple(effects))


class Memory(Imagination):
    """An agent's ideas as a record has them, in order; then there are no more."""

    def __init__(self, world: World, record: Record) -> None:
        super().__init__(world)
        self._record = record
        self._given = 0

    @property
    def left(self) -> int:
        """How many ideas are left."""
        return len(self._record.effects) - self._given

    def reject(self, idea: Idea) -> None:
        """Do nothing: what comes next stands in the record."""

    def draw(self, number: int, base: Code, unwanted: frozenset[int]) -> Idea:
        """Return the next idea of the record."""
        del unwanted
        effect = self._record.effects[self._given]
        self._given += 1
        idea = Idea(name=f"r{number}", effect=effect or 0.0, crashes=effect is None, base=base, good=-number)
        self._world.note(idea)
        return idea
