"""The grader: computes val_bpb from what the trained model predicts. Protected.

It runs in the harness, which never imports edited code, and holds what the score hangs on: the validation
rows, the targets, the bytes of each token. The model runs in a process of its own (`serve`), in a box from
which the validation split cannot be read: it is shown token ids and returns logits, from which loss and sum
are computed here. So a number that train.py printed or returned is never believed.

Bits per byte = sum of -log2 p(target) / sum of the targets' UTF-8 bytes. Special tokens have no bytes and
are left out of both sums, as in nanochat's evaluate_bpb.

A model that is shown a row could look at the next token. So its answers are audited: a second process, fresh,
gets rows in which all after one position is other text, and must predict that position's target as well
as the first one did. Whatever draws on the future of a row, on other rows or on what it was shown before
cannot. Positions of one row come in rising order, so that nothing is shown that is still to be predicted.
The first process ends before edited code begins in the second: in /proc it could tell of the rows it saw.
On a GPU the logits are too many for a pipe: there `serve` reduces them on the device, and what it claims is
audited alike.

What an audit does not refuse, it corrects: where the audited claims were better than their audit on average,
that much is added to the score (a difference estimator, of one side; Särndal, Swensson and Wretman, Model
Assisted Survey Sampling, 1992, 6.3). So claims within rounding win nothing in expectation. Honest ones agree
with their audit and nothing is added: all batches are filled up to one shape, so that a row's numbers do not
hang on what it is asked beside.
"""

from __future__ import annotations

import json
import math
import os
import select
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import prepare
from corpus import token_bytes
from processes import remove, stop
from supervise import Watched

BATCH_TOKENS = 65_536  # bounds the memory of a batch of logits
CPU_BATCH_TOKENS = 4_096
AUDITED = 900  # positions that count, at least: 99 % detection of cheating in 0.5 % of positions
# nats by which a claim may be better than the audit's: at one position, and on average. Logits of bfloat16
# differ between batches of different make-up; in float32 they agree to 1e-4.
TOLERANCE = {"cpu": 0.02, "mps": 0.05, "cuda": 0.5}
MEAN_TOLERANCE = {"cpu": 0.0005, "mps": 0.001, "cuda": 0.002}
STANDARD_ERRORS = 4.0  # the mean is held against, too
MAX_LINE = 8192
GRACE_SECONDS = 10.0  # between a closed pipe and the end of its process


class EvaluationError(Exception):
    """There is no score; the message says why. `problem` is what the report calls it."""

    def __init__(self, message: str, problem: str = "evaluation") -> None:
        super().__init__(message)
        self.problem = problem


# ---------------------------------------------------------------------------
# The model's process
# ---------------------------------------------------------------------------


class Served:
    """A process that answers for the model; what it says is data. Times are in seconds."""

    def __init__(self, child: subprocess.Popen[bytes], pipes: tuple[int, int], watched: Watched) -> None:
        self.child, self.watched = child, watched
        self._requests, self._answers = pipes
        self._held = bytearray()
        self._ready = False
        self.num_params: int | None = None
        for pipe in pipes:
            os.set_blocking(pipe, False)

    def ask(self, want: str, tokens: np.ndarray, at: np.ndarray | None, deadline: float) -> np.ndarray:
        """Return its answer, float32: (n, T, V) logits, (n, V) logits at positions, or (n, T) nats.

        Raises EvaluationError where it fails, takes too long, or answers anything else.
        """
        rows, width = tokens.shape
        request = json.dumps({"want": want, "rows": rows}).encode() + b"\n"
        request += tokens.astype("<u2").tobytes() + (b"" if at is None else at.astype("<u2").tobytes())
        shape = {
            "logits": (rows, width, prepare.VOCAB_SIZE),
            "at": (rows, prepare.VOCAB_SIZE),
            "nats": (rows, width - 1),
        }[want]
        size = 4 * math.prod(shape)
        if not self._ready:  # on a slow machine it may still be loading torch, which is not the model's cost
            self._told(b"", deadline)
            self._ready = True
        self.watched.asked()
        told = self._told(request, deadline)
        if told.get("bytes") != size:
            raise EvaluationError("the model's process answered with something else than was asked")
        params = told.get("num_params")
        self.num_params = params if isinstance(params, int) and 0 <= params < 1 << 53 else None
        while len(self._held) < size:
            self._exchange(b"", deadline)
        values = np.frombuffer(bytes(self._held[:size]), dtype="<f4").reshape(shape)
        del self._held[:size]
        self.watched.answered()
        if not np.isfinite(values).all():
            raise EvaluationError("model(idx) returned NaN or infinite logits")
        return values

    def _told(self, request: bytes, deadline: float) -> dict[str, Any]:
        while request or b"\n" not in self._held[:MAX_LINE]:
            if len(self._held) > MAX_LINE:
                raise EvaluationError("the model's process does not answer in our form")
            request = self._exchange(request, deadline)
        line, _, rest = bytes(self._held).partition(b"\n")
        self._held = bytearray(rest)
        try:
            told = json.loads(line)
        except (ValueError, RecursionError):
            told = None
        if not isinstance(told, dict):
            raise EvaluationError("the model's process does not answer in our form")
        if "error" in told:
            raise EvaluationError(str(told["error"])[:2000])
        return told

    def _exchange(self, request: bytes, deadline: float) -> bytes:
        """Write what can be written, read what can be read; return what is left to write."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise EvaluationError("the evaluation took too long")
        why = self.watched.verdict()
        if why is not None:
            raise EvaluationError(why[1], why[0])
        writing = [self._requests] if request else []
        readable, writable, _ = select.select([self._answers], writing, [], min(left, 1.0))
        try:
            if writable:
                request = request[os.write(self._requests, request) :]
            if readable:
                data = os.read(self._answers, 1 << 20)
                if not data:
                    raise BrokenPipeError
                self._held += data
        except BrokenPipeError:
            raise EvaluationError(self._ending()) from None
        return request

    def _ending(self) -> str:
        try:
            return f"the model's process ended with exit code {self.child.wait(GRACE_SECONDS)}"
        except subprocess.TimeoutExpired:
            return "the model's process closed its pipes"

    def end(self, beside: Served) -> None:
        """End it and all it started, but not another one, and remove what it wrote.

        Links can be read, and sizes told, where files cannot: Landlock does not govern these.
        """
        stop(self.child, beside.watched.pids)
        remove(self.watched.folder)

    def close(self) -> None:
        """Close our ends of its pipes."""
        os.close(self._requests)
        os.close(self._answers)


# ---------------------------------------------------------------------------
# Rows
# ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Held:
    """What the score hangs on, read before training began."""

    scored: np.ndarray  # (n, sequence_len + 1) token ids
    hidden: np.ndarray  # of a second split that nobody optimises: (m, sequence_len + 1), m may be 0
    lengths: np.ndarray  # (vocab_size,) bytes of each token


def hold() -> Held:
    """Return the validation rows and the tokens' bytes, into memory: what training does to disk is late."""
    rows = np.array(prepare.load_rows("val"))
    return Held(
        scored=prepare.evaluation_rows(rows),
        hidden=prepare.hidden_rows(rows),
        lengths=token_bytes(prepare.load_tokenizer()),
    )


def audits(
    rows: np.ndarray,  # (n, T + 1) token ids
    fillers: np.ndarray,  # (m, T + 1) token ids of other text
    rng: np.random.Generator,
    least: int,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield what is to be audited, in rounds: row numbers (r,), positions (r,) and ids (r, T).

    The ids are the row's up to the position, then the filler's. Each round takes every row once (or `least`
    of them) at a position of a stratum, strata rising.
    """
    count, length = len(rows), rows.shape[1] - 1
    rounds = min(length, math.ceil(least / count))
    for stratum in range(rounds):
        chosen = rng.permutation(count)[:least]
        low, high = stratum * length // rounds, (stratum + 1) * length // rounds
        at = rng.integers(low, high, len(chosen))
        other = fillers[rng.integers(0, len(fillers), len(chosen)), :length]
        yield chosen, at, np.where(np.arange(length) <= at[:, None], rows[chosen, :length], other)


# ---------------------------------------------------------------------------
# The score
# ---------------------------------------------------------------------------


def nats_of(
    logits: np.ndarray,  # (..., vocab_size) float32
    targets: np.ndarray,  # (...) token ids
) -> np.ndarray:  # (...) float64
    """Return -log p of the targets, in nats."""
    highest = logits.max(axis=-1)
    total = np.exp(logits - highest[..., None]).sum(axis=-1, dtype=np.float64)
    chosen = np.take_along_axis(logits, targets[..., None].astype(np.int64), axis=-1)[..., 0]
    return np.log(total) + highest - chosen


@dataclass(frozen=True)
class Audit:
    """What claims were audited, and by how many nats each was better than its audit."""

    rows: np.ndarray  # (p,) numbers of rows
    at: np.ndarray  # (p,) positions
    excess: np.ndarray  # (p,) nats
    seed: int

    def of(self, first: int, end: int) -> Audit:
        """Return what was audited of the rows [first, end), counted from the first."""
        chosen = (first <= self.rows) & (self.rows < end)
        return Audit(self.rows[chosen] - first, self.at[chosen], self.excess[chosen], self.seed)

    def told(self) -> dict[str, Any]:
        """Return it as the report says it."""
        return {
            "positions": len(self.excess),
            "mean_excess": round(float(self.excess.mean()), 7),
            "worst_excess": round(float(self.excess.max()), 6),
            "seed": self.seed,
        }


def answers(
    served: Served, want: str, tokens: np.ndarray, at: np.ndarray | None, device: str, deadline: float
) -> Iterator[np.ndarray]:
    """Yield the answers for rows (n, T), batch by batch, in order; what is asked has one shape."""
    size = max(1, (CPU_BATCH_TOKENS if device == "cpu" else BATCH_TOKENS) // prepare.SEQUENCE_LEN)
    for start in range(0, len(tokens), size):
        left = len(tokens) - start
        filled = np.arange(start, start + size)
        filled[left:] = start
        yield served.ask(want, tokens[filled], None if at is None else at[filled], deadline)[:left]


def claimed(
    served: Served, rows: np.ndarray, device: str, deadline: float, *, reduced: bool
) -> np.ndarray:  # (n, T) float64
    """Return -log p of every next token of the rows, by the model's answers."""
    if reduced:
        return np.concatenate([*answers(served, "nats", rows, None, device, deadline)]).astype(np.float64)
    found, parts = 0, []
    for logits in answers(served, "logits", rows[:, :-1], None, device, deadline):
        parts.append(nats_of(logits, rows[found : found + len(logits), 1:]))
        found += len(logits)
    return np.concatenate(parts)


def audit(
    served: Served,
    rows: np.ndarray,  # (n, T + 1) token ids
    nats: np.ndarray,  # (n, T), as claimed
    device: str,
    seed: int,
    deadline: float,
    least: int = AUDITED,
) -> Audit:
    """Return what the audit of at least so many claims found.

    Raises EvaluationError where they are better than can be: the model draws on what it must predict.
    """
    found = []
    for chosen, at, ids in audits(rows, prepare.load_rows("train"), np.random.default_rng(seed), least):
        logits = np.concatenate([*answers(served, "at", ids, at, device, deadline)])
        found.append((chosen, at, nats_of(logits, rows[chosen, at + 1]) - nats[chosen, at]))
    chosen, at, excess = (np.concatenate(parts) for parts in zip(*found, strict=True))
    mean, worst = float(excess.mean()), float(excess.max())
    error = float(excess.std()) / math.sqrt(len(excess))
    if worst > TOLERANCE[device] or mean > MEAN_TOLERANCE[device] + STANDARD_ERRORS * error:
        share = float((excess > TOLERANCE[device]).mean())
        raise EvaluationError(
            "predictions draw on what is to be predicted, on other rows or on earlier ones: without these"
            f" they are worse by {mean:.4f} nats on average, and by more than {TOLERANCE[device]:g} at"
            f" {100 * share:.1f} % of {len(excess)} positions",
            "audit",
        )
    return Audit(chosen, at, excess, seed)


def bits_per_byte(
    nats: np.ndarray,  # (n, T)
    rows: np.ndarray,  # (n, T + 1) token ids
    lengths: np.ndarray,  # (vocab_size,) bytes
    audited: Audit | None = None,
) -> float:
    """Return bits per byte of the rows' targets, those without bytes left out.

    What an audit of them found claims to be better by, on average, is added; never taken off, since an
    auditor could have learned from what it was shown.
    """
    sizes = lengths[rows[:, 1:]]
    total = float(nats[sizes > 0].sum())
    if audited is not None:
        counted = audited.excess[sizes[audited.rows, audited.at] > 0]
        if len(counted):
            total += max(0.0, float(counted.mean())) * int((sizes > 0).sum())
    return total / (math.log(2) * int(sizes.sum()))


def evaluate(held: Held, model: Served, auditor: Served, device: str, timeout: float) -> dict[str, Any]:
    """Return the score and all that stands beside it; EvaluationError where there is none.

    `val_bpb` counts; `hidden_bpb` is that of the second split, None where there is none.
    """
    started = time.monotonic()
    deadline = started + timeout
    count = len(held.scored)
    rows = np.concatenate([held.scored, held.hidden])
    nats = claimed(model, rows, device, deadline, reduced=device != "cpu")
    scored = time.monotonic()
    model.end(auditor)
    seed = int.from_bytes(os.urandom(4), "big")  # nobody can know what will be audited
    found = audit(auditor, rows, nats, device, seed, deadline, math.ceil(AUDITED * len(rows) / count))
    first, second = found.of(0, count), found.of(count, len(rows))
    value = bits_per_byte(nats[:count], held.scored, held.lengths, first)
    hidden = None
    if len(held.hidden):
        hidden = bits_per_byte(nats[count:], held.hidden, held.lengths, second)
    claim = bits_per_byte(nats[:count], held.scored, held.lengths)
    return {
        "val_bpb": value,
        "hidden_bpb": hidden,
        "num_params": model.num_params,
        "eval_tokens": count * (held.scored.shape[1] - 1),
        "eval_seconds": scored - started,
        "audit": {
            **found.told(),
            "corrected": round(value - claim, 7),
            "seconds": round(time.monotonic() - scored, 3),
        },
    }


def evaluator_digest() -> str:
    """Return one digest of the code that makes the score, as it runs here."""
    here = Path(__file__).resolve().parent
    names = ("corpus.py", "evaluate.py", "prepare.py", "sandbox.py", "seal.py", "serve.py", "supervise.py")
    return prepare.digest_of({name: prepare.sha256_file(here / name) for name in names})
