"""The harness: one measurement of one train.py, from outside it. Protected.

    python harness.py [TRAIN_PY]        # AUTORESEARCH_PROFILE=gpu on a GPU machine

In this order: check the protected files' and the data's digests; start training in a child with a
cleaned environment; measure and enforce its budget; stop it, children and all, when its time is
over; let a separate evaluator compute val_bpb from the weights; print the summary that other tools
parse and one machine line, `autoresearch: {...}`, with the same facts and more.

The run is described by AUTORESEARCH_* variables, read in `Spec`; without any it trains train.py
beside this file with the cpu profile. Exit code 0: measured. 1: training or evaluation failed.
3: this machine or its files are not fit to run it, which is not the experiment's fault.

It never imports edited code, and needs no package but psutil and what prepare.py needs.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import prepare
from report import Report, read_facts
from spec import HERE, Spec
from supervise import Relay, adopt_orphans, end_descendants, start, stop, train

EVALUATION_TIMEOUT_SECONDS = 240.0
EXIT_FAILED, EXIT_UNFIT = 1, 3


class UnfitError(Exception):
    """This machine or its files cannot run the experiment; the message says why."""


def child_environment(spec: Spec, scratch: Path) -> dict[str, str]:
    """Return the environment edited code sees: what training needs and nothing of ours."""
    passed = (
        *("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_VISIBLE_DEVICES"),
        "AUTORESEARCH_FOLDER",  # whose it is, for whoever has to end it
    )
    env = {name: os.environ[name] for name in passed if name in os.environ}
    compiled = prepare.cache_dir().with_name("compiled")
    env |= {
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "TORCHINDUCTOR_CACHE_DIR": str(compiled / "inductor"),
        "TRITON_CACHE_DIR": str(compiled / "triton"),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "AUTORESEARCH_CACHE": str(prepare.cache_dir().parent),
        "AUTORESEARCH_RUN": spec.run,
        "AUTORESEARCH_PROFILE": spec.profile,
        "AUTORESEARCH_DEVICE": spec.device,
        "AUTORESEARCH_SEED": str(spec.seed),
        "AUTORESEARCH_BUDGET_SECONDS": str(spec.budget),
        "AUTORESEARCH_WEIGHTS": str(scratch / "weights.pt"),
        "AUTORESEARCH_FACTS": str(scratch / "facts.json"),
    }
    if spec.preflight:
        env["AUTORESEARCH_PREFLIGHT"] = "1"
    if spec.device == "cpu":
        env |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return env


# ---------------------------------------------------------------------------
# Evaluation
# ---------------------------------------------------------------------------


def evaluate(spec: Spec, env: dict[str, str], scratch: Path) -> dict[str, Any]:
    """Return what the evaluator process found: `val_bpb` and more, or `error`."""
    result_read, result_write = os.pipe()
    command = [str(HERE / "evaluate.py"), str(spec.script), env["AUTORESEARCH_WEIGHTS"], str(result_write)]
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    child = start(command, env, scratch, result_write, **streams)
    os.close(result_write)
    try:
        _, errors = child.communicate(timeout=EVALUATION_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        return {"error": f"evaluation took longer than {EVALUATION_TIMEOUT_SECONDS:.0f} s"}
    finally:
        stop(child)
    with os.fdopen(result_read, "rb") as pipe:
        answer = pipe.read(1 << 16)
    if child.returncode != 0:
        relay = Relay()
        relay.feed(errors)
        relay.close()
        return {"error": f"the evaluator ended with exit code {child.returncode}"}
    try:
        found: dict[str, Any] = json.loads(answer)
        if "error" not in found and not math.isfinite(found["val_bpb"]):
            return {"error": "val_bpb is not finite"}
    except (ValueError, TypeError, KeyError):
        return {"error": "the evaluator's answer cannot be read"}
    return found


# ---------------------------------------------------------------------------
# Facts and report
# ---------------------------------------------------------------------------


def check_protected() -> str:
    """Return the digest of the protected files; raise UnfitError where they are not the pinned ones.

    The study pins a list of files with their sha256 (`protected.json`) and passes its digest.
    """
    root, pinned = os.environ.get("AUTORESEARCH_PROTECTED"), os.environ.get("AUTORESEARCH_PROTECTED_SHA256")
    if not root or not pinned:
        return ""
    listing = Path(root) / "protected.json"
    try:
        if prepare.sha256_file(listing) != pinned:
            raise UnfitError(f"{listing} is not the list this study pinned")
        for name, digest in json.loads(listing.read_text()).items():
            if prepare.sha256_file(Path(root) / name) != digest:
                raise UnfitError(f"protected file {name} was changed")
    except OSError as error:
        raise UnfitError(f"protected files: {error}") from error
    return pinned


# ---------------------------------------------------------------------------
# Main
# ---------------------------------------------------------------------------


def measure(spec: Spec, scratch: Path) -> Report:
    """Return the report of one run; UnfitError where this machine cannot run it."""
    report = Report(spec)
    started = time.monotonic()
    report.digests["protected"] = check_protected()
    try:
        report.digests["code"] = prepare.sha256_file(spec.script)
    except OSError as error:
        raise UnfitError(f"no training script: {error}") from error
    if not spec.preflight:
        try:
            prepare.prepare()
        except SystemExit as refusal:
            raise UnfitError(str(refusal)) from refusal
        report.digests["data"] = prepare.data_digest()
    env = child_environment(spec, scratch)
    outcome = report.outcome = train(spec, env, scratch)
    report.facts = read_facts(env["AUTORESEARCH_FACTS"])
    weights = Path(env["AUTORESEARCH_WEIGHTS"])
    if outcome.reason == "timeout":
        report.problem, report.detail = "timeout", f"ran longer than {spec.timeout:.0f} s"
    elif outcome.reason == "over_budget":
        seconds = f"{outcome.training_seconds:.1f} of {spec.budget:g}"
        report.problem, report.detail = "over_budget", f"used {seconds} s of its budget"
    elif outcome.exit_code:
        report.problem, report.detail = "exit", f"training ended with exit code {outcome.exit_code}"
    elif not weights.is_file():
        report.problem, report.detail = "no_weights", "training ended without saving its weights"
    elif not spec.preflight:
        report.digests["weights"] = prepare.sha256_file(weights)
        report.evaluation = evaluate(spec, env, scratch)
        if "error" in report.evaluation:
            report.problem, report.detail = "evaluation", report.evaluation.pop("error")
    report.total_seconds = time.monotonic() - started
    return report


def main() -> int:
    """Run and report; return the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    adopt_orphans()
    spec = Spec.from_environment(sys.argv[1] if len(sys.argv) > 1 else None)
    scratch = Path(tempfile.mkdtemp(prefix="scratch-", dir=os.environ.get("AUTORESEARCH_SCRATCH"))).resolve()
    try:
        report = measure(spec, scratch)
    except UnfitError as error:
        report = Report(spec, problem="unfit", detail=str(error))
        report.print()
        return EXIT_UNFIT
    finally:
        end_descendants()
        shutil.rmtree(scratch, ignore_errors=True)
    if spec.preflight:
        print("preflight passed" if report.problem is None else f"preflight: {report.detail}", flush=True)
        return EXIT_FAILED if report.problem else 0
    report.print()
    return EXIT_FAILED if report.problem else 0


if __name__ == "__main__":
    sys.exit(main())
