"""The live screen of `run` and `status --watch`, for Rich. Fits 80 columns and any height."""

from __future__ import annotations

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from autoresearch.console import text
from autoresearch.console.look import Line, Look, Note
from autoresearch.experiment import RunState

STYLES = {
    "keep": "green",
    "discard": "dim",
    "crash": "red",
    "refused": "dim",
    "requeued": "yellow",
    "agent_failed": "yellow",
}
VERDICT_STYLES = {"keep": "green", "crash": "red", "discard": "dim", "open": "cyan"}
BAR_CELLS = 10
HEAD_LINES = 9  # of the screen, beside workers and notes


class Screen:
    """One look as a renderable. `footer` is the last line: what the person can do."""

    def __init__(self, look: Look, footer: str) -> None:
        self._look = look
        self._footer = footer

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield header, workers and notes, as many of each as fit the height."""
        pm = "±" if console.encoding.lower().startswith("utf") else "+-"
        yield from _head(self._look, pm, options.max_width)
        height = options.size.height
        notes = self._look.notes[-max(1, min(5, height - HEAD_LINES - len(self._look.lines))) :]
        room = max(2, height - HEAD_LINES - len(notes))
        yield _workers(self._look.lines[:room], ascii_only=not pm.startswith("±"))
        if len(self._look.lines) > room:
            yield Text(f"... and {len(self._look.lines) - room} more workers", style="dim")
        yield Text()
        yield from (_note(note) for note in notes)
        yield Text(self._footer, style="dim", no_wrap=True, overflow="ellipsis")


def _head(look: Look, pm: str, width: int) -> list[Text]:
    view = look.overview
    left, right = f"{look.tag}  {look.target}", f"{look.pool}   {look.agent}   {text.elapsed(look)}"
    gap = max(3, width - len(left) - len(right))
    lines = [_line((left, "bold"), (" " * gap + right, ""))]
    best = view.best
    if best and best.value is not None:
        shown = [("best    ", "dim"), (text.value(best.value, best.standard_error, pm=pm), "bold green")]
        rest = f"   {best.experiment}   {text.gain(best, view.baseline)}"
        if view.baseline and best.experiment != view.baseline.experiment:
            rest += f"   {best.hypothesis}"
        lines.append(_line(*shown, (rest, "")))
    else:
        lines.append(_line(("best    ", "dim"), ("the baseline is being measured", "")))
    busy = f"{view.in_flight} of {look.workers} busy   {view.queued} queued"
    if view.useful is not None and view.runs_per_hour is not None:
        busy = f"{100 * view.useful:.0f} % useful   {view.runs_per_hour:.0f} runs/h   " + busy
    lines.append(_line(("pool    ", "dim"), (busy, "")))
    if text.money(look):
        lines.append(_line(("spent   ", "dim"), (text.money(look), "")))
    noise = f"   noise of one run {pm}{text.short(view.noise.sigma)}" if view.noise else ""
    lines.append(_line(("so far  ", "dim"), (text.counts(look) + noise, "")))
    lines.append(Text())
    return lines


def _line(*parts: tuple[str, str]) -> Text:
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


def _workers(lines: tuple[Line, ...], *, ascii_only: bool) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), expand=True, header_style="dim", show_edge=False)
    for name, justify in (("worker", "left"), ("run", "left"), ("for", "left"), ("progress", "left")):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for name in ("loss", "vs best"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("hypothesis", ratio=1, no_wrap=True, overflow="ellipsis")
    for line in lines:
        table.add_row(
            Text(line.worker),
            Text(line.run, style="cyan"),
            Text(line.purpose),
            Text(_bar(line, ascii_only=ascii_only)),
            Text(f"{line.loss:.3f}" if line.loss is not None else "", style="dim"),
            Text(text.signed(line.against_best, 3), style="dim"),
            Text(line.hypothesis),
        )
    return table


def _bar(line: Line, *, ascii_only: bool) -> str:
    if line.share is None:
        return "starting" if line.state in {RunState.SUBMITTING, RunState.RUNNING} else ""
    full, empty = ("#", "-") if ascii_only else ("█", "░")
    filled = round(line.share * BAR_CELLS)
    if line.share >= 0.999:
        return full * BAR_CELLS + " eval"
    return full * filled + empty * (BAR_CELLS - filled) + f" {100 * line.share:3.0f} %"


def _note(note: Note) -> Text:
    style = STYLES.get(note.kind, "")
    return _line(
        (f"{text.clock_time(note.at)}  ", "dim"),
        (f"{note.kind:<8} {note.subject:<7} ", style),
        (note.text, "dim"),
    )


def results_table(rows: list[dict[str, str]], columns: list[str]) -> Table:
    """Return a table of results; the last column is cut first, numbers never."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    for i, name in enumerate(columns):
        if i == len(columns) - 1:
            table.add_column(name, ratio=1, no_wrap=True, overflow="ellipsis")
        else:
            widest = max([len(name), *(len(row[name]) for row in rows)])
            table.add_column(name, no_wrap=True, min_width=widest)
    for row in rows:
        style = VERDICT_STYLES.get(row.get("verdict", ""), "")
        table.add_row(*(Text(row[name], style=style) for name in columns))
    return table
