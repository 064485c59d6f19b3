"""Numbers and times as people read them; plain text, no styling."""

from __future__ import annotations

from datetime import UTC, datetime

from autoresearch.console.look import Look
from autoresearch.experiment import Verdict
from autoresearch.report import Row
from autoresearch.untrusted import clean

DIED = "its dispatcher died; continue with `autoresearch run`, or `autoresearch up`"


def value(number: float | None, error: float | None = None, *, pm: str = "+-") -> str:
    """Return 0.97712 +-.0003; "-" for an absent value."""
    if number is None:
        return "-"
    return f"{number:.5f}" + (f" {pm}{short(error)}" if error is not None else "")


def short(number: float, digits: int = 4) -> str:
    """Return a small number without its leading zero: .0003."""
    text = f"{abs(number):.{digits}f}"
    return ("-" if number < 0 else "") + (text[1:] if text.startswith("0.") else text)


def signed(number: float | None, digits: int = 4) -> str:
    """Return a difference with its sign: -.0259."""
    if number is None:
        return ""
    return ("+" if number >= 0 else "") + short(number, digits)


def duration(seconds: float) -> str:
    """Return 45 s, 14 min, 3h12."""
    if seconds < 90:
        return f"{max(0, seconds):.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    hours, minutes = divmod(int(seconds // 60), 60)
    return f"{hours}h{minutes:02d}" if minutes else f"{hours}h"


def clock_time(at: float) -> str:
    """Return a moment as local hours and minutes."""
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%H:%M")


def iso(at: float | None) -> str | None:
    """Return a moment in ISO 8601, UTC."""
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def gain(best: Row | None, baseline: Row | None) -> str:
    """Return how much better the best is than the baseline: -2.59 % from 1.00310."""
    if best is None or baseline is None or best.value is None or not baseline.value:
        return ""
    if best.experiment == baseline.experiment:
        return "the baseline"
    return f"{100 * (best.value - baseline.value) / baseline.value:+.2f} % from {baseline.value:.5f}"


def elapsed(look: Look) -> str:
    """Return the hours used, and of how many."""
    used = duration(look.usage.hours * 3600)
    return f"{used} of {duration(look.budget.hours * 3600)}" if look.budget.hours is not None else used


def counts(look: Look) -> str:
    """Return how many experiments there were, and how they were judged."""
    verdicts = look.overview.verdicts
    ceiling = f" of {look.budget.experiments}" if look.budget.experiments is not None else ""
    judged = f"{kept(look)} keep   {verdicts[Verdict.DISCARD]} discard   {verdicts[Verdict.CRASH]} crash"
    proposed = f"{look.overview.experiments}{ceiling} experiments"
    return f"{proposed}   {judged}   {look.overview.in_flight} in flight"


def kept(look: Look) -> int:
    """Return how many proposals were kept; the baseline is none."""
    return max(0, look.overview.verdicts[Verdict.KEEP] - 1)


def money(look: Look) -> str:
    """Return what was spent, where anything costs money or has a ceiling."""
    parts = []
    for name, spent, ceiling in (
        ("GPU", look.usage.gpu_dollars, look.budget.gpu_dollars),
        ("API", look.usage.api_dollars, look.budget.api_dollars),
    ):
        if spent or ceiling is not None:
            parts.append(f"{name} ${spent:.2f}" + (f" of {ceiling:g}" if ceiling is not None else ""))
    if look.rate:
        parts.append(f"${look.rate:.2f}/h")
        if look.budget.hours is not None and look.alive:
            parts.append(f"on course for ${projection(look):.0f}")
    return "   ".join(parts)


def api(look: Look) -> str:
    """Return what the agent's calls took: per experiment, and tokens by kind; "" without calls."""
    usage = look.usage
    if not usage.api_calls:
        return ""
    tokens = usage.tokens
    each = f"{100 * usage.api_dollars / usage.experiments:.2f} c an experiment; " if usage.experiments else ""
    cached = (
        f"{thousands(tokens.cache_write_5m + tokens.cache_write_1h)}/{thousands(tokens.cache_read)} cache"
    )
    thought = f" ({thousands(tokens.thinking)} thinking)" if tokens.thinking else ""
    return f"{each}tokens: {thousands(tokens.input)} in, {cached}, {thousands(tokens.output)} out{thought}"


def thousands(count: int) -> str:
    """Return 950, 12k, 3.4M."""
    if count < 1000:
        return str(count)
    return f"{count / 1000:.0f}k" if count < 999_500 else f"{count / 1e6:.1f}M"


def projection(look: Look) -> float:
    """Return what the GPUs will have cost when the hours are over, at today's rate; USD."""
    left = max(0.0, (look.budget.hours or 0.0) - look.usage.hours)
    spent = look.usage.gpu_dollars + look.rate * left
    return spent if look.budget.gpu_dollars is None else min(spent, look.budget.gpu_dollars)


def prospects(look: Look) -> list[str]:
    """Return what the next hour promises, and what the noise hides, each in a line of at most 80 columns."""
    return [str(said) for said in (look.outlook, look.doubt) if said is not None]


def status_lines(look: Look, *, pm: str = "+-") -> list[str]:
    """Return the study at one look, in at most 80 columns: how good, how far, how busy, what next."""
    view = look.overview
    state = "running" if look.request == "none" else "stopping"
    if not look.alive:
        state = "paused after"
    dispatcher = "dispatcher alive" if look.alive else "nothing is being dispatched"
    best = "no result yet"
    if view.best and view.best.value is not None:
        best = f"best {value(view.best.value, view.best.standard_error, pm=pm)} ({view.best.experiment})"
        if view.baseline and view.baseline.value is not None:
            best += f", baseline {view.baseline.value:.5f}"
        best += f", {kept(look)} kept of {view.experiments}"
    busy = (
        f"{look.ready.replace('   ', ' + ') or look.pool}, {view.in_flight} in flight, backlog {look.backlog}"
    )
    if view.useful is not None and view.runs_per_hour is not None:
        busy += f", {100 * view.useful:.0f} % useful, {view.runs_per_hour:.0f} runs/h"
    lines = [f"{look.tag} {state} {elapsed(look)}, {dispatcher}, {look.agent}", best, busy]
    lines += [line[:120] for line in (look.trust.lines() if look.trust else ())]
    if money(look):
        lines.append(money(look).replace("   ", ", "))
    lines += prospects(look)
    if api(look):
        lines.append(f"API {api(look)}")
    if look.trouble:
        lines.append(f"agent: {look.trouble}")
    if (
        view.best
        and view.best.experiment != (view.baseline.experiment if view.baseline else "")
        and view.last_keep_at
    ):
        ago = duration(look.now - view.last_keep_at)
        lines.append(f"last keep {ago} ago: {clean(view.best.hypothesis)}"[:80])
    if look.waiting:
        lines.append(f"not ready: {', '.join(look.waiting)}"[:80])
    if not look.alive:
        lines.append(look.outcome or DIED)
    return lines
