"""What a night of the agent `claude` costs: a study of 910 experiments, replayed without GPUs.

    python benchmarks/agent_cost.py [EXPERIMENTS] [BATCH ...]

The agent, its SDK, the briefs, the books and the judging are the real ones; the Messages API is the
tests' server, which counts tokens at 3 characters each, keeps a prompt cache and charges list prices;
values come from a simulated world. Two figures are assumed, and stated: what an experiment's edits take
to write (250 tokens), and how much a model thinks (a + b * batch tokens by effort). Time is simulated,
16 workers of 300 s, so that the cache expires as it would.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from autoresearch.accounts import StudyLedger  # noqa: E402
from autoresearch.agents.claude import ClaudeAgent, ClaudeSettings  # noqa: E402
from autoresearch.agents.claude.estimate import THINKING, WRITTEN, assumed_output  # noqa: E402
from autoresearch.agents.claude.prices import prices  # noqa: E402
from autoresearch.brief import MAX_REFUSED, Brief, build_brief  # noqa: E402
from autoresearch.budget import Budget  # noqa: E402
from autoresearch.calls import Tokens  # noqa: E402
from autoresearch.config import Judging  # noqa: E402
from autoresearch.constants import constants_of  # noqa: E402
from autoresearch.experiment import (  # noqa: E402
    Candidate,
    Files,
    Goal,
    Measurement,
    Purpose,
    Refusal,
    Run,
    RunState,
    Worker,
)
from autoresearch.families import touched  # noqa: E402
from autoresearch.findings import as_of  # noqa: E402
from autoresearch.history import BASELINE  # noqa: E402
from autoresearch.judging.policy import ConfirmPolicy, Decide  # noqa: E402
from autoresearch.patch import admit, normal_digest  # noqa: E402
from autoresearch.prose import choose_anchor  # noqa: E402
from autoresearch.store import Store, StudyRow  # noqa: E402
from fake_messages import FakeMessages  # noqa: E402
from researcher import Researcher  # noqa: E402

EXPERIMENTS = 910
WORKERS = 16
RUN_SECONDS = 330.0
NOISE = 0.0004
REFERENCE_USD = 9.0
INSTRUCTIONS = (ROOT / "instructions.md").read_text()
CODE = (ROOT / "train" / "train.py").read_text()
MARKS = (10, 100, EXPERIMENTS)


class Night:
    """A study whose runs take no time: the store, the policy and the briefs are real."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.state = folder
        self.now = 1_800_000_000.0
        self.store = Store(folder / "study.db", durable=False)
        self.random = random.Random(seed)
        self.files: dict[str, Files] = {BASELINE: {"train/train.py": CODE}}
        self.values = {BASELINE: 1.003}
        self.policy = ConfirmPolicy(Judging())
        row = StudyRow(
            tag="night",
            created_at=self.now,
            goal=Goal.MINIMIZE,
            target={},
            kinds=("H100",),
            base_commit="0" * 40,
            protected_sha256="",
            seed=seed,
            request="none",
            outcome=None,
        )
        candidate = Candidate(files=self.files[BASELINE], digest=normal_digest(self.files[BASELINE]))
        self.store.create_study(row, candidate, constants_of(candidate.files, "gpu"), 3, self.now)
        self.work()

    def brief(self) -> Brief:
        """Return what the agent is told now."""
        store, history = self.store, self.store.history()
        lineage = [(e.id, self.files[e.id]) for e in history.lineage()]
        anchor = choose_anchor(lineage)
        brief = build_brief(
            history,
            study="night",
            metric="val_bpb",
            profile="gpu",
            instructions=INSTRUCTIONS,
            files=lineage[-1][1],
            baseline_files=self.files[BASELINE],
            anchor=anchor,
            anchor_files=self.files[anchor],
            refused=store.refusals(MAX_REFUSED),
            waiting=[p.hypothesis for p in store.waiting_proposals()],
            notes=[str(e.data["notes"]) for e in store.last_events(3, ["noted"])],
            budget=Budget(hours=8, gpu_dollars=300, api_dollars=9),
            usage=store.usage(as_of(history), 900.0),
            serial=store.proposal_count(),
            seed=0,
        )
        return replace(brief, changes={name: store.edits(name) for name in brief.rework})

    def take_in(self, reply: Any) -> None:
        """Admit what was proposed, and measure it."""
        self.store.add_proposals(reply.proposals, self.now, notes=reply.notes, call=reply.call)
        for proposal in self.store.waiting_proposals():
            before = self.files[proposal.parent]
            found = admit(proposal, before, self.store.tried_digests())
            if isinstance(found, Refusal):
                self.store.refuse(proposal.number or 0, found, self.now)
                continue
            names = touched(before, found.files, "gpu")
            candidate = Candidate(files=found.files, digest=found.digest, touches=names)
            made = self.store.admit(proposal, candidate, constants_of(found.files, "gpu"), 0, self.now)
            self.files[made.id] = found.files
            self.values[made.id] = self.values[proposal.parent] + self._effect()
            self.work()

    def _effect(self) -> float:
        """Return what an idea does: one in seven helps, as in the public runs."""
        if self.random.random() < 1 / 7:
            return -self.random.expovariate(1 / 0.0015)
        return self.random.expovariate(1 / 0.004)

    def work(self) -> None:
        """Measure what is queued and judge it, until nothing is left to do."""
        while True:
            history = self.store.history()
            for run in history.queued():
                self._measure(run)
            decisions = self.policy.decide(self.store.history())
            for decision in decisions:
                if isinstance(decision, Decide):
                    self.store.decide(decision.experiment, decision.verdict, decision.reason, self.now)
                else:
                    self.store.queue_run(
                        decision.experiment,
                        decision.purpose,
                        kind=decision.kind,
                        study_seed=0,
                        why=decision.why,
                        now=self.now,
                    )
            if not decisions and not self.store.history().queued():
                return

    def _measure(self, run: Run) -> None:
        self.now += RUN_SECONDS / WORKERS
        worker = Worker(name="h100-01", kind="H100", price_per_hour=2.0)
        self.store.claim(run, "night", worker, self.now - RUN_SECONDS)
        claimed = self.store.run(run.id)
        if run.purpose is Purpose.SCREEN and self.random.random() < 0.03:
            self.store.requeue(claimed, lost=True, reason="preempted", now=self.now)
            return
        value = self.values[run.experiment] + self.random.gauss(0, NOISE)
        self.store.close_run(
            claimed,
            measurement=Measurement(value=value, memory_gb=44.0),
            started_at=self.now - RUN_SECONDS,
            ended_at=self.now,
            now=self.now,
        )
        assert self.store.run(run.id).state is RunState.FINISHED


@dataclass(frozen=True)
class Bill:
    """What one replay used."""

    tokens: list[Tokens]  # of each call
    experiments: list[int]  # admitted by the end of each call
    briefs: list[int]  # characters told beside rules and code


def replay(batch: int, experiments: int) -> Bill:
    """Run a study to so many experiments; return what its calls used, without their output."""
    researcher = Researcher(seed=1, profile="gpu", bad=0.05)
    tokens, admitted, briefs = [], [], []

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        briefs.append(len(body["messages"][0]["content"][0]["text"]))
        return researcher(body)

    with tempfile.TemporaryDirectory() as folder:
        night = Night(Path(folder), seed=5)
        with FakeMessages(default=answer, clock=lambda: night.now) as server:
            ledger = StudyLedger(SimpleNamespace(state=night.state), None, lambda: night.now)
            settings = ClaudeSettings(model="claude-sonnet-5-5")
            agent = ClaudeAgent(settings, ledger, "sk-ant-none", base_url=server.url, now=lambda: night.now)
            while len(night.files) - 1 < experiments:
                night.take_in(agent.propose(night.brief(), batch))
                admitted.append(len(night.files) - 1)
            tokens = [call.tokens for call in night.store.calls()]
            charged, billed = server.cost(), sum(call.cost_usd for call in night.store.calls())
            assert abs(charged - billed) < 1e-6, (charged, billed)
    return Bill(tokens=tokens, experiments=admitted, briefs=briefs)


def thought(bill: Bill, effort: str, batch: int) -> Bill:
    """Return a bill with the output that is assumed for an effort: what is thought, and what is written."""
    assumed = assumed_output(effort, batch)
    tokens = [replace(each, output=assumed.output, thinking=assumed.thinking) for each in bill.tokens]
    return replace(bill, tokens=tokens)


def cost(bill: Bill, model: str) -> float:
    """Return what a replay costs with a model, in USD."""
    return sum(prices()[model].cost(tokens) for tokens in bill.tokens)


def per_experiment(bill: Bill, n: int) -> str:
    """Return the tokens an experiment took, over the first n."""
    calls = next(i for i, count in enumerate(bill.experiments, 1) if count >= min(n, bill.experiments[-1]))
    total = sum(bill.tokens[:calls], Tokens())
    done = bill.experiments[calls - 1]
    written, read = total.cache_write_1h / done, total.cache_read / done
    return (
        f"n = {n:<4} {total.input / done:6.0f} new input {written:6.0f} written and {read:6.0f} read of the"
        f" cache, {total.output / done:4.0f} output"
    )


def main() -> None:
    """Print the table."""
    experiments = int(sys.argv[1]) if len(sys.argv) > 1 else EXPERIMENTS
    batches = [int(word) for word in sys.argv[2:]] or [8]
    print(f"{experiments} experiments, {WORKERS} workers; assumed: {WRITTEN} tokens of edits an experiment,")
    print(f"thinking a + b * batch with {', '.join(f'{e} {a}+{b}' for e, (a, b) in THINKING.items())}")
    for batch in batches:
        print(f"\nbatches of {batch}: USD of the whole study (cents an experiment); the reference: $9 (1.0)")
        played = replay(batch, experiments)
        for effort in ("low", "medium", "high"):
            bill = thought(played, effort, batch)
            cells = [
                f"{model.removeprefix('claude-')} {cost(bill, model):6.2f}"
                f" ({100 * cost(bill, model) / experiments:.2f})"
                for model in prices()
            ]
            print(f"  {effort:<7}", "   ".join(cells))
            if effort == "medium":
                medium = bill
        for n in MARKS:
            print(f"  {per_experiment(medium, n)}")
        told = [count / 3 for count in medium.briefs]
        print(f"  brief and best code: median {statistics.median(told):.0f} tokens, at most {max(told):.0f}")
        total = cost(medium, "claude-sonnet-5-5")
        print(f"  sonnet-5-5 medium: {total / REFERENCE_USD:.2f} of the reference's $9")


if __name__ == "__main__":
    main()
