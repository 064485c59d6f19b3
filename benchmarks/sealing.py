"""What sealing costs: a run of the harness against training and scoring in one process. CPU profile.

    python benchmarks/sealing.py [--pairs 5] [--budget 5]

The one process is what this project's ancestors do: it trains train.py, then computes the score itself, with
nothing between the edited code and its score. The harness runs the same file in a box, has two further boxed
processes answer for the model, audits one by the other, scores the hidden split and checks digests. Runs
alternate; figures are medians. What sealing adds does not depend on the budget, so its share of a run of
another budget follows; the aim is 2 % of a run of 300 s.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

TRAIN = Path(__file__).resolve().parents[1] / "train"
BUDGETS = (20.0, 300.0)
ONE_PROCESS = """
import math, runpy, sys
sys.path.insert(0, sys.argv[1])
import numpy as np, torch, corpus, prepare, serve
def finish(model, budget, **facts):
    rows = prepare.evaluation_rows(prepare.load_rows("val"))
    lengths = corpus.token_bytes(prepare.load_tokenizer())
    nats, none = 0.0, np.empty(0)
    for start in range(0, len(rows), 32):
        nats += serve.answer(model.eval(), "nats", rows[start : start + 32], none, "cpu").sum()
    print("val_bpb:", nats / (math.log(2) * lengths[rows[:, 1:]].sum()))
prepare.finish = finish
torch.set_num_threads(1)
torch.manual_seed(prepare.seed())
prepare.start_clock()
runpy.run_path(sys.argv[2], run_name="__main__")
"""


def run(folder: Path, words: list[str], budget: float, seed: int) -> tuple[float, float]:
    """Return wall and CPU seconds of one run."""
    env = {
        **os.environ,
        "AUTORESEARCH_PROFILE": "cpu",
        "AUTORESEARCH_BUDGET_SECONDS": str(budget),
        "AUTORESEARCH_SEED": str(seed),
        "AUTORESEARCH_SCRATCH": str(folder),
        "OMP_NUM_THREADS": "1",
    }
    before, began = os.times(), time.monotonic()
    subprocess.run([sys.executable, *words], cwd=folder, env=env, capture_output=True, check=True)
    wall, after = time.monotonic() - began, os.times()
    return wall, sum(after[2:4]) - sum(before[2:4])


def main() -> None:
    """Measure pairs and print the cost."""
    parser = argparse.ArgumentParser(description="What sealing costs.")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--budget", type=float, default=5.0, help="of training, CPU seconds")
    given = parser.parse_args()
    script = str(TRAIN / "train.py")
    sealed, plain = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(folder, [str(TRAIN / "prepare.py")], given.budget, 0)
        for seed in range(given.pairs):
            plain.append(run(folder, ["-c", ONE_PROCESS, str(TRAIN), script], given.budget, seed))
            sealed.append(run(folder, [str(TRAIN / "harness.py"), script], given.budget, seed))
    print(f"{'':<14}{'wall':>8}{'CPU':>8}   seconds, medians of {given.pairs}, budget {given.budget:g} s")
    for label, times in (("one process", plain), ("sealed", sealed)):
        print(f"{label:<14}{median(t[0] for t in times):>8.2f}{median(t[1] for t in times):>8.2f}")
    added = [median(s[i] - p[i] for s, p in zip(sealed, plain, strict=True)) for i in (0, 1)]
    print(f"{'added':<14}{added[0]:>8.2f}{added[1]:>8.2f}")
    usual = median(p[0] for p in plain) - given.budget
    for budget in BUDGETS:
        shares = [100 * seconds / (budget + usual) for seconds in added]
        print(f"of a run of {budget:g} s: {shares[0]:.1f} % of its wall time, {shares[1]:.1f} % in CPU time")


if __name__ == "__main__":
    main()
