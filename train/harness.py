"""The harness: one measurement of one train.py, from outside it. Protected.

    python harness.py [TRAIN_PY]        # AUTORESEARCH_PROFILE=gpu on a GPU machine

In this order: check the protected files' and the data's digests; copy the edited code and start it in
a box (see `seal`) with a cleaned environment; measure and enforce its budget and its limits; stop it,
children and all, when its time is over; compute val_bpb from the weights, of which a process in a box
of its own makes predictions (see `evaluate`); print the summary that other tools parse and one machine
line, `autoresearch: {...}`, with the same facts and more.

The run is described by AUTORESEARCH_* variables, read in `Spec`; without any it trains train.py
beside this file with the cpu profile. Exit code 0: measured. 1: training or evaluation failed.
3: this machine or its files are not fit to run it, which is not the experiment's fault.

It never imports edited code, and needs no package but psutil and what prepare.py needs.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import prepare
import sandbox
import seal
from evaluate import EvaluationError, Held, Served, evaluate, evaluator_digest, hold
from processes import adopt_orphans, end_descendants, remove, start, stop
from report import Report, read_facts
from seal import Place
from spec import Spec
from supervise import Busy, Outcome, Relay, Training, Watched, late_problem, train

EVALUATION_TIMEOUT_SECONDS = 240.0
ERROR_BYTES = 1 << 16  # of what a model's process says when it fails
EXIT_FAILED, EXIT_UNFIT = 1, 3


class UnfitError(Exception):
    """This machine or its files cannot run the experiment; the message says why."""


# ---------------------------------------------------------------------------
# Evaluation
# ---------------------------------------------------------------------------


class Models:
    """The two processes that answer for the model, one that is scored and one that audits it.

    They are started while training runs, so that torch is loaded when it ends; until then they wait. Edited
    code runs in one of them at a time: training has ended before the first, and the first before the second.
    """

    def __init__(self, spec: Spec, place: Place, *, boxed: bool) -> None:
        self._spec, self._place, self._boxed = spec, place, boxed
        self._served: list[Served] = []
        self._busy: Busy | None = None

    def start(self) -> list[int]:
        """Start both and return the pids of all that is not training."""
        pids = [self._start(number) for number in (1, 2)]
        return [*pids, *(self._busy.pids if self._busy else [])]

    def _start(self, number: int) -> int:
        folder = self._place.serving(number)
        box = seal.serving_box(self._spec, self._place, number) if self._boxed else None
        env = seal.environment(self._spec, self._place, folder)
        asked, requests = os.pipe()
        answers, told = os.pipe()
        words = [str(self._place.script), str(self._place.weights), str(asked), str(told)]
        with self._errors(number).open("wb") as errors:
            streams = {"stdout": subprocess.DEVNULL, "stderr": errors}
            child = start("serve.py", words, env, folder, box, (asked, told), **streams)
        os.close(asked)
        os.close(told)
        self._busy = self._busy or Busy(self._spec.device)
        watched = Watched(child.pid, folder, self._spec, self._busy)
        self._served.append(Served(child, (requests, answers), watched))
        return child.pid

    def _errors(self, number: int) -> Path:
        return self._place.root / f"serve-{number}.err"

    def evaluate(self, held: Held, outcome: Outcome) -> dict[str, Any]:
        """Return the score and what stands beside it; EvaluationError where there is none."""
        try:
            model, auditor = self._served
            found = evaluate(held, model, auditor, self._spec.device, EVALUATION_TIMEOUT_SECONDS)
            late = found["late_seconds"] = max(served.watched.late() for served in self._served)
            problem = late_problem(self._spec, outcome, late)
        except EvaluationError:
            relay = Relay()
            for number in (1, 2):
                relay.feed(_tail(self._errors(number)))
            relay.close()
            raise
        if problem is not None:
            raise EvaluationError(problem, "over_budget")
        return found

    def close(self) -> None:
        """End both."""
        for served in self._served:
            served.close()
            stop(served.child, [other.child.pid for other in self._served])
        self._served.clear()
        if self._busy is not None:
            self._busy.close()


def _tail(path: Path) -> bytes:
    """Return the end of a file that may be as long as a file can be."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - ERROR_BYTES))
        return file.read(ERROR_BYTES)


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


def is_protected(pinned: str) -> bool:
    """Whether the protected files are still what they were when the run began."""
    try:
        return check_protected() == pinned
    except UnfitError:
        return False


# ---------------------------------------------------------------------------
# Main
# ---------------------------------------------------------------------------


def check_data() -> tuple[str, Held]:
    """Return the prepared data's digest and what the score hangs on; UnfitError where it is not sound."""
    try:
        prepare.prepare()
        return prepare.data_digest(), hold()
    except SystemExit as refusal:
        raise UnfitError(str(refusal)) from refusal


def check_sandbox(spec: Spec) -> sandbox.Offer:
    """Return what holds edited code here; UnfitError where it must be held and cannot."""
    if spec.sandbox == "off":
        return sandbox.Offer(0, "switched off")
    offer = sandbox.offered()
    if offer.reason and spec.sandbox == "required":
        raise UnfitError(f"no sandbox: {offer.reason}")
    return offer


def measure(spec: Spec, scratch: Path) -> Report:
    """Return the report of one run; UnfitError where this machine cannot run it."""
    report = Report(spec)
    started = time.monotonic()
    protected = report.digests["protected"] = check_protected()
    try:
        place, report.digests["code"] = seal.make_place(scratch, spec)
    except OSError as error:
        raise UnfitError(f"no training script: {error}") from error
    held = None
    if not spec.preflight:
        report.digests["data"], held = check_data()
        report.digests["evaluator"] = evaluator_digest()
    report.sandbox = check_sandbox(spec)
    boxed = not report.sandbox.reason
    seal.wake_driver(spec)
    seal.lend_compiled(place)
    env = seal.environment(spec, place, place.home)
    training = Training(spec, env, place.home, seal.training_box(spec, place) if boxed else None)
    models = Models(spec, place, boxed=boxed)
    try:
        when_ready = list if spec.preflight else models.start
        outcome = report.outcome = train(training, place.script, when_ready)
        report.facts = read_facts(env["AUTORESEARCH_FACTS"])
        report.problem, report.detail = problem_of(outcome, place, Path(env["AUTORESEARCH_WEIGHTS"]))
        if report.problem is None and not is_protected(protected):
            report.problem, report.detail = "tampered", "protected files were changed while it trained"
        if report.problem is None and held is not None:
            report.digests["weights"] = prepare.sha256_file(place.weights)
            report.evaluation = models.evaluate(held, outcome)
            if spec.trusted:
                seal.keep_compiled(place)
    except EvaluationError as error:
        report.problem, report.detail = error.problem, str(error)
    finally:
        models.close()
    report.total_seconds = time.monotonic() - started
    return report


def problem_of(outcome: Outcome, place: Place, weights: Path) -> tuple[str | None, str]:
    """Return what training failed of, and its detail; None and "" where it left weights: now in place."""
    if math.isnan(outcome.startup_seconds) and outcome.exit_code == sandbox.EXIT_REFUSED:
        raise UnfitError("the sandbox cannot be entered")
    if outcome.reason != "exited":
        return outcome.reason, outcome.detail
    if outcome.exit_code:
        return "exit", f"training ended with exit code {outcome.exit_code}"
    if not seal.take_weights(place, weights):
        return "no_weights", "training ended without saving its weights"
    return None, ""


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
        remove(scratch)
    if spec.preflight:
        print("preflight passed" if report.problem is None else f"preflight: {report.detail}", flush=True)
        return EXIT_FAILED if report.problem else 0
    report.print()
    return EXIT_FAILED if report.problem else 0


if __name__ == "__main__":
    sys.exit(main())
