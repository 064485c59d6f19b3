"""What is to be done anew together, on histories of a few lines: e0002 is the best, by 30 noises."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoresearch.experiment import Experiment, Proposal, Purpose, Run, RunState, Verdict
from autoresearch.history import History
from autoresearch.judging.combining import MOST, Combiner
from autoresearch.judging.learning import Learner
from builders import experiment, history, run
from test_posterior import SIGMA, base, measured

GOOD, NEAR, BAD = 1.0 - 10 * SIGMA, 1.0 - SIGMA, 1.0 + 5 * SIGMA


def tried(n: int, value: float, verdict: Verdict | None = None, **changes: object) -> list[Experiment | Run]:
    """Return an experiment on the baseline, measured once."""
    return [experiment(n, verdict, **changes), measured(f"e{n:04d}.1", value, 300.0 + n, worker=n % 8 + 1)]


def past(*things: Experiment | Run, best: Experiment | None = None) -> History:
    kept = [best or experiment(2, Verdict.KEEP, judged_at=200.0)]
    kept_runs = [measured(f"e0002.{i}", 0.97, 180.0 + i, worker=i) for i in range(1, 7)]
    return history(*base(), *kept, *kept_runs, *things)


def together(found: History, *proposals: Proposal, **changes: float) -> tuple[str, ...]:
    learner = Learner("H100", SIGMA)
    assert learner.learn(found)
    return Combiner(learner, **changes).together(found, proposals)


def anew(n: int, *reworks: str, **changes: object) -> Experiment:
    return replace(experiment(n, parent="e0002"), reworks=reworks, **changes)  # type: ignore[arg-type]


def proposal(*reworks: str, **changes: object) -> Proposal:
    plain = Proposal(
        hypothesis="again", edits=(), parent="e0002", author="test", follows=True, reworks=reworks
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_winners_on_an_old_base_are_done_anew_together_and_at_once() -> None:
    found = past(*tried(3, GOOD), *tried(4, GOOD), *tried(5, BAD, Verdict.DISCARD))
    assert together(found) == ("e0003", "e0004")
    assert together(past(*tried(3, GOOD))) == ("e0003",), "one is sure as well"
    assert together(found, sure=0.0, group=0.0) == ()
    assert together(history(*base(), *tried(3, GOOD))) == (), "the baseline is the best"


def test_what_is_under_way_is_not_asked_for_again_and_more_of_it_is() -> None:
    winners = [*tried(3, GOOD, Verdict.DISCARD), *tried(4, GOOD, Verdict.DISCARD)]
    both, one = [anew(6, "e0003", "e0004"), run("e0006.1")], [anew(6, "e0003"), run("e0006.1")]
    assert together(past(*winners, *both)) == ()
    assert together(past(*tried(3, GOOD), *tried(4, GOOD)), proposal("e0003", "e0004")) == ()
    assert together(past(*winners[:2], *tried(4, GOOD), *one)) == ("e0003", "e0004")
    older = replace(both[0], parent="e0001")
    assert together(past(*winners, older, both[1])) == ("e0003", "e0004"), "on an old base"


def test_of_an_idea_the_latest_measurement_counts() -> None:
    winners = [*tried(3, GOOD, Verdict.DISCARD), *tried(4, GOOD, Verdict.DISCARD)]
    ended = measured("e0006.1", 0.9701, 400.0, worker=4)
    failed = [anew(6, "e0003", "e0004", verdict=Verdict.DISCARD, judged_at=410.0), ended]
    assert together(past(*winners, *failed)) == (), "they did nothing together"
    best = anew(6, "e0003", "e0004", verdict=Verdict.KEEP, judged_at=410.0)
    assert together(past(*winners, best, replace(ended, experiment="e0006"))) == (), "they are in the best"


def test_what_a_better_one_has_displaced_is_done_anew() -> None:
    """e0003 was the best for a while, and e0004 came of the baseline, too."""
    kept = [*tried(3, GOOD, Verdict.KEEP, judged_at=310.0), *tried(4, 0.98, Verdict.KEEP, judged_at=320.0)]
    assert together(history(*base(), *kept)) == ("e0003",)


def test_ideas_each_too_small_to_be_told_are_measured_as_one() -> None:
    near = [thing for n in range(3, 11) for thing in tried(n, NEAR, Verdict.DISCARD)]
    names = tuple(f"e{n:04d}" for n in range(3, 11))
    assert together(past(*near)) == names
    assert together(past(*near), group=0.0) == ()
    assert together(past(*tried(3, NEAR, Verdict.DISCARD))) == (), "one alone is not worth it"
    bad = [thing for n in range(3, 11) for thing in tried(n, BAD, Verdict.DISCARD)]
    assert together(past(*bad)) == ()


def test_at_most_so_many_and_the_most_promising() -> None:
    near = [thing for n in range(3, 23) for thing in tried(n, 1.0 - n * SIGMA / 20, Verdict.DISCARD)]
    assert together(past(*near)) == tuple(f"e{n:04d}" for n in range(23 - MOST, 23))


def test_small_ideas_are_in_one_experiment_at_a_time() -> None:
    near = [thing for n in range(3, 19) for thing in tried(n, NEAR, Verdict.DISCARD)]
    first = together(past(*near))
    under_way = [anew(30, *first), run("e0030.1", state=RunState.RUNNING, kind="H100")]
    second = together(past(*near, *under_way))
    assert len(second) == MOST
    assert not {*first} & {*second}
    assert together(past(*near), proposal(*first)) == second


def test_a_combination_that_crashed_is_halved() -> None:
    names = ("e0003", "e0004", "e0005", "e0006")
    winners = [thing for n in range(3, 7) for thing in tried(n, GOOD, Verdict.DISCARD)]
    broken = anew(9, *names, verdict=Verdict.CRASH, judged_at=400.0)
    singles = [anew(20 + i, name) for i, name in enumerate(names)]  # why they were discarded
    assert together(past(*winners, broken, *singles)) == names[:2]
    again = anew(10, *names[:2], verdict=Verdict.CRASH, judged_at=400.0)
    assert together(past(*winners, broken, again, *singles)) == names[:1]


@pytest.mark.parametrize("purpose", [Purpose.SCREEN, Purpose.CONFIRM])
def test_what_is_being_judged_is_left_alone(purpose: Purpose) -> None:
    here = [anew(3), measured("e0003.1", 0.96, 400.0)]
    assert together(past(*here)) == (), "on the best itself"
    measured_again = [*tried(3, GOOD), run("e0003.2", purpose=purpose)]
    assert together(past(*measured_again)) == (), "runs of it are under way"


def test_what_was_tried_once_in_vain_counts_again_when_it_is_taken_up_and_not_before() -> None:
    """One combiner through a study, asked at each step: as a new one that knows only the last."""
    learner = Learner("H100", SIGMA)
    combiner = Combiner(learner)

    def asked(*things: Experiment | Run) -> tuple[str, ...]:
        found = past(*things)
        assert learner.learn(found)
        told = combiner.together(found, ())
        assert told == together(found)
        return told

    vain = tried(3, BAD, Verdict.DISCARD)
    assert asked(*vain) == ()
    found = [*vain, *tried(4, GOOD)]
    assert asked(*found) == ("e0004",)
    better = measured("e0005.1", 0.95, 400.0, worker=4)
    assert asked(*found, anew(5, "e0003"), better) == ("e0004",), "it is being judged"
    judged = anew(5, "e0003", verdict=Verdict.DISCARD, judged_at=410.0)
    near = [*vain, *tried(4, GOOD, Verdict.DISCARD)]
    assert asked(*near, judged, better) == ("e0004", "e0005"), "the idea's latest measurement is near"
