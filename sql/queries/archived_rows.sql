-- Rows of dropped months beside the ledger's own, for the transaction that asks for them.

-- name: keep_ledger
-- Nobody drops a month until the transaction ends. It takes no snapshot, so in a transaction of one snapshot it comes
-- first: months dropped before are then seen as dropped.
lock table only events in access share mode;

-- name: load_dropped_days
-- Archived days from %(first_on)s to %(last_on)s (null: open) whose month was dropped, ascending: how many events their
-- file has, its hash, where the lake is.
select
    archived.day,
    archived.event_count,
    archived.events_sha256,
    dropped.lake
from dropped_months as dropped
inner join archived_days as archived
    on
        dropped.month_on <= archived.day
        and archived.day < (dropped.month_on + interval '1 month')::date
where
    (%(first_on)s::date is null or archived.day >= %(first_on)s::date)
    and (%(last_on)s::date is null or archived.day <= %(last_on)s::date)
order by archived.day;

-- name: forget_view
-- What an earlier question of this transaction brought.
drop view if exists pg_temp.events;

-- name: forget_rows
-- As forget_view.
drop table if exists pg_temp.archived_rows;

-- name: create_rows
-- Room for archived rows: a ledger row's columns but the writing transaction.
create temporary table archived_rows on commit drop as
select
    seq,
    tenant_id,
    metric,
    customer_ref,
    resource_id,
    quantity,
    idempotency_key,
    source,
    meta,
    ts,
    received_at,
    backfill_id
from events
with no data;

-- name: copy_rows
-- Columns as ARCHIVED_EVENTS has them, but the state: that is in event_voids and adjustments.
copy archived_rows (
    tenant_id, metric, customer_ref, ts, seq, quantity, received_at, source, idempotency_key, resource_id, meta,
    backfill_id
) from stdin;

-- name: delete_present
-- Archived again since, rows that came later are in both: those of one month.
delete from archived_rows as brought
using events as present
where
    present.ts >= %(start_at)s
    and present.ts < %(end_at)s
    and present.tenant_id = %(tenant_id)s
    and present.seq = brought.seq;

-- name: create_view
-- Until the transaction ends `events` means both: temporary names come first, and this one goes with its table. What
-- was archived was folded before: no transaction is below 0.
create temporary view events as
select
    seq,
    tenant_id,
    metric,
    customer_ref,
    resource_id,
    quantity,
    idempotency_key,
    source,
    meta,
    ts,
    received_at,
    backfill_id,
    '0'::xid8 as xid
from archived_rows
union all
select
    seq,
    tenant_id,
    metric,
    customer_ref,
    resource_id,
    quantity,
    idempotency_key,
    source,
    meta,
    ts,
    received_at,
    backfill_id,
    xid
from events;
