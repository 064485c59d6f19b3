"""A project in the shape of upstream's, whose training takes milliseconds; the code is our own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from lab import Lab, git

UV = Path(sys.executable).with_name("uv")
TRAIN = '''"""Trains for a fixed time, prints how well."""

import sys
import time

from prepare import CACHE, TIME_BUDGET, evaluate

MATRIX_LR = 0.04
WEIGHT_DECAY = 0.2
DIVERGES = False

start = time.time()
assert (CACHE / "tokens").read_text() == "prepared"
for step in range(1, 31):
    said = f"step {step:05d} ({100 * step / 30:.1f}%) | loss: {9 / step:.6f} | lrm: 1.00 | dt: 283ms"
    print(f"\\r{said} | tok/sec: 1,234,567 | mfu: 40.1% | epoch: 1 | remaining: 0s    ", end="", flush=True)
    if DIVERGES and step == 7:
        print("FAIL")
        sys.exit(1)
print()
print("---")
print(f"val_bpb:          {evaluate(MATRIX_LR, WEIGHT_DECAY):.6f}")
print(f"training_seconds: {TIME_BUDGET:.1f}")
print(f"total_seconds:    {time.time() - start:.1f}")
print("peak_vram_mb:     45060.2")
print("mfu_percent:      39.80")
print("total_tokens_M:   499.6")
print("num_steps:        953")
print("num_params_M:     50.3")
print("depth:            8")
'''
PREPARE = '''"""The data and the evaluation; not to be modified."""

from pathlib import Path

TIME_BUDGET = 300
CACHE = Path.home() / ".cache" / "autoresearch"


def evaluate(matrix_lr, weight_decay):
    return 0.99 + (matrix_lr - 0.06) ** 2 + (weight_decay - 0.1) ** 2


if __name__ == "__main__":
    CACHE.mkdir(parents=True, exist_ok=True)
    (CACHE / "tokens").write_text("prepared")
    (CACHE / "python").write_text(__import__("sys").prefix)
'''
PROJECT = """[project]
name = "autoresearch"
version = "0.1.0"
requires-python = ">=3.10"
dependencies = []
"""
EARLIER = (  # commit, val_bpb, memory_gb, status, description
    ("a1b2c3d", "0.997900", "44.0", "keep", "baseline"),
    ("b2c3d4e", "0.993200", "44.2", "keep", "increase LR to 0.04"),
    ("c3d4e5f", "0.000000", "0.0", "crash", "double model width (OOM)"),
)
UPSTREAM = ("commit", "val_bpb", "memory_gb", "status", "description")
SKYPILOT = ("experiment_id", "status", "val_bpb", "memory_gb", "description")


def table(columns: tuple[str, ...] = UPSTREAM) -> str:
    """Return the earlier results with their columns in an order."""
    rows = [dict(zip(("commit", *UPSTREAM[1:]), row, strict=True)) for row in EARLIER]
    lines = [[row.get(name, row["commit"]) for name in columns] for row in rows]
    return "\n".join("\t".join(line) for line in [columns, *lines]) + "\n"


class Checkout(Lab):
    """An upstream checkout on some commit, with nothing of ours in it."""

    def __init__(self, folder: Path, *, locked: bool = False, results: str | None = None) -> None:
        self.folder = folder
        folder.mkdir()
        for name, text in (
            ("train.py", TRAIN),
            ("prepare.py", PREPARE),
            ("program.md", "# autoresearch\n\nLower val_bpb.\n"),
            ("progress.png", "a picture\n"),
            (".gitignore", "__pycache__/\nresults.tsv\nrun.log\n"),
        ):
            (folder / name).write_text(text)
        if locked:
            (folder / "pyproject.toml").write_text(PROJECT)
            command = [str(UV), "lock", "--offline", "--quiet", "--python", sys.executable]
            subprocess.run(command, cwd=folder, check=True)
        git(folder, "init", "--quiet")
        self.commit()
        if results is not None:
            (folder / "results.tsv").write_text(results)

    def rows(self) -> list[list[str]]:
        """Return the rows of results.tsv below its header."""
        return [line.split("\t") for line in (self.folder / "results.tsv").read_text().splitlines()[1:]]

    def untracked(self) -> str:
        """Return what git says of the checkout: nothing tracked may have changed."""
        return git(self.folder, "status", "--porcelain", "--ignored")
