-- Simulation runs, their assertions, batches of them, and what ended runs came to.

-- name: insert_batch
-- A new batch; its runs follow in the same transaction.
insert into simulation_batches (tenant_id, id, name, description, created_at)
values (%(tenant_id)s, %(id)s, %(name)s, %(description)s, %(now)s);

-- name: load_batch
-- One batch, of a tenant when one is given.
select tenant_id, id, name, description, created_at
from simulation_batches
where (%(tenant_id)s::text is null or tenant_id = %(tenant_id)s) and id = %(id)s;

-- name: insert_run
-- A new run, pending, with the scenario as it is now.
insert into simulation_runs (
    tenant_id, id, scenario_id, scenario_revision, batch_id, batch_position, run_type, driver, name, description,
    metadata, scenario_name, scenario_version, scenario, seed, created_at
)
values (
    %(tenant_id)s, %(id)s, %(scenario_id)s, %(scenario_revision)s, %(batch_id)s, %(batch_position)s, %(run_type)s,
    %(driver)s, %(name)s, %(description)s, %(metadata)s::json, %(scenario_name)s, %(scenario_version)s,
    %(scenario)s::json, %(seed)s, %(now)s
);

-- name: load_run
-- One run, of a tenant when one is given.
select
    tenant_id, id, scenario_id, scenario_revision, batch_id, run_type, driver, name, description,
    metadata::text as metadata, scenario_name, scenario_version, scenario::text as scenario, seed, status,
    attempt_count, passed, result::text as result, error_message, duration_ms, stripe_calls, created_at, started_at,
    completed_at
from simulation_runs
where (%(tenant_id)s::text is null or tenant_id = %(tenant_id)s) and id = %(id)s;

-- name: list_runs
-- A page, newest first; a filter that is null does not filter. Without scenarios and results.
select
    tenant_id, id, scenario_id, scenario_revision, batch_id, run_type, driver, name, description,
    metadata::text as metadata, scenario_name, scenario_version, '' as scenario, seed, status, attempt_count, passed,
    null as result, error_message, duration_ms, stripe_calls, created_at, started_at, completed_at
from simulation_runs
where
    (%(tenant_id)s::text is null or tenant_id = %(tenant_id)s)
    and (%(scenario_id)s::uuid is null or scenario_id = %(scenario_id)s)
    and (%(status)s::text is null or status = %(status)s)
    and (%(run_type)s::text is null or run_type = %(run_type)s)
order by created_at desc, id desc
limit %(most)s offset %(skipped)s;

-- name: count_runs
-- How many runs match.
select count(*)
from simulation_runs
where
    (%(tenant_id)s::text is null or tenant_id = %(tenant_id)s)
    and (%(scenario_id)s::uuid is null or scenario_id = %(scenario_id)s)
    and (%(status)s::text is null or status = %(status)s)
    and (%(run_type)s::text is null or run_type = %(run_type)s);

-- name: list_batch_runs
-- A batch's runs in the order asked for, without scenarios and results.
select
    tenant_id, id, scenario_id, scenario_revision, batch_id, run_type, driver, name, description,
    metadata::text as metadata, scenario_name, scenario_version, '' as scenario, seed, status, attempt_count, passed,
    null as result, error_message, duration_ms, stripe_calls, created_at, started_at, completed_at
from simulation_runs
where tenant_id = %(tenant_id)s and batch_id = %(batch_id)s
order by batch_position;

-- name: list_assertions
-- What each expected value of a run came to, in the scenario's order.
select path, instant, expected, actual, difference, passed
from simulation_assertions
where tenant_id = %(tenant_id)s and run_id = %(run_id)s
order by position;

-- name: lock_run
-- Makes this session the run's only one at work, until it ends or lets go; false when another is.
select pg_try_advisory_lock(hashtextextended('stripemeter.simulation:' || %(id)s::text, 0));

-- name: release_run
-- Lets go of it; false when this session had not locked it.
select pg_advisory_unlock(hashtextextended('stripemeter.simulation:' || %(id)s::text, 0));

-- name: list_waiting
-- Runs that have not ended and that nobody is at, oldest first: of a batch, or else alone.
select id, batch_id
from simulation_runs
where
    status in ('pending', 'running')
    and not exists (
        -- The advisory lock of lock_run, as pg_locks shows its 64 bits: in two halves.
        select from pg_locks as held
        where
            held.locktype = 'advisory'
            and held.objsubid = 1
            and held.database = (
                select oid from pg_database
                where datname = current_database()
            )
            and (held.classid::bigint << 32) | held.objid::bigint
            = hashtextextended('stripemeter.simulation:' || simulation_runs.id::text, 0)
    )
order by created_at, batch_position, id
limit %(most)s;

-- name: list_unfinished
-- Runs of a batch that have not ended, or the one of that id; those that broke before come last.
select id
from simulation_runs
where status in ('pending', 'running') and (batch_id = %(operation_id)s or id = %(operation_id)s)
order by attempt_count, batch_position;

-- name: begin_run
-- A run that has not ended is begun, or begun again.
update simulation_runs
set
    status = 'running',
    attempt_count = attempt_count + 1,
    started_at = %(now)s
where id = %(id)s and status in ('pending', 'running')
returning id;

-- name: end_run
-- The run ends: nothing changes it afterwards. Nothing when it has ended already.
update simulation_runs
set
    status = %(status)s,
    passed = %(passed)s,
    result = %(result)s::json,
    error_message = %(error_message)s,
    duration_ms = %(duration_ms)s,
    stripe_calls = %(stripe_calls)s,
    completed_at = %(now)s
where id = %(id)s and status in ('pending', 'running')
returning tenant_id, driver;

-- name: insert_assertion
-- One expected value and what came, in the transaction that ends the run.
insert into simulation_assertions (
    tenant_id, run_id, position, path, instant, expected, actual, difference, passed
)
values (
    %(tenant_id)s, %(run_id)s, %(position)s, %(path)s, %(instant)s, %(expected)s, %(actual)s, %(difference)s,
    %(passed)s
);

-- name: add_total
-- One more ended run, in the transaction that ends it.
insert into simulation_totals as t (
    driver, outcome, delta_cents_bound, run_count, seconds, met_count, unmet_count, delta_cents, stripe_calls
)
values (
    %(driver)s, %(outcome)s, %(delta_cents_bound)s, 1, %(seconds)s, %(met_count)s, %(unmet_count)s, %(delta_cents)s,
    %(stripe_calls)s
)
on conflict (driver, outcome, delta_cents_bound) do update
    set
        run_count = t.run_count + 1,
        seconds = t.seconds + excluded.seconds,
        met_count = t.met_count + excluded.met_count,
        unmet_count = t.unmet_count + excluded.unmet_count,
        delta_cents = t.delta_cents + excluded.delta_cents,
        stripe_calls = t.stripe_calls + excluded.stripe_calls;

-- name: load_totals
-- What ended runs came to so far.
select
    driver, outcome, delta_cents_bound, run_count, seconds, met_count, unmet_count, delta_cents, stripe_calls
from simulation_totals
order by driver, outcome, delta_cents_bound;
