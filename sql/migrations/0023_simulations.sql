-- migrate:up
-- Simulations: scenarios, the runs asked for, what each found, and what they came to so far.

create table simulation_scenarios (
    tenant_id text not null check (length(tenant_id) between 1 and 255),
    id uuid not null,
    name text not null check (length(name) between 1 and 255),
    description text not null,
    version text not null check (length(version) between 1 and 255),
    tags text[] not null,
    document json not null,
    revision integer not null check (revision > 0),
    is_active boolean not null,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    primary key (tenant_id, id),
    constraint simulation_scenarios_id unique (id)
);
comment on table simulation_scenarios is 'Scenarios somebody keeps, as they are now; each run keeps its own copy.';
comment on column simulation_scenarios.version is 'Its author''s.';
comment on column simulation_scenarios.document is 'What the simulator reads, digit by digit as it was sent.';
comment on column simulation_scenarios.revision is 'Grows with each change.';
comment on column simulation_scenarios.is_active is 'False: deactivated; it can be read, and not be run.';
create index simulation_scenarios_by_age on simulation_scenarios (tenant_id, created_at, id);

create table simulation_batches (
    tenant_id text not null check (length(tenant_id) between 1 and 255),
    id uuid not null,
    name text not null check (length(name) between 1 and 255),
    description text,
    created_at timestamptz not null,
    primary key (tenant_id, id),
    constraint simulation_batches_id unique (id)
);
comment on table simulation_batches is 'Runs asked for together. A batch has ended when all of them have.';
create trigger simulation_batches_keep before update or delete on simulation_batches
for each row execute function refuse_change();

create table simulation_runs (
    tenant_id text not null check (length(tenant_id) between 1 and 255),
    id uuid not null,
    scenario_id uuid,
    scenario_revision integer,
    batch_id uuid,
    batch_position integer,
    run_type text not null check (run_type in ('manual', 'scheduled', 'ci')),
    driver text not null check (driver in ('pure', 'stripe')),
    name text check (length(name) between 1 and 255),
    description text,
    metadata json not null,
    scenario_name text not null,
    scenario_version text not null,
    scenario json not null,
    seed bigint,
    status text not null default 'pending'
    check (status in ('pending', 'running', 'completed', 'failed', 'cancelled')),
    attempt_count integer not null default 0 check (attempt_count >= 0),
    passed boolean,
    result json,
    error_message text,
    duration_ms numeric check (duration_ms >= 0),
    stripe_calls bigint not null default 0 check (stripe_calls >= 0),
    created_at timestamptz not null,
    started_at timestamptz,
    completed_at timestamptz,
    primary key (tenant_id, id),
    foreign key (tenant_id, scenario_id) references simulation_scenarios (tenant_id, id),
    foreign key (tenant_id, batch_id) references simulation_batches (tenant_id, id),
    constraint simulation_runs_id unique (id),
    constraint simulation_runs_of_batch unique (tenant_id, batch_id, batch_position),
    constraint simulation_runs_scenario check ((scenario_id is null) = (scenario_revision is null)),
    constraint simulation_runs_batch check ((batch_id is null) = (batch_position is null)),
    constraint simulation_runs_begun check ((started_at is not null) = (attempt_count > 0)),
    constraint simulation_runs_ended
    check ((completed_at is not null) = (status in ('completed', 'failed', 'cancelled'))),
    constraint simulation_runs_result check ((result is not null) = (status = 'completed')),
    constraint simulation_runs_verdict check (passed is null or status = 'completed'),
    constraint simulation_runs_failure check (status <> 'failed' or error_message is not null)
);
comment on table simulation_runs is 'Every run of a scenario that was asked for; never deleted, and never changed once it has ended.';
comment on column simulation_runs.scenario_id is 'Null: the scenario came with the request.';
comment on column simulation_runs.scenario is 'What is run: the scenario as it was when the run was asked for.';
comment on column simulation_runs.seed is 'Null: the scenario''s own.';
comment on column simulation_runs.attempt_count is 'How often it was begun: more than once when a process that ran it was killed.';
comment on column simulation_runs.passed is 'Whether everything came as expected; null: not completed, or nothing is expected.';
comment on column simulation_runs.stripe_calls is 'Requests to Stripe; a pure run makes none.';
create index simulation_runs_by_age on simulation_runs (tenant_id, created_at, id);
create index simulation_runs_of_scenario on simulation_runs (tenant_id, scenario_id, created_at, id);
create index simulation_runs_waiting on simulation_runs (created_at, id) where status in ('pending', 'running');
create trigger simulation_runs_keep before update or delete on simulation_runs
for each row when (old.completed_at is not null) execute function refuse_change();
create trigger simulation_runs_stay before delete on simulation_runs
for each row execute function refuse_change();

create table simulation_assertions (
    tenant_id text not null,
    run_id uuid not null,
    position integer not null check (position >= 0),
    path text not null,
    instant timestamptz,
    expected text,
    actual text,
    difference numeric,
    passed boolean not null,
    primary key (tenant_id, run_id, position),
    foreign key (tenant_id, run_id) references simulation_runs (tenant_id, id)
);
comment on table simulation_assertions is 'Each expected value of a completed run against what came: written once, never changed.';
comment on column simulation_assertions.instant is 'When it is expected, on the scenario''s clock; null: of an invoice without one.';
comment on column simulation_assertions.difference is 'Actual less expected, of two numbers.';
create trigger simulation_assertions_keep before update or delete on simulation_assertions
for each row execute function refuse_change();

create table simulation_totals (
    driver text not null check (driver in ('pure', 'stripe')),
    outcome text not null check (outcome in ('passed', 'unmet', 'unjudged', 'failed', 'cancelled')),
    delta_cents_bound numeric not null,
    run_count bigint not null,
    seconds numeric not null,
    met_count bigint not null,
    unmet_count bigint not null,
    delta_cents numeric not null,
    stripe_calls bigint not null,
    primary key (driver, outcome, delta_cents_bound)
);
comment on table simulation_totals is 'What ended runs came to so far: one row per driver, outcome and band of differences.';
comment on column simulation_totals.outcome is 'unmet: completed, something is not as expected; unjudged: nothing is expected.';
comment on column simulation_totals.delta_cents_bound is 'The band''s upper bound; infinity: above every bound; -1: no invoice total is expected.';
comment on column simulation_totals.delta_cents is 'Sum over the runs of the greatest difference of an invoice total, in hundredths.';

-- migrate:down
drop table simulation_totals;
drop table simulation_assertions;
drop table simulation_runs;
drop table simulation_batches;
drop table simulation_scenarios;
