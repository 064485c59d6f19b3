"""The words in which a brief is told: terse, bounded whatever the history, and safe. Pure.

Tokens are money, so facts stand in lines of columns. What anybody wrote passes through `quoted`: it
is one line, never begins one, so cannot open a section, and looks like nothing that a prompt is built of.
What an experiment printed does not appear.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, zip_longest

from autoresearch.brief import Brief, Tried
from autoresearch.experiment import Edit, Files, Goal, Verdict
from autoresearch.findings import Family
from autoresearch.history import BASELINE
from autoresearch.patch import unified_diff
from autoresearch.untrusted import quoted

MAX_CHARS = 24_000  # 8,000 tokens at 3 characters each
LIMITS: Mapping[str, tuple[int, int]] = {  # of each section: lines; characters, its title among them
    "head": (8, 1300),
    "best": (12, 2000),
    "families": (40, 4000),
    "rework": (10, 2100),
    "near": (6, 1400),
    "pending": (60, 3900),
    "last": (15, 2400),
    "predictions": (1, 200),
    "refused": (12, 2200),
    "prior": (20, 1400),
    "memory": (1, 100),
    "notes": (3, 2250),
    "calls": (2, 700),
}
BRIEF_BYTES = 1600
BRIEF_LIMITS: Mapping[str, tuple[int, int]] = {  # the same for those who look often
    "head": (4, 560),
    "best": (3, 260),
    "rework": (2, 170),
    "pending": (3, 190),
    "last": (3, 270),
    "refused": (1, 120),
}
_SHORT_TITLES: Mapping[str, str] = {
    "head": "",
    "rework": "# Promising on an old base; do it anew",
    "pending": "# Pending",
    "last": "# Last: id, verdict, change (expected)",
    "refused": "# Refused last",
}
ANCHOR_CHARS = 6_000  # of difference, before code is told anew
CHANGES_CHARS = 4_800  # of what the ideas to be done anew changed
VALUES = 8  # of a constant, that are listed
PLACES = 5  # after the point
MEMORY_GB: Mapping[str, int] = {  # of accelerators, by SkyPilot's names
    **dict.fromkeys(("P100", "T4", "V100"), 16),
    **dict.fromkeys(("A10", "A10G", "L4", "RTX3090", "RTX4090"), 24),
    **dict.fromkeys(("RTX5090", "V100-32GB"), 32),
    "A100": 40,
    **dict.fromkeys(("A40", "A6000", "L40", "L40S"), 48),
    **dict.fromkeys(("A100-80GB", "H100", "H100-SXM"), 80),
    **dict.fromkeys(("GH200", "H20"), 96),
    "H200": 141,
    "B200": 180,
    "GB200": 186,
    "MI300X": 192,
    "B300": 270,
}
_PLAIN = (1e-8, 1e9)  # numbers outside are written with an exponent
_LEADING_ZERO = re.compile(r"^([+-]?)0\.")
_NO_NAME = re.compile(r"^-+|[^\w.-]")
Lines = Iterator[str]


def tell(brief: Brief) -> str:
    """Return all an agent is told beside rules, instructions and code; at most MAX_CHARS characters."""
    told = (_section(title, lines, *LIMITS[name]) for name, title, lines in _sections(brief))
    return "\n\n".join(filter(None, told))


def tell_briefly(brief: Brief) -> str:
    """Return what matters most now, in a few lines of each kind; at most BRIEF_BYTES bytes."""
    sections = {name: (title, lines) for name, title, lines in _sections(brief)}
    told = (
        _section(_SHORT_TITLES.get(name, sections[name][0].split(":")[0]), sections[name][1], *limit)
        for name, limit in BRIEF_LIMITS.items()
    )
    return "\n\n".join(filter(None, told))


def best_code(brief: Brief) -> str:
    """Return how the best code differs from the anchor's, and what the ideas to be done anew changed.

    Unified diffs; of the latter at most CHANGES_CHARS characters, the best ideas first.
    """
    difference = unified_diff(brief.anchor_files, brief.files)
    best = "The best code is exactly the code above."
    if difference:
        best = f"The best code, {brief.parent}, is the code above with this difference:\n{difference}"
    return "\n".join([best, *_changes(brief)])


def _changes(brief: Brief) -> Lines:
    """Yield what each experiment that wants rework changed in its own parent's code."""
    room = CHANGES_CHARS
    for name, edits in brief.changes.items():
        found = brief.find(name)
        lines = [line for edit in edits for line in _change_lines(edit)]
        room -= sum(len(line) + 1 for line in lines)
        if found is None or room < 0:
            return
        yield f"{name} wants rework; in the code of {found.parent} it changed:"
        yield from lines


def _change_lines(edit: Edit) -> Sequence[str]:
    told = unified_diff({"": edit.old + "\n"}, {"": edit.new + "\n"}).splitlines()
    return [line for line in told[2:] if not line.startswith("@@")]  # the first two name the files


def choose_anchor(lineage: Sequence[tuple[str, Files]]) -> str:
    """Return the experiment whose code is told in full, of those that were kept, oldest first; "" of none.

    The baseline at first; the best of a moment, once it differs by more than ANCHOR_CHARS. Told
    seldom anew, it stays in the API's cache.
    """
    if not lineage:
        return ""
    anchor, held = lineage[0]
    for name, files in lineage[1:]:
        if len(unified_diff(held, files)) > ANCHOR_CHARS:
            anchor, held = name, files
    return anchor


def _sections(brief: Brief) -> Iterator[tuple[str, str, Lines]]:
    """Yield the sections by name, with their titles and lines."""
    kind = _main_kind(brief)
    yield "head", "", _head(brief)
    best = "id, value +- standard error, runs, change from parent, verdict: hypothesis"
    yield "best", f"# Best on {_name(kind)}: {best}", islice(_best(brief, kind), LIMITS["best"][0])
    families = "tried, kept, crashed, mean change, best change: values tried"
    yield "families", f"# Families of ideas, by what they touch: {families}", _families(brief.families)
    again = f"promising and not in {brief.parent}; do it anew there, its id in `reworks`"
    yield "rework", f"# Rework wanted: {again}", _rework(brief)
    near = "better than their parent, but by too little; the base has moved since"
    yield "near", f"# Near misses: {near}", _again(brief, brief.near)
    yield "pending", "# Pending: do not propose these again", _pending(brief)
    last = "id, verdict, change from parent (expected): hypothesis"
    yield "last", f"# Last results, newest first: {last}", islice(_last(brief), LIMITS["last"][0])
    yield "predictions", "", _predictions(brief)
    yield "refused", "# Refused, newest first: hypothesis: why", _refused(brief)
    earlier = "measured elsewhere and not comparable: status value: description"
    yield "prior", f"# Earlier results ({brief.priors} in all), {earlier}", _prior(brief)
    yield "memory", "", _memory(brief)
    notes = (f"- {quoted(note, 700)}" for note in reversed(brief.notes))
    yield "notes", "# Your last notes, newest first", notes
    yield "calls", "", _calls(brief)


def _section(title: str, lines: Lines, most: int, limit: int) -> str:
    """Return a title and as many lines as fit, then how many more there are; "" without lines.

    Counted in bytes: letters that take more of them take more tokens, too.
    """
    every = list(lines)
    room = limit - len(title.encode()) - len("\n(99999 more)")
    shown: list[str] = []
    for line in every[:most]:
        room -= len(line.encode()) + 1
        if room < 0:
            break
        shown.append(line)
    more = f"({len(every) - len(shown)} more)" if len(shown) < len(every) else ""
    return "\n".join(filter(None, [title, *shown, more])) if every else ""


def _head(brief: Brief) -> Lines:
    """Yield what is optimised, how far it is, what is left, how good the best is, how sure that is."""
    better = "lower" if brief.goal is Goal.MINIMIZE else "higher"
    yield f"Study {quoted(brief.study, 40)}: {quoted(brief.metric, 40)}, {better} is better."
    words = {"keep": "kept", "discard": "discarded", "crash": "crashed", "open": "pending"}
    counted = ", ".join(f"{brief.counts.get(name, 0)} {word}" for name, word in words.items())
    yield f"{sum(brief.counts.values())} experiments with the baseline: {counted}. Left: {_left(brief)}."
    best = brief.find(brief.parent)
    if best is None or best.value is None:
        yield "Best: the baseline, which is still being measured."
    else:
        since = "the baseline" if best.id == BASELINE else f"{signed(brief.progress)} from the baseline"
        yield f"Best: {best.id}, {_value(best)} on {_name(best.kind)}, {since}."
    for kind in sorted(brief.noise, key=lambda kind: (-brief.noise[kind].df, kind)):
        noise = brief.noise[kind]
        known = best.standard_error if best and best.kind == kind else None
        seen = math.hypot(noise.sigma, known) if known else noise.of_difference(1, 1)
        yield (
            f"Noise on {_name(kind)}: one run has a standard deviation of {fixed(noise.sigma, 3)}"
            f" (from {noise.df} degrees of freedom);"
            f" in one run a change smaller than {fixed(seen, 3)} cannot be seen."
        )


def _left(brief: Brief) -> str:
    budget, usage = brief.budget, brief.usage
    parts = []
    if budget.experiments is not None:
        parts.append(f"{brief.experiments_left:.0f} experiments")
    if budget.hours is not None:
        parts.append(f"{max(0.0, budget.hours - usage.hours):.1f} hours")
    if budget.gpu_dollars is not None:
        parts.append(f"${max(0.0, budget.gpu_dollars - usage.gpu_dollars):.0f} of GPU time")
    if budget.api_dollars is not None:
        parts.append(f"${max(0.0, budget.api_dollars - usage.api_dollars):.2f} of API calls")
    return ", ".join(parts) or "no limit"


def _main_kind(brief: Brief) -> str:
    """Return the worker kind with most results: values of different kinds do not compare."""
    kinds = [tried.kind for tried in brief.tried if tried.kind]
    return max(sorted(set(kinds)), key=kinds.count, default="")


def _best(brief: Brief, kind: str) -> Lines:
    measured = [t for t in brief.tried if t.value is not None and t.kind == kind]
    for t in sorted(measured, key=lambda t: (brief.goal.sign * (t.value or 0.0), t.id)):
        change = "-" if t.parent is None else signed(t.delta)
        yield f"{t.id} {_value(t)} {t.runs} {change} {t.verdict or 'pending'}: {quoted(t.hypothesis, 100)}"


def _families(families: Sequence[Family]) -> Lines:
    """Yield families, the most tried first; before the others as many as are shown, old and new."""
    often = sorted(families, key=lambda family: (-family.tried, family.name))
    both = dict.fromkeys(each.name for pair in zip_longest(often, families) for each in pair if each)
    shown = set(islice(both, LIMITS["families"][0]))
    yield from (_family(family) for family in sorted(often, key=lambda family: family.name not in shown))


def _family(family: Family) -> str:
    listed = " ".join(fixed(value) for value in _spread(family.values))
    measured = family.mean_effect is not None
    return "".join(
        (
            f"{_name(family.name)} {family.tried} {family.kept} {family.crashed}",
            f" {signed(family.mean_effect)} {signed(family.best_effect)}" if measured else " - -",
            f": {listed}" if listed else "",
            " EXHAUSTED" if family.exhausted else "",
        )
    )


def _spread(values: Sequence[float]) -> Sequence[float]:
    """Return at most VALUES of sorted values, the extremes among them."""
    if len(values) <= VALUES:
        return values
    return [values[round(i * (len(values) - 1) / (VALUES - 1))] for i in range(VALUES)]


def _rework(brief: Brief) -> Lines:
    """Yield what is to be done anew, first of all what is to be in one experiment."""
    if len(brief.together) > 1:
        yield f"in ONE experiment, `reworks` all of them: {' '.join(map(_name, brief.together))}"
    yield from _again(brief, [*brief.together, *brief.rework])


def _again(brief: Brief, names: Sequence[str]) -> Lines:
    for t in filter(None, (brief.find(name) for name in names)):
        touches = f", {' '.join(_name(each) for each in t.touches[:4])}" if t.touches else ""
        yield f"{t.id} {_change(t)} on {t.parent}{touches}: {quoted(t.hypothesis, 100)}"


def _pending(brief: Brief) -> Lines:
    """Yield what is not judged and what was proposed and waits; what is to be done anew stands above."""
    for t in brief.tried:
        if t.verdict is None and not t.taken_back and t.id not in {*brief.together, *brief.rework}:
            known = f" {signed(t.delta)} so far" if t.delta is not None else ""
            yield f"{t.id}{known}: {quoted(t.hypothesis, 80)}"
    yield from (f"- {quoted(hypothesis, 80)}" for hypothesis in brief.waiting)


def _last(brief: Brief) -> Lines:
    judged = [t for t in brief.tried if t.judged_at is not None and t.id != BASELINE]
    for t in sorted(judged, key=lambda t: (t.judged_at or 0.0, t.id), reverse=True):
        if t.verdict is Verdict.CRASH or (t.failure and t.delta is None):
            what = t.failure.fact if t.failure else "no result"
        else:
            what = _change(t) + (f" ({signed(t.expected)})" if t.expected is not None else "")
        yield f"{t.id} {t.verdict} {what}: {quoted(t.hypothesis, 100)}"


def _change(tried: Tried) -> str:
    if tried.delta is None:
        return "?"
    error = f" +-{fixed(tried.delta_error, 2)}" if tried.delta_error is not None else ""
    return f"{signed(tried.delta)}{error}"


def _predictions(brief: Brief) -> Lines:
    found = brief.predictions
    if found.made:
        yield (
            f"The sign of your prediction held in {found.sign_held} of {found.made}; you expected"
            f" {signed(found.mean_expected)} on average, measured were {signed(found.mean_measured)}."
        )


def _refused(brief: Brief) -> Lines:
    for refused in reversed(brief.refused):
        yield f"- {quoted(refused.hypothesis, 80)}: {quoted(refused.fact, 160)}"


def _prior(brief: Brief) -> Lines:
    for p in brief.prior:
        value = "-" if p.value is None else fixed(p.value, 6)
        yield f"- {_name(p.status)} {value}: {quoted(p.description, 80)}"


def _memory(brief: Brief) -> Lines:
    best = brief.find(brief.parent)
    if best and best.memory_gb:
        sizes = {MEMORY_GB.get(tried.kind or "") for tried in brief.tried}
        smallest = min(filter(None, sizes), default=None)
        limit = f"; the smallest accelerator has {smallest} GB" if smallest else ""
        yield f"Memory: the best takes {fixed(best.memory_gb, 3)} GB{limit}."


def _calls(brief: Brief) -> Lines:
    others = "; ".join(quoted(each, 100) for each in brief.elsewhere[:5])
    if others:
        yield f"Other calls under way were asked for: {others}."
    if brief.focus:
        yield f"This call is for: {quoted(brief.focus, 100)}."


def _name(text: str | None) -> str:
    """Return a name as one word of at most 60 characters."""
    return _NO_NAME.sub("", quoted(text or "?", 60))


def _value(tried: Tried) -> str:
    value = tried.value or 0.0
    plain = abs(value) < _PLAIN[1]
    error = f" +-{fixed(tried.standard_error, 2)}" if tried.standard_error is not None else ""
    return f"{value:.{PLACES}f}{error}" if plain else f"{value:.6g}{error}"


def signed(number: float | None) -> str:
    """Return a change with its sign; "?" where it is not known."""
    if number is None:
        return "?"
    return f"{'-' if number < 0 else '+'}{fixed(abs(number))}"


def fixed(number: float, digits: int = 4) -> str:
    """Return a number with so many digits that count, .0021 rather than 2.1e-03.

    Of these only what stands within PLACES after the point, as values have them, but two at least.
    """
    size = abs(number)
    if size and not _PLAIN[0] <= size < _PLAIN[1]:
        return f"{number:.{digits}g}"
    order = math.floor(math.log10(size)) if size else 0
    text = f"{number:.{max(0, min(digits - 1 - order, max(PLACES, 1 - order)))}f}"
    return _LEADING_ZERO.sub(r"\1.", text.rstrip("0").rstrip(".") if "." in text else text)
