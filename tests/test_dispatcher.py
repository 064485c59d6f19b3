"""The loop with real parts: SQLite, git, processes, and training of milliseconds."""

from __future__ import annotations

import dataclasses
import json
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from autoresearch.actions import Request, Snapshot
from autoresearch.brief import Brief
from autoresearch.budget import Budget
from autoresearch.clock import WallClock
from autoresearch.config import AgentConfig
from autoresearch.errors import AgentError, BusyError, StorageError, UsageError
from autoresearch.executors.local import LocalExecutor, slots
from autoresearch.experiment import Edit, FailureKind, Proposal, Purpose, RunState, Verdict
from autoresearch.founding import same_target
from autoresearch.history import BASELINE
from autoresearch.intake import Intake
from autoresearch.judging.policy import MERGE_QUEUE
from autoresearch.protocols import Reply
from autoresearch.report import results_tsv
from autoresearch.study import open_study, state_folder
from lab import Lab, git, set_x, target


def states(study: object) -> Counter[RunState]:
    return Counter(run.state for run in study.store.history().all_runs())  # type: ignore[attr-defined]


def test_a_study_goes_from_a_baseline_to_a_kept_improvement(lab: Lab) -> None:
    study, finish = lab.run([set_x(3.5), set_x(1.5), set_x(1.0, extra="  # same")])
    history = study.store.history()
    verdicts = {e.id: e.verdict for e in history.experiments.values()}
    assert verdicts == {"e0001": Verdict.KEEP, "e0002": Verdict.DISCARD, "e0003": Verdict.KEEP}
    assert finish.reason == "the agent has stopped proposing: the script is at its end"
    assert [r.purpose for r in history.runs_of("e0003")] == ["screen", "confirm", "calibrate"]
    assert {r.worker_kind for r in history.all_runs()} == {"cpu"}
    assert study.store.refusals(5)[0].reason.startswith("unchanged")
    tip = git(lab.folder, "log", "-1", "--format=%s", "autoresearch/t").strip()
    assert tip == "e0003: X 1.5"
    assert git(lab.folder, "show", "autoresearch/t:train.py").startswith("X = 1.5\n")
    assert git(lab.folder, "status", "--porcelain") == "", "the state folder ignores itself"


def test_every_experiment_keeps_its_ref_kept_or_not(lab: Lab) -> None:
    study, _ = lab.run([set_x(3.5), set_x(1.5)])
    for experiment in study.store.history().experiments.values():
        assert experiment.commit == git(lab.folder, "rev-parse", study.workspace.ref(experiment.id)).strip()
    assert git(lab.folder, "show", "refs/autoresearch/t/e0002:train.py").startswith("X = 3.5\n")


def test_a_crash_is_absent_in_the_store_and_zero_only_in_the_export(lab: Lab) -> None:
    study, _ = lab.run([set_x(1.5, extra="\nCRASH = True")])
    (run,) = study.store.history().runs_of("e0002")
    assert run.failure is not None
    assert (run.failure.kind, run.value) == (FailureKind.SHAPE, None)
    experiment = study.store.experiment("e0002")
    assert (experiment.verdict, experiment.reason[:6]) == (Verdict.CRASH, "shape:")
    lines = results_tsv(study.store.history()).splitlines()
    assert lines[0] == "commit\tval_bpb\tmemory_gb\tstatus\tdescription"
    assert lines[1].split("\t")[1:] == [lines[1].split("\t")[1], "1.0", "keep", "baseline"]
    assert lines[2].split("\t")[1:] == ["0.000000", "0.0", "crash", "X 1.5"]
    assert lines[2].split("\t")[0] == experiment.commit[:7]  # type: ignore[index]


@pytest.mark.parametrize("said", ["'nan'", "'-inf'", "'0x10'"])
def test_a_score_that_is_no_number_is_a_crash(lab: Lab, said: str) -> None:
    study, _ = lab.run([set_x(1.5, extra=f"\nSAY = {said}")])
    assert study.store.experiment("e0002").verdict is Verdict.CRASH


def test_the_budget_of_experiments_is_exact(lab: Lab) -> None:
    config = lab.config(budget=Budget(experiments=3))
    study, finish = lab.run([set_x(3 + i / 10) for i in range(9)], config)
    assert finish.reason == "budget reached: experiments, 3 of 3"
    assert finish.complete
    assert study.store.history().proposed() == 3


def test_hours_that_cannot_hold_another_run_end_the_study(lab: Lab) -> None:
    config = lab.config(budget=Budget(hours=0.005))
    study, finish = lab.run([set_x(1.5)], config)
    assert "hours" in finish.reason
    assert states(study) == {RunState.QUEUED: 3}, "one run could take longer than 18 s, so none began"


def test_a_study_resumes_where_it_ended(lab: Lab) -> None:
    script = [set_x(3 + i / 10) for i in range(4)]
    study, _ = lab.run(script, lab.config(budget=Budget(experiments=2)))
    study.close()
    again = open_study(lab.folder, state_folder(lab.folder))
    assert again.tag == "t"
    again, finish = lab.run(script, lab.config(budget=Budget(experiments=4)), study=again)
    assert finish.complete
    assert again.store.history().proposed() == 4
    assert len(again.store.sessions()) == 2


def test_only_one_dispatcher_runs_a_study(lab: Lab) -> None:
    study = lab.study()
    other = open_study(lab.folder, state_folder(lab.folder), "t")
    with study.dispatching():
        assert other.dispatcher_alive()
        with pytest.raises(BusyError, match="another dispatcher") as error, other.dispatching():
            pass
        assert "status --watch" in error.value.hint
        assert error.value.exit_code == 2
    assert not other.dispatcher_alive()


def _during(lab: Lab, act: object, **options: object):
    """Dispatch slow runs and call `act` once two of them are running."""
    config = lab.config()
    study = lab.study(config)
    dispatcher = lab.dispatcher([set_x(3.0)], config, study)
    acted = []

    def on_turn(snapshot: object) -> None:
        running = [r for r in snapshot.history.in_flight() if r.state is RunState.RUNNING]  # type: ignore[attr-defined]
        if len(running) == 2 and not acted:
            acted.append(True)
            act(dispatcher)  # type: ignore[operator]

    dispatcher._on_turn = on_turn
    with study.dispatching():
        return study, dispatcher.run()


@pytest.fixture
def slow_lab(lab: Lab) -> Lab:
    (lab.folder / "train.py").write_text("X = 1.0\nNOISE = 0.01\nSLEEP = 1.0\n")
    lab.commit("slow")
    return lab


def test_a_drain_lets_running_runs_finish_and_starts_no_more(slow_lab: Lab) -> None:
    study, finish = _during(slow_lab, lambda d: d.request(Request.DRAIN))
    assert not finish.complete
    assert states(study)[RunState.FINISHED] == 2
    assert states(study)[RunState.QUEUED] >= 1


def test_a_cancel_ends_running_runs_and_queues_them_again(slow_lab: Lab) -> None:
    started = time.monotonic()
    study, finish = _during(slow_lab, lambda d: d.request(Request.CANCEL))
    assert not finish.complete
    assert set(states(study)) == {RunState.QUEUED}
    attempts = sorted(r.attempt for r in study.store.history().all_runs())
    assert attempts[-2:] == [2, 2]
    assert time.monotonic() - started < 20
    study, finish = slow_lab.run([set_x(3.0)], study=study)
    assert states(study) == {RunState.FINISHED: 4}, "nothing was lost, nothing ran twice"


def test_leaving_keeps_the_jobs_alive_and_the_next_dispatcher_picks_them_up(slow_lab: Lab) -> None:
    study, finish = _during(slow_lab, lambda d: d.leave())
    assert "picked up again" in finish.reason
    assert states(study)[RunState.RUNNING] == 2
    study, _ = slow_lab.run([set_x(3.0)], study=study)
    assert all(run.attempt == 1 for run in study.store.history().all_runs())


def test_a_stop_written_by_another_process_is_obeyed(slow_lab: Lab) -> None:
    def act(dispatcher: object) -> None:
        other = open_study(slow_lab.folder, state_folder(slow_lab.folder), "t")
        other.store.set_request(Request.DRAIN, time.time())
        other.close()

    _, finish = _during(slow_lab, act)
    assert finish.reason == "stopped by request"


def test_a_killed_worker_is_not_the_experiments_fault(slow_lab: Lab) -> None:
    import psutil

    def act(dispatcher: object) -> None:
        for process in psutil.process_iter():
            try:
                ours = str(slow_lab.folder) in " ".join(process.cmdline()) and "shim" in " ".join(
                    process.cmdline()
                )
                if ours:
                    process.send_signal(signal.SIGKILL)
            except psutil.Error:
                continue

    study, finish = _during(slow_lab, act)
    assert finish.complete
    assert states(study) == {RunState.FINISHED: 4}
    assert sorted(r.losses for r in study.store.history().all_runs())[-2:] == [1, 1]
    assert study.store.experiment(BASELINE).verdict is Verdict.KEEP


def test_a_run_whose_machines_are_lost_three_times_is_given_up(lab: Lab) -> None:
    """A command that kills its own shim loses every machine it gets."""
    config = lab.config(
        target=target(command="{python} -c 'import os, signal; os.kill(os.getppid(), signal.SIGKILL)'")
    )
    study, finish = lab.run([set_x(3.0)], config)
    baseline = study.store.experiment(BASELINE)
    assert baseline.verdict is Verdict.CRASH
    assert "machine lost" in baseline.reason
    assert set(states(study)) == {RunState.LOST}
    assert {r.attempt for r in study.store.history().all_runs()} == {3}
    assert "the baseline itself failed" in finish.reason


def test_preflight_refuses_before_a_worker_is_taken(lab: Lab) -> None:
    config = lab.config(target=target(preflight="{python} {protected}/fake_training.py"))
    study, _ = lab.run([set_x(1.5, extra="\nBROKEN = True"), set_x(3.0)], config)
    history = study.store.history()
    assert [e.hypothesis for e in history.experiments.values()] == ["baseline", "X 3"]
    (refusal,) = study.store.refusals(5)
    assert refusal.reason.startswith("preflight: import: No module named 'flash_attn'")
    assert not list((study.state / "preflight").glob("p*")), "checks clean up after themselves"


def test_a_preflight_that_hangs_does_not_count_against_the_idea(lab: Lab) -> None:
    hangs = "{python} -c 'import time; time.sleep(60)'"
    config = lab.config(target=target(preflight=hangs, preflight_seconds=0.5))
    study, _ = lab.run([set_x(3.0)], config)
    assert study.store.history().proposed() == 1


class Moody:
    """An agent that fails in every way before it proposes."""

    def __init__(self, failures: list[Exception]) -> None:
        self.failures = failures

    def propose(self, brief: Brief, n: int) -> Reply:
        if self.failures:
            raise self.failures.pop(0)
        if brief.serial:
            raise AgentError("done", retryable=False)
        return Reply(proposals=(set_x(3.0),))


def test_an_agent_that_fails_is_asked_again_and_never_ends_the_study(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoresearch.asking.REST_SECONDS", (0.05, 0.05, 0.05))
    agent = Moody([AgentError("overloaded"), ValueError("a bug in the agent")])
    study, finish = lab.run([], agent=agent)
    assert study.store.history().proposed() == 1
    reasons = [e.data["reason"] for e in study.store.events(kinds=["agent_failed"])]
    assert reasons == ["overloaded", "ValueError: a bug in the agent", "done"]
    assert finish.complete


def test_an_agent_that_only_fails_is_given_up_and_the_study_ends(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoresearch.asking.REST_SECONDS", (0.01, 0.01))
    monkeypatch.setattr("autoresearch.asking.PATIENCE_SECONDS", 0.1)
    study, finish = lab.run([], agent=Moody([AgentError("no")] * 99))
    assert finish.reason.startswith("the agent has stopped proposing: no")
    assert study.store.experiment(BASELINE).verdict is Verdict.KEEP, "the pool worked on"


def test_the_pool_works_while_the_agent_thinks(lab: Lab) -> None:
    thinking = threading.Event()

    class Slow:
        def propose(self, brief: Brief, n: int) -> Reply:
            if brief.serial:
                raise AgentError("done", retryable=False)
            assert thinking.wait(30)
            return Reply(proposals=(set_x(3.0),))

    def on_turn(snapshot: object) -> None:
        if snapshot.history.experiments[BASELINE].verdict is Verdict.KEEP:  # type: ignore[attr-defined]
            thinking.set()

    study, _ = lab.run([], agent=Slow(), on_turn=on_turn)
    assert study.store.history().proposed() == 1


def test_an_agent_that_repeats_itself_runs_out(lab: Lab) -> None:
    study, finish = lab.run(lambda brief, n: [set_x(3.0)] * n)
    assert "out of ideas" in finish.reason
    assert study.store.history().proposed() == 1


def test_proposals_with_an_unknown_parent_are_refused(lab: Lab) -> None:
    study, _ = lab.run([set_x(3.0, parent="e0077"), set_x(2.5)])
    assert [r.reason for r in study.store.refusals(5)] == ["parent: there is no experiment e0077"]


def test_when_the_best_moves_what_waits_moves_along_or_is_handed_back(lab: Lab) -> None:
    """One worker: the first idea is kept before the others get their turn."""
    first, clash = set_x(1.5), set_x(3.5)
    slower = Proposal(
        hypothesis="sleep",
        edits=(Edit(old="SLEEP = 0.0", new="SLEEP = 0.01"),),
        parent="e0001",
        author="test",
    )
    fixed = dataclasses.replace(slower, edits=(Edit(old="SLEEP = 0.0", new="SLEEP = 0.02"),))
    following = [dataclasses.replace(p, base="e0001", follows=True) for p in (first, clash, slower)]
    study, _ = lab.run([*following, fixed], lab.config(workers=1, agent=AgentConfig(backlog=4)))
    experiments = study.store.history().experiments
    assert experiments["e0002"].verdict is Verdict.KEEP
    assert [experiments[f"e000{n}"].parent for n in (3, 4)] == ["e0002", "e0001"]
    assert study.files("e0003")["train.py"] == "X = 1.5\nNOISE = 0.01\nSLEEP = 0.01\n"
    assert study.files("e0004")["train.py"] == "X = 1.0\nNOISE = 0.01\nSLEEP = 0.02\n"
    (stale,) = study.store.refusals(5)
    assert stale.reason.startswith("stale: written for e0001, it does not fit e0002")
    moved = [(e.subject, e.data["parent"]) for e in study.store.events(kinds=["rebased"])]
    assert moved == [("2", "e0002"), ("3", "e0002")]


def test_edits_of_several_experiments_are_stacked_as_far_as_they_fit(lab: Lab) -> None:
    """The third changes the same line as the first."""
    slower = dataclasses.replace(set_x(3.0), edits=(Edit(old="SLEEP = 0.0", new="SLEEP = 0.01"),))
    study, _ = lab.run([set_x(3.0), slower, set_x(3.5)])
    best = study.store.history().lineage()[-1].id
    intake = Intake(study, None, WallClock())
    names = tuple(e for e in study.store.history().experiments if e not in {"e0001", best})
    assert intake.stack(names) == (best, *names)
    (waiting,) = study.store.waiting_proposals()
    assert (waiting.parent, waiting.author, waiting.reworks) == (best, MERGE_QUEUE, names[:2])
    assert [edit.new for edit in waiting.edits] == ["X = 3.0", "SLEEP = 0.01"]
    intake.stack((names[0], names[2]))
    assert len(study.store.waiting_proposals()) == 1, "one alone is no combination"


def test_an_idea_that_is_in_the_best_already_is_not_done_anew(lab: Lab) -> None:
    """Its author was asked to do it anew before it was kept as it stood."""
    again = dataclasses.replace(set_x(1.4), edits=(Edit(old="X = 1.5", new="X = 1.4"),))
    again = dataclasses.replace(again, parent="e0002", reworks=("e0002",))

    values = iter([1.5, *(3 + n / 100 for n in range(60))])  # asked again, it has something new

    def propose(brief: Brief, n: int) -> list[Proposal]:
        del n
        return [set_x(next(values))] if brief.parent == "e0001" else [again]

    study, _ = lab.run(propose, lab.config(workers=1, budget=Budget(experiments=8)))
    assert study.store.history().experiments["e0002"].verdict is Verdict.KEEP
    assert "stale: the idea of e0002 is in e0002 already" in {r.reason for r in study.store.refusals(50)}


def test_ideas_wait_as_proposals_and_become_experiments_when_a_worker_is_free(lab: Lab) -> None:
    seen: list[int] = []

    def on_turn(snapshot: Snapshot) -> None:
        waiting = [run for run in snapshot.history.queued() if run.purpose is Purpose.SCREEN]
        seen.append(len(waiting) - len(snapshot.workers))

    study, _ = lab.run([set_x(3 + n / 100) for n in range(8)], lab.config(workers=1), on_turn=on_turn)
    assert study.store.history().proposed() == 8
    assert max(seen) <= 0, "no more wait than workers can take"


def test_the_brief_says_what_is_pending_tried_and_refused(lab: Lab) -> None:
    briefs: list[Brief] = []

    def script(brief: Brief, n: int) -> list[Proposal]:
        briefs.append(brief)
        if len(brief.tried) >= 3:
            raise AgentError("done", retryable=False)
        return [set_x(3 + brief.serial / 10), set_x(1.0, extra="  # nothing")]

    study, _ = lab.run(script, lab.config(agent=dataclasses.replace(lab.config().agent, backlog=2)))
    last = briefs[-1]
    assert last.parent == "e0001"
    assert last.find("e0002").constants["X"] == 3.0  # type: ignore[union-attr]
    assert any(r.reason.startswith("unchanged") for r in last.refused)
    assert {t.id for t in last.tried} >= {"e0001", "e0002", "e0003"}
    study.close()


def test_protected_files_run_from_the_pinned_copy(lab: Lab) -> None:
    config = lab.config()
    study = lab.study(config)
    (lab.folder / "fake_training.py").write_text("raise SystemExit('edited after the study began')\n")
    study, _ = lab.run([set_x(3.0)], config, study)
    assert states(study) == {RunState.FINISHED: 4}


def test_a_changed_pinned_copy_is_refused(lab: Lab) -> None:
    study = lab.study()
    pinned = study.state / "protected" / "fake_training.py"
    pinned.chmod(0o644)
    pinned.write_text("print('val_bpb: 0.0')\n")
    with pytest.raises(StorageError, match="was changed since the study began"):
        lab.run([], study=study)


def test_uncommitted_and_missing_code_are_refused_with_the_way_out(lab: Lab) -> None:
    (lab.folder / "train.py").write_text("X = 9\n")
    with pytest.raises(UsageError, match=r"uncommitted changes in train\.py") as error:
        lab.study()
    assert "commit or stash" in error.value.hint
    lab.commit()
    with pytest.raises(UsageError, match=r"model\.py does not exist"):
        lab.study(lab.config(target=target(editable=("model.py",))))
    (lab.folder / "model.py").write_text("Y = 1\n")
    with pytest.raises(UsageError, match=r"model\.py is not committed"):
        lab.study(lab.config(target=target(editable=("model.py",))))


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "is empty"), (b"\xff\xfe\x00", "not UTF-8"), (b"x = (", "does not parse")]
)
def test_a_baseline_that_is_no_code_is_refused_at_once(lab: Lab, content: bytes, message: str) -> None:
    (lab.folder / "train.py").write_bytes(content)
    lab.commit()
    with pytest.raises(UsageError, match=message):
        lab.study()


def test_a_creation_cut_short_is_completed_by_the_next(lab: Lab) -> None:
    study = lab.study()
    study.close()
    for name in ("study.db", "study.db-wal", "study.db-shm"):
        (study.state / name).unlink(missing_ok=True)
    again = lab.study()
    assert again.store.history().experiments.keys() == {"e0001"}


def test_a_changed_target_is_noticed(lab: Lab) -> None:
    study = lab.study()
    assert same_target(study, lab.config()) is None
    assert same_target(study, lab.config(target=target(budget_seconds=9.0))) == "target.budget_seconds"


def test_a_200_mb_log_without_a_newline_is_read_in_no_time(lab: Lab) -> None:
    """The log is sparse on disk; what is read of it is bounded."""
    script = (
        "import os; os.truncate('log', 200_000_000); os.lseek(1, 0, 2);"
        "os.write(1, b'\\xff\\xfe junk \\n---\\nval_bpb: 1.25\\n')"
    )
    config = lab.config(target=target(command=f'{{python}} -c "{script}"'))
    started = time.monotonic()
    study, _ = lab.run([], config)
    sizes = [p.stat().st_size for p in study.runs_folder.glob("*/*/log")]
    assert min(sizes) >= 200_000_000
    assert {r.value for r in study.store.history().all_runs()} == {1.25}
    assert time.monotonic() - started < 30


def test_a_job_sees_the_study_and_none_of_our_environment(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-secret")
    study = lab.study()
    (run,) = [r for r in study.store.history().all_runs() if r.id == "e0001.2"]
    env = study.job_spec(run).env
    assert "sk-secret" not in json.dumps(dict(env))
    assert env["AUTORESEARCH_SEED"] == str(run.seed)
    assert env["AUTORESEARCH_RUN"] == "t-e0001.2-a1"
    assert env["AUTORESEARCH_BUDGET_SECONDS"] == "5"


def test_a_submit_that_cannot_reach_its_worker_is_tried_again(lab: Lab) -> None:
    from autoresearch.errors import PoolError

    config = lab.config()
    study = lab.study(config)

    class Flaky(LocalExecutor):
        refusals = 3

        def submit(self, job: object, worker: str) -> None:
            if Flaky.refusals:
                Flaky.refusals -= 1
                raise PoolError("not now")
            super().submit(job, worker)  # type: ignore[arg-type]

    executor = Flaky(study.runs_folder, slots(config.pool))
    study, finish = lab.run([], config, study, executor=executor)
    assert finish.complete
    assert states(study) == {RunState.FINISHED: 3}
    assert {r.attempt for r in study.store.history().all_runs()} == {1}


def test_the_wall_clock_wakes_early() -> None:
    clock = WallClock()
    started = time.monotonic()
    threading.Timer(0.05, clock.wake).start()
    clock.wait(30)
    assert time.monotonic() - started < 10
    assert abs(clock.now() - time.time()) < 1


def test_dispatching_writes_the_journal_once_per_run(lab: Lab, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    config = lab.config(target=target(env={"JOURNAL": str(journal)}))
    study, _ = lab.run([set_x(3 + i / 10) for i in range(5)], config)
    started = [line.split()[1] for line in journal.read_text().splitlines() if line.startswith("start")]
    assert len(started) == len(set(started)) == sum(states(study).values())
