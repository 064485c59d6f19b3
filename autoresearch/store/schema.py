"""The study's database, as numbered migrations. One that has been released never changes.

One fact, one home: what machines did stands in `job` (one row an attempt), what was measured in
`run`, what was judged in `experiment`, when and why in `event`. Rows that are over never change:
triggers hold that, whoever writes.
"""

MIGRATIONS = (
    """
    create table study (
        id integer primary key check (id = 1),
        tag text not null,
        created_at real not null,
        goal text not null,
        target text not null,             -- JSON: the resolved target, pinned
        kinds text not null,              -- JSON: the worker kinds of the pool at creation
        base_commit text not null,
        protected_sha256 text not null,
        seed integer not null,
        request text not null default 'none',
        outcome text                      -- why the last dispatcher ended
    ) strict;

    create table session (
        id integer primary key,
        pid integer not null,
        agent text not null,
        budget text not null,             -- JSON: the ceilings it was given
        started_at real not null,
        seen_at real not null
    ) strict;

    create table proposal (
        number integer primary key,
        hypothesis text not null,
        edits text not null,              -- JSON: [{old, new, file}]
        parent text not null,
        author text not null,
        created_at real not null,
        state text not null default 'waiting' check (state in ('waiting', 'admitted', 'refused')),
        reason text not null default '',  -- of a refusal
        experiment text                   -- what it became, or the earlier one it repeats
    ) strict;
    create index proposal_waiting on proposal (number) where state = 'waiting';

    create table experiment (
        id text primary key,
        number integer not null unique,
        parent text references experiment,
        hypothesis text not null,
        author text not null,
        digest text not null,             -- of the normalised code
        constants text not null,          -- JSON: numeric constants of the code
        edits text not null,              -- JSON: from the parent's code to this one
        commit_id text,                   -- null until the git ref is written
        created_at real not null,
        verdict text check (verdict in ('keep', 'discard', 'crash')),
        reason text not null default '',
        judged_at real
    ) strict;
    create index experiment_digest on experiment (digest);

    create table run (
        id text primary key,
        experiment text not null references experiment,
        number integer not null,
        purpose text not null,
        kind text,                        -- required worker kind
        seed integer not null,
        why text not null,
        state text not null default 'queued',
        attempt integer not null default 1,
        losses integer not null default 0,
        created_at real not null,
        value real,
        training_seconds real,
        total_seconds real,
        steps integer,
        tokens_per_second real,
        memory_gb real,
        device text,
        failure text,                     -- JSON: {kind, message, exception, line}
        facts text,                       -- JSON: the harness's machine line
        log_sha256 text,
        unique (experiment, number)
    ) strict;

    create table job (
        name text primary key,
        run text not null references run,
        attempt integer not null,
        worker text not null,
        kind text not null,
        price_per_hour real not null,
        submitted_at real not null,
        started_at real,
        ended_at real,
        outcome text,                     -- the state its run went to
        unique (run, attempt)
    ) strict;
    create unique index one_job_on_a_worker on job (worker) where outcome is null;

    create table event (
        seq integer primary key autoincrement,
        at real not null,
        kind text not null,
        subject text not null,            -- an experiment, a run, a proposal's number or ''
        data text not null                -- JSON
    ) strict;

    create trigger run_is_over before update on run
        when old.state in ('finished', 'pruned', 'failed', 'lost', 'cancelled')
        begin select raise(abort, 'a run that is over never changes'); end;
    create trigger run_stays before delete on run
        begin select raise(abort, 'runs are never deleted'); end;
    create trigger verdict_stays before update on experiment when old.verdict is not null
        begin select raise(abort, 'a verdict never changes'); end;
    create trigger experiment_stays before delete on experiment
        begin select raise(abort, 'experiments are never deleted'); end;
    create trigger job_is_over before update on job when old.outcome is not null
        begin select raise(abort, 'a job that is over never changes'); end;
    create trigger job_stays before delete on job
        begin select raise(abort, 'jobs are never deleted'); end;
    create trigger event_stays before update on event
        begin select raise(abort, 'events are only appended'); end;
    create trigger event_is_kept before delete on event
        begin select raise(abort, 'events are only appended'); end;
    """,
    """
    -- A second run may wait behind the one that runs; two never run on one worker.
    drop index one_job_on_a_worker;
    create index job_on_a_worker on job (worker) where outcome is null;
    create unique index one_started_job_on_a_worker on job (worker)
        where outcome is null and started_at is not null;
    create trigger two_jobs_on_a_worker before insert on job
        when (select count(*) from job where worker = new.worker and outcome is null) >= 2
        begin select raise(abort, 'a worker has one run and one that waits, no more'); end;

    create table worker (
        name text primary key,
        kind text not null,
        price_per_hour real not null,
        up_at real not null,              -- since when it is paid for
        seen_at real not null,
        down_at real,                     -- when it was released, or was found gone
        ready integer not null,
        note text not null
    ) strict;
    create trigger worker_is_down before update on worker when old.down_at is not null
        begin select raise(abort, 'a worker that is down never changes'); end;
    create trigger worker_stays before delete on worker
        begin select raise(abort, 'workers are never deleted'); end;
    """,
    """
    -- Where a proposal comes from, what its author expects of it, and what its code says of itself.
    alter table proposal add column base text;             -- the best experiment when it was written
    alter table proposal add column follows integer not null default 0; -- its parent is the best
    alter table proposal add column expected real;
    alter table proposal add column reworks text;
    alter table proposal add column fact text not null default ''; -- why refused, in our own words
    alter table proposal add column call integer;          -- the API call that brought it
    alter table experiment add column touches text not null default '[]'; -- JSON: names it changes
    alter table experiment add column expected real;
    alter table experiment add column reworks text;

    create table call (
        id integer primary key,
        batch integer not null,
        model text not null,
        effort text not null,
        asked integer not null,
        digest text not null,
        started_at real not null,
        reserved_usd real not null,
        likely_usd real not null,
        ended_at real,
        outcome text,
        detail text not null default '',
        tokens text not null default '{}',  -- JSON
        cost_usd real not null default 0,
        estimated integer not null default 0,
        reply text,                         -- JSON: what it proposes and notes
        taken integer not null default 0    -- its proposals are in the table of proposals
    ) strict;
    create trigger call_is_billed_once before update of ended_at, tokens, cost_usd on call
        when old.ended_at is not null
        begin select raise(abort, 'a call is billed once'); end;
    create trigger call_stays before delete on call
        begin select raise(abort, 'calls are never deleted'); end;
    """,
    """
    -- What agents outside hand in: each wave is answered once; grids; runs somebody took back.
    create table submission (
        id integer primary key,
        request_id text unique,           -- null: handed in again, it is judged again
        digest text not null,             -- of what was handed in
        author text not null,
        answer text not null,             -- JSON: what became of each proposal, and the grid
        created_at real not null
    ) strict;
    create trigger submission_stays before update on submission
        begin select raise(abort, 'an answer never changes'); end;

    create table grid (
        number integer primary key,       -- g7
        factors text not null,            -- JSON: {constant: [levels]}
        parent text not null references experiment,
        hypothesis text not null,
        author text not null,
        created_at real not null
    ) strict;
    create table cell (
        grid integer not null references grid,
        levels text not null,             -- JSON: {constant: level}
        experiment text references experiment, -- null where it was refused
        reason text not null default '',
        unique (grid, levels)
    ) strict;

    alter table proposal add column submission integer; -- the wave it came in, from outside
    alter table run add column cancelled_by text; -- who asked for its end

    -- Results from before the study, measured elsewhere: told to agents, kept in results.tsv.
    create table prior (
        number integer primary key,
        commit_id text not null,
        value real,                       -- null: a crash
        memory_gb real,
        status text not null,
        description text not null
    ) strict;
    """,
    """
    -- What stands between a score and the code that it is about.
    alter table experiment add column flags text not null default '[]'; -- JSON: what to look at in its code
    alter table run add column hidden real;        -- the metric on a second split
    alter table run add column unsandboxed text;   -- why code ran without a sandbox; '': it had one
    alter table run add column flags text not null default '[]';        -- JSON: what to look at in the run
    """,
)
