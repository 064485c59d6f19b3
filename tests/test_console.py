"""Screens stay readable at 80 columns and with 16 workers; the hypothesis is cut first, never a number."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from autoresearch.budget import Budget, Usage
from autoresearch.console import text
from autoresearch.console.live import Screen, results_table
from autoresearch.console.look import Line, Look, Note, Watcher
from autoresearch.experiment import Purpose, RunState, Verdict
from autoresearch.report import overview
from builders import baseline, experiment, history, run
from lab import Lab, set_x

LONG = "widen the model and warm the learning rate down over the last six tenths of the budget"


def look(workers: int = 16, **changes: object) -> Look:
    past = history(
        *baseline(1.00310, 1.00250),
        experiment(2, Verdict.KEEP, hypothesis=LONG),
        run("e0002.1", 0.97712, submitted_at=0.0, ended_at=350.0),
        run("e0002.2", 0.97722, purpose=Purpose.CONFIRM, submitted_at=0.0, ended_at=350.0),
        experiment(3),
        run("e0003.1", state=RunState.RUNNING, submitted_at=100.0),
    )
    lines = tuple(
        Line(
            worker=f"h100-{i:02d}",
            run=f"e{540 + i:04d}.1",
            purpose="screen",
            state=RunState.RUNNING,
            share=None if i == 2 else i / 16,
            estimated=i == 3,
            behind=False,
            loss=None if i == 2 else 2.713,
            against_best=-0.004 if i % 2 else 0.012,
            hypothesis=LONG,
        )
        for i in range(1, workers + 1)
    )
    notes = tuple(
        Note(at=1_700_000_000.0, kind=kind, subject="e0541", text="-.0011 +-.0004, 3 runs   " + LONG)
        for kind in ("keep", "discard", "crash", "refused", "requeued")
    )
    values = {
        "tag": "nov22",
        "target": "train.py -> val_bpb, lower is better",
        "pool": "13 H100 + 3 H200",
        "agent": "sweep",
        "alive": True,
        "request": "none",
        "outcome": None,
        "now": 1000.0,
        "overview": overview(past, "nov22", workers=workers, now=1000.0),
        "budget": Budget(hours=8, gpu_dollars=300, experiments=900),
        "usage": Usage(hours=3.2, gpu_dollars=104.2),
        "lines": lines,
        "notes": notes,
        "workers": workers,
    }
    return Look(**{**values, **changes})  # type: ignore[arg-type]


def drawn(seen: Look, width: int, height: int, *, encoding: str = "utf-8") -> list[str]:
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=out, width=width, height=height, force_terminal=True, color_system=None)
    console.print(Screen(seen, "Ctrl-C finishes what runs and stops; twice cancels it."))
    out.seek(0)
    return [line.rstrip() for line in out.read().splitlines()]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (80, 40), (100, 50), (160, 30)])
def test_the_screen_fits_with_sixteen_workers(width: int, height: int) -> None:
    lines = drawn(look(), width, height)
    assert len(lines) <= height
    assert max(len(line) for line in lines) <= width
    page = "\n".join(lines)
    for part in (
        "nov22",
        "13 H100 + 3 H200",
        "0.97722",
        "GPU $104.20 of 300",
        "e0541.1",
        "2.713",
        "-.004",
        "Ctrl-C",
    ):
        assert part in page, part
    hidden = [line for line in lines if "more workers" in line]
    assert bool(hidden) == (height < 30)


def test_at_eighty_columns_the_hypothesis_is_cut_and_no_number() -> None:
    lines = drawn(look(), 80, 40)
    row = next(line for line in lines if line.startswith("h100-03"))
    assert row.split()[:3] == ["h100-03", "e0543.1", "screen"]
    assert "19 %" in row
    assert "2.713" in row
    assert row.endswith("…")


def test_a_terminal_without_unicode_gets_ascii() -> None:
    page = "\n".join(drawn(look(), 80, 40, encoding="ascii"))
    assert "##" in page
    assert "+-" in page
    page.encode("ascii")


def test_untrusted_text_cannot_style_or_move_anything() -> None:
    evil = "[bold red]x[/] \x1b[2J\x1b]0;owned\x07"
    seen = look(notes=(Note(at=0.0, kind="crash", subject="e0001", text=evil),))
    page = "\n".join(drawn(seen, 100, 40))
    assert "[bold red]x[/]" in page, "markup is shown, not obeyed"


@pytest.mark.parametrize("alive", [True, False])
def test_status_is_a_few_lines_of_eighty_columns(alive: bool) -> None:
    lines = text.status_lines(look(alive=alive, outcome="budget reached: hours, 8.00 of 8"))
    assert all(len(line) <= 80 for line in lines)
    assert lines[0].startswith("nov22 running 3h12 of 8h," if alive else "nov22 paused after 3h12 of 8h,")
    assert lines[1] == "best 0.97722 +-.0004 (e0002), baseline 1.00280, 1 kept of 2"
    assert "GPU $104.20 of 300" in lines
    assert (lines[-1] == "budget reached: hours, 8.00 of 8") is not alive


def test_the_results_table_keeps_its_numbers_at_eighty_columns() -> None:
    columns = ["experiment", "val_bpb", "delta", "runs", "on", "verdict", "hypothesis"]
    row = dict(zip(columns, ["e0187", "0.97712 ±.0003", "-.0259", "5", "H100", "keep", LONG], strict=True))
    out = io.StringIO()
    Console(file=out, width=80, color_system=None).print(results_table([row], columns))
    assert "e0187       0.97712 ±.0003  -.0259  5     H100  keep     widen" in out.getvalue()


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0 s"), (45, "45 s"), (840, "14 min"), (11_520, "3h12"), (86_400, "24h")]
)
def test_durations(seconds: float, shown: str) -> None:
    assert text.duration(seconds) == shown


def test_numbers() -> None:
    assert text.value(0.977121, 0.00031) == "0.97712 +-.0003"
    assert text.value(None) == "-"
    assert text.signed(-0.02591) == "-.0259"
    assert text.signed(1.5) == "+1.5000"
    assert text.signed(None) == ""
    assert text.iso(0) == "1970-01-01T00:00:00+00:00"


def test_a_watcher_sees_progress_against_the_best_at_equal_progress(lab: Lab) -> None:
    """Two runs whose logs we write: the best's curve, and one half way."""
    study, _ = lab.run([set_x(1.5)])
    best = study.store.history().finished("e0002")[0]
    log = study.job_folder(best) / "log"
    log.write_text("".join(f"\rstep {i:05d} ({i}.0%) | loss: {5 - i / 50:.6f} | lrm: 1" for i in range(100)))
    waiting = study.store.history().runs_of("e0001")[0]
    folder = study.job_folder(waiting)
    (folder / "log").write_text("\rstep 00050 (50.0%) | loss: 3.900000 | lrm: 1.00 | tok/sec: 1,000")
    watcher = Watcher(study)
    watcher._learn_curve(study.store.history())
    line = watcher._line(study.store.history(), waiting)
    assert (line.share, line.loss) == (0.5, 3.9)
    assert line.against_best == pytest.approx(-0.1)
    seen = watcher.look(1_800_000_000.0)
    assert not seen.alive
    assert seen.pool == "2 cpu"
    assert [note.kind for note in seen.notes][-1] == "keep"


def test_a_pool_that_is_paid_for_shows_who_is_ready_what_it_costs_and_who_is_waited_for() -> None:
    seen = look(ready="H100 12/13   H200 3/3", rate=32.9, waiting=("h100-13 launching",))
    shown = "\n".join(drawn(seen, 100, 40))
    assert "H100 12/13   H200 3/3" in shown
    assert "GPU $104.20 of 300   $32.90/h   on course for $262" in shown
    assert "waiting h100-13 launching" in shown
    assert "~ 19 %" in shown, "progress that only the clock tells is marked"
    told = "\n".join(text.status_lines(seen))
    assert "H100 12/13 + H200 3/3, " in told
    assert "not ready: h100-13 launching" in told
    assert all(len(line) <= 80 for line in text.status_lines(seen))
