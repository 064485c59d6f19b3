"""The training child: loads torch and the protected modules, starts the clock, runs train.py.

Protected. Started by the harness as `python launch.py TRAIN_PY READY_FD`. The seed is set and the
budget's clock starts here, before a line of edited code has run; READY_FD then carries this
process's CPU seconds so far to the harness, which charges only what follows.

In preflight it also rebuilds the model from what was saved and asks it for logits, since that is
what the evaluation will do.
"""

from __future__ import annotations

import atexit
import os
import re
import runpy
import sys
from pathlib import Path


def main() -> None:
    """Run train.py as the main module of this process."""
    script, ready = sys.argv[1], int(sys.argv[2])
    ended: list[bool] = []
    atexit.register(leave, ended)  # first, so it is called after what edited code registers
    import torch

    import prepare

    if prepare.device_type() == "cpu":
        torch.set_num_threads(1)
        if re.search(r"\boptim\b", Path(script).read_text(encoding="utf-8")):
            import torch._dynamo  # what torch.optim loads at its first use: a CPU second
    torch.manual_seed(prepare.seed())
    sys.argv = [script]
    sys.path.insert(1, str(Path(script).parent))
    started = prepare.start_clock()
    os.write(ready, f"{started:.6f}\n".encode())
    os.close(ready)
    runpy.run_path(script, run_name="__main__")
    if prepare.PREFLIGHT:
        import serve

        serve.check_model(script, os.environ["AUTORESEARCH_WEIGHTS"])
    ended.append(True)


def leave(ended: list[bool]) -> None:
    """End this process at once where train.py came to its end.

    Python takes half a second of CPU time and more to take torch apart, which would be charged to the
    budget of training.
    """
    if ended:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
