"""The words in which a brief is told: terse, bounded whatever the history, and safe. Pure.

Tokens are money, so facts stand in lines of columns. What anybody wrote passes through `clean`: it is
one line and cannot open a section. What an experiment printed does not appear at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from autoresearch.brief import Brief, Tried
from autoresearch.experiment import Files, Goal, Verdict
from autoresearch.findings import Family
from autoresearch.patch import unified_diff
from autoresearch.untrusted import clean

MAX_CHARS = 24_000  # 8,000 tokens at 3 characters each
ANCHOR_CHARS = 6_000  # of difference, before code is told anew
BEST, LAST, FAMILIES, PENDING, REFUSALS = 12, 15, 40, 60, 12
VALUES = 8  # of a constant, that are listed
MEMORY_GB = {  # accelerators, by SkyPilot's names, with so much memory
    16: "P100 T4 V100",
    24: "A10 A10G L4 RTX3090 RTX4090",
    32: "RTX5090 V100-32GB",
    40: "A100",
    48: "A6000 L40 L40S",
    80: "A100-80GB H100 H100-SXM",
    96: "GH200 H20",
    141: "H200",
    180: "B200",
    186: "GB200",
    192: "MI300X",
    270: "B300",
}
_LEADING_ZERO = re.compile(r"^([+-]?)0\.")
Lines = Iterator[str]


def tell(brief: Brief) -> str:
    """Return all an agent is told beside rules, instructions and code; at most MAX_CHARS characters."""
    sections = [f"{title}\n{body}" for title, body in _sections(brief) if body]
    return "\n\n".join([_head(brief), *sections])[:MAX_CHARS]


def best_code(brief: Brief) -> str:
    """Return how the best code differs from the anchor's, as a unified diff; or that it does not."""
    difference = unified_diff(brief.anchor_files, brief.files)
    if not difference:
        return f"The best code is that of {brief.anchor} as it stands above."
    return f"The best code, {brief.parent}, is that of {brief.anchor} with this difference:\n{difference}"


def choose_anchor(lineage: Sequence[tuple[str, Files]]) -> str:
    """Return the experiment whose code is told in full, of those that were kept, oldest first.

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


def _sections(brief: Brief) -> Iterator[tuple[str, str]]:
    """Yield the sections with their bodies; each body is bounded."""
    again = f"do it anew on {brief.parent} and set `reworks` to its id"
    yield (
        f"# Rework wanted: won on an old base, lost when the base moved; {again}",
        _cut(_again(brief, brief.rework), 1800),
    )
    yield (
        "# Best: id, value, +- standard error, kind, runs, change from parent, verdict, hypothesis",
        _cut(_best(brief), 2400),
    )
    yield (
        "# Last results, newest first: id, verdict, change from parent +- error (expected), hypothesis",
        _cut(_last(brief), 2800),
    )
    yield "# Predictions", _predictions(brief)
    yield (
        "# Families: what ideas touched: tried, kept, crashed; mean and best change; values tried",
        _cut((_family(family) for family in brief.families[:FAMILIES]), 4500, len(brief.families)),
    )
    yield (
        "# Near misses: better than their base by less than the noise; the base has moved since",
        _cut(_again(brief, brief.near), 1000),
    )
    yield (
        "# Pending: running or waiting; do not propose these again",
        _cut(_pending(brief), 4200),
    )
    yield "# Refused, newest first: hypothesis: why", _cut(_refused(brief), 2400)
    notes = (clean(note, 700) for note in reversed(brief.notes))
    yield "# Your last notes, newest first", _cut(notes, 2200)
    yield "# Other requests under way", _elsewhere(brief)


def _head(brief: Brief) -> str:
    """Return what is optimised, how far it is, how good, how sure, and what is left."""
    better = "lower" if brief.goal is Goal.MINIMIZE else "higher"
    counted = ", ".join(
        f"{brief.counts.get(name, 0)} {word}"
        for name, word in (("keep", "kept"), ("discard", "discarded"), ("crash", "crashed"), ("open", "open"))
    )
    lines = [f"Study {clean(brief.study, 40)}: {clean(brief.metric, 40)}, {better} is better."]
    lines.append(f"Experiments, the baseline included: {counted}. Left: {_left(brief)}.")
    best, base = brief.find(brief.parent), brief.find("e0001")
    if best and best.value is not None:
        gain = ""
        if base and base.value is not None and base.id != best.id:
            gain = f", {_signed(best.value - base.value)} from the baseline's {base.value:.5f}"
        lines.append(f"Best: {best.id}, {_value(best)}{gain}.")
    else:
        lines.append("Best: the baseline, which is still being measured.")
    lines += [
        f"Noise on {kind}: one run has a standard deviation of {noise.sigma:.5f} (from {noise.df} degrees of"
        f" freedom); in one run a change smaller than {noise.of_difference(1, 2):.5f} cannot be seen."
        for kind, noise in brief.noise.items()
    ]
    if best and best.memory_gb:
        limit = next((size for size, kinds in MEMORY_GB.items() if best.kind in kinds.split()), None)
        lines.append(f"Memory of the best: {best.memory_gb:.1f} GB" + (f" of {limit} GB." if limit else "."))
    return "\n".join(lines)


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


def _best(brief: Brief) -> Lines:
    measured = [t for t in brief.tried if t.value is not None]
    for t in sorted(measured, key=lambda t: (brief.goal.sign * (t.value or 0.0), t.id))[:BEST]:
        verdict = t.verdict or "open"
        yield f"{t.id} {_value(t)} {t.runs} {_signed(t.delta)} {verdict}  {clean(t.hypothesis, 100)}"


def _last(brief: Brief) -> Lines:
    judged = sorted((t for t in brief.tried if t.judged_at is not None), key=_when)
    for t in reversed(judged[-LAST:]):
        if t.id == "e0001":
            continue
        what = t.failure.fact if t.verdict is Verdict.CRASH and t.failure else _change(t)
        yield f"{t.id} {t.verdict} {what}  {clean(t.hypothesis, 100)}"


def _when(tried: Tried) -> tuple[float, str]:
    return (tried.judged_at or 0.0, tried.id)


def _change(tried: Tried) -> str:
    if tried.delta is None:
        return "no change measured"
    error = f" +-{_short(tried.delta_error)}" if tried.delta_error is not None else ""
    expected = f" (expected {_signed(tried.expected)})" if tried.expected is not None else ""
    return f"{_signed(tried.delta)}{error}{expected}"


def _again(brief: Brief, names: Sequence[str]) -> Lines:
    for name in names:
        found = brief.find(name)
        if found:
            touches = ", ".join(clean(each, 60) for each in found.touches[:4])
            yield f"{name} {_change(found)} on {found.parent}  {clean(found.hypothesis, 100)}  [{touches}]"


def _family(family: Family) -> str:
    measured = family.mean_effect is not None
    effects = f"{_signed(family.mean_effect)} {_signed(family.best_effect)}" if measured else "- -"
    listed = _spread(family.values)
    values = f"  at {', '.join(f'{value:.4g}' for value in listed)}" if listed else ""
    dry = "  EXHAUSTED" if family.exhausted else ""
    name = clean(family.name, 60)
    return f"{name} {family.tried} {family.kept} {family.crashed} {effects}{values}{dry}".rstrip()


def _spread(values: Sequence[float]) -> Sequence[float]:
    """Return at most VALUES of sorted values, the extremes among them."""
    if len(values) <= VALUES:
        return values
    return [values[round(i * (len(values) - 1) / (VALUES - 1))] for i in range(VALUES)]


def _pending(brief: Brief) -> Lines:
    ideas = [f"{t.id} {clean(t.hypothesis, 80)}" for t in brief.tried if t.pending]
    ideas += [clean(hypothesis, 80) for hypothesis in brief.waiting]
    yield from ideas[:PENDING]
    if len(ideas) > PENDING:
        yield f"({len(ideas) - PENDING} more)"


def _refused(brief: Brief) -> Lines:
    for refused in reversed(brief.refused[-REFUSALS:]):
        yield f"{clean(refused.hypothesis, 80)}: {clean(refused.fact, 160)}"


def _predictions(brief: Brief) -> str:
    found = brief.predictions
    if not found.made:
        return ""
    return (
        f"The sign of your prediction held in {found.sign_held} of {found.made}; you expected"
        f" {_signed(found.mean_expected)} on average, measured were {_signed(found.mean_measured)}."
    )


def _elsewhere(brief: Brief) -> str:
    if not brief.elsewhere:
        return ""
    others = "; ".join(clean(each, 120) for each in brief.elsewhere)
    mine = f" This one is for {brief.focus}." if brief.focus else ""
    return f"They were asked for: {others}.{mine}"


def _cut(lines: Iterator[str], limit: int, total: int | None = None) -> str:
    """Return as many lines as fit the limit, then how many more there are."""
    every = list(lines)
    more = (total or len(every)) - len(every)
    while len(every) > 1 and sum(len(line) + 1 for line in every) > limit - 16:
        every.pop()
        more += 1
    return "\n".join([*every, f"({more} more)"] if more > 0 else every)


def _value(tried: Tried) -> str:
    error = f" +-{_short(tried.standard_error)}" if tried.standard_error is not None else ""
    return f"{tried.value:.5f}{error} {tried.kind}"


def _signed(number: float | None) -> str:
    return "?" if number is None else _LEADING_ZERO.sub(r"\1.", f"{number:+.5f}")


def _short(number: float | None) -> str:
    return "?" if number is None else _LEADING_ZERO.sub(r"\1.", f"{number:.5f}")
