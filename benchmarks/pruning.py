"""What would ending hopeless runs early have saved on public curves, and which good runs would it cost?

    python benchmarks/pruning.py

Replays the loss curves of tests/data/curves_rtx2060.tsv (their provenance: tests/data/README.md) through the
code that the harness judges by, train/prune.py, one run after another as if it were a screen. The reference
of our rule is the baseline, as when a study begins, or the best run that is left when the judged one is taken
out, as at its end; with the foil, a run is killed that is in the worse half of all at a share of its budget.
What is saved is training time; what is lost is the best run that survives against the best there is.

Then the same with 21 runs of our own train.py on a CPU, most of them with one constant changed by much.

The curves have eleven points each: between them progress lines are drawn straight, one a hundredth.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "train"))

from autoresearch.judging.pruning import LOOSE, Curve, Rule, loss_at, thresholds  # noqa: E402
from prune import Watch, read_limits  # noqa: E402

CURVES = ROOT / "tests" / "data" / "curves_rtx2060.tsv"
ON_CPU = ROOT / "tests" / "data" / "curves_cpu.tsv"
LINES = 100
RULES = {
    "ours": LOOSE,
    "lag .7": Rule(lag=0.7),
    "lag .8": Rule(lag=0.8),
    "lag .9": Rule(lag=0.9),
    "lag .9, from 20 %": Rule(lag=0.9, grace=0.2),
    "lag .95, from 20 %": Rule(lag=0.95, grace=0.2),
}


@dataclass(frozen=True)
class Record:
    """One public run."""

    name: str
    family: str
    value: float
    steps: int
    curve: Curve


@dataclass(frozen=True)
class Toll:
    """What a rule did to some runs."""

    killed: float  # share of the runs
    saved: float  # share of the training time
    top3: int
    top5: int
    regret: float  # val_bpb


def records(path: Path = CURVES) -> list[Record]:
    """Return the public runs, the best first."""
    with path.open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    found = [
        Record(
            name=row["run"],
            family=row["family"],
            value=float(row["final_val_bpb"]),
            steps=int(row["steps"]),
            curve=[(_share(key), float(row[key])) for key in row if key.startswith("loss_") and row[key]],
        )
        for row in rows
    ]
    return sorted(found, key=lambda record: record.value)


def _share(column: str) -> float:
    return float(column.removeprefix("loss_").removesuffix("pct")) / 100


def ended_at(record: Record, references: Mapping[str, Sequence[Record]], rule: Rule) -> float | None:
    """Return at which share of its budget the harness ends a run; None where it runs to its end."""
    curves = {name: [r.curve for r in found] for name, found in references.items()}
    limits = thresholds(curves, [r.steps for found in references.values() for r in found], rule)
    watch = Watch(read_limits(limits.document if limits else None))
    for i in range(LINES + 1):
        share = i / LINES
        watch.see(int(share * record.steps), share, loss_at(record.curve, share))
        if watch.ending is not None:
            return share
    return None


def toll(runs: Sequence[Record], ends: Sequence[float | None]) -> Toll:
    """Return what ending these runs then costs and saves; runs are the best first."""
    left = [run.value for run, end in zip(runs, ends, strict=True) if end is None]
    return Toll(
        killed=fmean(end is not None for end in ends),
        saved=fmean(0.0 if end is None else 1 - end for end in ends),
        top3=sum(end is not None for end in ends[:3]),
        top5=sum(end is not None for end in ends[:5]),
        regret=min(left, default=float("inf")) - runs[0].value,
    )


def ours(rule: Rule, *names: str) -> Callable[[Sequence[Record]], list[float | None]]:
    """Return our rule with these references: `baseline`, and `best`, the best of the other runs."""

    def ends(runs: Sequence[Record]) -> list[float | None]:
        baseline = [run for run in runs if run.name.startswith("baseline/")]
        found = []
        for run in runs:
            best = next(other for other in runs if other is not run)
            references = {"baseline": baseline, "best": [best]}
            found.append(ended_at(run, {name: references[name] for name in names}, rule))
        return found

    return ends


def worst_half(share: float) -> Callable[[Sequence[Record]], list[float | None]]:
    """Return the foil: at a share of its budget every run of the worse half is killed."""

    def ends(runs: Sequence[Record]) -> list[float | None]:
        there = [loss_at(run.curve, share) for run in runs]
        return [share if loss > median(there) else None for loss in there]

    return ends


def main() -> None:
    """Print what each rule does to one architecture, to several together, and to edits of our train.py."""
    runs = records()
    one = [run for run in runs if run.family == "focused"]
    sets = {"RTX 2060, one architecture": one, "RTX 2060, all": runs, "train.py on a CPU": records(ON_CPU)}
    for name, chosen in sets.items():
        print(f"{name}: {len(chosen)} runs, best {chosen[0].value:.4f}, worst {chosen[-1].value:.4f}")
        heads = "".join(f"{head:>7}" for head in ("killed", "saved", "top 3", "top 5", "regret"))
        print(f"{'rule':<20} {'reference':<14} {heads}")
        for label, rule in RULES.items():
            for names in (("baseline",), ("best",), ("baseline", "best")):
                _print(label, ", ".join(names), toll(chosen, ours(rule, *names)(chosen)))
        for share in (0.2, 0.3, 0.5):
            _print("worst half", f"at {share:.0%}", toll(chosen, worst_half(share)(chosen)))
        print()


def _print(label: str, reference: str, found: Toll) -> None:
    cells = f"{found.killed:>7.1%}{found.saved:>7.1%}{found.top3:>7}{found.top5:>7}{found.regret:>7.4f}"
    print(f"{label:<20} {reference:<14} {cells}")


if __name__ == "__main__":
    main()
