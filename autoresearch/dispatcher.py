"""The loop: read a snapshot, plan, act, wait. One per study, guarded by the study's lock.

Everything it does is an action of `plan`, performed by one method each; it keeps nothing in memory
that another dispatcher could not read from the store, git, or the executor. Only two things run
beside it: the agent (`asking`), and preflight, in processes of its own.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence

from autoresearch.actions import (
    Action,
    Admit,
    Ask,
    Cancel,
    Collect,
    Drop,
    Finish,
    GiveUp,
    Publish,
    Rebase,
    Release,
    Request,
    Requeue,
    Snapshot,
    Stack,
    Started,
    Submit,
)
from autoresearch.asking import TOGETHER, Asking, Spawn, in_a_thread
from autoresearch.brief import Brief
from autoresearch.config import Config
from autoresearch.errors import PoolError
from autoresearch.experiment import Failure, FailureKind, Run, RunState, Verdict, Worker
from autoresearch.history import History
from autoresearch.intake import Intake, Preflight, stacked
from autoresearch.judging.policy import Decide, Merge, Order, Withdraw
from autoresearch.judging.stopping import Lookout, Outlook
from autoresearch.outcome import read_outcome
from autoresearch.plan import MAX_LOSSES, plan
from autoresearch.protocols import Agent, Clock, Executor, Policy
from autoresearch.references import References
from autoresearch.study import Study
from autoresearch.telling import Tell, tell_all

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 5.0
POLICY = "the policy"  # who takes back a run whose question is answered


class Dispatcher:
    """Runs a study until its end, a ceiling, or a request to stop."""

    def __init__(
        self,
        study: Study,
        config: Config,
        *,
        agent: Agent,
        executor: Executor,
        policy: Policy,
        preflight: Preflight | None,
        clock: Clock,
        instructions: Callable[[], str] = str,
        on_turn: Callable[[Snapshot], None] | None = None,
        spawn: Spawn = in_a_thread,
        answer_seconds: float = 0.0,
        goes_on: bool = False,
        tell: Tell = tell_all,
    ) -> None:
        """Put the parts together; nothing happens before `run`.

        `answer_seconds` is how long the agent takes to answer, before it was measured. A dispatcher that
        `goes_on` takes the place of one that died, and heeds what was asked of it.
        """
        self._study = study
        self._store = study.store
        self._config = config
        self._asking = Asking(agent, study.store, clock, spawn, answer_seconds)
        self._intake = Intake(study, preflight, clock)
        self._executor = executor
        self._policy = policy
        self._clock = clock
        self._instructions = instructions
        self._on_turn = on_turn
        self._asked_for: Request | None = None  # set by signal handlers, which must not touch the store
        self._leaving = False
        self._seen_at = 0.0
        self._session = 0
        self._goes_on = goes_on
        self._tell = tell
        self._began_at = 0.0
        self._references = References(study) if config.judging.prune else None
        self._lookout = Lookout(config.budget.stop_below)

    def run(self) -> Finish:
        """Dispatch until the plan says it is finished; return why.

        The caller holds the study's lock. Killed at any instant, another dispatcher goes on.
        """
        now = self._clock.now()
        self._study.check_protected()
        self._began_at = now
        if not self._goes_on:
            self._store.set_request(Request.NONE, now)
        self._store.set_outcome(None, now)
        self._session = self._store.begin_session(
            os.getpid(), self._config.agent.label, self._config.budget, now
        )
        self._advance_branch()  # a dispatcher may have died between the store and git
        self._asking.recover()
        over = False
        try:
            while True:
                finish = self.turn()
                if finish:
                    over = not self._leaving
                    self._store.set_outcome(finish.reason, self._clock.now())
                    return finish
        except PoolError:
            over = True
            raise
        finally:
            self._store.touch_session(self._session, self._clock.now())
            self._asking.close()
            self._intake.close()
            left = self._executor.close(release=over)
            if over:
                self._note_workers(left)

    def request(self, request: Request) -> None:
        """Ask for an end; safe to call from a signal handler or another thread."""
        self._asked_for = request
        self._clock.wake()

    def leave(self) -> None:
        """Ask to end at once and let running jobs go on; safe to call from a signal handler."""
        self._leaving = True
        self._clock.wake()

    def turn(self) -> Finish | None:
        """Do what is missing now, or wait a little; return the finish when there is one."""
        if self._leaving:
            return Finish(reason="left; what runs goes on and is picked up again", complete=False)
        if self._asked_for is not None:
            self._store.set_request(self._asked_for, self._clock.now())
            self._asked_for = None
        self._asking.receive()
        snapshot = self.snapshot()
        if self._on_turn:
            self._on_turn(snapshot)
        actions = plan(snapshot, self._policy)
        for action in actions:
            if isinstance(action, Finish):
                return action
            self._perform(action, snapshot)
        self._heartbeat()  # last: the first one says that there was more to do than to end
        if all(isinstance(action, Cancel | Started) for action in actions):  # nothing hangs on these
            self._clock.wait(self._executor.poll_seconds)
        return None

    def _note_workers(self, workers: Sequence[Worker]) -> None:
        lasting = 60 * self._config.pool.idle_minutes + self._study.worst_seconds
        self._store.note_workers(workers, lasting=lasting, now=self._clock.now())

    def snapshot(self) -> Snapshot:
        """Return one picture of the study, its jobs and its agent."""
        now, study = self._clock.now(), self._study
        history = self._store.history()
        proposals = self._store.waiting_proposals()
        workers = self._executor.workers()
        self._note_workers(workers)
        agent = self._config.agent
        return Snapshot(
            now=now,
            study=study.tag,
            history=history,
            workers=workers,
            jobs=self._executor.poll([run.job_name(study.tag) for run in history.in_flight()]),
            proposals=proposals,
            admitting=self._intake.checking(proposals),
            checked=self._intake.checked(proposals),
            admissions=self._intake.admissions,
            asked=self._asking.asked,
            combined=frozenset(self._asking.combined),
            open_calls=self._asking.calls,
            calls=0 if agent.name == "external" else agent.calls,
            batch=agent.batch_for(len(workers)),
            lead_seconds=self._asking.answer_seconds + self._intake.usual_seconds,
            usual_seconds=study.target.seconds,
            barren=self._store.barren(),
            agent_resting=self._asking.resting(now),
            agent_gone=self._asking.gone,
            backlog=agent.backlog_for(len(workers)),
            budget=self._config.budget,
            usage=self._store.usage(now, study.worst_seconds),
            worst_seconds=study.worst_seconds,
            request=Request(self._store.request()),
            patience_seconds=60.0 * agent.patience_minutes if agent.name == "external" else None,
            dispatching_since=self._began_at,
            outlook=self._outlook(history, workers),
        )

    def _outlook(self, history: History, workers: Sequence[Worker]) -> Outlook | None:
        """Return what the next hour promises, where that may end the study."""
        if not self._config.budget.until_ceiling:
            return None
        return self._lookout.look(history, len(workers), sum(worker.price_per_hour for worker in workers))

    # -- actions ---------------------------------------------------------------------------------

    def _perform(self, action: Action, snapshot: Snapshot) -> None:
        now = self._clock.now()
        match action:
            case Submit():
                self._submit(action, snapshot)
            case Started():
                self._store.mark_running(self._store.run(action.run), now)
            case Collect():
                self._collect(self._store.run(action.run))
            case Requeue() | GiveUp() | Drop() | Cancel():
                self._end_job(action, now)
            case Release():
                self._executor.release(action.worker, replace=False)
            case Publish():
                self._study.publish(action.experiment, now)
            case Rebase():
                self._intake.rebase(action.proposal, action.parent)
            case Admit():
                self._intake.admit(next(p for p in snapshot.proposals if p.number == action.proposal))
            case Ask():
                self._asking.ask(self._brief(action.together), action.n)
            case Stack():
                self._asking.combined.add(self._intake.stack(action.experiments))
            case Decide() | Order() | Withdraw() | Merge():
                self._judge(action, now)
            case Finish():
                raise TypeError("a finish is not performed")

    def _submit(self, action: Submit, snapshot: Snapshot) -> None:
        """Hand a run over: claimed in the store first, so that a crash between is seen."""
        now = self._clock.now()
        run = self._store.run(action.run)
        worker = next((w for w in snapshot.workers if w.name == action.worker), None)
        if worker is None:  # claimed by a dispatcher that died, for a worker that is gone
            self._store.requeue(run, lost=False, reason=f"no worker {action.worker}", now=now)
            return
        if run.state is RunState.QUEUED and not self._store.claim(run, self._study.tag, worker, now):
            return
        limits = self._references.thresholds(run, worker.kind, snapshot.history) if self._references else None
        if limits:
            log.info("screen %s is %s", run.id, limits)
        try:
            self._executor.submit(self._study.job_spec(run, self._executor.place, limits), worker.name)
        except PoolError as error:
            log.warning("submit %s to %s failed: %s", run.id, worker.name, error.message)
            self._clock.wait(self._executor.poll_seconds)

    def _collect(self, run: Run) -> None:
        """Record what a finished job reports; a job ended by us or by its machine starts anew."""
        now = self._clock.now()
        ended = self._executor.fetch(run.job_name(self._study.tag))
        if ended.cancelled and run.cancelled_by:
            self._store.drop(run, now)
            return
        if ended.cancelled:
            self._store.requeue(run, lost=False, reason="interrupted", now=now)
            return
        outcome = read_outcome(ended, self._study.target)
        report = outcome.report
        if report.machine_fault:
            self._executor.release(run.worker or "", replace=True)
            self._lose(run, str(report.failure), now)
            return
        self._store.close_run(
            run,
            measurement=report.measurement,
            failure=report.failure,
            facts=report.facts,
            log_sha256=outcome.log_sha256,
            started_at=ended.started_at,
            ended_at=ended.ended_at,
            now=now,
        )
        log.info("run %s ended: %s", run.id, report.failure or report.measurement)

    def _end_job(self, action: Requeue | GiveUp | Drop | Cancel, now: float) -> None:
        run = self._store.run(action.run)
        self._executor.cancel(run.job_name(self._study.tag))
        if isinstance(action, Requeue):
            reason = "its machine was lost" if action.lost else "interrupted"
            self._store.requeue(run, lost=action.lost, reason=reason, now=now)
        elif isinstance(action, GiveUp):
            self._lose(run, "the machine was lost", now)
        elif isinstance(action, Drop):
            self._store.drop(run, now)

    def _lose(self, run: Run, reason: str, now: float) -> None:
        """Requeue a run whose machine failed it, or close it when that happened too often."""
        if run.losses + 1 < MAX_LOSSES:
            self._store.requeue(run, lost=True, reason=reason, now=now)
            return
        message = f"{reason}; {MAX_LOSSES} machines failed it"
        self._store.close_run(run, failure=Failure(kind=FailureKind.LOST, message=message), now=now)

    def _judge(self, action: Decide | Order | Withdraw | Merge, now: float) -> None:
        """Do what the policy has decided."""
        match action:
            case Decide():
                self._decide(action, now)
            case Order():
                self._store.queue_run(
                    action.experiment,
                    action.purpose,
                    kind=action.kind,
                    study_seed=self._study.row.seed,
                    why=action.why,
                    now=now,
                )
            case Withdraw():
                self._store.cancel(action.run, POLICY, now)
            case Merge():
                self._merge(action, now)

    def _decide(self, action: Decide, now: float) -> None:
        if self._store.decide(action.experiment, action.verdict, action.reason, now):
            log.info("%s %s: %s", action.verdict, action.experiment, action.reason)
            if action.verdict is Verdict.KEEP:
                self._advance_branch()

    def _merge(self, action: Merge, now: float) -> None:
        """Have a winner's own edits tried on the best there is now."""
        history = self._store.history()
        winner = action.experiment
        if history.incumbent() is None:
            return
        anew = stacked(history, [winner], self._store.edits(winner))
        if self._store.merge(winner, anew, action.reason, now):
            log.info("merge %s: %s", winner, action.reason)

    def _advance_branch(self) -> None:
        """Bring the branch of kept experiments up to the store."""
        lineage = {e.id: e.commit for e in self._store.history().lineage() if e.commit}
        if lineage:
            self._study.workspace.advance(lineage, self._study.target.editable, self._clock.now())

    def _brief(self, together: Sequence[str]) -> Brief:
        self._store.touch_session(self._session, self._clock.now())  # a brief tells the hours used
        return self._tell(
            self._study,
            self._config.budget,
            self._instructions(),
            focus=TOGETHER if together else self._asking.focus(),
            elsewhere=self._asking.elsewhere(),
            together=together,
        )

    def _heartbeat(self) -> None:
        now = self._clock.now()
        if now - self._seen_at >= HEARTBEAT_SECONDS:
            self._store.touch_session(self._session, now)
            self._seen_at = now
