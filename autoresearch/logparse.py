r"""Logs, pure: what a run measured, how far it is, and why it failed, from untrusted bytes.

Reads the harness's machine line, the upstream `---` summary, `\r` progress lines, and Python
tracebacks. Whatever the bytes hold (a gigabyte without a newline is cut by the caller, invalid
UTF-8, NaN), the answer is a value; text from a log is data and comes back cleaned and short.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoresearch.experiment import Failure, FailureKind, Measurement
from autoresearch.untrusted import clean

MARKER = "autoresearch: "
HEAD_BYTES = 64 << 10  # what a caller should pass of a long log
TAIL_BYTES = 256 << 10
MOST_STEPS = 1 << 53  # a larger number is no count, and no database takes it

_PROGRESS = re.compile(r"step (\d+) \((\d+(?:\.\d+)?)%\) \| loss: (\S+)")
_RATE = re.compile(r"tok/sec: ([\d,]+)")
_EXCEPTION = re.compile(
    r"^([A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit|Warning)|StopIteration)(?:: (.*))?$", re.MULTILINE
)
_FRAME = re.compile(r'File "[^"]*?([^/"]+)", line (\d+)')
_OUTCOMES: Mapping[str, FailureKind] = {
    "timeout": FailureKind.TIMEOUT,
    "over_budget": FailureKind.OVER_BUDGET,
    "pruned": FailureKind.PRUNED,
    "not_finite": FailureKind.NOT_FINITE,
    "no_weights": FailureKind.NO_RESULT,
    "evaluation": FailureKind.EVALUATION,
    "audit": FailureKind.AUDIT,
    "tampered": FailureKind.AUDIT,
    "memory": FailureKind.OUT_OF_MEMORY,
    "processes": FailureKind.LIMIT,
    "disk": FailureKind.LIMIT,
    "unfit": FailureKind.UNFIT,
}
_MEMORY = re.compile(
    r"out of memory|OutOfMemory|can't allocate memory|Cannot allocate memory|MemoryError", re.IGNORECASE
)
_SHAPE = re.compile(
    r"shapes? cannot be multiplied|size mismatch|must match the (?:existing )?size"
    r"|sizes of tensors must match|shape .* is invalid for input|not broadcastable|mismatch in shape"
    r"|same number of dimensions|expected .* dimension",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a log says about a run: a measurement or a failure, never both."""

    measurement: Measurement | None = None
    failure: Failure | None = None
    facts: Mapping[str, Any] | None = None  # the harness's machine line

    @property
    def machine_fault(self) -> bool:
        """Whether the machine, not the experiment, is to blame."""
        return self.failure is not None and self.failure.kind in {FailureKind.UNFIT, FailureKind.LOST}


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a running job is."""

    step: int
    share: float  # of the budget, 0 to 1
    loss: float | None
    tokens_per_second: float | None = None


def parse_report(
    log: bytes,
    *,
    metric: str,
    exit_code: int | None,
    pattern: str | None = None,
    timed_out: bool = False,
    editable: tuple[str, ...] = (),
) -> Report:
    """Return what a finished job's log reports.

    `log` is its end, at least TAIL_BYTES of it. The harness's machine line wins over the summary;
    without either there is no value, whatever the exit code. With a pattern the metric is what its
    one group holds where it matches last, lines ending at carriage returns as well.
    """
    text = log.decode("utf-8", "replace")
    facts = _machine_line(text)
    if exit_code == 0 and not timed_out:
        figures = facts if facts is not None else _summary(text)
        if pattern is not None:
            figures = {**figures, **_matched(metric, pattern, text)}
        value = _finite(figures.get(metric))
        if value is not None:
            return Report(measurement=_measurement(value, figures), facts=facts)
        if metric in figures:
            shown = clean(str(figures[metric]))
            return Report(
                failure=Failure(kind=FailureKind.NOT_FINITE, message=f"{metric} is {shown}"), facts=facts
            )
        return Report(
            failure=Failure(kind=FailureKind.NO_RESULT, message=f"the log reports no {metric}"), facts=facts
        )
    return Report(
        failure=_failure(text, facts, exit_code, timed_out=timed_out, editable=editable), facts=facts
    )


def parse_progress(log: bytes) -> Progress | None:
    """Return the last progress line of a log's end, or None."""
    text = log.decode("utf-8", "replace")
    matches = list(_PROGRESS.finditer(text))
    if not matches:
        return None
    last = matches[-1]
    rate = _RATE.search(text, last.end())
    return Progress(
        step=int(last[1][:12]),
        share=min(1.0, float(last[2]) / 100),
        loss=_finite(last[3]),
        tokens_per_second=_finite(rate[1].replace(",", "")) if rate else None,
    )


def parse_curve(log: bytes) -> list[tuple[float, float]]:
    """Return (share of the budget, loss) for every progress line with a finite loss, in order."""
    points = []
    for match in _PROGRESS.finditer(log.decode("utf-8", "replace")):
        loss = _finite(match[3])
        if loss is not None:
            points.append((min(1.0, float(match[2]) / 100), loss))
    return points


def _machine_line(text: str) -> dict[str, Any] | None:
    """Return the last machine line's object, or None. The harness writes last, so the last is its."""
    start = text.rfind("\n" + MARKER)
    start = start + 1 if start >= 0 else 0 if text.startswith(MARKER) else -1
    if start < 0:
        return None
    try:
        loaded = json.loads(text[start + len(MARKER) :].split("\n", 1)[0])
    except (ValueError, RecursionError):
        return None
    return loaded if isinstance(loaded, dict) and "outcome" in loaded else None


def _summary(text: str) -> dict[str, Any]:
    """Return the `name: value` lines after the last `---`."""
    _, found, rest = text.rpartition("---\n")
    pairs = re.findall(r"^([A-Za-z_]\w*):[ \t]+(\S+)[ \t]*$", rest if found else text, re.MULTILINE)
    return dict(pairs)


def _matched(metric: str, pattern: str, text: str) -> dict[str, str]:
    found = re.findall(pattern, text.replace("\r", "\n"), re.MULTILINE)
    return {metric: found[-1].strip()} if found else {}


def _measurement(value: float, figures: Mapping[str, Any]) -> Measurement:
    memory = _finite(figures.get("peak_memory_mb", figures.get("peak_vram_mb")))
    steps = _finite(figures.get("num_steps"))
    rate = _finite(figures.get("tokens_per_second"))
    seconds, tokens = _finite(figures.get("training_seconds")), _finite(figures.get("total_tokens_M"))
    if rate is None and seconds and tokens:
        rate = tokens * 1e6 / seconds
    device, unsandboxed = figures.get("device"), figures.get("unsandboxed")
    flags = figures.get("flags")
    return Measurement(
        value=value,
        training_seconds=seconds,
        total_seconds=_finite(figures.get("total_seconds")),
        steps=int(steps) if steps is not None and abs(steps) <= MOST_STEPS else None,
        tokens_per_second=rate,
        memory_gb=None if memory is None else memory / 1e3,
        device=clean(device, 80) if isinstance(device, str) else None,
        hidden=_finite(figures.get("hidden_bpb")),
        unsandboxed=clean(unsandboxed, 120) if isinstance(unsandboxed, str) else None,
        flags=tuple(clean(str(flag), 120) for flag in flags[:8]) if isinstance(flags, list) else (),
    )


def _failure(
    text: str,
    facts: Mapping[str, Any] | None,
    exit_code: int | None,
    *,
    timed_out: bool,
    editable: tuple[str, ...],
) -> Failure:
    facts = facts or {}
    outcome, detail = str(facts.get("outcome", "")), clean(str(facts.get("detail", "")))
    if isinstance(facts.get("exit_code"), int):  # of training; the job's own is the harness's
        exit_code = facts["exit_code"]
    if outcome in _OUTCOMES and outcome != "evaluation":
        return Failure(kind=_OUTCOMES[outcome], message=detail)
    if timed_out:
        return Failure(kind=FailureKind.TIMEOUT, message="stopped by the executor's time limit")
    exception, message, line = _traceback(text, editable)
    kind = _classify(text, exception, message)
    if kind is None and outcome == "evaluation":
        kind, message = FailureKind.EVALUATION, detail
    elif kind is None and exit_code is not None and (exit_code < 0 or exit_code == 137):
        kind, message = FailureKind.KILLED, f"ended by signal {-exit_code if exit_code < 0 else 9}"
    message = clean(message) or (detail if exception is None else "") or f"ended with exit code {exit_code}"
    return Failure(kind=kind or FailureKind.ERROR, message=message, exception=exception, line=line)


def _traceback(text: str, editable: tuple[str, ...]) -> tuple[str | None, str, int | None]:
    """Return the last exception's type and message, and the deepest line of it in an edited file."""
    matches = list(_EXCEPTION.finditer(text))
    if not matches:
        return None, "", None
    last = matches[-1]
    start = text.rfind("Traceback (most recent call last)", 0, last.start())
    names = {name.rsplit("/", 1)[-1] for name in editable}
    lines = [int(m[2]) for m in _FRAME.finditer(text, max(0, start), last.start()) if m[1] in names]
    return clean(last[1], 80), last[2] or "", lines[-1] if lines else None


def _classify(text: str, exception: str | None, message: str) -> FailureKind | None:
    short = (exception or "").rsplit(".", 1)[-1]
    if short == "OutOfMemoryError" or (exception and _MEMORY.search(f"{exception}: {message}")):
        return FailureKind.OUT_OF_MEMORY
    if short == "PermissionError":
        return FailureKind.FORBIDDEN
    if short in {"ImportError", "ModuleNotFoundError"}:
        return FailureKind.IMPORT
    if short in {"SyntaxError", "IndentationError", "TabError"}:
        return FailureKind.SYNTAX
    if short in {"RuntimeError", "ValueError", "BadModelError", "TorchRuntimeError"} and _SHAPE.search(
        message
    ):
        return FailureKind.SHAPE
    if exception is None and re.search(r"(?:^|\s)FAIL\s*$", text, re.MULTILINE):
        return FailureKind.NOT_FINITE
    return None


def _finite(value: object) -> float | None:
    """Return a number or numeric text as a finite float, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
