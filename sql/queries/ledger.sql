-- Reading the ledger: the fold's window, a day, and how far things are.

-- name: load_cut
-- Every transaction below the cut is finished, so everything of it is visible to later statements.
select
    pg_snapshot_xmin(pg_current_snapshot())::text as cut,
    (pg_control_system()).system_identifier as system_identifier;

-- name: has_events
-- Whether anything lies in the window.
select exists(
    select 1
    from events
    where
        xid >= %(lower)s::xid8
        and xid < %(upper)s::xid8
);

-- name: bound_window
-- The xid of the row that lies `max_events` rows into the window, and that of its first row; nothing when the window is
-- smaller.
select
    beyond.xid::text as beyond,
    (
        select e.xid::text
        from events as e
        where
            e.xid >= %(lower)s::xid8
            and e.xid < %(upper)s::xid8
        order by e.xid
        limit 1
    ) as first_xid
from events as beyond
where
    beyond.xid >= %(lower)s::xid8
    and beyond.xid < %(upper)s::xid8
order by beyond.xid
limit 1 offset %(max_events)s;

-- name: lock_cursor
-- The fold's cursor, locked until the transaction ends; nothing when the fold never ran.
select
    folded_below::text,
    system_identifier
from fold_cursors
where name = 'counters'
for update;

-- name: create_cursor
-- Starts the fold at the beginning of the ledger.
insert into fold_cursors (name, folded_below, system_identifier, advanced_at)
values ('counters', '0'::xid8, %(system_identifier)s, now())
on conflict (name) do nothing;

-- name: advance_cursor
-- Everything below is now in the counters.
update fold_cursors
set
    folded_below = %(folded_below)s::xid8,
    advanced_at = now()
where name = 'counters';

-- name: load_cursor
-- How far the fold has read, without locking.
select
    folded_below::text,
    system_identifier
from fold_cursors
where name = 'counters';

-- name: load_arrivals
-- What arrived on each of the last days, and what became of it.
select
    received_on,
    sum(received)::bigint as received,
    sum(accepted)::bigint as accepted,
    sum(duplicates)::bigint as duplicates,
    sum(conflicts)::bigint as conflicts,
    sum(rejected)::bigint as rejected
from ingest_tallies
where received_on > (now() at time zone 'UTC')::date - %(days)s::integer
group by received_on
order by received_on desc;

-- name: load_slice
-- As scan.sql's scan_day, of one tenant (and these references of customers, when given), inside the transaction that
-- changes them: what it has just voided or approved is seen.
with late as materialized (
    select
        event_seq,
        status
    from adjustments
    where
        reason = 'late_event'
        and tenant_id = %(tenant_id)s
        and day = %(day)s
),

voided as materialized (
    select seq
    from event_voids
    where
        tenant_id = %(tenant_id)s
        and ts >= %(start_at)s
        and ts < %(end_at)s
)

select
    event.tenant_id,
    event.customer_ref,
    event.metric,
    event.ts,
    event.seq,
    event.quantity::text as quantity,
    event.received_at,
    event.source in ('import', 'etl') or event.backfill_id is not null as is_history,
    coalesce(late.status = 'approved', false) as is_late,
    event.source,
    event.resource_id,
    event.meta::text as meta
from events as event
left join late on event.seq = late.event_seq
where
    event.tenant_id = %(tenant_id)s
    and event.ts >= %(start_at)s
    and event.ts < %(end_at)s
    and event.xid < %(below)s::xid8
    and (%(customer_refs)s::text[] is null or event.customer_ref = any(%(customer_refs)s::text[]))
    and (late.status is null or late.status in ('approved', 'absorbed'))
    and not exists (
        select from voided
        where voided.seq = event.seq
    );

-- name: load_last_arrival
-- When the newest ledger row arrived.
select max(received_at)
from events
where xid = (select max(e.xid) from events as e);

-- name: ensure_month
-- Makes the ledger partition of a month (its first day) exist.
select ensure_events_month(%(month_on)s::date);

-- name: restamp_folded
-- After a restore: rows the fold had read get the lowest xid, which every cursor is past.
update events
set xid = '1'::xid8
where xid < %(folded_below)s::xid8;

-- name: restamp_unfolded
-- After a restore: rows the fold had not read get the restoring transaction's own xid.
update events
set xid = pg_current_xact_id()
where xid >= %(folded_below)s::xid8;

-- name: restamp_cursor
-- After a restore: the cursor in this cluster's own numbers.
update fold_cursors
set
    folded_below = '2'::xid8,
    system_identifier = %(system_identifier)s,
    advanced_at = now()
where name = 'counters';

-- name: lock_ledger
-- Keeps writers out while xids are rewritten.
lock table events in exclusive mode;
