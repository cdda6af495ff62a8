-- How far behind the counters are, and whether those who move them are alive.

-- name: ping
-- Whether the database answers.
select 1;

-- name: load_fold_state
-- One row: cursor, tail (at most %(most)s events are looked at) and age of the oldest transaction that holds the cut.
-- The tail is walked in order of xid, so its oldest events are always among those looked at.
select
    cursor.advanced_at,
    coalesce(cursor.system_identifier <> (select system_identifier from pg_control_system()), false) as is_foreign,
    tail.pending_count,
    tail.oldest_received_at,
    holder.oldest_started_at,
    clock_timestamp() as read_at
from (select 1) as once
left join fold_cursors as cursor on cursor.name = 'counters'
cross join lateral (
    select
        count(*) as pending_count,
        min(looked_at.received_at) as oldest_received_at
    from (
        select received_at
        from events
        where xid >= coalesce(cursor.folded_below, '0'::xid8)
        order by xid
        limit %(most)s
    ) as looked_at
) as tail
cross join lateral (
    select min(started_at) as oldest_started_at
    from (
        select xact_start as started_at
        from pg_stat_activity
        where backend_xid is not null
        union all
        select prepared as started_at
        from pg_prepared_xacts
    ) as writing
) as holder;

-- name: load_accepted_total
-- Events accepted on the UTC days since %(since)s, and the instant of this snapshot.
select
    coalesce(sum(accepted), 0)::bigint as accepted,
    clock_timestamp() as read_at
from ingest_tallies
where received_on >= %(since)s;

-- name: has_daemon_heartbeats
-- Whether Dagster keeps its tables in this database.
select to_regclass('dagster.daemon_heartbeats') is not null;

-- name: load_daemon_heartbeat
-- When any Dagster daemon last reported (UTC), null when none ever did.
select max("timestamp") at time zone 'UTC' as last_beat_at
from dagster.daemon_heartbeats;
