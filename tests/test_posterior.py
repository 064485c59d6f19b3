"""What the posterior queue decides, on histories of a few lines."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch.budget import Budget
from autoresearch.config import Judging
from autoresearch.experiment import Experiment, FailureKind, Goal, Purpose, Run, RunState, Verdict, Worker
from autoresearch.history import History
from autoresearch.judging.effects import Effects
from autoresearch.judging.learning import Learner
from autoresearch.judging.policy import ASKED_FOR, MERGE_QUEUE, Decide, Decision, Merge, Order, Withdraw
from autoresearch.judging.posterior import PosteriorPolicy, Rules
from autoresearch.judging.state import Gaussian
from builders import experiment, history, run

SIGMA = 1e-3
WORKERS = tuple(Worker(name=f"H100-{i:02d}", kind="H100") for i in range(1, 9))
START = 100.0  # seconds of every run


def measured(name: str, value: float, at: float, *, worker: int = 1, **changes: object) -> Run:
    """Return a run that ended at a moment."""
    defaults = {"worker": WORKERS[worker - 1].name, "started_at": at - START, "ended_at": at}
    return run(name, value, kind="H100", **{**defaults, **changes})  # type: ignore[arg-type]


def base(runs: int = 8) -> list[Experiment | Run]:
    """Return a baseline of 1.0, known well."""
    values = [1.0 + SIGMA * math.sin(i) / 2 for i in range(runs)]
    ran = [
        measured(f"e0001.{i + 1}", value, 100.0 + i, worker=i % 8 + 1, purpose=Purpose.BASELINE)
        for i, value in enumerate(values)
    ]
    return [experiment(1, Verdict.KEEP, judged_at=150.0), *ran]


def policy(*, few_ideas: bool = False, **rules: object) -> PosteriorPolicy:
    return PosteriorPolicy(
        Judging(),
        first_kind="H100",
        noise=SIGMA,
        few_ideas=few_ideas,
        rules=Rules(**rules),  # type: ignore[arg-type]
    )


def decide(past: History, now: float = 1000.0, **rules: object) -> list[Decision]:
    return policy(**rules).decide(past, WORKERS, now)


def verdicts(decisions: list[Decision]) -> dict[str, Verdict]:
    return {d.experiment: d.verdict for d in decisions if isinstance(d, Decide)}


def test_a_large_gain_is_kept_after_one_run_and_nothing_else_is_decided_with_it() -> None:
    past = history(
        *base(),
        experiment(2),
        measured("e0002.1", 0.99, 300.0),
        experiment(3),
        measured("e0003.1", 0.985, 301.0),
    )
    assert verdicts(decide(past)) == {"e0003": Verdict.KEEP}, "the better of two"


def test_a_harmful_idea_is_dropped_and_a_promising_one_confirmed_elsewhere() -> None:
    past = history(
        *base(),
        experiment(2),
        measured("e0002.1", 1.01, 300.0),
        experiment(3),
        measured("e0003.1", 0.9975, 301.0),
    )
    decisions = decide(past)
    assert verdicts(decisions) == {"e0002": Verdict.DISCARD}
    wanted = [d for d in decisions if isinstance(d, Order) and d.purpose is Purpose.CONFIRM]
    assert {d.experiment for d in wanted} == {"e0003"}
    assert 1 <= len(wanted) <= Rules().at_once


def test_a_confirmation_goes_to_a_worker_that_has_not_measured_it_and_waits_for_one_only_so_long() -> None:
    wanted = run("e0003.2", purpose=Purpose.CONFIRM, created_at=1000.0)
    past = history(*base(), experiment(3), measured("e0003.1", 0.9975, 301.0), wanted)
    judge = policy()
    judge.decide(past, WORKERS, 1000.0)
    assert judge.next_run(past, [wanted], WORKERS[0]) is None, "it ran there"
    assert judge.next_run(past, [wanted], WORKERS[1]) == wanted
    judge.decide(past, WORKERS, 1000.0 + START)
    assert judge.next_run(past, [wanted], WORKERS[0]) == wanted, "rather there than not at all"


def test_a_failed_run_is_a_crash_and_a_lost_confirmation_is_not() -> None:
    broken = [experiment(2), run("e0002.1", failure=FailureKind.OUT_OF_MEMORY)]
    lost = run("e0003.2", purpose=Purpose.CONFIRM, state=RunState.LOST, failure=FailureKind.LOST)
    past = history(*base(), *broken, experiment(3), measured("e0003.1", 1.0, 300.0), lost)
    told = verdicts(decide(past))
    assert told["e0002"] is Verdict.CRASH
    assert told.get("e0003") is not Verdict.CRASH


def test_a_run_that_was_ended_early_is_a_discard() -> None:
    pruned = run("e0002.1", state=RunState.PRUNED, failure=FailureKind.PRUNED)
    assert verdicts(decide(history(*base(), experiment(2), pruned))) == {"e0002": Verdict.DISCARD}


def moved(*things: Experiment | Run) -> History:
    """Return a past in which e0002 was kept while e0003 ran on the baseline and won too."""
    kept = [experiment(2, Verdict.KEEP, judged_at=310.0), measured("e0002.1", 0.99, 300.0)]
    fresh = [
        measured(f"e0002.{i}", 0.99, 400.0 + i, worker=i, purpose=Purpose.CALIBRATE) for i in range(2, 8)
    ]
    return history(
        *base(), *kept, *fresh, experiment(3), measured("e0003.1", 0.995, 320.0, worker=2), *things
    )


def test_a_winner_on_an_old_base_is_left_to_its_author_and_then_goes_to_the_merge_queue() -> None:
    early, late = decide(moved(), now=330.0), decide(moved(), now=330.0 + 2 * START)
    assert "e0003" not in verdicts(early)
    assert not [d for d in early if isinstance(d, Merge)]
    assert [d.experiment for d in late if isinstance(d, Merge)] == ["e0003"]


def test_a_winner_on_an_old_base_that_promises_little_is_not_tried_by_itself() -> None:
    little = [experiment(4), measured("e0004.1", 0.9985, 330.0, worker=3)]
    decided = {d.experiment: d for d in decide(moved(*little), now=331.0) if isinstance(d, Decide)}
    assert decided["e0004"].verdict is Verdict.DISCARD
    assert decided["e0004"].reason.startswith("too little to be tried by itself: won on e0001, before e0002")
    assert "e0003" not in decided, "the agent has time to do what promises much anew"
    alone = decide(moved(*little), now=331.0, alone=0.0)
    assert "e0004" not in verdicts(alone)
    three = [replace(e, verdict=Verdict.DISCARD) for e in (experiment(4), experiment(5), experiment(6))]
    values = (measured(f"{e.id}.1", 0.9985, 330.0 + i, worker=3) for i, e in enumerate(three))
    anew = replace(experiment(7, parent="e0002"), reworks=("e0003",)), run("e0007.1")
    past, judge = moved(*three, *values, *anew), policy()
    judge.decide(past, WORKERS, 340.0)
    together = judge.together(past, ())
    assert together
    assert {"e0004", "e0005", "e0006"} <= set(together.experiments), "together they are worth an experiment"


def test_what_is_handed_back_is_measured_and_idle_without_a_verdict_on_an_old_base() -> None:
    others = [
        *(experiment(4), run("e0004.1")),
        *(experiment(5), measured("e0005.1", 1.0, 500.0), run("e0005.2", purpose=Purpose.CONFIRM)),
        *(experiment(6, Verdict.DISCARD), measured("e0006.1", 1.0, 500.0)),
        *(experiment(7, parent="e0002"), measured("e0007.1", 1.0, 500.0)),
    ]
    assert [e.id for e in moved(*others).handed_back()] == ["e0003"]
    assert history(experiment(3), measured("e0003.1", 1.0, 300.0)).handed_back() == [], "there is no best"


def test_who_does_winners_anew_is_waited_for_longer_and_who_never_does_not_at_all() -> None:
    redone = replace(experiment(4, Verdict.DISCARD), reworks=("e0009",))
    patient = decide(moved(redone), now=330.0 + 2 * START)
    assert not [d for d in patient if isinstance(d, Merge)]
    stacked = [
        replace(experiment(n, Verdict.DISCARD), reworks=(f"e000{n}x",), author=MERGE_QUEUE) for n in (4, 5, 6)
    ]
    assert [d.experiment for d in decide(moved(*stacked), now=321.0) if isinstance(d, Merge)] == ["e0003"]


def test_a_winner_done_anew_is_over_unless_that_crashed() -> None:
    redone = replace(experiment(4, parent="e0002"), reworks=("e0003",))
    assert verdicts(decide(moved(redone), now=330.0)) == {"e0003": Verdict.DISCARD}
    broken = replace(redone, verdict=Verdict.CRASH)
    assert "e0003" not in verdicts(decide(moved(broken), now=330.0))


def test_an_idea_that_is_in_the_best_already_is_over_wherever_it_was_tried() -> None:
    """e0004 does anew, on the old base, what e0002 was kept for."""
    twin = [replace(experiment(4), reworks=("e0002",)), measured("e0004.1", 0.994, 500.0, worker=3)]
    past = moved(*twin)
    assert past.ideas_in("e0002") == {"e0001", "e0002"}
    assert past.ideas_of("e0004") == {"e0002"}
    assert verdicts(decide(past, now=501.0))["e0004"] is Verdict.DISCARD


def test_what_holds_more_than_the_best_is_not_over_for_what_it_shares_with_it() -> None:
    """e0004 does e0002 and e0003 anew on the baseline: e0003 is not in the best."""
    both = [replace(experiment(4), reworks=("e0002", "e0003")), measured("e0004.1", 0.96, 500.0, worker=3)]
    past = moved(*both)
    assert past.ideas_of("e0004") == {"e0002", "e0003"}
    assert verdicts(decide(past, now=501.0)) == {"e0004": Verdict.KEEP}
    there = replace(experiment(5, Verdict.KEEP, judged_at=600.0), reworks=("e0004",))
    assert history(*base(), *both, there, experiment(2), experiment(3)).ideas_in("e0005") == {
        "e0001",
        "e0002",
        "e0003",
    }


def test_the_prior_of_several_ideas_is_that_of_their_sum() -> None:
    effects = Effects(SIGMA)
    one, other = (np.exp(-0.5 * ((effects.grid - m) / s) ** 2) for m, s in ((-2e-3, 1e-3), (1e-3, 2e-3)))
    spacing = np.gradient(effects.grid)
    one, other = (p * spacing / (p * spacing).sum() for p in (one, other))
    found = effects.both(one, other)
    assert found.sum() == pytest.approx(1.0)
    assert np.allclose(found, effects.both(other, one))
    moments = effects.moments(found)
    assert moments.mean == pytest.approx(-1e-3, abs=5e-5)
    assert moments.variance == pytest.approx(5e-6, rel=0.05)


def chain(*values: float) -> History:
    """Return a past in which a new best, better by .01, came each time before an idea was judged.

    The idea was worth that much on each base it was done anew on.
    """
    things: list[Experiment | Run] = []
    for i, value in enumerate(values):
        n, at, level = 2 + 2 * i, 500.0 * (i + 1), 1.0 - 0.01 * i
        parent = f"e{n - 1:04d}" if i else "e0001"
        earlier = (f"e{n - 2:04d}",) if i else ()
        idea = replace(experiment(n, parent=parent), reworks=earlier)
        better = experiment(n + 1, Verdict.KEEP, parent=parent, judged_at=at + 50.0)
        fresh = [
            measured(f"{better.id}.{j}", level - 0.01, at + 10 + j, worker=j, purpose=Purpose.CALIBRATE)
            for j in range(1, 9)
        ]
        things += [idea, measured(f"{idea.id}.1", level + value, at, worker=i % 8 + 1), better, *fresh]
    return history(*base(), *things)


def test_all_that_was_measured_of_an_idea_counts_however_often_it_was_done_anew() -> None:
    useless, gains = [], []
    for n in (1, 2, 4, 8):
        past, learner = chain(*[-0.6 * SIGMA] * n), Learner("H100", SIGMA)
        assert learner.learn(past)
        prospect = learner.prospect(past, f"e{2 * n:04d}")
        assert prospect
        useless.append(prospect.useless)
        gains.append(prospect.gain / SIGMA)
    assert useless == sorted(useless, reverse=True)
    assert useless[-1] < 0.06, "eight runs on eight bases tell about as much as eight on one"
    assert 0.4 < gains[-1] < 0.6


def test_an_idea_that_was_good_once_and_not_again_is_believed_less_each_time() -> None:
    gains = []
    for n in (1, 2, 3):
        past, learner = chain(*[-3 * SIGMA, *[0.0] * (n - 1)]), Learner("H100", SIGMA)
        assert learner.learn(past)
        gains.append(learner.prospect(past, f"e{2 * n:04d}").gain)  # type: ignore[union-attr]
    assert gains == sorted(gains, reverse=True)
    assert gains[-1] < 0.3 * SIGMA


def test_a_gain_of_ten_noises_is_no_tail_of_a_run() -> None:
    """One run in twenty has heavy tails; but of ideas that help a fifth help much."""
    effects = Effects(SIGMA)
    found = Gaussian(mean=-10 * SIGMA, variance=3 * SIGMA**2)  # against a base that is not known well
    posterior = effects.posteriors(effects.prior[None, :], [found], [1], SIGMA**2)
    assert effects.prospects(posterior, [1], SIGMA**2)[0].useless < 0.05


def test_what_shows_no_effect_on_a_base_that_has_it_is_not_kept_for_what_it_did_before() -> None:
    """A winner done anew that measures nothing here is no winner here."""
    anew = replace(experiment(4, parent="e0002"), reworks=("e0003",))
    past = moved(anew, measured("e0004.1", 0.99, 500.0, worker=3))
    assert verdicts(decide(past, now=501.0)).get("e0004") is not Verdict.KEEP


def test_an_old_winner_that_may_be_better_than_the_best_is_confirmed_as_it_stands() -> None:
    past = moved(experiment(4), measured("e0004.1", 0.989, 500.0, worker=3))
    wanted = [d for d in decide(past, now=501.0) if isinstance(d, Order) and d.purpose is Purpose.CONFIRM]
    assert "e0004" in {d.experiment for d in wanted}


def test_code_that_beats_todays_best_as_it_stands_is_kept_whatever_its_base() -> None:
    past = moved(experiment(4), measured("e0004.1", 0.97, 500.0))
    assert verdicts(decide(past)) == {"e0004": Verdict.KEEP}


def test_what_is_asked_no_longer_is_taken_back_but_not_what_a_person_wants() -> None:
    ours = run("e0001.9", purpose=Purpose.CALIBRATE)
    theirs = run("e0001.10", purpose=Purpose.CONFIRM, why=f"{ASKED_FOR} ada")
    taken = [d.run for d in decide(moved(ours, theirs)) if isinstance(d, Withdraw)]
    assert taken == ["e0001.9"]


def test_the_best_is_measured_again_until_it_is_known_and_twice_where_nothing_is_compared() -> None:
    kept = [experiment(2, Verdict.KEEP, judged_at=310.0), measured("e0002.1", 0.99, 300.0)]
    alone = [d for d in decide(history(*base(), *kept)) if isinstance(d, Order)]
    assert [(d.experiment, d.purpose) for d in alone] == [("e0002", Purpose.CALIBRATE)] * 2
    open_ = [experiment(3), run("e0003.1")]
    compared = [d for d in decide(history(*base(), *kept, *open_), controls=0.5) if isinstance(d, Order)]
    assert len(compared) == 4, "half of the workers"


def test_a_small_pool_measures_the_best_again_once_and_for_its_claim_at_the_end() -> None:
    kept = [experiment(2, Verdict.KEEP, judged_at=310.0), measured("e0002.1", 0.99, 300.0)]
    past, lone = history(*base(), *kept), policy()
    orders = [d for d in lone.decide(past, WORKERS[:1], 1000.0) if isinstance(d, Order)]
    assert [(d.experiment, d.purpose) for d in orders] == [("e0002", Purpose.CALIBRATE)]
    again = measured("e0002.2", 0.99, 600.0, purpose=Purpose.CALIBRATE)
    past = history(*base(), *kept, again)
    assert lone.decide(past, WORKERS[:1], 1000.0) == []
    assert [(d.experiment, d.purpose) for d in lone.closing(past)] == [("e0002", Purpose.CALIBRATE)]
    third = measured("e0002.3", 0.99, 700.0, purpose=Purpose.CALIBRATE)
    past = history(*base(), *kept, again, third)
    assert lone.decide(past, WORKERS[:1], 1000.0) == []
    assert lone.closing(past) == []


def test_a_small_promise_is_left_while_runs_bring_much_and_followed_when_they_do_not() -> None:
    kept = [experiment(2, Verdict.KEEP, judged_at=310.0), measured("e0002.1", 0.99, 300.0, worker=2)]
    known = [
        measured(f"e0002.{i}", 0.99, 300.0 + i, worker=i, purpose=Purpose.CALIBRATE) for i in range(3, 7)
    ]
    small = [experiment(3, parent="e0002"), measured("e0003.1", 0.9894, 500.0, worker=7)]
    past = history(*base(), *kept, *known, *small)
    assert verdicts(decide(past, now=501.0, few=1)) == {"e0003": Verdict.DISCARD}, (
        "10 noises were gained just now"
    )
    later = decide(past, now=5000.0, few=1)
    assert {d.experiment for d in later if isinstance(d, Order)} == {"e0003"}
    assert verdicts(decide(past, now=501.0, few=1, pace=0.0)) == {}


def test_a_small_pool_leaves_small_promises_unless_ideas_are_what_it_lacks() -> None:
    """A run takes the place of a new idea, the sooner the fewer workers there are."""
    past = history(*base(), experiment(2), measured("e0002.1", 0.9988, 300.0, worker=2))
    assert verdicts(policy().decide(past, WORKERS, 1000.0)) == {}
    assert verdicts(policy().decide(past, WORKERS[:2], 1000.0)) == {"e0002": Verdict.DISCARD}
    followed = policy(few_ideas=True).decide(past, WORKERS[:2], 1000.0)
    assert {d.experiment for d in followed if isinstance(d, Order)} == {"e0002"}


@pytest.mark.parametrize("few_ideas", [True, False])
def test_a_small_pool_measures_the_best_as_often_as_what_may_beat_it_and_comes_to_an_end(
    few_ideas: bool,
) -> None:
    """Runs differ by thrice what was expected, and none tells: what is unknown is half the best's."""
    swing = itertools.cycle((3.2 * SIGMA, -3.2 * SIGMA))
    kept = [experiment(2, Verdict.KEEP, judged_at=310.0), measured("e0002.1", 0.9932, 300.0)]
    past = [*base(3), *kept, experiment(3, parent="e0002"), measured("e0003.1", 0.9868, 400.0)]
    lone, counts, now = policy(few_ideas=few_ideas), Counter({"e0002": 1, "e0003": 1}), 500.0
    while True:
        decisions = lone.decide(history(*past), WORKERS[:2], now)
        orders = [d for d in decisions if isinstance(d, Order)]
        if not orders or verdicts(decisions):
            break
        for order in orders:
            counts[order.experiment] += 1
            now += START
            value = {"e0002": 0.99, "e0003": 0.9887}[order.experiment] + next(swing)
            name = f"{order.experiment}.{counts[order.experiment]}"
            past.append(measured(name, value, now, worker=1 + len(past) % 2, purpose=order.purpose))
        assert counts["e0003"] <= Rules().most_runs
    assert verdicts(decisions).keys() == {"e0003"}
    assert 2 * counts["e0002"] >= counts["e0003"], counts


@pytest.mark.parametrize(
    ("budget", "limited"),
    [
        (Budget(), False),
        (Budget(experiments=12), True),
        (Budget(api_dollars=9.0), True),
        (Budget(experiments=12, hours=8.0), False),
        (Budget(experiments=12, gpu_dollars=300.0), False),
    ],
)
def test_ideas_are_what_is_limited_where_machines_are_not(budget: Budget, limited: bool) -> None:
    assert budget.limits_ideas_only is limited


def test_the_best_that_fails_on_some_seeds_is_not_run_for_ever() -> None:
    kept = [experiment(2, Verdict.KEEP, judged_at=310.0), measured("e0002.1", 0.99, 300.0)]
    failed = [run(f"e0002.{i}", purpose=Purpose.CALIBRATE, failure=FailureKind.ERROR) for i in (2, 3)]
    assert not [d for d in decide(history(*base(), *kept, *failed)) if isinstance(d, Order)]


def test_a_policy_that_saw_every_step_decides_as_one_that_sees_the_end() -> None:
    things = list(moved(experiment(4), measured("e0004.1", 0.9893, 500.0)).experiments.values())
    past = moved(experiment(4), measured("e0004.1", 0.9893, 500.0))
    old = policy()
    runs = sorted((r for r in past.all_runs() if r.ended_at), key=lambda r: r.ended_at or 0.0)
    for n in range(8, len(runs) + 1):
        old.decide(history(*things, *runs[:n]), WORKERS, 600.0)
    assert old.decide(past, WORKERS, 600.0) == decide(past, now=600.0)


def test_candidates_are_as_they_are_now_however_often_they_were_asked_for() -> None:
    two = [measured("e0002.1", 0.998, 300.0), measured("e0003.1", 0.9985, 301.0)]
    before = history(*base(), experiment(2), experiment(3), *two)
    ordered = run("e0002.2", kind="H100", state=RunState.QUEUED, purpose=Purpose.CONFIRM)
    later = history(*base(), experiment(2), experiment(3, Verdict.DISCARD), *two, ordered)
    asked, fresh = policy(), policy()
    found, confirmed = [], []
    for past in (before, later):
        orders = [d for d in asked.decide(past, WORKERS, 1000.0) if isinstance(d, Order)]
        confirmed.append([d.experiment for d in orders if d.purpose is Purpose.CONFIRM])
        found.append(asked.learner.candidates(past, past.experiments["e0001"]))
    assert [c.experiment.id for c in found[0]] == ["e0002", "e0003"]
    assert [c.experiment.id for c in found[1]] == ["e0002"]
    assert confirmed[0].count("e0002") == confirmed[1].count("e0002") + 1, "one is under way"
    assert asked.decide(later, WORKERS, 1000.0) == fresh.decide(later, WORKERS, 1000.0)
    assert found[1] == fresh.learner.candidates(later, later.experiments["e0001"])


def test_clocks_of_machines_may_be_ahead_of_ours() -> None:
    """By them the best's only run ends after it was kept: it is known all the same."""
    kept = [experiment(2, Verdict.KEEP, judged_at=310.0), measured("e0002.1", 0.99, 900.0)]
    past = history(*base(), *kept, experiment(3, parent="e0002"), measured("e0003.1", 0.95, 901.0, worker=2))
    judge = policy()
    assert verdicts(judge.decide(past, WORKERS, 1000.0)) == {"e0003": Verdict.KEEP}
    assert judge.learner.belief.value("e0002").mean == pytest.approx(0.99, abs=3 * SIGMA)


def test_a_run_that_comes_in_late_changes_nothing_but_its_own_weight() -> None:
    things = list(moved().experiments.values())
    runs = sorted(moved().all_runs(), key=lambda r: r.ended_at or 0.0)
    late = runs[5]
    old = policy()
    old.decide(history(*things, *[r for r in runs if r is not late]), WORKERS, 600.0)
    assert old.decide(moved(), WORKERS, 600.0) == decide(moved(), now=600.0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=3, max_size=8), st.floats(-5, 5))
def test_which_way_the_metric_improves_does_not_matter(noises: list[float], effect: float) -> None:
    ran = [
        measured(f"e0001.{i + 1}", 1.0 + SIGMA * noise, 100.0 + i, worker=i % 8 + 1, purpose=Purpose.BASELINE)
        for i, noise in enumerate(noises)
    ]
    things = [experiment(1, Verdict.KEEP, judged_at=150.0), *ran, experiment(2)]
    low = history(*things, measured("e0002.1", 1.0 + SIGMA * effect, 300.0))
    mirrored = [
        replace(t, measurement=replace(t.measurement, value=2.0 - t.measurement.value))
        if isinstance(t, Run) and t.measurement
        else t
        for t in [*things, *low.runs["e0002"]]
    ]
    high = history(*mirrored, goal=Goal.MAXIMIZE)
    assert verdicts(decide(low)) == verdicts(decide(high))


# ---------------------------------------------------------------------------
# The estimates below
# ---------------------------------------------------------------------------


def test_the_filter_is_the_least_squares_solution() -> None:
    """Baseline and offsets against a direct solve of the same linear model, with the same prior."""
    rng = np.random.default_rng(5)
    where = [1, 2, 3, 1, 2, 3, 1, 1]
    values = 1.0 + SIGMA * rng.normal(size=len(where)) / 3
    ran = [
        measured(f"e0001.{i + 1}", float(v), 100.0 + i, worker=w, purpose=Purpose.BASELINE)
        for i, (v, w) in enumerate(zip(values, where, strict=True))
    ]
    past = history(experiment(1, Verdict.KEEP, judged_at=150.0), *ran)
    learner = Learner("H100", SIGMA, drift=0.0)
    assert learner.learn(past)
    noise = SIGMA**2  # what is learned of it in between moves weights by little
    design = np.zeros((len(where), 4))
    design[:, 0] = 1.0
    for i, w in enumerate(where):
        design[i, w] = 1.0
    prior = np.diag([0.0, *[1 / (1.7 * SIGMA) ** 2] * 3])
    solved = np.linalg.solve(design.T @ design / noise + prior, design.T @ values / noise)
    assert learner.belief.value("e0001").mean == pytest.approx(solved[0] + solved[1:].mean(), abs=SIGMA / 20)


def test_noise_is_recovered_from_replicates_and_one_wild_run_hardly_moves_the_base() -> None:
    rng = np.random.default_rng(6)
    values = 1.0 + 2 * SIGMA * rng.normal(size=120)
    ran = [
        measured(f"e0001.{i + 1}", float(v), 100.0 + i, worker=i % 8 + 1, purpose=Purpose.BASELINE)
        for i, v in enumerate(values)
    ]
    learner = Learner("H100", SIGMA)
    assert learner.learn(history(experiment(1, Verdict.KEEP, judged_at=900.0), *ran))
    assert learner.belief.sigma == pytest.approx(2 * SIGMA, rel=0.2)
    before = learner.belief.value("e0001").mean
    wild = measured("e0001.121", 1.0 + 40 * SIGMA, 400.0, purpose=Purpose.CALIBRATE)
    learner.learn(history(experiment(1, Verdict.KEEP, judged_at=900.0), *ran, wild))
    assert abs(learner.belief.value("e0001").mean - before) < SIGMA / 4


@settings(max_examples=50, deadline=None)
@given(st.floats(-20, 20), st.floats(0.1, 3.0), st.integers(3, 6))
def test_a_posterior_is_a_distribution_and_worse_news_is_never_better(mean: float, sd: float, n: int) -> None:
    effects = Effects(SIGMA)
    prior = effects.prior[None, :]
    found = [Gaussian(mean=m * SIGMA, variance=(sd * SIGMA) ** 2) for m in (mean, mean + 1.0)]
    one, other = (effects.posteriors(prior, [each], [n], SIGMA**2) for each in found)
    assert one.sum() == pytest.approx(1.0)
    better, worse = (effects.prospects(p, [n], SIGMA**2)[0] for p in (one, other))
    assert better.useless <= worse.useless + 1e-6


def test_an_idea_done_anew_starts_from_what_is_known_of_it() -> None:
    effects = Effects(SIGMA)
    found = Gaussian(mean=-4 * SIGMA, variance=SIGMA**2)
    known = effects.posteriors(effects.prior[None, :], [found], [1], SIGMA**2)[0]
    stacked, redone = (effects.remaining(known, stacked=way) for way in (True, False))
    means = [effects.moments(each).mean for each in (known, redone, stacked)]
    assert means == sorted(means), "less of it remains where it is merely stacked"
    assert means[-1] < 0
    assert stacked.sum() == pytest.approx(1.0)
