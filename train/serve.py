"""The untrusted side of evaluation: rebuilds the edited model and answers with what it predicts. Protected.

Started by the harness inside a box, as `python serve.py TRAIN_PY WEIGHTS IN_FD OUT_FD`. It says that it is
there, `{"ready": true}`, so that loading torch is nobody's cost; it waits for requests, and only then runs
edited code: `build_model()` and the model's forward. A request is a JSON line and token ids, an answer a JSON
line and float32 numbers:

    {"want": "logits", "rows": n}   rows of sequence_len ids     -> (n, sequence_len, vocab_size)
    {"want": "at", "rows": n}       the same, and n positions    -> (n, vocab_size), one position a row
    {"want": "nats", "rows": n}     rows of sequence_len + 1 ids -> (n, sequence_len), -log p of each next id

It holds no targets but those that a request for nats brings, where logits are too many for a pipe: what it
then claims the grader checks against logits `at` positions. Nothing it says is believed otherwise.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prepare


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


def check_model(script: str, weights: str) -> None:
    """Raise BadModelError unless the saved weights make a model that yields logits (preflight)."""
    model = load_model(script, weights, "cpu")
    with torch.inference_mode():
        length = min(64, prepare.SEQUENCE_LEN)
        logits_for(model, torch.zeros((1, length), dtype=torch.int64), "cpu")


@torch.inference_mode()
def answer(model: nn.Module, want: str, tokens: np.ndarray, at: np.ndarray, device: str) -> np.ndarray:
    """Return what a request asks for, float32."""
    ids = torch.from_numpy(tokens.astype(np.int64)).to(device)
    if want == "nats":
        inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:]
        logits = logits_for(model, inputs, device)
        nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return nats.view(targets.shape).cpu().numpy()
    logits = logits_for(model, ids, device)
    if want == "at":
        logits = logits[torch.arange(len(ids)), torch.from_numpy(at.astype(np.int64)).to(device)]
    return logits.cpu().numpy()


def serve(load: Callable[[], nn.Module], requests: int, answers: int, device: str) -> None:
    """Answer requests until there are no more. The model is loaded for the first one."""
    model: nn.Module | None = None
    with os.fdopen(requests, "rb") as incoming, os.fdopen(answers, "wb") as outgoing:
        outgoing.write(b'{"ready": true}\n')
        outgoing.flush()
        while line := incoming.readline():
            asked = json.loads(line)
            width = prepare.SEQUENCE_LEN + (asked["want"] == "nats")
            tokens = _read(incoming.read, asked["rows"] * width).reshape(-1, width)
            at = _read(incoming.read, asked["rows"]) if asked["want"] == "at" else tokens[:0, 0]
            told: dict[str, object] = {}
            try:
                model = model or load()
                values = answer(model, asked["want"], tokens, at, device)
                told = {"bytes": values.nbytes, "num_params": sum(p.numel() for p in model.parameters())}
            except BadModelError as error:
                values, told = np.empty(0, np.float32), {"error": str(error)[:2000]}
            outgoing.write(json.dumps(told).encode() + b"\n")
            outgoing.write(values.astype("<f4", copy=False).tobytes())
            outgoing.flush()


def _read(read: Callable[[int], bytes], count: int) -> np.ndarray:
    return np.frombuffer(read(2 * count), dtype="<u2")


def main() -> None:
    """Wait for requests about the model of a script and its weights."""
    script, weights, requests, answers = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    device = prepare.device_type()
    if device == "cpu":
        torch.set_num_threads(1)
    sys.path.insert(1, str(Path(script).parent))
    serve(lambda: load_model(script, weights, device), requests, answers, device)


if __name__ == "__main__":
    main()
