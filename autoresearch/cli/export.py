"""Commands that write files from a study: plot, export."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import typer

from autoresearch.cli.common import existing_study
from autoresearch.cli.look import field_of, run_document
from autoresearch.cli.output import say
from autoresearch.errors import NotFoundError
from autoresearch.files import write_whole
from autoresearch.plotting import plot_progress
from autoresearch.report import Row, results_tsv
from autoresearch.report import results as result_rows


def plot(folder: Path, study: str | None, path: Path) -> None:
    """Draw progress.png."""
    opened = existing_study(folder, study)
    if not plot_progress(opened.store.history(), path, metric=opened.target.metric.name):
        raise NotFoundError("nothing is measured yet", "`autoresearch status` shows how far the baseline is")
    say(f"wrote {path}")


def export(folder: Path, study: str | None, path: Path | None, *, as_json: bool) -> None:
    """Write all results: results.tsv as upstream tools read it, or everything as JSON."""
    opened = existing_study(folder, study)
    history = opened.store.history()
    priors = opened.store.priors()
    content = results_tsv(history, priors, opened.target.metric.name)
    if as_json:
        rows = [
            {
                **{name: field_of(row, name) for name in Row.__slots__},
                "runs": [run_document(r) for r in history.runs_of(row.experiment)],
            }
            for row in result_rows(history)
        ]
        document = {"schema_version": 1, "study": opened.tag, "experiments": rows}
        document["earlier"] = [asdict(prior) for prior in priors]
        content = json.dumps(document, indent=1) + "\n"
    if path is None:
        typer.echo(content, nl=False)
    else:
        write_whole(path, content.encode())
        say(f"wrote {path}")
