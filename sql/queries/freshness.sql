-- How far behind the counters are, and whether those who move them are alive.

-- name: load_fold_state
-- One row: cursor, tail (at most %(most)s events are looked at) and start of the oldest transaction that holds the cut.
-- The tail is walked in order of xid, so its oldest events are always among those looked at.
with cursor as materialized (
    select
        folded_below,
        advanced_at,
        system_identifier
    from fold_cursors
    where name = 'counters'
),

tail as (
    select received_at
    from events
    where xid >= coalesce((select folded_below from cursor), '0'::xid8)
    order by xid
    limit %(most)s
),

writing as (
    select xact_start as started_at
    from pg_stat_activity
    where backend_xid is not null
    union all
    select prepared as started_at
    from pg_prepared_xacts
)

select
    (select advanced_at from cursor) as advanced_at,
    coalesce(
        (select system_identifier from cursor) <> (select system_identifier from pg_control_system()), false
    ) as is_foreign,
    (select count(*) from tail) as pending_count,
    (select min(received_at) from tail) as oldest_received_at,
    (select min(started_at) from writing) as oldest_started_at,
    clock_timestamp() as read_at;

-- name: load_accepted_total
-- Events accepted on the UTC days since %(since)s, and the instant of this snapshot.
select
    coalesce(sum(accepted), 0)::bigint as accepted,
    clock_timestamp() as read_at
from ingest_tallies
where received_on >= %(since)s;

-- name: load_worst_drift
-- The greatest difference with Stripe among the latest comparisons; null when nothing was compared or none is known.
with doubtful as (
    select drift
    from reconciliations
    where status <> 'ok'
)

select
    case
        when exists (select from doubtful) then (select max(abs(drift)) from doubtful)
        when exists (select from reconciliations) then 0
    end as worst_drift;

-- name: has_daemon_heartbeats
-- Whether Dagster keeps its tables in this database.
select to_regclass('dagster.daemon_heartbeats') is not null;

-- name: load_daemon_heartbeat
-- When any Dagster daemon last reported (UTC), null when none ever did.
select max("timestamp") at time zone 'UTC' as last_beat_at
from dagster.daemon_heartbeats;
