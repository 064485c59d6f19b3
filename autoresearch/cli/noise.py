"""`noise`: what the runs of a study tell of their noise and its workers, and what they tell apart."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from autoresearch.cli.common import configuration, existing_study, learned, plus_minus
from autoresearch.cli.output import fit, print_json
from autoresearch.errors import NotFoundError
from autoresearch.history import History
from autoresearch.judging.learning import Learner
from autoresearch.judging.stacking import held, interactions
from autoresearch.judging.state import Gaussian
from autoresearch.trust import Gap, gap_of

RUNS = (1, 2, 4)
MOST_SHOWN = 3  # interactions
SDS = 1.96  # a difference that shows in 95 of 100


def noise(folder: Path, study: str | None, *, as_json: bool) -> None:
    """Print the noise of a study's runs, the offsets of its workers, and what they resolve."""
    opened = existing_study(folder, study)
    history = opened.store.history()
    config = configuration(opened.folder)
    learner, best = learned(opened, history), history.incumbent()
    if learner is None or best is None:
        raise NotFoundError("nothing was repeated yet", "wait for the runs of the baseline")
    told = account(history, learner, best.id) | {"target": config.judging.useless_keeps}
    if as_json:
        print_json(fit({"study": opened.tag, **told}, "workers"))
        return
    for line in _lines(opened.tag, told):
        typer.echo(line)


def account(history: History, learner: Learner, best: str) -> dict[str, Any]:
    """Return what is believed of noise and workers, and which differences from the best runs resolve."""
    belief = learner.belief
    workers = belief.workers()
    kinds = list(dict.fromkeys(workers.values()))
    claim = learner.claim(history, best)
    risks = list(learner.risks.values())
    return {
        "sigma": round(belief.sigma, 6),
        "degrees_of_freedom": round(belief.df(), 1),
        "expected_sigma": round(learner.unit, 6),
        "kinds": [
            {
                "kind": kind,
                "sigma": round(math.sqrt(belief.noise(kind)), 6),
                "degrees_of_freedom": round(belief.df(kind), 1),
                **_interval("offset", belief.kind_offset(kind), history),
            }
            for kind in kinds
        ],
        "best": {
            "experiment": best,
            "value": round(claim.value, 6),
            "standard_error": round(claim.standard_error, 6),
            "fresh_runs": claim.runs,
        },
        "resolves": {str(n): round(resolution(learner, best, n), 6) for n in RUNS},
        "second_split": _second_split(gap_of(history)),
        "stacking": _stacking(history, learner),
        "keeps": len(risks),
        "useless_keeps_expected": round(sum(risks) / len(risks), 4) if risks else None,
        "workers": [
            {"worker": name, "kind": kind, **_interval("offset", belief.offset(name), history)}
            for name, kind in sorted(workers.items())
        ],
    }


def _stacking(history: History, learner: Learner) -> dict[str, Any] | None:
    """Return how ideas went together that were measured on two bases; None where none was."""
    found = interactions(history, learner)
    if not found:
        return None
    share = held(found)
    clear = sorted((each for each in found if each.clear), key=lambda each: -abs(each.difference))
    return {
        "ideas": len(found),
        "held": round(share[0], 3) if share else None,
        "held_error": round(share[1], 3) if share else None,
        "interactions": len(clear),
        "largest": [
            {"experiment": each.experiment, "reworks": list(each.earlier), **each.figures()}
            for each in clear[:MOST_SHOWN]
        ],
    }


def _second_split(gap: Gap | None) -> dict[str, Any] | None:
    if gap is None:
        return None
    gains = {"gain": gap.gain, "hidden_gain": gap.hidden_gain, "error": gap.error}
    return {
        **{name: round(value, 6) for name, value in gains.items()},
        "runs": gap.runs,
        "overfitted": gap.overfitted,
    }


def resolution(learner: Learner, best: str, runs: int) -> float:
    """Return which difference from the best so many runs of a code show in 95 of 100."""
    belief = learner.belief
    offsets = [found.variance for name in belief.workers() if (found := belief.offset(name))]
    common = sum(offsets) / max(1, len(offsets))
    return SDS * math.sqrt((belief.noise() + common) / runs + belief.value(best).variance)


def _interval(name: str, found: Gaussian | None, history: History) -> dict[str, float | None]:
    if found is None:
        return {name: None, f"{name}_error": None}
    return {
        name: round(history.goal.sign * found.mean, 6),
        f"{name}_error": round(math.sqrt(found.variance), 6),
    }


def _stacking_lines(told: Mapping[str, Any] | None) -> Iterator[str]:
    if told is None:
        return
    pm = plus_minus()
    held = "" if told["held"] is None else f", where {told['held']:.0%} {pm}{told['held_error']:.0%} held"
    ideas = "1 idea was" if told["ideas"] == 1 else f"{told['ideas']} ideas were"
    yield f"stacking   {ideas} measured on another base too{held}; {told['interactions']} interact"
    for each in told["largest"]:
        differs = f"{each['interaction']:+.5f} {pm}{each['interaction_error']:.5f}"
        yield (
            f"           {each['experiment']} {each['effect_here']:+.5f}, as {', '.join(each['reworks'])}"
            f" {each['effect_there']:+.5f}: {differs}"
        )


def _lines(tag: str, told: Mapping[str, Any]) -> Iterator[str]:
    pm = plus_minus()
    yield f"{tag}: what its runs tell of their noise"
    told_by = f"{told['degrees_of_freedom']:.0f} degrees of freedom"
    yield f"sigma      {told['sigma']:.5f} a run, from {told_by}; {told['expected_sigma']:.5f} was expected"
    shown = ", ".join(
        f"{n} {'run' if n == '1' else 'runs'} {value:.5f}" for n, value in told["resolves"].items()
    )
    yield f"resolves   {shown}: a difference from the best that shows in 95 of 100"
    best = told["best"]
    fresh = f"{best['fresh_runs']} runs it was not chosen for"
    yield f"best       {best['experiment']}  {best['value']:.5f} {pm}{best['standard_error']:.5f}, {fresh}"
    split = told["second_split"]
    if split:
        lost = f"{split['gain'] - split['hidden_gain']:+.5f} {pm}{split['error']:.5f}"
        word = "it is overfitted" if split["overfitted"] else "no sign of overfitting"
        yield f"second     split: the best's gain of {split['gain']:.5f} loses {lost} there: {word}"
    yield from _stacking_lines(told["stacking"])
    if told["keeps"]:
        share, most = f"{told['useless_keeps_expected']:.1%}", f"{told['target']:.0%}"
        yield f"keeps      {told['keeps']}, of which {share} are expected to be useless; {most} may be"
    yield ""
    yield f"{'kind':<10} {'sigma':>8}  {'offset':>9}  {'':>9}  degrees of freedom"
    for kind in told["kinds"]:
        scale = not kind["offset_error"]  # nothing is off from itself
        offset = "the scale" if scale else f"{kind['offset']:+.5f}"
        error = "" if scale else f"{pm}{kind['offset_error']:.5f}"
        runs = f"{kind['degrees_of_freedom']:.0f}"
        yield f"{kind['kind']:<10} {kind['sigma']:>8.5f}  {offset:>9}  {error:>9}  {runs}"
    yield ""
    yield f"{'worker':<14} {'offset':>9}"
    for worker in told["workers"]:
        yield f"{worker['worker']:<14} {worker['offset']:+9.5f}  {pm}{worker['offset_error']:.5f}"
