"""The SQLite store keeps the contract, and what only a file can break."""

from __future__ import annotations

import multiprocessing
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoresearch.errors import StorageError
from autoresearch.experiment import Measurement, Verdict
from autoresearch.store import Store
from store_contract import NOW, StoreContract, admitted, begin, proposal, submitted


@pytest.fixture(params=[True, False], ids=["durable", "fast"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "study.db", durable=request.param)
    yield opened
    opened.close()


class TestSqliteStore(StoreContract):
    @pytest.fixture
    def store(self, store: Store) -> Store:
        return store


@pytest.mark.parametrize(
    "statement",
    [
        "update run set value = 0.1 where id = 'e0001.1'",
        "delete from run where id = 'e0001.1'",
        "update experiment set verdict = 'discard' where id = 'e0001'",
        "delete from experiment where id = 'e0001'",
        "update job set ended_at = 1 where run = 'e0001.1'",
        "delete from job",
        "update event set data = '{}'",
        "delete from event",
    ],
)
def test_the_database_itself_refuses_to_rewrite_history(store: Store, tmp_path: Path, statement: str) -> None:
    begin(store)
    store.close_run(submitted(store), measurement=Measurement(value=1.0), now=NOW)
    store.decide("e0001", Verdict.KEEP, "r", NOW)
    other = sqlite3.connect(tmp_path / "study.db")
    with pytest.raises(sqlite3.IntegrityError):
        other.execute(statement)
    other.close()


def test_a_reopened_store_knows_everything(tmp_path: Path) -> None:
    first = Store(tmp_path / "study.db")
    begin(first)
    admitted(first)
    submitted(first)
    before = first.history()
    first.close()
    second = Store(tmp_path / "study.db")
    assert second.history() == before
    second.close()


def test_what_another_process_writes_is_seen(store: Store, tmp_path: Path) -> None:
    begin(store)
    assert len(store.history().experiments) == 1
    other = Store(tmp_path / "study.db")
    admitted(other)
    other.decide("e0001", Verdict.KEEP, "r", NOW)
    other.close()
    history = store.history()
    assert len(history.experiments) == 2
    assert history.experiments["e0001"].verdict is Verdict.KEEP


def _propose_many(path: Path, who: int) -> None:
    store = Store(path)
    for i in range(25):
        store.add_proposals([proposal(hypothesis=f"{who}:{i}")], NOW)
    store.close()


def test_processes_that_write_at_once_lose_nothing(store: Store, tmp_path: Path) -> None:
    begin(store)
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_propose_many, args=(tmp_path / "study.db", who)) for who in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    waiting = store.waiting_proposals()
    assert len({p.hypothesis for p in waiting}) == 100
    assert len({p.number for p in waiting}) == 100


def test_a_newer_database_is_refused_with_the_way_out(tmp_path: Path) -> None:
    Store(tmp_path / "study.db").close()
    raw = sqlite3.connect(tmp_path / "study.db")
    raw.execute("pragma user_version = 99")
    raw.commit()
    raw.close()
    with pytest.raises(StorageError, match="newer autoresearch"):
        Store(tmp_path / "study.db")


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(b"this is not a database, it is a text file" * 50)
    with pytest.raises(StorageError, match="damaged"):
        Store(tmp_path / "study.db")


def test_a_full_disk_is_said_and_nothing_is_lost(store: Store, tmp_path: Path) -> None:
    begin(store)
    pages = int(store._db.execute("pragma page_count").fetchone()[0])
    store._db.execute(f"pragma max_page_count = {pages}")
    with pytest.raises(StorageError, match="disk is full") as error:
        store.add_proposals([proposal(hypothesis="x" * 2000)] * 200, NOW)
    assert "free some space" in error.value.hint
    store._db.execute("pragma max_page_count = 1000000")
    kept = store.proposal_count()
    store.add_proposals([proposal()], NOW)
    assert store.proposal_count() == kept + 1
