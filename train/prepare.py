"""Prepared data, the dataloader and the budget's clock: what train.py imports. Protected.

    python prepare.py --profile cpu     # the committed State-of-the-Union text, 1,024-token BPE
    python prepare.py --profile gpu     # downloads climbmix shards, 8,192-token BPE
    python prepare.py --profile gpu-sotu  # GPU-sized model on the committed text: no network needed

Preparation happens once per machine and leaves `tokenizer.json`, `train.bin`, `val.bin` and
`manifest.json` (sizes and sha256 of each) in the cache. A row is `sequence_len + 1` uint16 token
ids: inputs are row[:-1], targets row[1:]. Everything after that is reading rows.

What it does not do: train, evaluate, or trust a file whose digest is not the pinned one.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import corpus
from corpus import CLIMBMIX_SHARDS, refuse, sha256_file

if TYPE_CHECKING:
    from torch import Tensor, nn

# ---------------------------------------------------------------------------
# Profiles
# ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Profile:
    """What is trained on and how it is measured; the model's size is train.py's business."""

    name: str
    corpus: str  # "sotu" (committed) or "climbmix" (downloaded)
    vocab_size: int  # including the special tokens
    sequence_len: int  # tokens per row, for training and for evaluation
    eval_tokens: int  # tokens of the validation split that the score is computed on


PROFILES = {
    "cpu": Profile("cpu", "sotu", 1024, 128, 32_768),
    "gpu": Profile("gpu", "climbmix", 8192, 2048, 40 * 524_288),
    "gpu-sotu": Profile("gpu-sotu", "sotu", 8192, 2048, 131_072),
}

# sha256 of the prepared files. climbmix has none: its digests are recorded when it is prepared
# and every later run is held to that record.
PINNED = {
    "cpu": {
        "tokenizer.json": "367d0252fab3de9bb497a99b9061ef6d9b62dc043a5644f3d1eee74b2564afe1",
        "train.bin": "f16b6316d2d2ca57238688aa009963a81072cf869e1ad45da6f5d3d390d1d2c2",
        "val.bin": "87c90478a3200149033b06c8ea1a142bf7a3cea8bb7b7d9bc15b7392ca5f7953",
    },
    "gpu-sotu": {
        "tokenizer.json": "5188c5ef34d4b4a2146a76948f08c145e2e255b1c1ae4f152325199915611ddb",
        "train.bin": "d314a3aab481a9b4618c4b8fbdc0ac825e5c1af92a3702ca3bf14a04e7e33031",
        "val.bin": "e0c7d669b348bc34f86365b2c6c9fe0371540da131328e264c950463872c5e4f",
    },
}


# ---------------------------------------------------------------------------
# What a run is told from outside (the harness sets these; the defaults serve a person by hand)
# ---------------------------------------------------------------------------

PROFILE = os.environ.get("AUTORESEARCH_PROFILE", "cpu")
if PROFILE not in PROFILES:
    raise SystemExit(f"AUTORESEARCH_PROFILE is {PROFILE!r}; use one of {', '.join(PROFILES)}")
VOCAB_SIZE = PROFILES[PROFILE].vocab_size
SEQUENCE_LEN = PROFILES[PROFILE].sequence_len
PREFLIGHT = os.environ.get("AUTORESEARCH_PREFLIGHT") == "1"
PREFLIGHT_STEPS = 2 if PROFILE == "cpu" else 1  # a large model takes seconds a step on a CPU
UNTIMED_STEPS = 11  # on cuda and mps the first steps compile and warm up; they cost no budget


def seed() -> int:
    """Return the run's seed, chosen by the harness."""
    return int(os.environ.get("AUTORESEARCH_SEED", "0"))


def device_type() -> str:
    """Return "cuda", "mps" or "cpu": the harness's choice, else the best one present.

    The cpu profile stays on the CPU by default, where its budget is CPU seconds.
    """
    chosen = os.environ.get("AUTORESEARCH_DEVICE")
    if chosen:
        return chosen
    if PROFILE == "cpu":
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def budget_seconds() -> float:
    """Return the training budget: CPU seconds on cpu, wall seconds on cuda and mps."""
    default = 20.0 if device_type() == "cpu" else 300.0
    return float(os.environ.get("AUTORESEARCH_BUDGET_SECONDS", default))


def cache_dir() -> Path:
    """Return the folder of this profile's prepared files."""
    root = os.environ.get("AUTORESEARCH_CACHE") or Path.home() / ".cache" / "autoresearch"
    return Path(root) / PROFILE


# ---------------------------------------------------------------------------
# Digests
# ---------------------------------------------------------------------------


def check(manifest: dict[str, Any], folder: Path) -> None:
    """Raise SystemExit unless every prepared file has the digest that was pinned or recorded."""
    for name, entry in manifest["files"].items():
        expected = PINNED.get(manifest["profile"], {}).get(name, entry["sha256"])
        found = sha256_file(folder / name)
        if found != expected:
            raise refuse(
                f"{folder / name} has sha256 {found[:12]}, not {expected[:12]}; "
                f"delete {folder} and prepare again"
            )


def read_manifest() -> dict[str, Any] | None:
    """Return the manifest of the prepared profile, or None where nothing is prepared."""
    try:
        return json.loads((cache_dir() / "manifest.json").read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise refuse(f"{cache_dir() / 'manifest.json'} is not JSON; delete {cache_dir()}") from error


def data_digest() -> str:
    """Return one digest of tokenizer, training rows and validation rows; "" when unprepared."""
    manifest = read_manifest()
    if manifest is None:
        return ""
    return digest_of({name: entry["sha256"] for name, entry in manifest["files"].items()})


def digest_of(digests: Mapping[str, str]) -> str:
    """Return one sha256 of several files, from each one's by name."""
    lines = [f"{name} {digest}" for name, digest in sorted(digests.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def load_tokenizer() -> dict[str, Any]:
    """Return the prepared tokenizer's data."""
    return json.loads((cache_dir() / "tokenizer.json").read_text())


# ---------------------------------------------------------------------------
# Preparation
# ---------------------------------------------------------------------------


def prepare(shards: int = CLIMBMIX_SHARDS) -> dict[str, Any]:
    """Prepare the profile unless it is prepared already; return its manifest, digests checked.

    Safe to call from several processes at once. Raises SystemExit with one line on data that is
    not what was pinned.
    """
    folder = cache_dir()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{PROFILE}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        manifest = read_manifest()
        if manifest is None:
            started = time.monotonic()
            scratch = folder.with_name(f"{PROFILE}.{os.getpid()}.tmp")
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            manifest = _build(PROFILES[PROFILE], scratch, shards)
            (scratch / "manifest.json").write_text(json.dumps(manifest, indent=1))
            shutil.rmtree(folder, ignore_errors=True)
            scratch.rename(folder)
            print(f"prepare: {PROFILE} made in {time.monotonic() - started:.1f} s", flush=True)
    check(manifest, folder)
    return manifest


def _build(profile: Profile, folder: Path, shards: int) -> dict[str, Any]:
    if profile.corpus == "climbmix":
        raw = cache_dir().with_name("climbmix")
        corpus.download_climbmix(raw, shards)
        splits: dict[str, Any] = {s: corpus.climbmix_documents(raw, s, shards) for s in ("train", "val")}
        tokenizer = corpus.train_tokenizer(
            corpus.first_part(corpus.climbmix_documents(raw, "train", shards)), profile.vocab_size
        )
        rows: Callable[..., Iterator[np.ndarray]] = corpus.packed_rows
    else:
        splits = {split: corpus.sotu_documents(split) for split in ("train", "val")}
        tokenizer = corpus.train_tokenizer(splits["train"], profile.vocab_size)
        rows = corpus.stream_rows
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    encoding = corpus.load_encoding(tokenizer)
    for split, documents in splits.items():
        with (folder / f"{split}.bin").open("wb") as file:
            for block in rows(corpus.encode_documents(encoding, documents), profile.sequence_len):
                file.write(block.astype("<u2").tobytes())
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)}
        for name in ("tokenizer.json", "train.bin", "val.bin")
    }
    return {"profile": profile.name, "sequence_len": profile.sequence_len, "files": files}


def load_rows(split: str) -> np.ndarray:
    """Return a split's rows, (n, sequence_len + 1) uint16, memory-mapped and read-only."""
    flat = np.memmap(cache_dir() / f"{split}.bin", dtype="<u2", mode="r")
    return flat.reshape(-1, SEQUENCE_LEN + 1)


def evaluation_rows(rows: np.ndarray) -> np.ndarray:
    """Return the fixed windows that are scored: evenly spaced over the whole validation split.

    `rows` is (n, sequence_len + 1); the result has `eval_tokens // sequence_len` rows, or all of
    them where the split is smaller.
    """
    return rows[_scored(len(rows))]


def hidden_rows(rows: np.ndarray) -> np.ndarray:
    """Return windows of the validation split that are never scored: a second split that nobody optimises.

    A quarter as many as are scored, evenly spaced over those that are left; fewer where there are not
    so many.
    """
    left = np.setdiff1d(np.arange(len(rows)), _scored(len(rows)))
    wanted = min(PROFILES[PROFILE].eval_tokens // SEQUENCE_LEN // 4, len(left))
    return rows[left[_spread(wanted, len(left))]]


def _scored(count: int) -> np.ndarray:
    return _spread(min(PROFILES[PROFILE].eval_tokens // SEQUENCE_LEN, count), count)


def _spread(wanted: int, count: int) -> np.ndarray:
    return (np.arange(wanted) * count / max(1, wanted)).astype(np.int64)


# ---------------------------------------------------------------------------
# What train.py imports: batches, the budget's clock, the end
# ---------------------------------------------------------------------------

_served_tokens = 0


def batches(
    batch_size: int,
    sequence_len: int = SEQUENCE_LEN,
    device: str = "cpu",
) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Yield (inputs, targets, epoch) for ever: both (batch_size, sequence_len) int64 on `device`.

    Rows come in an order drawn from the run's seed, anew each epoch (epochs count from 1). A
    `sequence_len` shorter than the profile's cuts every row into pieces; it cannot be longer.
    Preflight serves random tokens, at most 128 a row and few rows, so that it needs no data.
    """
    import torch

    global _served_tokens  # noqa: PLW0603  the tally belongs to the process, as the budget does
    if not 1 <= sequence_len <= SEQUENCE_LEN:
        raise ValueError(f"sequence_len is {sequence_len}; rows hold at most {SEQUENCE_LEN} tokens")
    rng = np.random.default_rng(seed())
    if PREFLIGHT:
        rows = rng.integers(0, VOCAB_SIZE, (64, SEQUENCE_LEN + 1)).astype("<u2")
        if PROFILE != "cpu":
            batch_size, sequence_len = min(batch_size, 2), min(sequence_len, 128)
    else:
        rows = load_rows("train")
    pieces = SEQUENCE_LEN // sequence_len
    columns = np.arange(sequence_len + 1)
    epoch = 0
    left = np.empty(0, dtype=np.int64)
    while True:
        while len(left) < batch_size:
            epoch += 1
            left = np.concatenate([left, rng.permutation(len(rows) * pieces)])
        picked, left = left[:batch_size], left[batch_size:]
        block = rows[(picked // pieces)[:, None], (picked % pieces)[:, None] * sequence_len + columns]
        tokens = torch.from_numpy(block.astype(np.int64))
        if device == "cuda":
            tokens = tokens.pin_memory().to(device, non_blocking=True)
        elif device != "cpu":
            tokens = tokens.to(device)
        _served_tokens += batch_size * sequence_len
        yield tokens[:, :-1], tokens[:, 1:], epoch


class Budget:
    """The training budget as train.py sees it: a clock from 0 to 1 that ends the loop.

    On cpu it counts CPU seconds of this process, on cuda and mps wall seconds without the first
    11 steps. The harness measures again from outside and stops what runs past it.
    """

    def __init__(self, device: str) -> None:
        self.seconds = budget_seconds()
        self.steps = 0
        self._cpu = device == "cpu"
        self._start = _cpu_start if self._cpu else math.inf

    def step(self) -> None:
        """Count one finished optimizer step; call it after the device has synchronised."""
        self.steps += 1
        if not self._cpu and self.steps == UNTIMED_STEPS:
            self._start = time.perf_counter()

    @property
    def used_seconds(self) -> float:
        """Seconds of budget used so far."""
        now = time.process_time() if self._cpu else time.perf_counter()
        return max(0.0, now - self._start)

    @property
    def progress(self) -> float:
        """Share of the budget used, from 0 to 1; the learning-rate schedule follows it."""
        if PREFLIGHT:
            return min(1.0, self.steps / PREFLIGHT_STEPS)
        return min(1.0, self.used_seconds / self.seconds)


# CPU seconds the process had used when edited code began to run: imports are not charged.
_cpu_start = time.process_time()


def start_clock() -> float:
    """Start charging the budget now; return this process's CPU seconds so far."""
    global _cpu_start  # noqa: PLW0603
    _cpu_start = time.process_time()
    return _cpu_start


def finish(model: nn.Module, budget: Budget, *, depth: int, flops_per_token: float) -> None:
    """Leave the trained weights and the run's own figures for the harness.

    The figures (steps, tokens, depth, FLOPs) are reported, never scored: the score is computed
    from the weights by another process.
    """
    import torch

    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    facts = {
        "num_steps": budget.steps,
        "total_tokens": _served_tokens,
        "used_seconds": budget.used_seconds,
        "depth": depth,
        "flops_per_token": flops_per_token,
        "peak_memory_bytes": peak,
    }
    torch.save(model.state_dict(), os.environ.get("AUTORESEARCH_WEIGHTS", "weights.pt"))
    Path(os.environ.get("AUTORESEARCH_FACTS", "facts.json")).write_text(json.dumps(facts))


def main() -> None:
    """Prepare a profile from the command line."""
    parser = argparse.ArgumentParser(description="Prepare corpus, tokenizer and token rows.")
    parser.add_argument("--profile", choices=PROFILES, default=PROFILE)
    parser.add_argument("--shards", type=int, default=CLIMBMIX_SHARDS, help="climbmix training shards")
    arguments = parser.parse_args()
    if arguments.profile != PROFILE:  # the profile is fixed at import, so start again with it
        os.environ["AUTORESEARCH_PROFILE"] = arguments.profile
        os.execv(sys.executable, [sys.executable, *sys.argv])
    prepare(arguments.shards)
    print(f"prepare: {PROFILE} is in {cache_dir()}, data digest {data_digest()[:12]}")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
