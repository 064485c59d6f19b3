"""A new folder becomes a results table, with real training, by the real command."""

from __future__ import annotations

import csv
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.alone
def test_an_empty_folder_becomes_a_results_table(tmp_path: Path, cli: Cli, cache: Path) -> None:
    """As `make run` does, with a tenth of its training: scaffold, measure, judge, report."""
    pytest.importorskip("optuna", reason="the sweep agent needs autoresearch[sweep]")
    folder = tmp_path / "empty"
    folder.mkdir()
    environment = {"AUTORESEARCH_CACHE": str(cache)}
    made = cli("init", cwd=folder, env=environment)
    assert made.returncode == 0, made.stderr
    config = folder / "autoresearch.yaml"
    config.write_text(config.read_text().replace("{cpu: 20, gpu: 300}", "{cpu: 2, gpu: 300}"))
    done = cli("run", "--experiments", "3", cwd=folder, env=environment, timeout=500)
    assert done.returncode == 0, done.stderr
    status = json.loads(cli("status", "--json", cwd=folder).stdout)
    assert (status["experiments"], status["verdicts"]["crash"]) == (3, 0)
    assert status["verdicts"]["keep"] + status["verdicts"]["discard"] == 4
    assert 1.7 < status["best"]["value"] < 2.6
    assert status["noise"] > 0
    with (folder / "results.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert rows[0]["description"] == "baseline"
    assert len(rows) == 4
    assert all(re.fullmatch(r"\d\.\d{6}", row["val_bpb"]) for row in rows)
    shown = json.loads(cli("show", "e0001", "--json", cwd=folder).stdout)
    measured = [run for run in shown["runs"] if run["state"] == "finished"]
    assert {run["kind"] for run in measured} == {"cpu"}
    assert len({run["value"] for run in measured}) == len(measured) >= 3, "other seeds, other values"
    assert all(1.5 < run["hidden"] < 2.8 for run in measured)
    assert "unsandboxed" not in status or not offered()
    assert (folder / "progress.png").stat().st_size > 10_000
    verified = cli("verify", "e0001", "--rerun", cwd=folder, env=environment)
    assert verified.returncode == 0, verified.stdout
    told = json.loads(verified.stdout)
    assert told["failed"] == []
    assert [row["agrees"] for row in told["rerun"]] == [True]
    database = next((folder / ".autoresearch").glob("*/study.db"))
    with closing(sqlite3.connect(database)) as db:
        db.execute("drop trigger run_is_over")
        for digest in ("code", "protected", "evaluator"):
            change = f"facts = json_replace(facts, '$.digests.{digest}', 'another')"
            db.execute(f"update run set {change} where id = 'e0002.1'")
            db.commit()
            told = json.loads(cli("verify", "e0001", "e0002", cwd=folder).stdout)
            assert {row["fact"] for row in told["failed"]} == {"value", "digests"}, digest


def offered() -> bool:
    """Whether this machine can hold edited code at all."""
    script = Path(__file__).resolve().parents[2] / "train" / "sandbox.py"
    told = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout
    return not json.loads(told)["reason"]
