"""Ideas from outside are taken in once, whoever hands them in, and none is lost."""

from __future__ import annotations

import shutil
import threading

import pytest

from autoresearch.budget import Budget
from autoresearch.errors import BudgetError, NotFoundError, UsageError
from autoresearch.experiment import Edit, Failure, FailureKind, Purpose, Refusal, RunState, Verdict
from autoresearch.study import Study, open_study
from autoresearch.submission import rehearse, submit
from autoresearch.telling import tell_all
from autoresearch.wave import Idea, Wave
from lab import Lab
from store_contract import CPU

NOW = 1_700_000_100.0
FREE = Budget()


@pytest.fixture
def study(lab: Lab) -> Study:
    return lab.study()


def ideas(*values: float, **changes: object) -> Wave:
    return Wave(experiments=tuple(Idea(set={"X": value}) for value in values), **changes)  # type: ignore[arg-type]


def hand_in(study: Study, wave: Wave, author: str = "ann", request_id: str | None = None, **changes: object):
    return submit(
        study, wave, author=author, request_id=request_id, **{"budget": FREE, "now": NOW, **changes}
    )  # type: ignore[arg-type]


def ids(answer) -> list[str | None]:
    return [row["experiment"] for row in answer["ideas"]]


def test_each_idea_has_its_experiment_at_once_with_code_and_author(study: Study) -> None:
    assert ids(hand_in(study, ideas(1.5, 2.5))) == ["e0002", "e0003"]
    assert study.files("e0003")["train.py"].startswith("X = 2.5")
    assert study.store.experiment("e0002").author == "ann"
    assert study.workspace.resolve(study.workspace.ref("e0002")) is not None


def test_nothing_runs_before_its_check(study: Study) -> None:
    hand_in(study, ideas(1.5))
    assert study.store.history().runs_of("e0002") == ()
    (waiting,) = study.store.waiting_proposals()
    assert (waiting.experiment, waiting.follows) == ("e0002", False)


def test_the_same_code_is_the_same_experiment_whoever_submits_it(study: Study) -> None:
    first = hand_in(study, ideas(1.5, 2.5))
    second = hand_in(study, ideas(2.5, 3.5, 2.5), author="bob")
    assert ids(second) == [ids(first)[1], "e0004", ids(first)[1]]
    assert [row["state"] for row in second["ideas"]] == ["duplicate", "queued", "duplicate"]
    assert len(study.store.waiting_proposals()) == 3


def test_a_comment_makes_no_new_experiment(study: Study) -> None:
    hand_in(study, ideas(1.5))
    text = study.files("e0002")["train.py"].replace("X = 1.5", "X = 1.5  # more")
    again = Wave(experiments=(Idea(hypothesis="h", files={"train.py": text}),))
    assert ids(hand_in(study, again)) == ["e0002"]


def test_code_that_has_become_the_best_since_has_its_id_too(study: Study) -> None:
    """As when two hand in the same file and the first one's was kept meanwhile; so has the parent's own."""
    whole = Wave(experiments=(Idea(hypothesis="h", files={"train.py": "X = 1.5\nNOISE = 0.01\n"}),))
    assert ids(hand_in(study, whole)) == ["e0002"]
    on_it = Wave(experiments=(*whole.experiments, *ideas(1.5).experiments), parent="e0002")
    rows = [{"experiment": "e0002", "state": "duplicate"}] * 2
    assert rehearse(study, on_it, author="bob", budget=FREE)["ideas"] == rows
    assert hand_in(study, on_it, author="bob")["ideas"] == rows


def test_an_idea_may_rework_one_or_several(study: Study) -> None:
    answer = hand_in(study, ideas(1.5, 1.6))
    first, second = ids(answer)
    several = Idea(set={"X": 1.7}, reworks=(first, second, first))
    hand_in(study, Wave(experiments=(Idea(set={"X": 1.8}, reworks=first), several)))
    found = {p.experiment: p.reworks for p in study.store.waiting_proposals()}
    assert list(found.values()) == [(), (), (first,), (first, second)]


def test_what_an_idea_reworks_has_to_exist(study: Study) -> None:
    wave = Wave(experiments=(Idea(set={"X": 1.5}, reworks="e0099"),))
    for act in (lambda: hand_in(study, wave), lambda: rehearse(study, wave, author="ann", budget=FREE)):
        with pytest.raises(NotFoundError, match="no experiment e0099 to rework"):
            act()
    assert study.store.proposal_count() == 0


def test_a_request_is_answered_alike_and_never_for_other_content(study: Study) -> None:
    first = hand_in(study, ideas(1.5), request_id="r1")
    assert hand_in(study, ideas(1.5), request_id="r1", now=NOW + 9) == first
    assert len(study.store.waiting_proposals()) == 1
    with pytest.raises(UsageError, match="used for another wave"):
        hand_in(study, ideas(1.6), request_id="r1")


def test_what_cannot_work_is_refused_alone_with_its_reason(study: Study) -> None:
    wave = Wave(
        experiments=(
            Idea(hypothesis="typo", set={"Z": 1}),
            Idea(hypothesis="syntax", files={"train.py": "X = ("}),
            Idea(hypothesis="twice", edits=(Edit(old=" = ", new="="),)),
            Idea(hypothesis="good", set={"X": 1.5}),
        )
    )
    answer = hand_in(study, wave)
    assert [row["state"] for row in answer["ideas"]] == ["refused", "refused", "refused", "queued"]
    reasons = [row["reason"].split(":")[0] for row in answer["ideas"][:3]]
    assert reasons == ["constant", "syntax", "edit"]
    assert [refused.reason.split(":")[0] for refused in study.store.refusals(9)] == reasons
    assert study.store.barren() == 0, "they do not count against an agent of the study's own"


def test_an_unknown_parent_is_not_found_and_nothing_is_stored(study: Study) -> None:
    with pytest.raises(NotFoundError, match="no experiment e0099"):
        hand_in(study, ideas(1.5, parent="e0099"))
    assert study.store.proposal_count() == 0


def test_an_idea_may_build_on_one_that_has_not_run(study: Study) -> None:
    hand_in(study, ideas(1.5))
    child = Wave(experiments=(Idea(set={"NOISE": 0.02}, parent="e0002"),))
    assert ids(hand_in(study, child)) == ["e0003"]
    assert study.files("e0003")["train.py"].startswith("X = 1.5\nNOISE = 0.02")


def test_the_ceiling_on_experiments_cuts_a_wave(study: Study) -> None:
    answer = hand_in(study, ideas(1.5, 2.5, 3.5), budget=Budget(experiments=2))
    assert [row["state"] for row in answer["ideas"]] == ["queued", "queued", "refused"]
    assert answer["ideas"][2]["reason"].startswith("budget")
    again = hand_in(study, ideas(1.5, 4.5), budget=Budget(experiments=2))
    assert [row["state"] for row in again["ideas"]] == ["duplicate", "refused"]


def test_a_rehearsal_says_the_same_and_stores_nothing(study: Study) -> None:
    wave = ideas(1.5, 1.5, 2.5, 3.5)
    budget = Budget(experiments=2)
    told = rehearse(study, wave, author="ann", budget=budget)
    assert study.store.proposal_count() == 0
    done = hand_in(study, wave, budget=budget)
    assert [row["state"] for row in told["ideas"]] == [row["state"] for row in done["ideas"]]


def test_a_grid_names_its_cells_and_one_is_the_parent(study: Study) -> None:
    answer = hand_in(study, Wave(factors={"X": (1.0, 1.5), "NOISE": (0.01, 0.02)}, hypothesis="both"))
    assert answer["grid"] == "g1"
    assert ids(answer) == ["e0001", "e0002", "e0003", "e0004"]
    grid = study.store.grid("g1")
    assert grid.cells[0] == ({"X": 1.0, "NOISE": 0.01}, "e0001")
    assert grid.factors == {"X": [1.0, 1.5], "NOISE": [0.01, 0.02]}


def test_the_same_grid_again_is_the_same_grid_whoever_asks(study: Study) -> None:
    wave = Wave(factors={"X": (1.5, 2.5)})
    first = hand_in(study, wave)
    again = hand_in(study, wave, author="bob")
    assert (again["grid"], ids(again)) == (first["grid"], ids(first)) == ("g1", ["e0002", "e0003"])
    assert hand_in(study, Wave(factors={"X": (2.5, 1.5)}))["grid"] == "g2", "it is told against another level"


def test_a_grid_of_which_no_cell_was_taken_is_none(study: Study) -> None:
    assert hand_in(study, Wave(factors={"Z": (1, 2)}))["grid"] is None
    with pytest.raises(NotFoundError, match="no grid g1"):
        study.store.grid("g1")


def test_two_grids_share_the_cells_they_have_in_common(study: Study) -> None:
    first = hand_in(study, Wave(factors={"X": (1.5, 2.5)}))
    second = hand_in(study, Wave(factors={"X": (2.5, 3.5)}), author="bob")
    assert ids(second)[0] == ids(first)[1]
    assert study.store.grid("g2").author == "bob"
    with pytest.raises(NotFoundError, match="no grid g3"):
        study.store.grid("g3")


def test_what_was_taken_back_may_be_asked_for_again_under_its_id(study: Study) -> None:
    hand_in(study, ideas(1.5))
    assert study.store.withdraw("e0002", "ann", NOW)
    assert not study.store.withdraw("e0002", "ann", NOW), "once"
    assert study.store.waiting_proposals() == []
    again = hand_in(study, ideas(1.5), author="bob")
    assert again["ideas"] == [{"experiment": "e0002", "state": "queued"}]
    assert len(study.store.waiting_proposals()) == 1


def test_what_is_asked_for_again_counts_once_against_the_ceiling(study: Study) -> None:
    hand_in(study, ideas(1.5))
    (waiting,) = study.store.waiting_proposals()
    study.store.enlist(waiting, 0, NOW)
    study.store.cancel("e0002.1", "ann", NOW)
    hand_in(study, ideas(1.5))
    answer = hand_in(study, ideas(2.5, 3.5), budget=Budget(experiments=2))
    assert [row["state"] for row in answer["ideas"]] == ["queued", "refused"]


def test_a_failed_check_is_a_crash_without_a_run(study: Study) -> None:
    hand_in(study, ideas(1.5))
    (waiting,) = study.store.waiting_proposals()
    failure = Failure(kind=FailureKind.SHAPE, message="8x64 and 32x64")
    refusal = Refusal(reason="preflight", detail=str(failure), failure=failure)
    assert study.store.reject(waiting, refusal, NOW)
    assert not study.store.enlist(waiting, 0, NOW), "it no longer waits"
    found = study.store.experiment("e0002")
    assert (found.verdict, found.reason) == (Verdict.CRASH, "preflight: shape: 8x64 and 32x64")
    assert study.store.usage(NOW, 1.0).experiments == 0, "it took no worker"


def test_a_queued_run_is_cancelled_at_once_and_one_in_flight_when_it_has_ended(study: Study) -> None:
    store = study.store
    hand_in(study, ideas(1.5))
    (waiting,) = store.waiting_proposals()
    store.enlist(waiting, 0, NOW)
    (run,) = store.history().runs_of("e0002")
    assert run.purpose is Purpose.SCREEN
    assert store.cancel("e0002.1", "ann", NOW)
    assert store.run("e0002.1").state is RunState.CANCELLED
    first = store.run("e0001.1")
    assert store.claim(first, "t", CPU, NOW)
    assert store.cancel("e0001.1", "ann", NOW)
    flying = store.run("e0001.1")
    assert (flying.state, flying.cancelled_by) == (RunState.SUBMITTING, "ann")
    assert not store.cancel("e0001.1", "bob", NOW), "it was asked for before"
    assert store.drop(flying, NOW)
    assert store.run("e0001.1").state is RunState.CANCELLED


def test_confirming_what_is_kept_tells_its_value_and_confirming_else_decides(study: Study) -> None:
    """Of a kept experiment nothing hangs on such a run any more: it counts for the claimed value."""
    store = study.store
    (before,) = store.confirm("e0001", 4, kind=None, study_seed=0, why="asked for", now=NOW)
    assert store.run(before).purpose is Purpose.CONFIRM
    assert store.decide("e0001", Verdict.KEEP, "baseline", NOW)
    (after,) = store.confirm("e0001", 5, kind=None, study_seed=0, why="asked for", now=NOW)
    assert store.run(after).purpose is Purpose.CALIBRATE


def test_confirming_again_queues_only_what_is_missing(study: Study) -> None:
    def confirm(count: int) -> list[str]:
        return study.store.confirm("e0001", count, kind=None, study_seed=0, why="asked for", now=NOW)

    already = len(study.store.history().runs_of("e0001"))
    assert confirm(already) == []
    assert confirm(already + 2) == [f"e0001.{already + 1}", f"e0001.{already + 2}"]
    assert confirm(already + 2) == []


def test_the_same_note_twice_is_one_note(study: Study) -> None:
    assert study.store.note("depth helps", "ann", NOW)
    assert not study.store.note("depth helps", "ann", NOW + 1)
    assert study.store.note("depth helps", "bob", NOW + 2)
    assert len(study.store.last_events(9, ["noted"])) == 2


def test_threads_with_stores_of_their_own_agree_on_every_id(lab: Lab, study: Study) -> None:
    """Eight writers of overlapping ideas, each with a connection of its own, as processes have."""
    found: list[dict[float, str]] = [{} for _ in range(8)]

    def work(who: int) -> None:
        mine = open_study(lab.folder, lab.folder / ".autoresearch", "t")
        for step in range(6):
            value = 1.5 + ((who * 3 + step) % 12) / 10
            (found[who][value],) = ids(hand_in(mine, ideas(value), author=f"agent {who}"))
        mine.close()

    threads = [threading.Thread(target=work, args=(who,)) for who in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    agreed: dict[float, str] = {}
    for mapping in found:
        for value, id_ in mapping.items():
            assert agreed.setdefault(value, id_) == id_
    assert len(set(agreed.values())) == len(agreed) == study.store.history().proposed()
    assert all(e.commit for e in study.store.history().experiments.values())


def test_a_tag_whose_experiments_git_still_holds_is_not_used_again(lab: Lab, study: Study) -> None:
    """Their refs are never overwritten, so their code would pass for that of the new study."""
    hand_in(study, ideas(1.5))
    study.close()
    shutil.rmtree(study.state)
    with pytest.raises(UsageError, match="git holds experiments of an earlier study t"):
        lab.study()
    assert lab.study(tag="t-2").tag == "t-2"


def test_a_run_that_is_ending_does_not_keep_its_idea_from_being_asked_for_again(study: Study) -> None:
    store = study.store
    hand_in(study, ideas(1.5))
    store.enlist(store.waiting_proposals()[0], 0, NOW)
    assert store.claim(store.run("e0002.1"), "t", CPU, NOW)
    store.cancel("e0002.1", "ann", NOW)
    assert rehearse(study, ideas(1.5), author="bob", budget=FREE)["ideas"][0]["state"] == "queued"
    assert hand_in(study, ideas(1.5), author="bob")["ideas"] == [{"experiment": "e0002", "state": "queued"}]
    store.drop(store.run("e0002.1"), NOW)
    (waiting,) = store.waiting_proposals()
    refusal = Refusal(reason="preflight", detail="import: no flash_attn")
    assert store.reject(waiting, refusal, NOW)
    assert store.experiment("e0002").verdict is Verdict.CRASH, "a check that fails later is a crash, too"


def test_where_the_budget_is_used_up_nothing_is_stored_so_that_the_request_may_come_again(
    study: Study,
) -> None:
    with pytest.raises(BudgetError):
        hand_in(study, ideas(1.5), request_id="r", budget=Budget(experiments=0))
    assert study.store.proposal_count() == 0
    assert ids(hand_in(study, ideas(1.5), request_id="r")) == ["e0002"]


def test_a_constant_has_exactly_the_value_that_was_asked_for(study: Study) -> None:
    answer = hand_in(study, Wave(factors={"X": (1.23456, 1.23457, 524289.5)}))
    assert len(set(ids(answer))) == 3
    assert "X = 524289.5" in study.files("e0004")["train.py"]


def test_a_brief_counts_what_is_promised_and_what_was_taken_back(study: Study) -> None:
    hand_in(study, ideas(1.5, 2.5, 3.5))
    study.store.withdraw("e0003", "ann", NOW)
    told = tell_all(study, Budget(experiments=5), "")
    assert told.experiments_left == 3
    assert told.waiting == ()
    assert dict(told.counts) == {"open": 3, "cancelled": 1}, "the baseline is one of the open"
    assert [t.id for t in told.tried if t.pending] == ["e0001", "e0002", "e0004"]
