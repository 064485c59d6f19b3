"""Data is what was pinned or it is refused; rows hold every token; batches follow the seed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

Load = Callable[..., ModuleType]


def test_the_committed_text_and_its_splits_are_the_pinned_ones(fresh: Load) -> None:
    prepare = fresh("prepare")
    train, val = (prepare.corpus.sotu_documents(split) for split in ("train", "val"))
    assert (len(train), len(val)) == (218, 15)
    assert (sum(len(d.encode()) for d in train), sum(len(d.encode()) for d in val)) == (10_090_869, 670_544)


def test_a_changed_archive_is_refused(fresh: Load, tmp_path: Path) -> None:
    prepare = fresh("prepare", cache_dir=tmp_path)
    prepare.corpus.SOTU_ARCHIVE = tmp_path / "sotu.jsonl.xz"
    prepare.corpus.SOTU_ARCHIVE.write_bytes(b"other")
    with pytest.raises(SystemExit, match="it was changed"):
        prepare.prepare()
    assert not (tmp_path / "cpu").exists()


@pytest.mark.parametrize("name", ["tokenizer.json", "train.bin", "val.bin"])
def test_a_prepared_file_that_was_changed_is_refused(
    fresh: Load, cache: Path, tmp_path: Path, name: str
) -> None:
    shutil.copytree(cache / "cpu", tmp_path / "cpu")
    path = tmp_path / "cpu" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    prepare = fresh("prepare", cache_dir=tmp_path)
    with pytest.raises(SystemExit, match=f"{name} has sha256"):
        prepare.prepare()


def test_a_manifest_cannot_talk_the_pins_away(fresh: Load, cache: Path, tmp_path: Path) -> None:
    shutil.copytree(cache / "cpu", tmp_path / "cpu")
    (tmp_path / "cpu" / "val.bin").write_bytes(bytes(129 * 2 * 300))
    manifest = json.loads((tmp_path / "cpu" / "manifest.json").read_text())
    prepare = fresh("prepare", cache_dir=tmp_path)
    manifest["files"]["val.bin"]["sha256"] = prepare.sha256_file(tmp_path / "cpu" / "val.bin")
    (tmp_path / "cpu" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(SystemExit, match=r"val\.bin has sha256"):
        prepare.prepare()


def test_preparing_twice_does_the_work_once(fresh: Load, capsys: pytest.CaptureFixture[str]) -> None:
    prepare = fresh("prepare")
    prepare.prepare()
    assert "made in" not in capsys.readouterr().out


def test_token_bytes_add_up_to_the_text(fresh: Load) -> None:
    prepare = fresh("prepare")
    tokenizer = prepare.load_tokenizer()
    lengths = prepare.corpus.token_bytes(tokenizer)
    text = "Fellow-Citizens: 1,234 dollars — naïve café \u2603"
    ids = prepare.corpus.load_encoding(tokenizer).encode_ordinary(text)
    assert lengths[ids].sum() == len(text.encode())
    assert lengths[-4:].tolist() == [0, 0, 0, 0]
    assert len(lengths) == prepare.VOCAB_SIZE == 1024


def test_rows_are_the_documents_in_order_and_lose_nothing(fresh: Load) -> None:
    prepare = fresh("prepare")
    rows = prepare.load_rows("val")
    encoding = prepare.corpus.load_encoding(prepare.load_tokenizer())
    stream = np.concatenate(
        list(prepare.corpus.encode_documents(encoding, prepare.corpus.sotu_documents("val")))
    )
    assert (rows[:, :-1].ravel() == stream[: rows.shape[0] * 128]).all()
    assert (rows[:-1, -1] == rows[1:, 0]).all(), "rows overlap by one token"


def test_the_score_is_taken_over_the_whole_split_on_fixed_windows(fresh: Load) -> None:
    prepare = fresh("prepare")
    rows = np.arange(1770)[:, None] * np.ones(129, dtype=int)
    picked = prepare.evaluation_rows(rows)[:, 0]
    assert len(picked) == 32_768 // 128
    assert (np.diff(picked) > 0).all()
    assert picked[0] == 0
    assert picked[-1] > 1755
    hidden = prepare.hidden_rows(rows)[:, 0]
    assert len(hidden) == len(picked) // 4
    assert hidden[-1] > 1730, "it is spread over the whole split as well"
    assert not set(picked) & set(hidden), "a second split has other windows"
    assert len(prepare.hidden_rows(rows[:256])) == 0, "of a small split nothing is left"
    assert len(prepare.hidden_rows(rows[:260])) == 4


documents = st.lists(st.integers(1, 30), min_size=1, max_size=60)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(documents, st.integers(4, 16), st.integers(1, 8))
def test_packed_rows_begin_with_a_document_and_have_no_padding(
    fresh: Load, lengths: list[int], sequence_len: int, buffer: int
) -> None:
    import sys

    prepare = sys.modules.get("prepare") or fresh("prepare")
    made = [
        np.array([9999, *range(i * 100, i * 100 + n - 1)], dtype=np.uint16) for i, n in enumerate(lengths)
    ]
    rows = list(prepare.corpus.packed_rows(iter(made), sequence_len, buffer, chunk_rows=2))
    flat = np.concatenate(rows) if rows else np.empty((0, sequence_len + 1))
    assert flat.shape[1:] == (sequence_len + 1,)
    assert len(flat) <= sum(lengths) // (sequence_len + 1)
    for row in flat:
        assert row[0] == 9999
        for piece in np.split(row, np.flatnonzero(row == 9999))[1:]:
            if len(piece) > 1:
                source = made[int(piece[1]) // 100]
                assert (piece == source[: len(piece)]).all(), "a piece is the beginning of its document"


def test_batches_follow_the_seed_and_nothing_else(fresh: Load) -> None:
    prepare = fresh("prepare", SEED="5")
    first = [(x.tolist(), y.tolist(), e) for x, y, e in islice(prepare.batches(4, 128), 3)]
    again = [(x.tolist(), y.tolist(), e) for x, y, e in islice(prepare.batches(4, 128), 3)]
    other = fresh("prepare", SEED="6")
    assert first == again
    assert first != [(x.tolist(), y.tolist(), e) for x, y, e in islice(other.batches(4, 128), 3)]
    x, y, epoch = first[0]
    assert (len(x), len(x[0]), epoch) == (4, 128, 1)
    assert [row[1:] for row in x] == [row[:-1] for row in y], "targets are the next tokens"


def test_an_epoch_serves_every_row_once(fresh: Load) -> None:
    prepare = fresh("prepare")
    rows = np.arange(10)[:, None] * 200 + np.arange(129)
    prepare.load_rows = lambda split: rows.astype("<u2")
    served = [(x[:, 0].tolist(), e) for x, _, e in islice(prepare.batches(3, 128), 7)]
    firsts = [value for batch, _ in served for value in batch]
    assert sorted(firsts[:10]) == sorted(firsts[10:20]) == list(range(0, 2000, 200))
    assert firsts[:10] != firsts[10:20]
    assert [e for _, e in served] == [1, 1, 1, 2, 2, 2, 3]


def test_a_shorter_sequence_cuts_rows_into_pieces_a_longer_one_is_refused(fresh: Load) -> None:
    prepare = fresh("prepare")
    x, y, _ = next(prepare.batches(4, 32))
    assert x.shape == y.shape == (4, 32)
    with pytest.raises(ValueError, match="at most 128"):
        next(prepare.batches(4, 256))


def test_preflight_needs_no_data(fresh: Load, tmp_path: Path) -> None:
    prepare = fresh("prepare", cache_dir=tmp_path / "nothing", PREFLIGHT="1")
    x, _, _ = next(prepare.batches(8, 128))
    assert x.shape == (8, 128)
    large = fresh("prepare", profile="gpu", cache_dir=tmp_path / "nothing", PREFLIGHT="1")
    x, _, _ = next(large.batches(128, 2048))
    assert x.shape == (2, 128)
    assert int(x.max()) < 8192


def test_the_budget_counts_cpu_seconds_of_this_process(fresh: Load) -> None:
    import time

    prepare = fresh("prepare", BUDGET_SECONDS="0.2")
    prepare.start_clock()
    budget = prepare.Budget("cpu")
    time.sleep(0.3)
    assert budget.progress < 0.5, "waiting costs nothing"
    end = time.process_time() + 0.25
    while time.process_time() < end:
        pass
    assert budget.progress == 1.0


def test_on_a_gpu_the_first_steps_cost_nothing(fresh: Load) -> None:
    import time

    prepare = fresh("prepare", BUDGET_SECONDS="0.05")
    budget = prepare.Budget("cuda")
    for _ in range(prepare.UNTIMED_STEPS - 1):
        budget.step()
    time.sleep(0.06)
    assert budget.progress == 0.0
    budget.step()
    time.sleep(0.06)
    assert budget.progress == 1.0


def test_an_unknown_profile_is_refused(fresh: Load) -> None:
    with pytest.raises(SystemExit, match="use one of cpu, gpu, gpu-sotu"):
        fresh("prepare", profile="tpu")
