"""A training command of milliseconds, for tests of everything around training.

Reads constants from train.py, adds noise drawn from the seed, prints val_bpb as upstream does. It
appends one line to $JOURNAL when it starts and one when it ends, so that a test can count.
"""

import os
import random
import sys
import time
from pathlib import Path

settings = {}
exec(Path("train.py").read_text(), settings)
name, seed = os.environ["AUTORESEARCH_RUN"], int(os.environ.get("AUTORESEARCH_SEED", "0"))
journal = os.environ.get("JOURNAL")


def note(word):
    if journal:
        with Path(journal).open("a") as file:
            file.write(f"{word} {name} {seed}\n")


if os.environ.get("AUTORESEARCH_PREFLIGHT"):
    if settings.get("BROKEN"):
        raise ImportError("No module named 'flash_attn'")
    print("preflight passed")
    sys.exit(0)
note("start")
print(f"step 00001 (50.0%) | loss: {settings['X']:.6f} | lrm: 1.00", end="\r")
time.sleep(settings.get("SLEEP", 0.0))
if settings.get("CRASH"):
    raise RuntimeError("mat1 and mat2 shapes cannot be multiplied (8x64 and 32x64)")
noise = random.Random(seed).gauss(0, settings.get("NOISE", 0.0))
value = 1.0 + (settings["X"] - 2.0) ** 2 + noise
note("end")
print("---")
print(f"val_bpb:          {settings.get('SAY', f'{value:.6f}')}")
print(f"peak_vram_mb:     {1000 + 10 * settings['X']:.1f}")
print("num_steps:        7")
