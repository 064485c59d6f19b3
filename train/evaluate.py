"""The evaluator: computes val_bpb from the weights a run left. Protected.

Started by harness.py in a process of its own after training has ended, as
`python evaluate.py TRAIN_PY WEIGHTS RESULT_FD`. It takes three things from the edited file:
`build_model()`, the weights, and logits for fixed windows of the validation split. Targets, byte
counts, the loss and the sum are its own, so a number that train.py printed or returned is never
believed.

Bits per byte = sum of -log2 p(target) / sum of the targets' UTF-8 bytes. Special tokens have no
bytes and are left out of both sums, as in nanochat's evaluate_bpb.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prepare
from corpus import token_bytes

ROWS_PER_BATCH_TOKENS = 65_536  # bounds the memory of a batch of logits
CPU_BATCH_TOKENS = 4_096


class BadModelError(Exception):
    """The edited file does not deliver a model that can be scored; the message says why."""


def import_edited(path: str) -> ModuleType:
    """Return train.py as a module, without running its training loop."""
    spec = importlib.util.spec_from_file_location("train", path)
    if spec is None or spec.loader is None:
        raise BadModelError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules["train"] = module
    spec.loader.exec_module(module)
    return module


def load_model(script: str, weights: str, device: str) -> nn.Module:
    """Return the trained model in evaluation mode.

    Raises BadModelError where build_model() is missing or the weights do not fit it.
    """
    module = import_edited(script)
    if not callable(getattr(module, "build_model", None)):
        raise BadModelError("train.py defines no build_model()")
    model = module.build_model()
    if not isinstance(model, nn.Module):
        raise BadModelError(f"build_model() returned {type(model).__name__}, not a torch module")
    state = torch.load(weights, map_location="cpu", weights_only=True)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise BadModelError(f"the weights do not fit build_model(): {error}") from error
    return model.to(device).eval()


def logits_for(
    model: nn.Module,
    inputs: Tensor,  # (B, T) int64
    device: str,
) -> Tensor:  # (B, T, vocab_size) float32
    """Return the model's logits, checked for shape and finiteness.

    Raises BadModelError on anything else than finite logits over the vocabulary.
    """
    with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
        logits = model(inputs)
    expected = (*inputs.shape, prepare.VOCAB_SIZE)
    if not isinstance(logits, Tensor) or tuple(logits.shape) != expected:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise BadModelError(f"model(idx) returned {found}, not logits of shape {expected}")
    logits = logits.float()
    if not torch.isfinite(logits).all():
        raise BadModelError("model(idx) returned NaN or infinite logits")
    return logits


@torch.inference_mode()
def bits_per_byte(
    model: nn.Module,
    rows: np.ndarray,  # (n, sequence_len + 1) token ids
    lengths: np.ndarray,  # (vocab_size,) bytes of each token
    device: str,
) -> float:
    """Return the model's bits per byte on the rows."""
    per_batch = CPU_BATCH_TOKENS if device == "cpu" else ROWS_PER_BATCH_TOKENS
    size = max(1, per_batch // (rows.shape[1] - 1))
    weights = torch.from_numpy(lengths).to(device)
    nats = torch.zeros((), dtype=torch.float64)
    total_bytes = 0
    for start in range(0, len(rows), size):
        tokens = torch.from_numpy(rows[start : start + size].astype(np.int64)).to(device)
        inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:]
        logits = logits_for(model, inputs, device)
        losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        counted = weights[targets.flatten()]
        nats += (losses * (counted > 0)).sum(dtype=torch.float32).double().cpu()
        total_bytes += int(counted.sum())
    return float(nats) / (math.log(2) * total_bytes)


def check_model(script: str, weights: str) -> None:
    """Raise BadModelError unless the saved weights make a model that yields logits (preflight)."""
    model = load_model(script, weights, "cpu")
    with torch.inference_mode():
        length = min(64, prepare.SEQUENCE_LEN)
        logits_for(model, torch.zeros((1, length), dtype=torch.int64), "cpu")


def main() -> None:
    """Evaluate and write one JSON object to the result descriptor."""
    script, weights, result = sys.argv[1], sys.argv[2], int(sys.argv[3])
    device = prepare.device_type()
    if device == "cpu":
        torch.set_num_threads(1)
    started = time.monotonic()
    answer: dict[str, object]
    try:
        rows = prepare.evaluation_rows(prepare.load_rows("val"))
        lengths = token_bytes(prepare.load_tokenizer())
        model = load_model(script, weights, device)
        value = bits_per_byte(model, rows, lengths, device)
        answer = {
            "val_bpb": value,
            "num_params": sum(p.numel() for p in model.parameters()),
            "eval_tokens": rows.shape[0] * (rows.shape[1] - 1),
            "eval_seconds": time.monotonic() - started,
        }
    except BadModelError as error:
        answer = {"error": str(error)[:2000]}
    os.write(result, json.dumps(answer).encode())


if __name__ == "__main__":
    sys.path.insert(1, str(Path(sys.argv[1]).parent))
    main()
