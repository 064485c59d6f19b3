"""The live screen of `run` and `status --watch`, for Rich. Fits 80 columns and any height."""

from __future__ import annotations

from rich.console import Console, ConsoleOptions, OverflowMethod, RenderResult
from rich.table import Table
from rich.text import Text

from autoresearch.console import text
from autoresearch.console.look import Line, Look, Note
from autoresearch.untrusted import clean

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


class Screen:
    """One look as a renderable. `footer` is the last line: what the person can do."""

    def __init__(self, look: Look, footer: str) -> None:
        self._look = look
        self._footer = footer

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield header, workers and notes, as many of each as fit the height."""
        unicode = console.encoding.lower().startswith("utf")
        drawing = _Drawing(unicode=unicode, width=options.max_width)
        head = drawing.head(self._look)
        rows = self._look.lines
        room = options.size.height - len(head) - 3  # the table's header, a blank line, the footer
        notes = self._look.notes[-max(1, min(5, room - len(rows))) :]
        room -= len(notes)
        shown = rows if len(rows) <= room else rows[: max(1, room - 1)]
        yield from head
        yield drawing.workers(shown)
        if len(rows) > len(shown):
            yield Text(f"and {len(rows) - len(shown)} more workers", style="dim")
        yield Text()
        yield from (drawing.note(note) for note in notes)
        yield drawing.line((self._footer, "dim"))


class _Drawing:
    """The parts of the screen for one kind of terminal."""

    def __init__(self, *, unicode: bool, width: int) -> None:
        self._unicode = unicode
        self._width = width
        self._overflow: OverflowMethod = "ellipsis" if unicode else "crop"
        self._pm = "±" if unicode else "+-"

    def line(self, *parts: tuple[str, str]) -> Text:
        """Return (text, style) parts on one line, cut at the end."""
        return Text.assemble(*parts, no_wrap=True, overflow=self._overflow)

    def head(self, look: Look) -> list[Text]:
        """Return the lines that say how good it is, how busy, and what was spent."""
        view, best = look.overview, look.overview.best
        lines = [self.line(*self._title(look))]
        if best and best.value is not None:
            about = f"   {best.experiment}   {text.gain(best, view.baseline)}"
            if view.baseline and best.experiment != view.baseline.experiment:
                about += f"   {clean(best.hypothesis)}"
            shown = text.value(best.value, best.standard_error, pm=self._pm)
            lines.append(self.line(("best    ", "dim"), (shown, "bold green"), (about, "")))
        else:
            lines.append(self.line(("best    ", "dim"), ("the baseline is being measured", "")))
        busy = f"{view.in_flight} of {look.workers} busy   backlog {look.backlog}"
        if look.ready:
            busy = f"{look.ready}   {view.in_flight} in flight   backlog {look.backlog}"
        if view.useful is not None and view.runs_per_hour is not None:
            busy = f"{100 * view.useful:.0f} % useful   {view.runs_per_hour:.0f} runs/h   {busy}"
        if view.noise:
            busy += f"   noise {self._pm}{text.short(view.noise.sigma)}"
        lines.append(self.line(("pool    ", "dim"), (busy, "")))
        if text.money(look):
            lines.append(self.line(("spent   ", "dim"), (text.money(look), "")))
        if look.outlook:
            lines.append(self.line(("phase   ", "dim"), (str(look.outlook), "")))
        if look.doubt:
            lines.append(self.line(("noise   ", "dim"), (str(look.doubt).removeprefix("noise "), "yellow")))
        if text.api(look):
            lines.append(self.line(("agent   ", "dim"), (text.api(look), "dim")))
        if look.trouble:
            lines.append(self.line(("agent   ", "dim"), (look.trouble, "yellow")))
        if look.waiting:
            lines.append(self.line(("waiting ", "dim"), (", ".join(look.waiting), "dim")))
        lines.append(self.line(("so far  ", "dim"), (text.counts(look), "")))
        warnings = look.trust.lines() if look.trust else ()
        lines += [self.line(("trust   ", "dim"), (warning, "yellow")) for warning in warnings]
        return [*lines, Text()]

    def _title(self, look: Look) -> list[tuple[str, str]]:
        """Return tag and target on the left, pool, agent and time on the right; the target is cut first."""
        right = f"{look.pool}   {look.agent}   {text.elapsed(look)}"
        left = f"{look.tag}  {look.target}"
        gap = self._width - len(left) - len(right)
        if gap < 3:
            left, gap = left[: max(len(look.tag), self._width - len(right) - 3)], 3
        return [(left, "bold"), (" " * gap + right, "")]

    def workers(self, lines: tuple[Line, ...]) -> Table:
        """Return the table of what runs."""
        table = Table(box=None, padding=(0, 1, 0, 0), expand=True, header_style="dim", show_edge=False)
        for name in ("worker", "run", "for", "progress"):
            table.add_column(name, no_wrap=True)
        for name in ("loss", "vs best"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("hypothesis", ratio=1, no_wrap=True, overflow=self._overflow)
        for line in lines:
            table.add_row(
                Text(line.worker),
                Text(line.run, style="cyan"),
                Text(line.purpose),
                Text(self._bar(line)),
                Text(f"{line.loss:.3f}" if line.loss is not None else "", style="dim"),
                Text(text.signed(line.against_best, 3), style="dim"),
                Text(line.hypothesis),
            )
        return table

    def _bar(self, line: Line) -> str:
        if line.share is None:
            return "waits" if line.behind else "starting"
        full, empty = ("█", "░") if self._unicode else ("#", "-")
        filled = round(line.share * BAR_CELLS)
        if line.share >= 0.999:
            return full * BAR_CELLS + " eval"
        about = "~" if line.estimated else " "
        return full * filled + empty * (BAR_CELLS - filled) + f"{about}{100 * line.share:3.0f} %"

    def note(self, note: Note) -> Text:
        """Return one line of what happened."""
        style = STYLES.get(note.kind, "")
        what = f"{note.kind:<8} {note.subject:<7} "
        return self.line((f"{text.clock_time(note.at)}  ", "dim"), (what, style), (note.text, "dim"))


def results_table(rows: list[dict[str, str]], columns: list[str]) -> Table:
    """Return a table of results; the last column is cut first, numbers never."""
    table = Table(box=None, padding=(0, 2, 0, 0), expand=True, header_style="dim", show_edge=False)
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
