"""A harness of milliseconds, for tests of pruning: it judges a curve as the real one does and trains nothing.

The loss is that of START and SPEED in train.py, the score its end. What it says is the harness's own line.
"""

import json
import os
from pathlib import Path

from prune import Watch, read_limits

settings = {}
exec(Path("train.py").read_text(), settings)
watch = Watch(read_limits(os.environ.get("AUTORESEARCH_PRUNE")))
seen = 0.0
for i in range(201):
    seen = i / 200
    watch.see(i, seen, settings["START"] * (1 - settings["SPEED"] * seen))
    if watch.ending:
        break
watch.close()
facts = {"schema": 1, "outcome": "ok", "detail": "", "curve": watch.curve, "num_steps": 200}
noise = int(os.environ["AUTORESEARCH_SEED"]) % 100 / 1e6
if watch.ending and seen < 1:
    facts |= {"outcome": watch.ending.problem, "detail": watch.ending.detail, "pruned": watch.ending.facts()}
else:
    facts["val_bpb"] = settings["START"] * (1 - settings["SPEED"]) + noise
print("autoresearch: " + json.dumps(facts))
raise SystemExit(0 if "val_bpb" in facts else 1)
