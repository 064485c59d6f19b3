"""Where would the stopping rule have ended public searches, what had that saved, and what lost?

    python benchmarks/stopping.py [--worth SIGMAS]

Replays the tables of tests/data/tables (their provenance: tests/data/README.md) one experiment after
another, as `autoresearch.judging.stopping` looks at a study. The tables have no times: an experiment
takes 348 s of its one GPU, the cycle of a sequential H100 run. What an hour must be worth is one sigma,
as by default. What was lost is the best at the end against the best at the stop, and it is beyond the
noise where a single run of each would tell them apart. Then a night on 16 GPUs made up from what is
published of the reference run, and rules that would have dared more.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from autoresearch.experiment import Prior
from autoresearch.judging.stopping import (
    MINIMUM,
    Doubt,
    Hour,
    Outlook,
    Trial,
    believed,
    doubt,
    few,
    outlook,
    resolution,
    trials_of_table,
)
from autoresearch.prior import read_results

TABLES = Path(__file__).resolve().parents[1] / "tests" / "data" / "tables"
SECONDS = 348.0
# sd of a run by what is in a table's name: of one configuration over 27 jobs on H200; of 5 separate starts
# on RTX 5090, and of 3 each on RTX PRO 6000 and MI300X less; of the 5070 Ti's baselines; a best one that
# came out .006 worse on RTX 2060; not known for the M5 Max and the one of PR #158, which get the RTX 5090's
SIGMAS = {"h100": 0.0005, "rtx5070ti": 0.03, "rtx2060": 0.004, "": 0.0007}
BOLDER = (1.0, 2.0, 4.0, 8.0)
# The reference run: until which experiment it gained how much, in how many keeps; the keeps are our guess
REFERENCE = ((200, 0.022, 8), (420, 0.004, 4), (560, 0.002, 2), (700, 0.001, 1), (910, 0.0, 0))
NIGHT = Hour(experiments=910 / 8, workers=16, dollars=32.9)


def sigma_of(name: str) -> float:
    """Return the noise of one run on a table's machine."""
    return next(sigma for part, sigma in SIGMAS.items() if part in name)


def outlooks(trials: Sequence[Trial], sigma: float, worth: float) -> list[Outlook]:
    """Return the outlook after every experiment."""
    hour = Hour(experiments=3600 / SECONDS, workers=1)
    return [outlook(trials[:n], sigma, hour, worth=worth) for n in range(1, len(trials) + 1)]


def best_of(rows: Sequence[Prior]) -> float:
    """Return the best value that was kept."""
    return min(row.value for row in rows if row.value is not None and row.status == "keep")


def replay(name: str, rows: Sequence[Prior], worth: float) -> tuple[int, int, float, float]:
    """Return the experiments there were, and at the stop; what was lost, and the noise of a run."""
    sigma = sigma_of(name)
    trials = list(trials_of_table(rows, sigma, SECONDS / 3600))
    seen = outlooks(trials, sigma, worth * sigma)
    stop = next((n for n, view in enumerate(seen, 1) if view.stop), len(trials))
    tried = [row for row in rows if row.status != "skip"]
    return len(trials), stop, best_of(tried[: stop + 1]) - best_of(tried), sigma


def phases(seen: Sequence[Outlook]) -> str:
    """Return the phases with the experiments at which they began."""
    found, n = [], 1
    for phase, views in groupby(seen, key=lambda view: view.phase):
        found.append(f"{phase.value.split()[0]} {n}")
        n += len(list(views))
    return ", ".join(found)


def show(name: str, rows: Sequence[Prior], worth: float) -> None:
    """Print one table's story."""
    tried, stop, lost, sigma = replay(name, rows, worth)
    trials = list(trials_of_table(rows, sigma, SECONDS / 3600))
    seen = outlooks(trials, sigma, worth * sigma)
    said = "too short to stop" if tried < MINIMUM else "goes on"
    if stop < tried:
        beyond = "beyond the noise" if lost > resolution(sigma) else "within the noise"
        hours = (tried - stop) * SECONDS / 3600
        said = f"stops at {stop}, saves {tried - stop} ({hours:.1f} GPU-hours), loses {lost:.4f}, {beyond}"
    last = seen[-1]
    if stop == tried and last.stop:
        said = "stops at its very end"
    print(f"{name}\n    {tried} experiments, sigma {few(sigma)}: {said}")
    print(f"    at its end: {last} (80 %: {few(last.low)} to {few(last.high)})")
    print(f"    phases: {phases(seen)}")
    refused = doubt(trials, sigma, rows[0].value or 0.0)
    if isinstance(refused, Doubt):
        hours = 2 * refused.runs * SECONDS / 3600
        print(f"    refuses to decide: {refused} of each code, {hours:,.0f} GPU-hours")


def show_reference(worth: float) -> None:
    """Print where a night like the reference run's would have stopped."""
    sigma, trials = SIGMAS["h100"], list[Trial]()
    for until, gained, keeps in REFERENCE:
        span, each = until - len(trials), gained / max(1, keeps)
        found = {round((i + 1) * span / keeps) - 1 for i in range(keeps)}
        shrunk = believed(each, sigma)  # of the mean of some runs of each
        trials += [Trial(gain=shrunk if i in found else 0.0) for i in range(span)]
    print("the reference run, made up from what is published (910 experiments, 8 h, 16 GPUs)")
    for n in (200, 420, 560, 700, 800):
        print(f"    {n:4}: {outlook(trials[:n], sigma, NIGHT, worth=worth * sigma)}")
    views = (outlook(trials[:n], sigma, NIGHT, worth=worth * sigma) for n in range(1, len(trials) + 1))
    view = next((view for view in views if view.stop), None)
    if view is None:
        print("    does not stop")
        return
    left = trials[view.tried :]
    dollars, lost = len(left) / NIGHT.experiments * NIGHT.dollars, sum(trial.gain for trial in left)
    print(f"    {view.tried:4}: {view}; saves {len(left)} experiments, ${dollars:.0f}, and loses {few(lost)}")


def main() -> None:
    """Print every table's story, then what bolder rules would have done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--worth", type=float, default=1.0, help="sigmas that an hour must promise")
    worth = parser.parse_args().worth
    tables = {path.stem: read_results(path.read_text()) for path in sorted(TABLES.glob("*.tsv"))}
    for name, rows in tables.items():
        show(name, rows, worth)
    show_reference(worth)
    print("\nan hour's worth   tables stopped   experiments saved   lost beyond the noise")
    for bold in BOLDER:
        told = [replay(name, rows, bold) for name, rows in tables.items()]
        stopped = [(tried - stop, lost, sigma) for tried, stop, lost, sigma in told if stop < tried]
        saved = sum(left for left, _, _ in stopped)
        beyond = sum(lost > resolution(sigma) for _, lost, sigma in stopped)
        share = saved / sum(tried for tried, _, _, _ in told)
        print(
            f"{bold:4.1f} sigma {len(stopped):11} of {len(told)} {saved:13} ({share:4.0%}) {beyond:12} tables"
        )


if __name__ == "__main__":
    main()
