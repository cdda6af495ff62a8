-- Reconciliation runs: who asked for one, and what each found.

-- name: insert_request
-- Somebody asks for a comparison.
insert into reconciliation_requests (id, tenant_id, status, requested_at)
values (%(id)s, %(tenant_id)s, 'queued', %(now)s);

-- name: find_request
-- One of a tenant's.
select
    q.id,
    q.tenant_id,
    q.status,
    q.requested_at,
    q.started_at,
    q.ended_at,
    q.error_message
from reconciliation_requests as q
where q.id = %(id)s and q.tenant_id = %(tenant_id)s;

-- name: has_waiting
-- Whether a request has no answer yet.
select exists(
    select 1 from reconciliation_requests
    where status in ('queued', 'running')
);

-- name: start_requests
-- The run that begins now answers every request that waits, those of a run that died included.
update reconciliation_requests
set
    status = 'running',
    started_at = %(now)s
where status in ('queued', 'running') and requested_at <= %(now)s
returning id;

-- name: end_requests
-- What became of them.
update reconciliation_requests
set
    status = %(status)s,
    ended_at = %(now)s,
    error_message = %(error_message)s
where id = any(%(ids)s) and status = 'running';

-- name: insert_run
-- What a comparison of an account found; the sums so far are those of the row before.
insert into reconciliation_runs (
    stripe_account_id, mode, started_at, ended_at, day_count, ok_count, within_epsilon_count, drift_count,
    unknown_count, unexplained_count, drift_total, runs_so_far, seconds_so_far
)
select
    %(stripe_account_id)s,
    %(mode)s,
    %(started_at)s,
    %(ended_at)s,
    %(day_count)s,
    %(ok_count)s,
    %(within_epsilon_count)s,
    %(drift_count)s,
    %(unknown_count)s,
    %(unexplained_count)s,
    %(drift_total)s,
    coalesce(max(r.runs_so_far), 0) + 1,
    coalesce(max(r.seconds_so_far), 0) + extract(epoch from %(ended_at)s::timestamptz - %(started_at)s::timestamptz)
from reconciliation_runs as r;

-- name: list_runs
-- The latest runs of an account, oldest first.
select
    started_at, ended_at, day_count, ok_count, within_epsilon_count, drift_count, unknown_count, unexplained_count,
    drift_total
from (
    select * from reconciliation_runs
    where stripe_account_id = %(stripe_account_id)s
    order by id desc
    limit %(limit)s
) as latest
order by id;

-- name: load_totals
-- Runs and seconds so far.
select
    coalesce(max(runs_so_far), 0) as runs,
    coalesce(max(seconds_so_far), 0) as seconds
from reconciliation_runs;

-- name: delete_old
-- Runs past their retention, but for the newest, which knows the sums; and answered requests.
with old_requests as (
    delete from reconciliation_requests
    where ended_at < %(before)s
)

delete from reconciliation_runs
where ended_at < %(before)s and id < (select max(r.id) from reconciliation_runs as r);
