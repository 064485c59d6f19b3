"""What a study has to show, as rows and figures. Pure; how it looks is the console's business."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoresearch.experiment import IN_FLIGHT, Experiment, Prior, Verdict
from autoresearch.history import BASELINE, History
from autoresearch.judging.pruning import pruned
from autoresearch.judging.statistics import Noise, best_estimate, estimate, noise
from autoresearch.untrusted import clean

UPSTREAM_METRIC = "val_bpb"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One experiment in the results table."""

    experiment: str
    value: float | None
    standard_error: float | None
    delta: float | None  # against the baseline on the same worker kind
    runs: int
    kind: str | None
    verdict: Verdict | None
    reason: str
    hypothesis: str
    author: str
    parent: str | None
    commit: str | None
    memory_gb: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """A study at one look."""

    study: str
    best: Row | None
    baseline: Row | None
    experiments: int
    verdicts: Mapping[Verdict, int]
    in_flight: int
    queued: int
    runs_finished: int
    runs_per_hour: float | None
    useful: float | None  # share of worker time in runs that were measured, since the first start
    last_keep_at: float | None
    noise: Noise | None


def results(history: History) -> list[Row]:
    """Return one row an experiment, the best first, then those without a value."""
    spread = {kind: noise(history, kind) for kind in {run.worker_kind or "" for run in history.all_runs()}}
    rows = [_row(history, e, spread) for e in history.experiments.values()]
    return sorted(rows, key=lambda r: (r.value is None, history.goal.sign * (r.value or 0.0), r.experiment))


def _row(history: History, experiment: Experiment, spread: Mapping[str, Noise | None]) -> Row:
    value = best_estimate(history, experiment.id)
    base = estimate(history, BASELINE, value.kind) if value and experiment.id != BASELINE else None
    memory = [r.measurement.memory_gb for r in history.runs_of(experiment.id) if r.measurement]
    return Row(
        experiment=experiment.id,
        value=value.mean if value else None,
        standard_error=value.standard_error(spread.get(value.kind)) if value else None,
        delta=value.mean - base.mean if value and base else None,
        runs=len(history.finished(experiment.id)),
        kind=value.kind if value else None,
        verdict=experiment.verdict,
        reason=experiment.reason,
        hypothesis=experiment.hypothesis,
        author=experiment.author,
        parent=experiment.parent,
        commit=experiment.commit,
        memory_gb=max((m for m in memory if m is not None), default=None),
    )


def overview(
    history: History, study: str, *, workers: int, now: float, allocated_seconds: float = 0.0
) -> Overview:
    """Return a study's figures at a moment. `workers` is the size of the pool.

    Where workers are paid for whether busy or not, `allocated_seconds` is what they were paid for.
    """
    incumbent = history.incumbent()
    kinds = {
        run.worker_kind or ""
        for id_ in (BASELINE, incumbent and incumbent.id)
        for run in history.runs_of(id_ or "")
    }
    spread = {kind: noise(history, kind) for kind in kinds}
    start = history.experiments.get(BASELINE)
    best = _row(history, incumbent, spread) if incumbent else None
    verdicts = {v: sum(1 for e in history.experiments.values() if e.verdict is v) for v in Verdict}
    done = [run for run in history.all_runs() if run.measurement is not None]
    starts = [run.submitted_at for run in history.all_runs() if run.submitted_at is not None]
    elapsed = now - min(starts) if starts else 0.0
    paid = allocated_seconds or elapsed * workers
    return Overview(
        study=study,
        best=best,
        baseline=_row(history, start, spread) if start else None,
        experiments=history.proposed(),
        verdicts=verdicts,
        in_flight=len(history.in_flight()),
        queued=len(history.queued()),
        runs_finished=len(done),
        runs_per_hour=3600 * len(done) / elapsed if elapsed > 0 else None,
        useful=min(1.0, useful_seconds(history, now) / paid) if paid > 0 else None,
        last_keep_at=incumbent.judged_at if incumbent else None,
        noise=spread.get(best.kind) if best and best.kind else None,
    )


def useful_seconds(history: History, now: float) -> float:
    """Return how long workers have trained: runs that were measured, and those in flight up to now."""
    seconds = 0.0
    for run in history.all_runs():
        began = run.submitted_at if run.started_at is None else run.started_at
        if began is not None and (run.measurement is not None or run.state in IN_FLIGHT):
            seconds += max(0.0, (now if run.ended_at is None else run.ended_at) - began)
    return seconds


def results_tsv(history: History, priors: Sequence[Prior] = (), metric: str = UPSTREAM_METRIC) -> str:
    """Return results.tsv as upstream tools read it: five columns, judged experiments in order.

    Results from before the study come first, then the study's baseline. A crash is written as
    0.000000 and 0.0 here and nowhere else. So is what was ended early, with `pruned: ` before its
    description: a discard without a value would be drawn at 0, the best there is, and left out an idea
    would seem untried. What else was judged without a value is left out.
    """
    spread: dict[str, Noise | None] = {}
    lines = [f"commit\t{metric}\tmemory_gb\tstatus\tdescription"]
    lines += [_line(p.commit, p.value, p.memory_gb, p.status, p.description) for p in priors]
    for experiment in history.experiments.values():
        row = _row(history, experiment, spread)
        hopeless = row.value is None and pruned(history.runs_of(experiment.id)) is not None
        crashed = experiment.verdict is Verdict.CRASH or hopeless
        if experiment.verdict is None or (row.value is None and not crashed):
            continue
        value, memory = (None, None) if crashed else (row.value, row.memory_gb)
        text = "pruned: " * hopeless + clean(experiment.hypothesis, 400)
        status = str(Verdict.CRASH if crashed else experiment.verdict)
        lines.append(_line(row.commit or experiment.id, value, memory, status, text))
    return "\n".join(lines) + "\n"


def _line(commit: str, value: float | None, memory_gb: float | None, status: str, description: str) -> str:
    short = commit[:7] if _HASH.fullmatch(commit) else commit
    return "\t".join((short, f"{value or 0.0:.6f}", f"{memory_gb or 0.0:.1f}", status, description))


_HASH = re.compile(r"[0-9a-f]{8,40}")  # other names that tables use, such as `baseline`, stay whole
