"""Corpora, tokenizer and token rows: from text to what training reads. Protected.

Pure but for reading the committed text and fetching climbmix. What is prepared when, and where it
lies, is prepare.py's business.
"""

from __future__ import annotations

import base64
import bisect
import hashlib
import json
import lzma
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import tiktoken

SPECIAL_TOKENS = ("<|bos|>", "<|reserved_1|>", "<|reserved_2|>", "<|reserved_3|>")
# GPT-4's split pattern with numbers in groups of at most two digits, which suits a small vocabulary.
SPLIT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)

SOTU_ARCHIVE = Path(__file__).resolve().parent / "data" / "sotu.jsonl.xz"
SOTU_TEXT_SHA256 = {
    "archive": "bed83a5c61cc29221218d7c5ada6948fddc31039ba65e8e56e5105eebf82e5f0",
    "train": "f6bb1625d31094ec04d5a47bbbbbfa639dfeb33beea3fe30f70fd7c92573b569",
    "val": "84d52abb0954dab2035c3cab04359c01d2277617d20efdcd3a351c5fd96d77b2",
}

CLIMBMIX_URL = "https://huggingface.co/datasets/karpathy/climbmix-400b-shuffle/resolve/main"
CLIMBMIX_LAST_SHARD = 6542  # pinned as the validation shard
CLIMBMIX_SHARDS = 10  # training shards fetched by default, about 600 M tokens
TOKENIZER_CHARS = 1_000_000_000  # characters of climbmix the tokenizer is trained on
TOKENIZER_DOC_CHARS = 10_000


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file's content, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse(message: str) -> SystemExit:
    """Return the exit for data that is not what was pinned: one line, exit code 1."""
    return SystemExit(f"prepare: {message}")


# ---------------------------------------------------------------------------
# Documents
# ---------------------------------------------------------------------------


def sotu_documents(split: str) -> list[str]:
    """Return the documents of a split of the committed text, checked against its digests."""
    found = sha256_file(SOTU_ARCHIVE)
    if found != SOTU_TEXT_SHA256["archive"]:
        raise refuse(f"{SOTU_ARCHIVE} has sha256 {found[:12]}; it was changed, restore it with git")
    with lzma.open(SOTU_ARCHIVE, "rt", encoding="utf-8", newline="\n") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    chosen = [text for i, text in enumerate(texts) if (i % 16 == 7) == (split == "val")]
    found = hashlib.sha256("".join(chosen).encode()).hexdigest()
    if found != SOTU_TEXT_SHA256[split]:
        raise refuse(f"the {split} split has sha256 {found[:12]}, not the pinned one")
    return chosen


def download_climbmix(folder: Path, shards: int) -> None:
    """Fetch the training shards and the validation shard into `folder`, skipping what is there."""
    import requests

    folder.mkdir(parents=True, exist_ok=True)
    for index in [*range(shards), CLIMBMIX_LAST_SHARD]:
        target = folder / f"shard_{index:05d}.parquet"
        for attempt in range(5):
            if target.exists():
                break
            try:
                with requests.get(f"{CLIMBMIX_URL}/{target.name}", stream=True, timeout=60) as answer:
                    answer.raise_for_status()
                    partial = target.with_suffix(f".{os.getpid()}.part")
                    with partial.open("wb") as file:
                        shutil.copyfileobj(answer.raw, file, 1 << 20)
                    partial.rename(target)
                print(f"prepare: fetched {target.name}", flush=True)
            except requests.RequestException as error:
                print(f"prepare: {target.name}: {error}; attempt {attempt + 1} of 5", flush=True)
                time.sleep(2**attempt)
        if not target.exists():
            raise refuse(f"could not fetch {target.name}; try again, or use --profile gpu-sotu")


def climbmix_documents(folder: Path, split: str, shards: int) -> Iterator[str]:
    """Yield the documents of a split of climbmix, shard by shard."""
    import pyarrow.parquet

    indices = [CLIMBMIX_LAST_SHARD] if split == "val" else range(shards)
    for index in indices:
        file = pyarrow.parquet.ParquetFile(folder / f"shard_{index:05d}.parquet")
        for group in range(file.num_row_groups):
            yield from file.read_row_group(group, columns=["text"]).column("text").to_pylist()


# ---------------------------------------------------------------------------
# Tokenizer
# ---------------------------------------------------------------------------


def first_part(documents: Iterable[str]) -> Iterator[str]:
    """Yield the documents a tokenizer is trained on: the first TOKENIZER_CHARS, long ones cut."""
    seen = 0
    for document in documents:
        yield document[:TOKENIZER_DOC_CHARS]
        seen += min(len(document), TOKENIZER_DOC_CHARS)
        if seen >= TOKENIZER_CHARS:
            return


def train_tokenizer(documents: Iterable[str], vocab_size: int) -> dict[str, Any]:
    """Return a byte-pair tokenizer as plain data: pattern, merges in rank order, special tokens."""
    import rustbpe

    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(iter(documents), vocab_size - len(SPECIAL_TOKENS), pattern=SPLIT_PATTERN)
    ranked = sorted(((rank, bytes(token)) for token, rank in trainer.get_mergeable_ranks()))
    return {
        "pattern": SPLIT_PATTERN,
        "merges": [base64.b64encode(token).decode() for _, token in ranked],
        "special": list(SPECIAL_TOKENS),
    }


def load_encoding(tokenizer: dict[str, Any]) -> tiktoken.Encoding:
    """Return the tokenizer as a tiktoken encoding."""
    import tiktoken

    merges = [base64.b64decode(token) for token in tokenizer["merges"]]
    return tiktoken.Encoding(
        name="autoresearch",
        pat_str=tokenizer["pattern"],
        mergeable_ranks={token: rank for rank, token in enumerate(merges)},
        special_tokens={name: len(merges) + i for i, name in enumerate(tokenizer["special"])},
    )


def token_bytes(tokenizer: dict[str, Any]) -> np.ndarray:
    """Return the byte length of every token id, (vocab_size,) int32; special tokens count 0."""
    lengths = [len(base64.b64decode(token)) for token in tokenizer["merges"]]
    return np.array(lengths + [0] * len(tokenizer["special"]), dtype=np.int32)


# ---------------------------------------------------------------------------
# Rows
# ---------------------------------------------------------------------------


def stream_rows(
    documents: Iterable[np.ndarray],  # each (n,) uint16, starting with <|bos|>
    sequence_len: int,
) -> Iterator[np.ndarray]:  # each (rows, sequence_len + 1) uint16
    """Yield one document stream cut into rows that overlap by one token: no token is lost.

    For long documents, where a row seldom holds a document's beginning.
    """
    stream = np.concatenate(list(documents))
    count = (len(stream) - 1) // sequence_len
    starts = np.arange(count)[:, None] * sequence_len
    yield stream[starts + np.arange(sequence_len + 1)]


def packed_rows(
    documents: Iterable[np.ndarray],  # each (n,) uint16, starting with <|bos|>
    sequence_len: int,
    buffer_documents: int = 1000,
    chunk_rows: int = 4096,
) -> Iterator[np.ndarray]:  # each (rows, sequence_len + 1) uint16
    """Yield rows that each begin with a document, packed by best fit, without padding.

    Of the buffered documents the longest that fits goes next; where none fits, the shortest is
    cropped to fill the row and its rest is dropped. For short documents.
    """
    source = iter(documents)
    lengths: list[tuple[int, int]] = []  # (length, serial), sorted
    held: dict[int, np.ndarray] = {}
    serial = 0
    chunk: list[np.ndarray] = []

    def refill() -> None:
        nonlocal serial
        while len(lengths) < buffer_documents:
            document = next(source, None)
            if document is None:
                return
            bisect.insort(lengths, (len(document), serial))
            held[serial] = document
            serial += 1

    while True:
        row = np.empty(sequence_len + 1, dtype=np.uint16)
        filled = 0
        while filled < len(row):
            refill()
            if not lengths:  # the last, unfinished row is dropped
                if chunk:
                    yield np.stack(chunk)
                return
            room = len(row) - filled
            fitting = bisect.bisect_right(lengths, (room, serial))
            _, key = lengths.pop(fitting - 1 if fitting else 0)
            piece = held.pop(key)[:room]
            row[filled : filled + len(piece)] = piece
            filled += len(piece)
        chunk.append(row)
        if len(chunk) == chunk_rows:
            yield np.stack(chunk)
            chunk = []


def encode_documents(
    encoding: tiktoken.Encoding, documents: Iterable[str], batch: int = 1024
) -> Iterator[np.ndarray]:
    """Yield each document's token ids, (n,) uint16, with <|bos|> in front."""
    bos = encoding.encode_single_token(SPECIAL_TOKENS[0])
    pending: list[str] = []

    def flush() -> Iterator[np.ndarray]:
        threads = os.cpu_count() or 1
        for ids in encoding.encode_ordinary_batch(pending, num_threads=threads):
            yield np.array([bos, *ids], dtype=np.uint16)

    for document in documents:
        pending.append(document)
        if len(pending) == batch:
            yield from flush()
            pending = []
    yield from flush()
